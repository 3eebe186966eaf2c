"""Leaderboards: tasks are what records say; none needs a line of the board."""

import csv
import json

import leaderboard_parts as parts
import pytest

from eval_tasks.tasks import all_tasks
from leaderboards import names, published
from leaderboards.__main__ import main
from leaderboards.collect import collect

F = "event_onset_200ms_fms"
NEW = {"task": "streets", "title": "STREETS", "published_task": True}


def test_a_record_of_an_unknown_task_has_its_page_its_column_and_its_title(tmp_path):
    for model, f in (("beats", 0.5), ("m2d", 0.3)):
        parts.write(tmp_path / "r", parts.record(model, f=f, **NEW))
    assert main(["build", str(tmp_path / "r"), "--out", str(tmp_path / "site")]) == 0
    for name in ("index.html", "task-streets.html", "leaderboard.md", "gain.html", "about.html"):
        assert "STREETS" in (tmp_path / "site" / name).read_text(encoding="utf-8"), name
    page = (tmp_path / "site" / "task-streets.html").read_text(encoding="utf-8")
    assert ">0.500<" in page and "small data" not in page.split("<main")[1].split("</main>")[0]
    with (tmp_path / "site" / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == "streets"]
    assert {row["model"]: row["rank"] for row in rows if row["metric"] == F} == {
        "beats": "1",
        "m2d": "2",
    }
    record = parts.write(tmp_path / "one", parts.record(**NEW))
    assert main(["submit", str(record)]) == 0


@pytest.mark.parametrize("task", ["Office", "office 2", "模" * 80, "a#b?c", "x" * 255])
def test_whatever_a_task_is_called_its_page_is_found(tmp_path, task):
    changes = {"task": task, "title": "Another", "task_version": "made-v1"}
    parts.write_raw(tmp_path / "r" / "one.json", parts.record(), **changes)
    parts.write(tmp_path / "r", parts.record(task="office", title="Office"))
    assert main(["build", str(tmp_path / "r"), "--out", str(tmp_path / "site")]) == 0
    (name,) = (
        path.name
        for path in (tmp_path / "site").glob("task-*[0-9a-f]*.html")
        if "<h1>Another" in path.read_text(encoding="utf-8")
    )
    assert f'href="{name}"' in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert name.isascii() and name != "task-office.html"


def test_a_metric_that_the_catalogue_lacks_is_refused_by_name(tmp_path):
    changes = {"scores": {"wow": 0.5}, "conventions": {"wow": "in words"}, "primary": "wow"}
    path = parts.write_raw(tmp_path / "one.json", parts.record(**NEW), **changes)
    (one,) = collect([path], figures=False).rejected
    assert "unknown metric 'wow' in scores; known: event_onset_200ms_fms" in one.reason


def test_what_the_board_knows_of_tasks_is_what_these_say():
    for name, task in all_tasks().items():
        if not task.protocols:
            continue
        known = names.KNOWN_TASKS[name]
        assert (known.title, known.published) == (task.title, task.published)
        assert names.task_of_folder(task.folder) == name


def test_published_figures_are_of_tasks_protocols_and_metrics_that_are_known():
    for row in published.rows():
        assert row["task"] in names.KNOWN_TASKS and "mode" not in row
        assert names.protocol_order(row["protocol"]) >= 0 and names.metric_order(row["metric"]) >= 0


def test_the_title_of_a_record_is_escaped_and_markup_in_it_refused(tmp_path):
    parts.write_raw(tmp_path / "r" / "bad.json", parts.record(**NEW), title="<b>x")
    good = parts.write_raw(tmp_path / "r" / "good.json", parts.record(**NEW), title='a & "b"')
    collected = collect([tmp_path / "r"], figures=False)
    assert [json.loads(good.read_text())["title"]] == [
        entry.task_title for entry in collected.entries
    ]
    assert len(collected.rejected) == 1 and "title is" in collected.rejected[0].reason
    assert main(["build", str(tmp_path / "r"), "--out", str(tmp_path / "site")]) == 0
    page = (tmp_path / "site" / "task-streets.html").read_text(encoding="utf-8")
    assert "a &amp; &#34;b&#34;" in page and 'a & "b"' not in page
