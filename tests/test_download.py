"""Finding, downloading and recording checkpoint files, against a server on this machine."""

import errno
import hashlib
import json
import os
import resource
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hear_ptsed.checkpoints import download
from hear_ptsed.checkpoints.download import fetch, find
from hear_ptsed.registry import RELEASES, find_cached

# 3 MB, three chunks; a torch file begins so.
CONTENT = b"PK" + bytes(range(256)) * 12_000
OTHER = b"PK" + CONTENT[:1:-1]


class Handler(BaseHTTPRequestHandler):
    """Serves `server.content`; the server's attributes say how well."""

    def do_GET(self):
        server, content = self.server, self.server.content
        server.requests.append(dict(self.headers))
        if server.status != 200 or self.path.removeprefix("/") in server.missing:
            self.send_error(404 if server.status == 200 else server.status)
            return
        start = 0
        wanted = self.headers.get("Range")
        if wanted and server.ranges and self.headers.get("If-Range") == server.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", server.kind)
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) if server.breaks_at is None else server.breaks_at
        self.wfile.write(content[start:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.etag, server.requests = CONTENT, '"one"', []
    server.ranges, server.breaks_at, server.status = True, None, 200
    server.kind, server.missing = "application/octet-stream", set()
    server.handle_error = lambda *args: None  # clients that hang up
    server.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setitem(RELEASES, "PretrainedSED", server.url)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The folder of downloaded checkpoints, empty; no folder of the user."""
    monkeypatch.setenv("HEAR_PTSED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HEAR_PTSED_CHECKPOINTS", raising=False)
    return tmp_path / "cache" / "checkpoints"


@pytest.fixture
def own(cache, tmp_path, monkeypatch) -> Path:
    """The folder of the user."""
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setenv("HEAR_PTSED_CHECKPOINTS", str(folder))
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def interrupted(server, target: Path, at: int = 1_500_000) -> None:
    """Have the server break off, which the caller is told in one line."""
    server.breaks_at = at
    with pytest.raises(ConnectionError, match=f"interrupted .*; {at} bytes are kept, call again"):
        fetch(server.url + "f.pt", target)
    server.breaks_at = None
    assert not target.exists()


def test_a_stage_is_downloaded_once_and_recorded(server, cache):
    assert find_cached("beats", "weak") is None
    path = find("beats", "weak")
    assert path == cache / "BEATs_weak.pt" == find_cached("beats", "weak") == find("beats", "weak")
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 1 and "Range" not in server.requests[0]
    manifest = json.loads((cache / "BEATs_weak.pt.json").read_text())
    assert manifest["url"] == server.url + "BEATs_weak.pt"
    assert manifest["size"] == len(CONTENT)
    assert manifest["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert names(cache) == {"BEATs_weak.pt", "BEATs_weak.pt.json"}


def test_the_users_folder_comes_first_then_the_cache_then_the_net(server, cache, own):
    net = find("asit", "strong")
    assert net == cache / "ASIT_strong_1.pt"
    (own / "ASIT_strong_1.pt").write_bytes(b"own")
    assert find("asit", "strong") == own / "ASIT_strong_1.pt"
    assert (own / "ASIT_strong_1.pt.json").exists()
    assert len(server.requests) == 1


def test_every_known_name_of_a_file_is_accepted(cache, own):
    (own / "frame_mn06_strong_1.pt").write_bytes(b"x")
    assert find("frame_mn06", "strong").name == "frame_mn06_strong_1.pt"
    (own / "fpasst_ssl.pt").write_bytes(b"x")
    assert find("fpasst", "ssl").name == "fpasst_ssl.pt"


def test_a_setting_that_is_no_folder_is_told(cache, monkeypatch, caplog):
    monkeypatch.setenv("HEAR_PTSED_CHECKPOINTS", str(cache / "absent"))
    assert find_cached("beats", "ssl") is None
    assert "which is no folder" in caplog.text


def test_unknown_models_and_stages_are_refused_with_the_known_ones(cache):
    with pytest.raises(ValueError, match="unknown model 'bets'; known: atst_frame, beats"):
        find("bets", "ssl")
    with pytest.raises(ValueError, match="frame_mn06 has no 'ssl' stage; it has strong"):
        find_cached("frame_mn06", "ssl")


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    target = tmp_path / "f.pt"
    interrupted(server, target)
    fetch(server.url + "f.pt", target)
    assert target.read_bytes() == CONTENT
    assert server.requests[1]["Range"] == "bytes=1500000-"
    assert server.requests[1]["If-Range"] == '"one"'
    assert names(tmp_path) == {"f.pt", "f.pt.json"}


@pytest.mark.parametrize("case", ["new file", "no ranges", "no tag", "weak tag", "other url"])
def test_a_part_that_cannot_be_continued_starts_over(case, server, tmp_path):
    target, url = tmp_path / "f.pt", server.url + "f.pt"
    if case in ("no tag", "weak tag"):
        server.etag = None if case == "no tag" else 'W/"one"'
    interrupted(server, target)
    if case == "new file":
        server.content, server.etag = OTHER, '"two"'
    server.ranges = case != "no ranges"
    fetch(url + "2" if case == "other url" else url, target)
    assert target.read_bytes() == server.content
    assert ("Range" in server.requests[1]) == (case in ("new file", "no ranges"))


def test_a_complete_part_is_no_dead_end(server, tmp_path):
    target = tmp_path / "f.pt"
    interrupted(server, target)
    (tmp_path / "f.pt.part").write_bytes(CONTENT)
    fetch(server.url + "f.pt", target)
    assert target.read_bytes() == CONTENT


def test_two_downloads_at_a_time_do_not_mix(server, tmp_path):
    target = tmp_path / "f.pt"
    args = (server.url + "f.pt", target)
    threads = [threading.Thread(target=fetch, args=args) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT and len(server.requests) == 1


def test_progress_is_shown(server, tmp_path, capsys):
    fetch(server.url + "f.pt", tmp_path / "f.pt")
    assert "f.pt: 100%" in capsys.readouterr().err


def test_without_network_the_message_says_which_file_to_put_where(server, cache):
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError) as caught:
        find("m2d", "ssl")
    text = str(caught.value)
    for part in (server.url + "M2D_ssl.pt", str(cache / "M2D_ssl.pt"), "$HEAR_PTSED_CHECKPOINTS"):
        assert part in text
    assert "\n" not in text and not names(cache)


@pytest.mark.parametrize("status", [404, 503])
def test_the_servers_refusal_is_passed_on(status, server, cache):
    server.status = status
    with pytest.raises(ConnectionError, match=rf"BEATs_ssl\.pt: the server answers {status} "):
        find("beats", "ssl")
    assert not names(cache)


def test_a_file_released_under_its_other_name_is_found(server, cache):
    server.missing = {"fpasst_ssl.pt"}
    assert find("fpasst", "ssl").name == "fpasst_im.pt"


def test_a_login_page_is_not_taken_for_a_file(server, cache):
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(RuntimeError, match="a web page"):
        find("beats", "ssl")
    assert not names(cache)


def test_a_disk_known_to_be_too_small_is_told_before_the_download(server, cache, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="no room .*3072002 bytes to come, 1000 free") as caught:
        find("beats", "ssl")
    assert caught.value.errno == errno.ENOSPC and not names(cache)


def test_a_disk_that_fills_up_is_told_in_one_line(server, tmp_path):
    # A limit on the size of files stands for the full disk: both make write() fail.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(OSError, match="no room at .* call again") as caught:
            fetch(server.url + "f.pt", tmp_path / "f.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG and not (tmp_path / "f.pt").exists()
    fetch(server.url + "f.pt", tmp_path / "f.pt")
    assert (tmp_path / "f.pt").read_bytes() == CONTENT


def test_a_file_that_changes_after_its_first_use_is_refused(cache, own):
    path = own / "BEATs_ssl.pt"
    path.write_bytes(b"first")
    assert find("beats", "ssl") == path
    path.write_bytes(b"other")
    os.utime(path, ns=(1, 1))
    with pytest.raises(RuntimeError, match=r"changed .*sha256 .* delete BEATs_ssl\.pt\.json"):
        find("beats", "ssl")
    path.write_bytes(b"longer than before")
    with pytest.raises(RuntimeError, match="18 bytes, recorded are 5"):
        find("beats", "ssl")
    (own / "BEATs_ssl.pt.json").unlink()
    assert find("beats", "ssl") == path


def test_a_file_is_hashed_again_only_when_it_was_touched(cache, own, monkeypatch):
    path = own / "BEATs_ssl.pt"
    path.write_bytes(b"first")
    hashed, sha256 = [], download.sha256
    monkeypatch.setattr(download, "sha256", lambda path: hashed.append(path) or sha256(path))
    for expected in (1, 1):
        find("beats", "ssl")
        assert len(hashed) == expected
    os.utime(path, ns=(1, 1))
    for expected in (2, 2):
        find("beats", "ssl")
        assert len(hashed) == expected


def test_a_new_download_of_other_content_is_refused(server, cache):
    find("beats", "ssl").unlink()
    server.content = OTHER
    with pytest.raises(RuntimeError, match="not the file recorded .* delete that record"):
        find("beats", "ssl")
    assert "BEATs_ssl.pt" not in names(cache)
    (cache / "BEATs_ssl.pt.json").unlink()
    assert find("beats", "ssl").read_bytes() == server.content


def test_a_folder_that_cannot_be_written_only_leaves_the_file_unrecorded(
    cache, own, monkeypatch, caplog
):
    def refuse(path, content):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (own / "BEATs_ssl.pt").write_bytes(b"x")
    monkeypatch.setattr(download, "write_json", refuse)  # file modes do not stop the superuser
    with caplog.at_level("INFO"):
        assert find("beats", "ssl") == own / "BEATs_ssl.pt"
    assert "cannot be recorded" in caplog.text


RECORD = {"url": None, "size": 1, "sha256": "0" * 64, "mtime_ns": 1, "recorded": "2026-11-29"}
DAMAGED = [{"size": -1}, {"size": "1"}, {"sha256": "0"}, {"mtime_ns": None}, {"url": []}]


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"size": 1}', *(json.dumps(RECORD | change) for change in DAMAGED)]
)
def test_a_damaged_record_is_named(text, cache, own):
    (own / "BEATs_ssl.pt").write_bytes(b"x")
    (own / "BEATs_ssl.pt.json").write_text(text)
    with pytest.raises(RuntimeError, match=r"BEATs_ssl\.pt\.json is damaged; delete it"):
        find("beats", "ssl")
