"""All that writes: one process at a time, not through links, nothing of anybody else removed."""

import json
import multiprocessing
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile
import torch
from training_corpus import KillAt, assert_refused, fit, recipe, start, write_corpus

pytest.importorskip("lightning")

from eval_tasks.tasks import hear_folder  # noqa: E402
from hear_ptsed.checkpoints import save_checkpoint  # noqa: E402
from hear_ptsed.files import atomic, atomic_folder, locked, remove_stale  # noqa: E402
from hear_ptsed.registry import build  # noqa: E402
from training.__main__ import main  # noqa: E402
from training.module import Training  # noqa: E402

FORK = multiprocessing.get_context("fork")


def inside(folder: Path) -> dict[str, bytes]:
    """Relative path -> content of every file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def in_a_process(action, *arguments) -> int:
    process = FORK.Process(target=action, args=arguments)
    process.start()
    process.join()
    return process.exitcode


# Training


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@dataclass(frozen=True)
class StopAtFirstStep:
    """Stops the process, which a signal continues; the file says that it is there."""

    file: Path

    def __call__(self) -> None:
        original = Training.training_step

        def stopped(module, *arguments):
            if not self.file.exists():
                self.file.touch()
                os.kill(os.getpid(), signal.SIGSTOP)
            return original(module, *arguments)

        Training.training_step = stopped


def test_a_second_run_in_the_folder_of_a_first_is_refused(corpus, tmp_path):
    file = recipe(tmp_path / "run.yaml", corpus, optim={"epochs": 1})
    stop = StopAtFirstStep(tmp_path / "stopped")
    first = start("fit", file, log=tmp_path / "log1", before=stop).until(stop.file.exists)
    try:
        for resume in ([], ["--resume"]):
            second = start("fit", file, *resume, log=tmp_path / "log2").wait()
            assert_refused(second, "run: another process works there; wait until it ends, or")
    finally:
        first.send_only(signal.SIGCONT)
    assert first.wait().code == 0, first.text
    assert (tmp_path / "run" / "model.pt").exists()
    assert not list((tmp_path / "run").glob(".*"))


def test_a_killed_run_leaves_its_folder_free_and_the_users_hidden_files_stay(corpus, tmp_path):
    out = tmp_path / "run"
    notes = (".2024-notes.txt", ".99999999-last.ckpt", ".2024-folder/notes.txt", "notes.txt")
    for name in notes:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("precious")
    kill = KillAt(Training, "training_step", 4)
    assert fit(corpus, tmp_path, before=kill).code == -signal.SIGKILL
    command = fit(corpus, tmp_path, "--resume")
    assert command.code == 0, command.text
    assert all((out / name).read_text() == "precious" for name in notes)


class Mischief:
    """A pickle of it makes a folder when it is read."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_strangers_last_checkpoint_runs_nothing(corpus, tmp_path):
    (tmp_path / "run").mkdir()
    torch.save({"recipe": Mischief(tmp_path / "made")}, tmp_path / "run" / "last.ckpt")
    command = fit(corpus, tmp_path, "--resume")
    assert command.code == 1 and "Traceback" not in command.text, command.text
    assert not (tmp_path / "made").exists()


# Packing, pseudo labels


@pytest.fixture
def audio(tmp_path) -> Path:
    folder = tmp_path / "audio"
    folder.mkdir()
    noise = np.random.default_rng(0).standard_normal(16_000)
    soundfile.write(folder / "a.wav", 0.1 * noise, 16_000)
    return folder


def test_one_process_packs_into_a_folder_and_hidden_files_stay(audio, tmp_path, capsys):
    out = tmp_path / "packed"
    command = ["pack", "--audio", str(audio), "--out", str(out), "--all", "--workers", "1"]
    with locked(out):
        assert main(command) == 1
    assert "packed: another process works there" in capsys.readouterr().err.splitlines()[-1]
    assert main(command) == 0
    (out / ".2024-shard-notes.txt").write_text("precious")
    (out / ".2024-index.npz").mkdir()
    assert main(command) == 0
    assert (out / ".2024-shard-notes.txt").read_text() == "precious"
    assert (out / ".2024-index.npz").is_dir()


