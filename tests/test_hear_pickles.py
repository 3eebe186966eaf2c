"""`--protocol hear` from the command line: what lies in its folder is data, never run."""

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

pytest.importorskip("heareval")

from eval_parts import OFFICE, Killed, records, run, tiny_tasks  # noqa: E402

HEAR = ["--module", "eval_tasks.logmel", "--protocol", "hear"]
HEAR += ["--grid", "faster", "--grid-points", "1"]


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


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> tuple[str, ...]:
    tasks = tiny_tasks(tmp_path_factory.mktemp("parts")) / "tasks"
    return ("run", *OFFICE, *HEAR, "--tasks-dir", str(tasks), "--quiet")


@pytest.fixture(scope="module")
def killed(command, tmp_path_factory) -> Path:
    """The folder of a run that was killed when heareval had done its work."""
    folder = tmp_path_factory.mktemp("killed")
    code, said = run(folder, *command, at=Killed("eval_tasks.heareval.protocol._outcomes"))
    assert code == -9, said
    return folder


@pytest.fixture
def folder(killed, tmp_path) -> Path:
    return Path(shutil.copytree(killed, tmp_path / "run"))


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
