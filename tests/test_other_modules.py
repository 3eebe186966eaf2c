"""HEAR modules of others, with the habits of those that are out there, on tasks made here."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from eval_parts import OFFICE, SHORT

from eval_tasks import tasks
from eval_tasks.__main__ import main
from eval_tasks.plugin import Plugin
from hear_ptsed.metrics.records import read_record

RUN = ["run", *OFFICE, "--protocol", "linear", *SHORT, "--set", "optim.epochs=1", "--quiet"]
# Frames of 40 ms from time 0 on, embeddings on the CPU, a model that still drops features at random
MODULE = """
import torch
class Energies(torch.nn.Sequential):
    sample_rate, scene_embedding_size, timestamp_embedding_size = {rate}, 16, 16
def load_model(model_file_path{default}):
    {first}
    return Energies(torch.nn.Linear(16, 16), torch.nn.Dropout(0.5))
def get_timestamp_embeddings(audio, model):
    hop = model.sample_rate // 25
    audio = torch.nn.functional.pad(audio, (0, -audio.shape[1] % hop)).unflatten(1, (-1, hop))
    frames = model(torch.fft.rfft(audio).abs()[..., 1:321].unflatten(-1, (16, 20)).mean(-1)).cpu()
    return frames, (torch.arange(frames.shape[1]) * {hop}).expand(len(frames), -1)
def get_scene_embeddings(audio, model):
    return get_timestamp_embeddings(audio, model)[0].mean(1)
"""
USUAL = {"rate": 16000, "default": "=''", "first": "torch.manual_seed(0)", "hop": 40.0}
HABITS = {
    "usual": {},
    "of_32_khz": {"rate": 32000},
    "in_seconds": {"hop": 0.04},
    "needs_a_file": {"default": ""},
    "fetches_weights": {"first": "raise OSError('<urlopen error>')"},
}


@pytest.fixture
def others(tmp_path, monkeypatch) -> Path:
    """A folder of such modules, importable, as the current one."""
    for name, habits in HABITS.items():
        (tmp_path / f"{name}.py").write_text(MODULE.format(**USUAL | habits))
    (tmp_path / "lacks_timm.py").write_text("import timm_of_2021\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def office(tmp_path_factory) -> Path:
    return tasks.prepare(
        "office", tmp_path_factory.mktemp("tasks"), synthetic=True, sample_rate=32000
    )


def refusal(capsys, *command: str) -> str:
    """What a command that fails says, in its one line."""
    assert main([*command]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


REFUSED = {  # module: parts of the message
    "of_32_khz": ["of_32_khz takes 32000 Hz", "--protocol hear", "--sample-rate"],
    "in_seconds": ["in_seconds: the last timestamp", "these look like seconds"],
    "needs_a_file": ["needs_a_file.load_model: missing", "'model_file_path'", "--checkpoint FILE"],
    "fetches_weights": ["fetches_weights.load_model failed: <urlopen error>"],
    "lacks_timm": ["lacks_timm cannot be imported: No module named 'timm_of_2021'"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_with_a_module_is_told_with_its_name(name, office, others, capsys):
    said = refusal(capsys, *RUN, "--tasks-dir", str(office.parent), "--module", name)
    assert all(text in said for text in REFUSED[name]), said
    assert not list(others.rglob("results/*"))


def test_a_module_that_cannot_be_had_is_named_by_the_hear_tools_too(office, others, capsys):
    pytest.importorskip("heareval")
    pytest.importorskip("hearvalidator")
    tools = ["heareval", "embeddings"], ["validate"]
    for tool in tools:
        more = ["--tasks-dir", str(office.parent)] if tool[0] == "heareval" else []
        said = refusal(capsys, *tool, "lacks_timm", *more)
        assert "lacks_timm cannot be imported: No module named 'timm_of_2021'" in said
        assert "no module nowhere_to_be_found" in refusal(
            capsys, *tool, "nowhere_to_be_found", *more
        )


def test_a_module_that_needs_a_file_runs_to_a_record_with_one(office, others):
    (others / "weights.pt").write_bytes(b"read by load_model alone")
    words = ["--tasks-dir", str(office.parent), "--module", "needs_a_file"]
    assert main([*RUN, *words, "--checkpoint", "weights.pt"]) == 0
    (path,) = others.rglob("results/**/*.json")
    assert read_record(path).module == "needs_a_file"


def test_a_module_that_was_left_in_training_embeds_as_a_frozen_one(others):
    plugin, audio = Plugin("usual"), torch.rand(2, 16000)
    model = plugin.load()
    assert torch.equal(plugin.embed(model, audio), plugin.embed(model, audio))


def test_audio_of_32_khz_reaches_the_module_as_it_was_prepared(office, others):
    pytest.importorskip("heareval")
    folder = shutil.copytree(office, others / "tasks" / office.name)
    shutil.rmtree(folder / "16000")  # of which it could be made
    clips = list(folder.rglob("*.wav"))
    assert main(["heareval", "embeddings", "of_32_khz", "--task", office.name]) == 0
    assert len(clips) == 32
    for clip in clips:
        path = others / "embeddings/of_32_khz" / office.name / clip.parent.name / clip.name
        assert np.load(path.with_suffix(".wav.embedding.npy")).shape == (75, 16)
