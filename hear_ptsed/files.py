"""Where files are kept and how they are written: cache, checksums, locks, atomic replacement."""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOCK = ".hear_ptsed.lock"
_TEMPORARY = re.compile(r"\.hear_ptsed-(\d+)-[0-9a-f]{16}-(.+)", re.DOTALL)


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
    return path.with_name(f".hear_ptsed-{os.getpid()}-{secrets.token_hex(8)}-{path.name[-100:]}")


def remove_stale(folder: Path, of: Path | None = None) -> None:
    """Remove what `temporary_beside` named for processes that have ended; nothing else, ever.

    Call it under the folder's lock: a process on another machine looks as if it had ended.

    Args:
        of: only what was to become this file.
    """
    for path in Path(folder).glob(".hear_ptsed-*"):
        ours = _TEMPORARY.fullmatch(path.name)
        if ours is None or _alive(int(ours[1])):
            continue
        if of is not None and ours[2] != of.name[-100:]:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


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


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, all or nothing; NaN and infinities are refused."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder alone, on this machine and where the file system shares locks.

    Args:
        folder: created if need be; the lock is a file in it.
        wait: for the other process to end, instead of a RuntimeError.
    """
    import filelock

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / LOCK, timeout=-1 if wait else 0):
            yield
    except filelock.Timeout:
        raise RuntimeError(
            f"{folder}: another process works there; wait until it ends, or choose another folder"
        ) from None
