"""`--protocol hear`: the real heareval in subprocesses, and what is collected of it.

What lies in the folder of a run is data, never run.
"""

import importlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from eval_parts import Killed, records, run
from frozen_parts import tones

from eval_tasks.heareval import protocol
from eval_tasks.plan import plan_run
from eval_tasks.plugin import Plugin
from eval_tasks.request import Request
from eval_tasks.score import rate
from eval_tasks.tasks import find_task
from eval_tasks.tasks.base import TaskData, open_task

pytest.importorskip("heareval")

HEAR = ["--module", "eval_tasks.logmel", "--protocol", "hear"]
HEAR += ["--grid", "faster", "--grid-points", "1"]
QUICK = {"grid": "faster", "grid_points": 1, "progress": False}
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


class Mischief:
    """A pickle of it makes a folder when it is read."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.makedirs, (str(self.folder), 0o777, True)


def plant(folder: Path, pattern: str, made: Path) -> int:
    """Put such pickles in the place of all that are in a folder; how many."""
    paths = list(folder.rglob(pattern))
    for path in paths:
        path.write_bytes(pickle.dumps(Mischief(made)))
    return len(paths)


def agrees(outcome, data) -> float:
    """heareval's own score, which our metrics give for its events."""
    part, score = data.parts[outcome.part], outcome.training["heareval_score"]
    task, metric = data.task, data.task.metrics[0]
    decoded = rate(task, part, outcome.probabilities, events=outcome.events)
    assert decoded.scores[metric] == pytest.approx(score, abs=1e-6)
    if outcome.frame_ms == part.hop_ms:  # our decoding of its probabilities gives its events
        ours = rate(task, part, outcome.probabilities, decoding=outcome.decoding, curves=True)
        assert ours.scores == decoded.scores
        curve = ours.curves[metric]
        assert curve["f_measure"][curve["threshold"].index(0.5)] == ours.scores[metric]
    return score


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TaskData:
    return open_task(find_task("office"), tones(tmp_path_factory.mktemp("tasks")).folder)


@pytest.fixture(scope="module")
def command(data) -> tuple[str, ...]:
    where = ["--folder", data.folder.name, "--tasks-dir", str(data.folder.parent)]
    return ("run", "--task", "office", *HEAR, *where, "--quiet")


@pytest.fixture(scope="module")
def killed(data, command, tmp_path_factory) -> Path:
    """The folder of a run that began with half of an embedding, and was killed after heareval."""
    folder = tmp_path_factory.mktemp("killed")
    asked = Request(
        task="office",
        module="eval_tasks.logmel",
        protocol="hear",
        grid="faster",
        grid_points=1,
    )
    work = folder / plan_run(asked, data).folder / "hear" / "embeddings"
    task = work / "eval_tasks.logmel" / data.folder.name
    task.mkdir(parents=True)
    (task / "test.embeddings.npy").write_bytes(b"half")
    (task / "prediction.log").write_text("interrupted")
    code, said = run(folder, *command, at=Killed("eval_tasks.heareval.protocol.read_predictions"))
    assert code == -9, said
    return folder


@pytest.fixture
def folder(killed, tmp_path) -> Path:
    return Path(shutil.copytree(killed, tmp_path / "run"))


def test_heareval_goes_on_after_an_interruption_and_its_score_is_reproduced(data, folder):
    (work,) = (folder / "work").glob("*/hear")
    (first,) = protocol.hear(data, Plugin("eval_tasks.logmel"), work, **QUICK)
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
    saved = torch.load(next(work.rglob("*.ckpt")), weights_only=False)["state_dict"]
    trained = [t.numel() for key, t in saved.items() if "running" not in key and "num_" not in key]
    assert first.parameters == sum(trained)  # log-mel itself has none


def test_a_strangers_pickle_of_predictions_is_not_run_and_changes_nothing(
    command, folder, tmp_path
):
    undisturbed = shutil.copytree(folder, tmp_path / "undisturbed")
    assert plant(folder / "work", "*.pkl", tmp_path / "made") == 4
    for run_folder in (folder, undisturbed):
        code, said = run(run_folder, *command)
        assert code == 0, said
    assert not (tmp_path / "made").exists()
    assert records(folder) == records(undisturbed) != {}
    assert not list(folder.rglob("*.pkl")) and not list(folder.rglob("*.npz"))


