"""Folders that go on where they were killed: one promise, kept by all that write them."""

import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from frozen_parts import tones

from eval_tasks.fit import features
from eval_tasks.plugin import Plugin
from eval_tasks.tasks import hear_folder, soundscapes
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.detect import DetectorOptions
from hear_ptsed.registry import build
from training.data.clips import open_clips
from training.data.pack import pack
from training.ensemble import write_pseudo_labels

pytestmark = pytest.mark.usefixtures("one_thread")  # children are forked


@dataclass(frozen=True)
class Job:
    """A user of parts.py: what makes something in a folder, in parts whose files have such names.

    `run` takes the folder, and options of which another value is another job.
    """

    run: Callable[..., None]
    part: str  # regular expression: what appears when a part is finished
    other: dict  # a setting, and
    refused: str  # what is said of it


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for i in range(5):
        soundfile.write(folder / f"{i}.wav", 0.1 * rng.standard_normal(3000), 16_000)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "model.pt"
    save_checkpoint(build("frame_mn02", 2), path, classes=["a", "b"])
    return path


def fill(folder: Path) -> None:
    """Two files, and the manifest behind them."""
    for name, content in (("a", "1"), ("b", "2"), ("manifest.json", '{"settings": {"seed": 0}}')):
        (folder / name).write_text(content)


@pytest.fixture(scope="module")
def jobs(sounds, checkpoint, tmp_path_factory) -> dict[str, Job]:
    data = tones(tmp_path_factory.mktemp("tasks"), {"train": 2, "valid": 1, "test": 1})
    module, options = Plugin("eval_tasks.logmel"), DetectorOptions(device="cpu")

    def embed(folder: Path) -> None:
        for name in ("train", "valid", "test"):
            features.features(data, name, module, folder / "out", shifts=2, progress=False)

    def label(folder: Path, block: int = 2) -> None:
        clips = [open_clips(sounds)]
        settings = {"options": options, "block": block, "workers": 1}
        write_pseudo_labels([checkpoint], clips, folder / "out.h5", **settings)

    def render(folder: Path, train: int = 3) -> None:
        made = {"train": train, "evaluation": 1, "jobs": 1, "synthetic": True}
        soundscapes.render(folder / "out", **made)

    def shards(folder: Path, clips_per_shard: int = 2) -> None:
        pack([open_clips(sounds)], None, folder / "out", clips_per_shard=clips_per_shard)

    def task(folder: Path, seed: int = 0) -> None:
        hear_folder.build_folder(folder / "out", {"seed": seed}, fill)

    return {
        "pack": Job(
            shards, r"shard-\d+\.json", {"clips_per_shard": 3}, r"clips_per_shard 2 \(asked: 3\)"
        ),
        "pseudo labels": Job(label, r"\d{6}\.json|out\.h5", {"block": 3}, r"block 2 \(asked: 3\)"),
        "soundscapes": Job(
            render, r"(train|eval)_\d+\.json|out", {"train": 2}, r"train 3 \(asked: 2\)"
        ),
        "task folder": Job(task, "out", {"seed": 1}, r"seed 0 \(asked: 1\)"),
        "features": Job(embed, r"(train|valid|test)-[0-9a-f]+", {}, ""),
    }


NAMES = ("pack", "pseudo labels", "soundscapes", "task folder", "features")


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(soundscapes, "CHUNK", 2)


def traced(monkeypatch, note: Callable[[Path], None], ahead: Callable[[], None]) -> None:
    """Call `ahead` before anything appears under its name, and `note` with the name behind it."""

    def wrapped(original):
        def move(path, target):
            ahead()
            result = original(path, target)
            note(Path(target))
            return result

        return move

    for name in ("replace", "rename"):
        monkeypatch.setattr(Path, name, wrapped(getattr(Path, name)))


def appeared(job: Job, folder: Path, **options) -> list[str]:
    """Run a job here; names of all that appeared, in turn."""
    names = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        traced(monkeypatch, lambda target: names.append(target.name), lambda: None)
        job.run(folder, **options)
    return names


def killed(job: Job, folder: Path, point: int, log: Path) -> list[str]:
    """Run a job in a process that is killed before the next after `point` files would appear."""
    log.touch()
    child = os.fork()
    if not child:
        count = [0]

        def ahead() -> None:
            count[0] += 1
            if count[0] > point:
                os.kill(os.getpid(), signal.SIGKILL)

        def note(target: Path) -> None:
            with log.open("a") as file:
                file.write(target.name + "\n")

        traced(pytest.MonkeyPatch(), note, ahead)
        try:
            job.run(folder)
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return log.read_text().splitlines()


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder, the hidden ones too, without what says how long it took."""
    files = {str(f.relative_to(folder)): f for f in folder.rglob("*") if f.is_file()}
    whole = {name: file.read_bytes() for name, file in files.items()}
    return {
        name: re.sub(rb'"seconds_per_minute": [^,}\n]+', b"", data) for name, data in whole.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_killed_at_any_point_the_same_call_goes_on_to_the_same_files(name, jobs, tmp_path):
    job = jobs[name]
    undisturbed = appeared(job, tmp_path / "undisturbed")
    expected = content(tmp_path / "undisturbed")
    parts = [name for name in undisturbed if re.fullmatch(job.part, name)]
    assert parts
    assert expected and not any("/." in f"/{name}" for name in expected)
    for point in range(len(undisturbed)):
        folder = tmp_path / str(point)
        before = killed(job, folder, point, tmp_path / f"{point}.txt")
        assert before == undisturbed[:point]
        finished = [name for name in before if re.fullmatch(job.part, name)]
        after = appeared(job, folder)
        again = [name for name in after if re.fullmatch(job.part, name)]
        assert finished + again == parts
        assert content(folder) == expected
        assert not any(re.fullmatch(job.part, name) for name in appeared(job, folder))
        assert content(folder) == expected


@pytest.mark.parametrize("name", [name for name in NAMES if name != "features"])
def test_other_settings_are_refused_with_what_stands_there_and_what_to_do(name, jobs, tmp_path):
    job = jobs[name]
    if name in ("pack", "pseudo labels"):  # in the middle, and when it is finished
        killed(job, tmp_path, 1, tmp_path / "log.txt")
    else:
        job.run(tmp_path)
    for _ in range(2):
        before = content(tmp_path)
        with pytest.raises(FileExistsError, match=f"was made with {job.refused}; ") as caught:
            job.run(tmp_path, **job.other)
        assert str(caught.value).endswith(", or use another name")
        assert "\n" not in str(caught.value) and content(tmp_path).items() <= before.items()
        assert all(".hear_ptsed" in name for name in before.keys() - content(tmp_path).keys())
        job.run(tmp_path)


def test_shards_of_an_older_version_are_read_but_not_packed_into(jobs, tmp_path):
    jobs["pack"].run(tmp_path)
    file = tmp_path / "out" / "shards.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest.pop("settings") | manifest))
    assert len(open_clips(tmp_path / "out")) == 5
    before = content(tmp_path)
    with pytest.raises(FileExistsError, match=r"out was not made here, or by an older v.*; delete"):
        jobs["pack"].run(tmp_path)
    assert content(tmp_path) == before
