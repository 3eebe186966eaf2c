"""`--protocol hear`: the real heareval in subprocesses, and what is collected of it."""

import importlib

import pytest
import torch
from frozen_parts import TASK, tones

from eval_tasks.heareval import protocol
from eval_tasks.plugin import Plugin
from eval_tasks.score import rate

pytest.importorskip("heareval")

PLUGIN = '''
"""Energies in 32 bands every 50 ms, of audio at 22050 Hz."""
import torch

class Bands(torch.nn.Linear):
    sample_rate = 22050
    scene_embedding_size = timestamp_embedding_size = 32

def load_model(model_file_path="", **options):
    print("load_model", repr(model_file_path), options)
    return Bands(3, 5).eval()

def get_timestamp_embeddings(audio, model):
    starts = (torch.arange(int(audio.shape[1] / 1102.5)) * 1102.5).int().tolist()
    audio = torch.stack([audio[:, start : start + 1024] for start in starts], 1)
    power = torch.fft.rfft(audio).abs().square()[..., 1:]
    frames = power.unflatten(-1, (32, 16)).mean(-1).add(1e-4).log()
    return frames, (torch.arange(len(starts)) * 50.0 + 25).expand(len(frames), -1)

def get_scene_embeddings(audio, model):
    return get_timestamp_embeddings(audio, model)[0].mean(1)
'''
QUICK = {"grid": "faster", "grid_points": 1, "progress": False}


def agrees(outcome, data) -> float:
    """heareval's own score, which our metrics give for its events."""
    part, score = data.parts[outcome.part], outcome.training["heareval_score"]
    found = rate(TASK, part, outcome.probabilities, events=outcome.events)
    assert found.scores[TASK.metrics[0]] == pytest.approx(score, abs=1e-6)
    if outcome.training["frame_ms"] == 40:  # our decoding of its probabilities gives its events
        own = rate(TASK, part, outcome.probabilities, decoding=outcome.decoding, curves=True)
        assert own.scores == found.scores
        curve = own.curves[TASK.metrics[0]]
        assert curve["f_measure"][curve["threshold"].index(0.5)] == own.scores[TASK.metrics[0]]
    return score


def test_heareval_goes_on_after_an_interruption_and_its_score_is_reproduced(tmp_path):
    data, module = tones(tmp_path / "tasks"), Plugin("eval_tasks.logmel")
    task = tmp_path / "run" / "embeddings" / module.name / data.folder.name
    task.mkdir(parents=True)
    (task / "test.embeddings.npy").write_bytes(b"half")
    (task / "prediction.log").write_text("interrupted")
    (first,) = protocol.hear(data, module, tmp_path / "run", **QUICK)
    assert agrees(first, data) > 0.5
    assert first.training["frame_ms"] == 40 and first.seconds_per_minute > 0
    assert {file: p.shape for file, p in first.probabilities.items()} == {
        "test_0.wav": (600, 2),
        "test_1.wav": (600, 2),
    }
    # The probabilities are those of the events: each lies where its class is above one half.
    for file, events in first.events.items():
        for event in events:
            row = round((event["start"] - 20) / 40)
            assert first.probabilities[file][row, data.classes.index(event["label"])] > 0.5
    saved = torch.load(next(task.rglob("*.ckpt")), weights_only=False)["state_dict"]
    trained = [t.numel() for key, t in saved.items() if "running" not in key and "num_" not in key]
    assert first.parameters == sum(trained)  # log-mel itself has none


def test_folds_another_rate_another_grid_and_options(tmp_path, monkeypatch):
    (tmp_path / "bands.py").write_text(PLUGIN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    data = tones(tmp_path / "tasks", {"a": 3, "b": 3, "c": 3}, 12.0, rates=(16_000, 22_050))
    (tmp_path / "weights.pt").write_bytes(b"")
    module = Plugin("bands", tmp_path / "weights.pt", {"layers": "mean", "batch": 2})
    outcomes = protocol.hear(data, module, tmp_path / "run", **QUICK)
    assert [outcome.part for outcome in outcomes] == ["a", "b", "c"]
    assert all(agrees(outcome, data) > 0.3 for outcome in outcomes)
    assert {outcome.training["frame_ms"] for outcome in outcomes} == {50.0}
    assert {p.shape for one in outcomes for p in one.probabilities.values()} == {(240, 2)}
    said = (tmp_path / "run" / "logs" / "embeddings.txt").read_text()
    assert f"load_model '{tmp_path / 'weights.pt'}' {{'layers': 'mean', 'batch': 2}}" in said


def test_what_heareval_fails_at_is_told_in_a_line(tmp_path):
    data = tones(tmp_path / "tasks", {"train": 1, "valid": 1, "test": 1}, 2.0)
    with pytest.raises(RuntimeError, match="No module named 'no_such_plugin'") as error:
        protocol.hear(data, Plugin("no_such_plugin"), tmp_path / "run", **QUICK)
    assert str(tmp_path / "run" / "logs" / "embeddings.txt") in str(error.value)
    assert "\n" not in str(error.value)
