"""Long work in folders: killed anywhere, the same command goes on; other settings are refused.

A folder says in a JSON file, under "settings", how it is made. Either it is made whole
(`make_folder`), or it holds parts that are made whole (`Parts`).
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hear_ptsed.errors import few, printable
from hear_ptsed.files import atomic, atomic_folder, locked, remove_stale, sha256, write_json

MANIFEST = "manifest.json"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, or what a user may have of it


def require_settings(
    path: Path, stored: Any, settings: Mapping[str, Any], remedy: str = ""
) -> None:
    """Refuse, in one line, what was made with other settings, or does not say with which.

    Args:
        stored: the settings as read from JSON; None if there are none.
        remedy: what to do; deleting it if empty.
    """
    then = f"{remedy or f'delete {path} to make it anew'}, or use another name"
    if not isinstance(stored, dict):
        raise FileExistsError(
            f"{path} was not made here, or by an older version (no manifest with settings); {then}"
        )
    now = json.loads(json.dumps(dict(settings)))  # tuples are lists in a file
    differing = [
        f"{key} {_short(stored.get(key))} (asked: {_short(now.get(key))})"
        for key in now | stored
        if now.get(key) != stored.get(key)
    ]
    if differing:
        raise FileExistsError(f"{path} was made with {few(differing, 4)}; {then}")


def read_settings(folder: Path, manifest: str = MANIFEST) -> Any:
    """What a folder says of its settings; None if it says nothing."""
    try:
        return json.loads((folder / manifest).read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def make_folder(
    folder: Path,
    settings: Mapping[str, Any],
    fill: Callable[[Path], None],
    *,
    manifest: str = MANIFEST,
    force: bool = False,
    wait: bool = False,
    remedy: str = "",
) -> bool:
    """Have a new folder filled and put it in place; one with the same settings is kept.

    Args:
        fill: writes the files, the manifest with these settings among them.
        force: replace a folder that is there.
        wait: for another process that makes it, instead of a RuntimeError.
        remedy: see `require_settings`.
    Returns:
        Whether it was made now.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder, wait, beside=True):
        remove_stale(folder.parent, name=folder.name)
        if folder.exists() and not force:
            require_settings(folder, read_settings(folder, manifest), settings, remedy)
            return False
        with atomic_folder(folder) as new:
            fill(new)
    return True


class Parts:
    """The parts of a job in a folder; each is a file, and JSON beside it: facts and its SHA-256.

    Several processes may write parts at once. A part is finished when its facts are there.

    Args:
        settings: all that decides what the parts hold, as JSON has it.
        names: of the files, with a suffix.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        names: Sequence[str],
        manifest: str = MANIFEST,
    ):
        self.folder, self.settings, self.manifest = folder, dict(settings), manifest
        self.files = [folder / name for name in names]

    def claim(self) -> None:
        """Begin in an empty folder, or go on in one of the same settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        empty = all(path.name.startswith(".hear_ptsed") for path in self.folder.iterdir())
        if empty and not (self.folder / self.manifest).exists():
            write_json(self.folder / self.manifest, {"settings": self.settings})
        require_settings(self.folder, read_settings(self.folder, self.manifest), self.settings)

    def finish(self, **facts: Any) -> None:
        """Add what the whole folder holds to its manifest."""
        write_json(self.folder / self.manifest, {"settings": self.settings} | facts)

    def remove(self) -> None:
        """Delete the folder, when its parts are in another place."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def left(self) -> list[int]:
        """Numbers of the parts that are not finished."""
        return [n for n, file in enumerate(self.files) if not _facts_of(file).exists()]

    def facts(self, n: int) -> dict[str, Any]:
        """What was written of a finished part."""
        return json.loads(_facts_of(self.files[n]).read_text(encoding="utf-8"))

    @contextlib.contextmanager
    def write(self, n: int, facts: dict[str, Any]) -> Iterator[Path]:
        """Yield the path to write a part to; the facts, which may be added to, follow it."""
        file = self.files[n]
        try:
            with atomic(file) as temporary:
                yield temporary
                with temporary.open("rb") as written:
                    os.fsync(written.fileno())  # before its facts say that it is finished
                digest = sha256(temporary)
            write_json(_facts_of(file), facts | {"sha256": digest})
        except OSError as error:
            if error.errno not in FULL:
                raise
            text = f"{error.strerror}; make room and run the same command again"
            raise OSError(error.errno, text, str(file)) from error

    def check(self, n: int) -> bool:
        """Whether a finished part is as it was written; one that is not is deleted."""
        try:
            right = self.facts(n)["sha256"] == sha256(self.files[n])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            right = False
        if not right:
            _facts_of(self.files[n]).unlink(missing_ok=True)
            self.files[n].unlink(missing_ok=True)
        return right


def _facts_of(file: Path) -> Path:
    return file.with_suffix(".json")


def _short(value: Any) -> str:
    return printable(str(value), 60)
