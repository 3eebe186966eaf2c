"""Cached embeddings: what they are, and that nothing else is ever taken for them."""

import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from frozen_parts import TASK, tones

from eval_tasks.fit import features as ft
from eval_tasks.plugin import GENERIC, Plugin
from eval_tasks.tasks.base import TaskData, open_task
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.files import locked
from hear_ptsed.registry import build

LOGMEL = "eval_tasks.logmel"  # fast, and a frame does not depend on its neighbours


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TaskData:
    return tones(tmp_path_factory.mktemp("tasks"))


def checkpoint(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    net = build("frame_mn02", 2).train()
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0  # else random weights embed everything as 1e-11
    with torch.no_grad():
        net.embed(0.1 * torch.randn(1, 160_000))
    save_checkpoint(net, path, ("high", "low"))
    return path


@pytest.fixture(scope="module")
def module(tmp_path_factory) -> Plugin:
    return Plugin(GENERIC, checkpoint(tmp_path_factory.mktemp("weights") / "a.pt", seed=0))


def read(data, name, module, cache, **options):
    return ft.features(data, name, module, cache, progress=False, **options)


def refuse_to_load(monkeypatch):
    def load(*_):
        raise AssertionError("the module was loaded")

    monkeypatch.setattr(Plugin, "load", load)


def test_grids_are_what_the_plug_in_gives_for_the_clip_and_its_shifted_ends(module, tmp_path):
    data = tones(tmp_path, {"train": 2, "valid": 1, "test": 1})
    embedded = read(data, "train", module, tmp_path, shifts=3)
    model, part = module.load(), data.parts["train"]
    assert embedded.shifts == 3 and embedded.parameters == sum(
        p.numel() for p in model.parameters()
    )
    file = part.files[1]
    audio = torch.from_numpy(part.read(file))[None]
    whole = module.embed(model, audio)[0]
    for grid, first in enumerate((0, 83, 166)):
        shifted = module.embed(model, audio[:, first * 640 :])[0]
        got = embedded.get(file, grid=grid).float()
        torch.testing.assert_close(got[first:], shifted, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(got[:first], whole[:first], atol=2e-3, rtol=1e-3)
        assert grid == 0 or not torch.allclose(got, whole, atol=1e-2)
    assert torch.equal(embedded.get(file, 30, 5, 2), embedded.get(file, grid=2)[30:35])


def test_short_clips_and_parts_that_nothing_trains_on_have_one_grid(data, module, tmp_path):
    assert read(data, "valid", Plugin(LOGMEL), tmp_path / "long", shifts=2).shifts == 1
    short = tones(tmp_path, {"train": 2, "valid": 1, "test": 1}, seconds=6.0)
    embedded = read(short, "train", module, tmp_path / "short", shifts=2)
    assert embedded.shifts == 1 and embedded.rows.shape == (2 * 150, embedded.rows.shape[1])
    clips = [short.parts["train"].read(file) for file in short.parts["train"].files]
    model = module.load()
    for file, clip in zip(short.parts["train"].files, clips, strict=True):
        alone = module.embed(model, torch.from_numpy(clip)[None])[0]
        torch.testing.assert_close(embedded.get(file).float(), alone, atol=2e-3, rtol=1e-3)


def test_a_finished_part_is_read_without_the_module(data, tmp_path, monkeypatch):
    module = Plugin(LOGMEL)
    first = read(data, "test", module, tmp_path)
    refuse_to_load(monkeypatch)
    again = read(data, "test", module, tmp_path)
    assert torch.equal(first.rows, again.rows) and again.rows.dtype == torch.float16
    assert again.seconds_per_minute == first.seconds_per_minute > 0


KILLED = """
import os, signal, sys
import numpy as np
from pathlib import Path
import torch
torch.set_num_threads(1)  # children are forked
from eval_tasks.fit import features as ft
from eval_tasks.tasks.base import open_task
from eval_tasks.plugin import Plugin
from frozen_parts import TASK

data, cache = open_task(TASK, Path(sys.argv[1])), Path(sys.argv[2])
module = Plugin("eval_tasks.logmel")

def kill_at(owner, name, call, after=False):
    original, calls = getattr(owner, name), [0]
    def wrapped(*args, **options):
        calls[0] += 1
        if calls[0] == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **options)
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, wrapped)

HEADER = np.lib.format, "write_array_header_1_0"
POINTS = [(Plugin, "embed", 1), (Plugin, "embed", 5), (*HEADER, 1, True), (Path, "write_text", 1),
          (Path, "write_text", 1, True), (Path, "rename", 1), (Path, "rename", 1, True),
          (Plugin, "embed", 1), (Path, "rename", 1, True)]
for point in POINTS:
    child = os.fork()
    if not child:
        kill_at(*point)
        for name in ("train", "valid", "test"):
            ft.features(data, name, module, cache, shifts=2, progress=False)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status), (point, status)
    finished = [f for f in cache.glob("*/*/*") if not f.name.startswith(".")]
    for folder in finished:
        assert {p.name for p in folder.iterdir()} == {ft.INDEX, ft.ARRAY}
    print(len(finished))
"""


def test_a_kill_at_any_point_leaves_whole_parts_only(data, tmp_path):
    command = [sys.executable, "-c", KILLED, str(data.folder), str(tmp_path / "killed")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list("011111223")
    module, parts = Plugin(LOGMEL), ("train", "valid", "test")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*/*/[a-z]*")}
    for name in parts:
        killed = read(data, name, module, tmp_path / "killed", shifts=2)
        undisturbed = read(data, name, module, tmp_path / "undisturbed", shifts=2)
        assert torch.equal(killed.rows, undisturbed.rows)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items()) and before
    folders = sorted(path.name for path in (tmp_path / "killed").glob("*/*/*"))
    assert len(folders) == 3 and not any(name.startswith(".") for name in folders)


def flip_a_bit(folder):
    content = bytearray((folder / ft.ARRAY).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / ft.ARRAY).write_bytes(content)


def truncate(folder):
    content = (folder / ft.ARRAY).read_bytes()
    (folder / ft.ARRAY).write_bytes(content[:-100])


def of_another_option(folder):
    index = json.loads((folder / ft.INDEX).read_text())
    index["settings"]["options"] = {"overlap": 1.0}
    (folder / ft.INDEX).write_text(json.dumps(index))


DAMAGE = {
    "bit": (flip_a_bit, "damaged: sha256"),
    "truncated": (truncate, "damaged: sha256"),
    "foreign": (of_another_option, r"was made with options .* \(asked: {}\)"),
    "no_index": (lambda folder: (folder / ft.INDEX).unlink(), "was not made here"),
    "no_array": (lambda folder: (folder / ft.ARRAY).unlink(), "cannot be read"),
    "garbage": (
        lambda folder: (folder / ft.INDEX).write_text('{"settings": 1'),
        "was not made here",
    ),
    "list": (lambda folder: (folder / ft.INDEX).write_text("[]"), "was not made here"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_cache_is_named_and_left_alone(data, tmp_path, monkeypatch, damage):
    read(data, "test", Plugin(LOGMEL), tmp_path)
    (folder,) = tmp_path.glob("*/*/test-*")
    harm, message = DAMAGE[damage]
    harm(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    refuse_to_load(monkeypatch)
    with pytest.raises((ValueError, FileExistsError), match=message) as error:
        read(data, "test", Plugin(LOGMEL), tmp_path)
    assert f"delete {folder}" in str(error.value) and "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_another_checkpoint_option_or_task_is_never_taken_for_it(data, module, tmp_path):
    name = "test"
    first = read(data, name, module, tmp_path)
    other_weights = Plugin(GENERIC, checkpoint(tmp_path / "b.pt", seed=1))
    assert not torch.equal(read(data, name, other_weights, tmp_path).rows, first.rows)
    other_option = replace(module, options={"overlap": 5.0})
    assert not torch.equal(read(data, name, other_option, tmp_path).rows, first.rows)
    moved = Path(shutil.copytree(data.folder, tmp_path / "moved" / data.folder.name))
    assert len(list(tmp_path.glob("*/*/test-*"))) == 3
    read(open_task(TASK, moved), name, module, tmp_path)  # the same task elsewhere
    renamed = Path(shutil.copy(module.checkpoint, tmp_path / "renamed.pt"))
    read(data, name, Plugin(GENERIC, renamed), tmp_path)  # the same weights elsewhere
    assert len(list(tmp_path.glob("*/*/test-*"))) == 3
    events = json.loads((moved / "test.json").read_text())
    del events["test_0.wav"]
    (moved / "test.json").write_text(json.dumps(events))
    assert len(read(open_task(TASK, moved), name, module, tmp_path).rows) == len(first.rows) // 2


def plug_in(values) -> SimpleNamespace:
    """Gives these (T, D) embeddings for every clip."""

    def embed(audio, _model):
        frames = torch.from_numpy(values)[: len(audio[0]) // 640].expand(len(audio), -1, -1)
        return frames, (torch.arange(frames.shape[1]) * 40.0 + 20).expand(len(audio), -1)

    model = torch.nn.Linear(1, 1)
    model.sample_rate = 16_000
    return SimpleNamespace(load_model=lambda: model, get_timestamp_embeddings=embed)


@pytest.mark.parametrize(("scale", "kept"), [(1.0, "float16"), (1e6, "float32"), (1e-7, "float32")])
def test_values_beyond_float16_are_kept_as_float32(data, tmp_path, monkeypatch, scale, kept):
    values = (scale * np.random.default_rng(0).standard_normal((600, 8))).astype(np.float32)
    module = Plugin("made_up")
    monkeypatch.setitem(sys.modules, "made_up", plug_in(values))
    embedded = read(data, "test", module, tmp_path)
    assert str(embedded.rows.dtype) == f"torch.{kept}"
    np.testing.assert_allclose(
        embedded.get("test_1.wav").float(), values, rtol=1e-3, atol=scale / 1e3
    )


@pytest.mark.parametrize(("frames", "value"), [(600, np.nan), (590, 0.0)])
def test_unusable_embeddings_are_named_and_nothing_is_left(
    data, tmp_path, monkeypatch, frames, value
):
    module = Plugin("made_up")
    values = np.full((frames, 8), value, np.float32)
    monkeypatch.setitem(sys.modules, "made_up", plug_in(values))
    message = "NaN or infinite embeddings for test_0.wav" if frames == 600 else "590 frames where"
    with pytest.raises(ValueError, match=message):
        read(data, "test", module, tmp_path)
    assert not list(tmp_path.glob("*/*/*"))


def test_a_full_disk_is_told_before_anything_is_written(data, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match="do not fit"):
        read(data, "test", Plugin(LOGMEL), tmp_path)
    assert not list(tmp_path.glob("*/*/*"))


def test_the_missing_rows_are_those_that_are_written(data, tmp_path):
    parts, module = ("train", "valid", "test"), Plugin(LOGMEL)
    ahead = ft.missing_rows(data, parts, module, tmp_path, shifts=2)
    written = [read(data, name, module, tmp_path, shifts=2).rows for name in parts]
    assert ahead == sum(map(len, written))
    assert ft.missing_rows(data, parts, module, tmp_path, shifts=2) == 0


def test_a_second_run_waits_for_the_features_instead_of_computing_them(data, tmp_path, monkeypatch):
    module, results = Plugin(LOGMEL), []
    read(data, "test", module, tmp_path)
    (folder,) = tmp_path.glob("*/*/test-*")
    refuse_to_load(monkeypatch)

    def wait():
        results.append(read(data, "test", module, tmp_path))

    with locked(folder, beside=True):
        thread = threading.Thread(
            target=lambda: results.append(read(data, "test", module, tmp_path))
        )
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and not results
    thread.join(20)
    assert len(results) == 1
