"""The folder of a site: replaced whole or not at all, and nothing beside it is touched."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from leaderboard_parts import record, write

from hear_ptsed.files import locked
from leaderboards import site
from leaderboards.__main__ import main
from leaderboards.collect import Collected


def test_only_an_empty_folder_or_a_site_is_replaced(tmp_path):
    nothing = Collected([], [])
    out = tmp_path / "site"
    out.mkdir()
    assert site.build_site(nothing, out).is_file()
    (out / "index.html").write_text("old")
    site.build_site(nothing, out)
    assert (out / "index.html").read_text() != "old"
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
    (out / "mine").mkdir()
    (out / "mine" / "record.json").write_text("precious")
    with pytest.raises(ValueError, match="1 files that are not of the site .* mine/record.json"):
        site.build_site(nothing, out)
    assert (out / "mine" / "record.json").read_text() == "precious"
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("precious")
    with pytest.raises(ValueError, match="holds other files"):
        site.build_site(nothing, other)
    assert (other / "chapter.tex").read_text() == "precious"


def test_a_build_that_fails_leaves_the_old_site(tmp_path, board_results, monkeypatch):
    out = tmp_path / "site"
    first = site.build_site(Collected([], []), out).read_bytes()
    monkeypatch.setattr(site.charts, "size_chart", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        site.build_site(board_results, out)
    assert (out / "index.html").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_link_stays_one_and_its_target_is_replaced(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "site")
    for _ in range(2):  # dangling, then not
        site.build_site(Collected([], []), tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "site" / "index.html").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "site"]


def killed_at(call: int, out: Path) -> None:
    """A build that is killed when it puts a folder in place for the `call`-th time."""
    rename, calls = Path.rename, []

    def counted(path, target):
        calls.append(target)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    Path.rename = counted
    site.build_site(Collected([], []), out)


@pytest.mark.parametrize("call", [1, 2])
def test_what_a_killed_build_left_is_undone_by_the_next(call, tmp_path, board_results, monkeypatch):
    out = tmp_path / "site"
    first = site.build_site(Collected([], []), out).read_bytes()
    process = multiprocessing.get_context("fork").Process(target=killed_at, args=(call, out))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert out.exists() == (call == 1) and len(list(tmp_path.iterdir())) > 1
    monkeypatch.setattr(site.charts, "size_chart", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        site.build_site(board_results, out)
    assert (out / "index.html").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_neighbours_of_a_site_are_never_renamed_or_removed(tmp_path):
    write(tmp_path / "results", record("beats", "strong", 0, 0.5, 0.5))
    (tmp_path / ".site-20240101.txt").write_text("precious")
    for name in (".site-20240101-old", ".site-20240101-new", ".hear_ptsed-mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("precious")
    before = sorted(path for path in tmp_path.rglob("*"))
    command = ["build", str(tmp_path / "results"), "--out", str(tmp_path / "site")]
    for _ in range(2):
        assert main(command) == 0
        assert sorted(p for p in tmp_path.rglob("*") if "site" not in p.parts) == before


def test_what_is_put_into_a_site_while_it_is_built_is_not_replaced(
    tmp_path, board_results, monkeypatch
):
    out = tmp_path / "site"
    site.build_site(Collected([], []), out)
    size_chart = site.charts.size_chart

    def meanwhile(*args):
        (out / "thesis.tex").write_text("precious")
        return size_chart(*args)

    monkeypatch.setattr(site.charts, "size_chart", meanwhile)
    with pytest.raises(ValueError, match="holds 1 files that are not of the site .* thesis.tex"):
        site.build_site(board_results, out)
    assert (out / "thesis.tex").read_text() == "precious"


def test_a_second_build_into_the_same_folder_is_refused(tmp_path, capsys):
    write(tmp_path / "results", record("beats", "strong", 0, 0.5, 0.5))
    command = ["build", str(tmp_path / "results"), "--out", str(tmp_path / "site")]
    with locked(tmp_path / "site", beside=True):
        assert main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "site: another process works there; wait until it ends" in line
    assert main(command) == 0
