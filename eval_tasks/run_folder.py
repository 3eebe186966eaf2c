"""The folder that a run works in: held alone, and left without what only a restart would need."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hear_ptsed.files import locked, remove_stale

HEAR = "hear"  # what heareval does lies there


@contextmanager
def held_alone(folder: Path) -> Iterator[None]:
    """Keep a second process out of a folder; one that nothing was put into is removed."""
    try:
        with locked(folder):
            remove_stale(folder, alone=True)
            try:
                yield
            finally:
                _remove_empty_folders(folder)
    finally:
        with suppress(OSError):  # it is not empty
            folder.rmdir()


def clear(folder: Path) -> None:
    """Remove a run's states, and heareval's files; all logs stay."""
    from eval_tasks.fit.loop import STATE
    from eval_tasks.heareval.protocol import EMBEDDINGS

    for state in folder.glob(f"*/{STATE}"):
        state.unlink()
    shutil.rmtree(folder / HEAR / EMBEDDINGS, ignore_errors=True)


def _remove_empty_folders(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
