"""Where files are kept and how they are written: cache, checksums, locks, atomic replacement."""

import contextlib
import hashlib
import json
import logging
import math
import os
import platform
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)
LOCK = ".hear_ptsed.lock"
REPLACED = ".hear_ptsed-replaced"  # what a folder was called before, while it is replaced
MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
NUMBERS = re.compile(r"\[\n[-+.\deE,\snul]+\]")  # a list of numbers and nulls in indented JSON
_TEMPORARY = re.compile(r"\.hear_ptsed-(\d+)-([0-9a-f]{8})-[0-9a-f]{16}-(.+)", re.DOTALL)


def cache_dir(*parts: str) -> Path:
    """Folder for downloads, created: in $HEAR_PTSED_CACHE, else in the user's cache folder."""
    root = os.environ.get("HEAR_PTSED_CACHE")
    if not root:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hear_ptsed"
    folder = Path(root).expanduser().joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary_beside(path: Path) -> Path:
    """A name in the same folder that nothing has: of this process, with the suffix of `path`."""
    name = path.name
    while len(os.fsencode(name)) > 150:  # names of files end at 255 bytes
        name = name[1:]
    mark = f"{os.getpid()}-{MACHINE}-{secrets.token_hex(8)}"
    return path.with_name(f".hear_ptsed-{mark}-{name}")


def remove_stale(folder: Path, alone: bool = False, name: str = "") -> None:
    """Undo what `atomic` and its kin left of processes that were killed; touch nothing else, ever.

    Args:
        alone: the caller has just taken the lock that all take who write in the folder, so that
            whatever is left is of a process that was killed, on whichever machine.
        name: the same of the lock of what has this name in the folder.
    """
    for path in Path(folder).glob(".hear_ptsed-*"):
        ours = _TEMPORARY.fullmatch(path.name)
        if ours is None:
            continue
        ended = ours[2] == MACHINE and _ended(int(ours[1]))
        if not (alone or ended or ours[3] == name):
            continue
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            continue
        try:
            if (path / REPLACED).exists() and not os.path.lexists(path.with_name(ours[3])):
                (path / REPLACED).rename(path.with_name(ours[3]))
        except OSError:  # another process has just done so, or it stays where it is
            continue
        shutil.rmtree(path, ignore_errors=True)


def _ended(process: int) -> bool:
    if os.name == "nt":  # where the call below would end it
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # of another user
        return False
    return False


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it replaces `path` only if the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, which is removed in the end."""
    folder = temporary_beside(Path(path))
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder of the same name; it replaces `path` only if the block ends well.

    Call it under a lock. Killed at any time, `remove_stale` of the folder around it finds the old
    one again.
    """
    path = Path(path)
    with temporary_folder(path) as around:
        new, old = around / path.name, around / REPLACED
        new.mkdir()
        try:
            yield new
            if os.path.lexists(path):
                path.rename(old)
            new.rename(path)
        finally:
            if os.path.lexists(old) and not os.path.lexists(path):
                old.rename(path)


def open_plain(path: Path, mode: str) -> IO[bytes]:
    """Open a file for writing that has a fixed name: nothing is written through a link there."""
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise FileExistsError(f"{path} is a link or no plain file; delete it and call again")
    unfollowed = getattr(os, "O_NOFOLLOW", 0)  # Windows has none
    return open(path, mode, opener=lambda name, flags: os.open(name, flags | unfollowed, 0o666))


def null_for_nan(value: Any) -> Any:
    """Plain values with null for what is not finite: a score that is not defined."""
    if isinstance(value, dict):
        return {key: null_for_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [null_for_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, all or nothing; NaN and infinities are refused, see `null_for_nan`.

    A list of numbers stands on one line.
    """
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    text = NUMBERS.sub(lambda numbers: "".join(numbers[0].split()).replace(",", ", "), text)
    with atomic(path) as temporary:
        # half a surrogate, of a file name that is no UTF-8, becomes JSON's own escape
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


@contextlib.contextmanager
def locked(path: Path, wait: bool = False, beside: bool = False) -> Iterator[None]:
    """Hold a folder alone, on this machine and where the file system shares locks.

    The lock is a hidden file that is there while it is held, and ends with its process.

    Args:
        path: the folder, made if need be and removed if it stays empty.
        wait: for the other process to end, instead of a RuntimeError.
        beside: the file lies beside the folder, for one that is made or replaced at the end.
    """
    import filelock

    path = Path(path)
    file = path.with_name(f".{path.name}{LOCK}") if beside else path / LOCK
    lock, made, timeout = filelock.FileLock(file), not file.parent.exists(), 0
    while not lock.is_locked:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=timeout)
        except FileNotFoundError:  # the process before has just removed the folder
            continue
        except filelock.Timeout:
            if not wait:
                raise RuntimeError(
                    f"{path}: another process works there; wait until it ends, or choose another "
                    "folder"
                ) from None
            log.warning("another process works in %s; waiting for it to end", path)
            timeout = -1
    try:
        yield
    finally:
        if lock.is_locked:  # it is not in a forked child
            if not isinstance(lock, filelock.SoftFileLock):  # who removes its file itself
                with contextlib.suppress(OSError):  # Windows keeps open files
                    file.unlink()
            if made:
                with contextlib.suppress(OSError):
                    file.parent.rmdir()
            lock.release()