def test_pseudo_labels_are_not_written_through_a_link(audio, tmp_path, capsys):
    torch.manual_seed(0)
    save_checkpoint(build("frame_mn02", 2), tmp_path / "model.pt", classes=["a", "b"])
    (tmp_path / "thesis").write_text("precious")
    (tmp_path / ".p.h5.parts").mkdir()
    link = tmp_path / ".p.h5.parts" / "000000.npy"
    link.symlink_to(tmp_path / "thesis")
    command = ["pseudo-label", str(tmp_path / "model.pt"), "--audio", str(audio)]
    command += ["--out", str(tmp_path / "p.h5"), "--device", "cpu"]
    assert main(command) == 1
    assert "p.h5.parts was not made here" in capsys.readouterr().err.splitlines()[-1]
    link.unlink()
    assert main(command) == 0
    assert (tmp_path / "thesis").read_text() == "precious"
    with h5py.File(tmp_path / "p.h5") as file:
        assert file["strong_logits"].shape == (1, 2, 250)


# Task folders


def filled(text: str):
    def fill(folder: Path) -> None:
        (folder / "manifest.json").write_text(json.dumps({"settings": {"of": text}}))
        (folder / "clip.txt").write_text(text)

    return fill


def killed_build(folder: Path) -> None:
    """Replace a task folder, and be killed when the old one is out of the way."""
    rename = Path.rename

    def kill(path, target):
        if Path(target) == folder:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    Path.rename = kill
    hear_folder.build_folder(folder, {"of": "new"}, filled("new"), force=True)


def test_a_task_folder_is_found_again_when_its_replacement_was_killed(tmp_path):
    folder = tmp_path / "tasks" / "task-v1-full"
    hear_folder.build_folder(folder, {"of": "old"}, filled("old"))
    assert in_a_process(killed_build, folder) == -signal.SIGKILL
    assert not folder.exists()
    hear_folder.build_folder(folder, {"of": "old"}, lambda new: 1 / 0)  # it is kept, not filled
    assert (folder / "clip.txt").read_text() == "old"
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


def test_two_processes_do_not_build_one_task_folder(tmp_path):
    folder = tmp_path / "tasks" / "task-v1-full"
    with locked(folder, beside=True):
        with pytest.raises(RuntimeError, match="task-v1-full: another process works there"):
            hear_folder.build_folder(folder, {"of": "new"}, filled("new"))
    hear_folder.build_folder(folder, {"of": "new"}, filled("new"))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


# What they all use


def leave_everything(folder: Path) -> None:
    with atomic(folder / "file.txt") as file, atomic_folder(folder / "folder") as new:
        file.write_text("half")
        (new / "half").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_only_what_a_killed_process_of_ours_left_is_removed(tmp_path):
    names = [f".hear_ptsed-{'0' * 8}", ".hear_ptsed-1-notes", ".2024-notes", ".99999999-file.txt"]
    for name in names:
        (tmp_path / name).write_text("precious")
    before = inside(tmp_path)
    assert in_a_process(leave_everything, tmp_path) == -signal.SIGKILL
    assert len(inside(tmp_path)) == len(names) + 2
    with atomic(tmp_path / "mine") as mine:  # of a process that lives
        mine.write_text("whole")
        remove_stale(tmp_path)
    assert inside(tmp_path) == before | {"mine": b"whole"}


def hold(folder: Path, held: Path) -> None:
    with locked(folder):
        held.touch()
        signal.pause()


def test_a_lock_ends_with_its_process_and_leaves_nothing(tmp_path):
    process = FORK.Process(target=hold, args=(tmp_path / "work", tmp_path / "held"))
    process.start()
    while not (tmp_path / "held").exists():
        assert process.is_alive()
    with pytest.raises(RuntimeError, match="work: another process works there"):
        with locked(tmp_path / "work"):
            pass
    process.kill()
    process.join()
    with locked(tmp_path / "work"):
        (tmp_path / "work" / "mine").touch()
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["mine"]


def test_a_folder_that_was_made_for_nothing_but_the_lock_goes_with_it(tmp_path):
    with locked(tmp_path / "work"):
        pass
    assert not (tmp_path / "work").exists()


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / ".hear_ptsed.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        with locked(tmp_path):
            pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("letter", ["a", "\N{CJK UNIFIED IDEOGRAPH-97F3}"])
def test_a_file_with_the_longest_name_that_a_folder_takes_is_written(letter, tmp_path):
    path = tmp_path / (letter * (255 // len(letter.encode())))
    with atomic(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"