def test_a_strangers_pickle_of_labels_is_told_and_not_run(folder, tmp_path):
    (done,) = (folder / "work").rglob("prediction-done.json")
    done.unlink()
    assert plant(folder / "work", "train.target-labels.pkl", tmp_path / "made") == 1
    code, said = run(folder, "heareval", "predictions", str(done.parent))
    last = said.strip().splitlines()[-1]
    assert code == 1 and "train.target-labels.pkl is damaged or not heareval's" in last
    assert "it calls os.makedirs" in last
    assert not (tmp_path / "made").exists()


def test_objects_among_the_predictions_are_told_and_not_made(command, folder, tmp_path):
    (path,) = (folder / "work").rglob("*.predictions.npz")
    np.savez(path, prediction=np.array([Mischief(tmp_path / "made")], dtype=object))
    code, said = run(folder, *command)
    last = said.strip().splitlines()[-1]
    assert code == 1 and "predictions.npz cannot be read" in last and "to run it again" in last
    assert not (tmp_path / "made").exists() and not records(folder)


def test_folds_another_rate_which_is_made_another_grid_and_options(tmp_path, monkeypatch):
    (tmp_path / "bands.py").write_text(PLUGIN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    data = tones(tmp_path / "tasks", {"a": 3, "b": 3, "c": 3}, 12.0)
    (tmp_path / "weights.pt").write_bytes(b"")
    module = Plugin("bands", tmp_path / "weights.pt", {"layers": "mean", "batch": 2})
    outcomes = protocol.hear(data, module, tmp_path / "run", **QUICK)
    assert [outcome.part for outcome in outcomes] == ["a", "b", "c"]
    assert all(agrees(outcome, data) > 0.3 for outcome in outcomes)
    assert {outcome.frame_ms for outcome in outcomes} == {50.0}
    assert {p.shape for one in outcomes for p in one.probabilities.values()} == {(240, 2)}
    said = (tmp_path / "run" / "logs" / "embeddings.txt").read_text()
    assert f"load_model '{tmp_path / 'weights.pt'}' {{'layers': 'mean', 'batch': 2}}" in said


def test_heareval_sees_finer_frames_and_they_are_scored_at_their_times(tmp_path):
    data = tones(tmp_path / "tasks", {"train": 3, "valid": 2, "test": 2}, 12.0).with_hop(20)
    (outcome,) = protocol.hear(
        data, Plugin("eval_tasks.logmel", options={"hop": 20}), tmp_path / "run", **QUICK
    )
    assert agrees(outcome, data) > 0.3 and outcome.frame_ms == outcome.training["frame_ms"] == 20
    assert {p.shape for p in outcome.probabilities.values()} == {(600, 2)}


def test_what_heareval_fails_at_is_told_in_a_line(tmp_path):
    data = tones(tmp_path / "tasks", {"train": 1, "valid": 1, "test": 1}, 2.0)
    with pytest.raises(
        RuntimeError, match="no module no_such_plugin; `hear-ptsed list` names"
    ) as error:
        protocol.hear(data, Plugin("no_such_plugin"), tmp_path / "run", **QUICK)
    assert str(tmp_path / "run" / "logs" / "embeddings.txt") in str(error.value)
    assert "\n" not in str(error.value)


SLEEPS = """
import os, pathlib, time
def load_model(path="", **options):
    pathlib.Path("started").write_text(str(os.getpid()))
    time.sleep(120)
"""


def state_of(process: int) -> str:
    """As Linux has it: Z is one that has ended; nothing if there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


@pytest.mark.skipif(sys.platform != "linux", reason="others leave the child to itself")
def test_heareval_ends_with_the_command_that_started_it(command, tmp_path):
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    words = [word.replace("eval_tasks.logmel", "sleeps") for word in command]
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    parent = subprocess.Popen(
        [sys.executable, "-m", "eval_tasks", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
        stderr=subprocess.DEVNULL,
    )
    started = tmp_path / "started"
    while not (started.exists() and started.read_text()):
        assert parent.poll() is None
        time.sleep(0.01)
    child = int(started.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 60
    while state_of(child) not in ("", "Z", "X"):
        assert time.monotonic() < end, "it works on"
        time.sleep(0.01)
