"""What servers answer to a download: only the whole file is ever kept as the file."""

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hear_ptsed.checkpoints import download
from hear_ptsed.cli import main
from hear_ptsed.registry import RELEASES

FILE = b"PK" + os.urandom(20_000)
HAVE = 5_000  # bytes that an interrupted download left
PAGE = b"<!DOCTYPE html><title>Sign in</title>" + b" " * 500
Answer = bytes | Iterator[bytes]


def answer(status: str, *headers: str, body: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of an answer; its length is announced unless it is 0 and there is a body."""
    lines = [f"HTTP/1.1 {status}", "Connection: close", *headers]
    length = len(body) if length is None else length
    if length or not body:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(body: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = [body[i : i + 7000] for i in range(0, len(body), 7000)]
    return head.encode() + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + end


WHOLE = answer("200 OK", 'ETag: "one"', body=FILE)


class Server:
    """Answers one connection after the other with what it was given; then with nothing."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/"
        self.answers: list[Answer] = []
        self.requests: list[str] = []
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:  # closed
                return
            with connection, suppress(OSError):  # the client hangs up
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(9999)
                self.requests.append(request.decode())
                given = self.answers.pop(0) if self.answers else b""
                for part in [given] if isinstance(given, bytes) else given:
                    connection.sendall(part)

    def close(self):
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(20)


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = Server()
    monkeypatch.setitem(RELEASES, "PretrainedSED", server.url)
    monkeypatch.setenv("HEAR_PTSED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HEAR_PTSED_CHECKPOINTS", raising=False)
    yield server
    server.close()


@pytest.fixture
def cache(server, tmp_path) -> Path:
    folder = tmp_path / "cache" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def part(server, cache) -> Path:
    """The first bytes of the file, as an interrupted download leaves them."""
    path = cache / "BEATs_ssl.pt.part"
    path.write_bytes(FILE[:HAVE])
    note = {"url": server.url + "BEATs_ssl.pt", "etag": '"one"'}
    path.with_name(f"{path.name}.json").write_text(json.dumps(note))
    return path


def assert_fetched(cache: Path) -> None:
    assert download.find("beats", "ssl") == cache / "BEATs_ssl.pt"
    assert (cache / "BEATs_ssl.pt").read_bytes() == FILE
    record = json.loads((cache / "BEATs_ssl.pt.json").read_text())
    assert record["sha256"] == hashlib.sha256(FILE).hexdigest()
    assert {path.name for path in cache.iterdir()} == {"BEATs_ssl.pt", "BEATs_ssl.pt.json"}


def assert_refused(cache: Path, capsys, *texts: str) -> None:
    """One line; neither the file nor a record is there."""
    assert main(["download", "beats_ssl"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "B/s]" not in line]
    assert len([line for line in lines if line.strip()]) == 1, lines
    assert lines[-1].startswith("hear-ptsed download: ") and "Traceback" not in lines[-1]
    for text in texts:
        assert text in lines[-1]
    assert not {"BEATs_ssl.pt", "BEATs_ssl.pt.json"} & {path.name for path in cache.iterdir()}


def rest(first: int, etag: str | None = '"one"', total: int = len(FILE)) -> bytes:
    headers = [f"Content-Range: bytes {first}-{len(FILE) - 1}/{total}"]
    headers += [f"ETag: {etag}"] if etag else []
    return answer("206 Partial Content", *headers, body=FILE[first:])


# Answers to the question for the rest of a file.


def test_the_rest_of_the_file_completes_it(server, cache, part):
    server.answers = [rest(HAVE)]
    assert_fetched(cache)
    assert f"Range: bytes={HAVE}-" in server.requests[0]


UNFIT = {
    "of another file": answer(
        "206 Partial Content",
        'ETag: "two"',
        f"Content-Range: bytes {HAVE}-{len(FILE) - 1}/{len(FILE)}",
        body=bytes(len(FILE) - HAVE),
    ),
    "of an unnamed file": rest(HAVE, etag=None),
    "from another byte on": rest(HAVE + 1),
    "of a longer file": rest(HAVE, total=len(FILE) + 1),
    "without its place": answer("206 Partial Content", 'ETag: "one"', body=FILE[HAVE:]),
    "no content": answer("204 No Content", 'ETag: "one"'),
    "beyond the end": answer("416 Range Not Satisfiable"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_a_rest_that_does_not_fit_is_never_joined_to_the_part(kind, server, cache, part):
    server.answers = [UNFIT[kind], WHOLE]
    assert_fetched(cache)
    assert "Range:" not in server.requests[1]


@pytest.mark.parametrize(
    "note", ["", "[]", "null", "7", '"x"', '{"url": 1, "etag": []}', "[" * 9999]
)
def test_a_damaged_note_beside_a_part_means_to_begin_again(note, server, cache, part):
    part.with_name(f"{part.name}.json").write_text(note)
    server.answers = [WHOLE]
    assert_fetched(cache)


# Answers to the question for the file.

NOT_THE_FILE = {
    "a part that was not asked for": (rest(HAVE), "answers 206"),
    "its beginning only": (
        answer("206 Partial Content", "Content-Range: bytes 0-99/20002", body=FILE[:100]),
        "answers 206",
    ),
    "no content": (answer("204 No Content"), "answers 204"),
    "nothing": (answer("200 OK"), "nothing came"),
    "a page by another name": (answer("200 OK", body=PAGE), "no checkpoint came, it begins with"),
    "no length": (answer("200 OK", body=FILE[:9000], length=0), "does not say how long"),
    "chunks without an end": (chunked(FILE, end=b""), "IncompleteRead"),
    "fewer bytes than announced": (answer("200 OK", body=FILE, length=30_000), "30000 bytes were"),
}


@pytest.mark.parametrize("kind", NOT_THE_FILE)
def test_what_is_not_the_whole_file_is_told_and_not_recorded(kind, server, cache, capsys):
    given, told = NOT_THE_FILE[kind]
    server.answers = [given]
    assert_refused(cache, capsys, told, "put the file at", "BEATs_ssl.pt")
    server.answers = [WHOLE, WHOLE]
    assert_fetched(cache)


def test_a_way_to_a_login_page_is_told(server, cache, capsys):
    moved = answer("302 Found", f"Location: {server.url}login")
    kind = "Content-Type: application/octet-stream"
    server.answers = [moved, answer("200 OK", kind, body=PAGE)]
    assert_refused(cache, capsys, "no checkpoint came")
    assert not list(cache.iterdir())


def test_a_length_that_is_not_announced_is_fine_where_the_end_is_marked(server, cache):
    server.answers = [chunked(FILE)]
    assert_fetched(cache)


def test_a_safetensors_file_is_a_checkpoint_too(server, cache):
    content = (99).to_bytes(8, "little") + b'{"a": 1}'
    server.answers = [answer("200 OK", body=content)]
    assert main(["download", "beats_ssl"]) == 0
    assert (cache / "BEATs_ssl.pt").read_bytes() == content


def drip(given: bytes, slow: int) -> Iterator[bytes]:
    """A byte now and then from a place on; at last the rest, for a client that would wait."""
    yield given[:slow]
    for i in range(slow, slow + 150):
        time.sleep(0.02)
        yield given[i : i + 1]
    yield given[slow + 150 :]


@pytest.mark.parametrize("where", ["body", "headers"])
def test_a_server_that_drips_is_given_up_and_what_came_is_kept(
    where, server, cache, monkeypatch, capsys
):
    monkeypatch.setattr(download, "PATIENCE", 0.3)
    head = answer("200 OK", 'ETag: "one"', "X-Filler: " + "x" * 200, body=FILE)
    slow = len(head) - len(FILE) + 3000 if where == "body" else 30
    server.answers = [drip(head, slow)]
    assert_refused(cache, capsys, "fewer than 1000 bytes per second came")
    part = cache / "BEATs_ssl.pt.part"
    if where == "body":
        assert part.read_bytes() == FILE[: part.stat().st_size] and part.stat().st_size >= 3000
        server.answers = [rest(part.stat().st_size)]
    else:
        server.answers = [WHOLE]
    assert_fetched(cache)


# Links in the place of our files.


@pytest.mark.parametrize("how", [Path.symlink_to, Path.hardlink_to])
def test_nothing_is_written_through_a_link_in_the_place_of_a_part(
    how, server, cache, tmp_path, capsys
):
    (tmp_path / "thesis").write_bytes(b"precious")
    how(cache / "BEATs_ssl.pt.part", tmp_path / "thesis")
    server.answers = [WHOLE]
    assert_refused(cache, capsys, "BEATs_ssl.pt.part is a link or no plain file; delete it")
    assert (tmp_path / "thesis").read_bytes() == b"precious"


def test_a_link_in_the_place_of_a_note_is_replaced(server, cache, tmp_path):
    (tmp_path / "thesis").write_bytes(b"precious")
    (cache / "BEATs_ssl.pt.part.json").symlink_to(tmp_path / "thesis")
    server.answers = [WHOLE]
    assert_fetched(cache)
    assert (tmp_path / "thesis").read_bytes() == b"precious"


def test_a_pipe_in_the_place_of_a_part_does_not_hang(server, cache, capsys):
    os.mkfifo(cache / "BEATs_ssl.pt.part")
    server.answers = [WHOLE]
    assert_refused(cache, capsys, "is a link or no plain file")
