"""Find the released checkpoints: in the user's folder, in the cache, or by download.

No hashes are published, so the size and SHA-256 of a file are recorded beside it at its first use,
in `<file>.json`, and a file that changes later is refused.
"""

import errno
import http.client
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from hear_ptsed.files import atomic, cache_dir, sha256
from hear_ptsed.registry import row

try:
    import fcntl
except ImportError:  # Windows: two downloads of one file at the same time are not kept apart
    fcntl = None

log = logging.getLogger(__name__)
RELEASE = "https://github.com/fschmid56/PretrainedSED/releases/download/v0.0.1/"
FOLDER = "HEAR_PTSED_CHECKPOINTS"  # environment variable
CHUNK = 1 << 20  # bytes
TIMEOUT = 30  # seconds without an answer


def cached(model: str, stage: str) -> Path | None:
    """The released file of a stage if it is on this machine, under any of its names; unchecked."""
    folders = [cache_dir("checkpoints")]
    if own := os.environ.get(FOLDER):
        folders.insert(0, Path(own).expanduser())
        if not folders[0].is_dir():
            log.warning("$%s is set to %s, which is no folder", FOLDER, own)
    names = row(model, stage).checkpoints[stage]
    paths = (folder / name for folder in folders for name in names)
    return next((path for path in paths if path.is_file()), None)


def find(model: str, stage: str) -> Path:
    """The released file of a stage, downloaded if need be and checked against its manifest."""
    path = cached(model, stage) or _fetch_released(row(model, stage).checkpoints[stage])
    verify(path)
    return path


def verify(path: Path) -> None:
    """Raise a RuntimeError if a file is not what its manifest says; write one if there is none.

    The hash is taken again only when size or modification time moved: it needs 0.7 s for 350 MB,
    more than loading does.
    """
    manifest = _manifest(path)
    if not manifest.exists():
        _record(path, _entry(path, None))
        return
    known = _read(manifest)
    size, digest, mtime = known["size"], known["sha256"], known["mtime_ns"]
    stat = path.stat()
    if (stat.st_size, stat.st_mtime_ns) == (size, mtime):
        return
    if stat.st_size != size:
        change = f"{stat.st_size} bytes, recorded are {size}"
    elif (got := sha256(path)) != digest:
        change = f"sha256 {got[:12]}..., recorded is {digest[:12]}..."
    else:
        _record(path, known | {"mtime_ns": stat.st_mtime_ns})
        return
    raise RuntimeError(
        f"{path} changed since its first use ({change}): delete it to have it downloaded again, or "
        f"delete {manifest.name} if the change is meant"
    )


def _fetch_released(names: tuple[str, ...]) -> Path:
    """Download the first of several names under which the release may hold a file."""
    for name in names:
        path = cache_dir("checkpoints") / name
        try:
            fetch(RELEASE + name, path)
            break
        except ConnectionError as error:
            if name == names[-1] or getattr(error.__cause__, "code", None) != 404:
                raise
    return path


def fetch(url: str, target: Path, progress: bool = True) -> None:
    """Download a file and record it; a call after an interrupted one goes on where that stopped."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with _alone(part.parent):
        if target.exists():  # another process was faster
            return
        _download(url, part, target, progress)
        manifest, entry = _manifest(target), _entry(part, url)
        if manifest.exists() and _read(manifest)["sha256"] != entry["sha256"]:
            part.unlink()
            raise RuntimeError(
                f"{url} is not the file recorded at its first use in {manifest}; delete that "
                "record to accept the new one"
            )
        _write(manifest, entry)
        part.replace(target)
        _note(part).unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process downloads into this folder."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _download(url: str, part: Path, target: Path, progress: bool) -> None:
    """Complete `part`; every failure becomes one line that says what to do."""
    try:
        _receive(url, part, target, progress)
        return
    except HTTPError as error:
        if error.code == 416 and part.exists():  # it is longer than the file, or all of it
            part.unlink()
            return _download(url, part, target, progress)
        why, cause = f"the server answers {error.code} {error.reason}", error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"no room at {part.parent} for {url} ({error.strerror}): free some, or move the "
                "cache with $HEAR_PTSED_CACHE, and call again",
            ) from error
        why, cause = f"cannot be reached ({error})", error
        if part.exists() and (have := part.stat().st_size):
            why = f"interrupted ({error}); {have} bytes are kept, call again to go on from there"
    raise ConnectionError(
        f"{url}: {why}; or put the file at {target} or into the folder that ${FOLDER} names"
    ) from cause


def _receive(url: str, part: Path, target: Path, progress: bool) -> None:
    """Write the response to `part`, from its end if the server still has the same file."""
    have, etag = _resumable(url, part)
    headers = {"User-Agent": "hear_ptsed"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": etag}
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
        if response.headers.get_content_type() == "text/html":
            raise RuntimeError(f"{url} answers with a web page, not a file: a login page?")
        if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - have > free:
            raise OSError(errno.ENOSPC, f"{total - have} bytes to come, {free} free")
        _note(part).write_text(json.dumps({"url": url, "etag": response.headers.get("ETag")}))
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(
                total=total,
                initial=have,
                unit="B",
                unit_scale=True,
                desc=target.name,
                disable=not progress,
            ) as bar,
        ):
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise ConnectionError(f"{total} bytes were announced")


def _resumable(url: str, part: Path) -> tuple[int, str]:
    """Bytes of `part` that a server can continue, and the ETag of the file they are from."""
    try:
        note = json.loads(_note(part).read_text())
        etag = note["etag"] if note["url"] == url else None
        have = part.stat().st_size
    except (FileNotFoundError, ValueError, KeyError):
        return 0, ""
    if not etag or etag.startswith("W/"):  # a weak tag does not promise the same bytes
        return 0, ""
    return have, etag


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _manifest(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _entry(path: Path, url: str | None) -> dict[str, Any]:
    stat = path.stat()
    return {
        "url": url,
        "size": stat.st_size,
        "sha256": sha256(path),
        "mtime_ns": stat.st_mtime_ns,
        "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _record(path: Path, entry: dict[str, Any]) -> None:
    """Write the manifest if the folder allows it; the user's own folder may be read-only."""
    try:
        _write(_manifest(path), entry)
    except OSError as error:
        log.info("%s cannot be recorded, later changes go unnoticed: %s", path, error)


def _write(manifest: Path, entry: dict[str, Any]) -> None:
    with atomic(manifest) as temporary:
        temporary.write_text(json.dumps(entry, indent=2) + "\n")


def _read(manifest: Path) -> dict[str, Any]:
    try:
        known = json.loads(manifest.read_text())
        return {key: known[key] for key in ("url", "size", "sha256", "mtime_ns", "recorded")}
    except (ValueError, KeyError, TypeError) as error:
        raise RuntimeError(
            f"{manifest} is damaged; delete it to have the file recorded anew"
        ) from error
