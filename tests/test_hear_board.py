"""HEAR's leaderboard: the normalised score of the published models, and measured rows beside it."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from leaderboards import hear, names, published, stats
from leaderboards.__main__ import main
from leaderboards.collect import collect, published_entries

GOLDEN = Path(__file__).parent / "golden" / "hear_normalised.csv"
FIGURES = [row for row in published.rows() if row["table"] == "HEAR leaderboard"]
PRIMARY = {row["task"]: row["metric"] for row in FIGURES}


def folders_of(task: str) -> list[str]:
    """Task folders as released; the version does not matter where it is not named."""
    return [name if "-" in name else f"{name}-v1-full" for name in names.KNOWN_TASKS[task].folders]


def write_scores(at: Path, task: str, score: float | list[float], coverage: str = "") -> None:
    """What hear-all keeps of heareval, for each folder of a task."""
    for k, name in enumerate(folders_of(task)):
        folder, metric = at / name, PRIMARY[task]
        folder.mkdir(parents=True)
        value = score[k] if isinstance(score, list) else score
        body = {"test": {f"test_{metric}": value}, "hparams": {}, "started": "2026-11-29T00:00:00"}
        (folder / "test.predicted-scores.json").write_text(json.dumps(body))
        first, *version, mode = name.split("-")
        metadata = {"task_name": first, "version": "-".join(version), "mode": mode}
        metadata["evaluation"] = [metric]
        (folder / "task_metadata.json").write_text(json.dumps(metadata))
        if coverage:
            (folder / "coverage.json").write_text(json.dumps({"summary": coverage}))


def best_of(task: str) -> float:
    return max(float(row["printed"]) for row in FIGURES if row["task"] == task)


def write_row(at: Path, but: tuple[str, ...] = (), coverage: str = "") -> None:
    """The best figure of every task."""
    for task in names.HEAR_TASKS:
        if task not in but:
            write_scores(at, task, best_of(task), coverage)


def rows_of(site: Path) -> dict[str, list[str]]:
    """Name of a row of HEAR's page -> its cells."""
    page = (site / "hear.html").read_text(encoding="utf-8")
    rows = {}
    for line in re.findall(r"<tr>.*?</tr>", page):
        cells = [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", line)]
        rows[cells[1] if cells[0].isdigit() else cells[0]] = cells
    return rows


def test_the_normalised_scores_of_the_34_models_are_hears_to_three_digits():
    rows = hear.hear_rows(stats.cells(published_entries()))
    ranked = hear.ranking(rows)
    with GOLDEN.open(encoding="utf-8", newline="") as file:
        expected = {row["model"]: row["normalised"] for row in csv.DictReader(file)}
    values = [f"{value:.3f}" for value in ranked.values]
    assert dict(zip([row.row.model for row in ranked.rows], values, strict=True)) == expected
    assert len(expected) == 34 and sum(len(row.scores) for row in rows) == 616
    assert ranked.scaled.shape == (34, 19) and np.abs(ranked.scaled).max() == 1


def test_every_task_of_hear_has_a_column_a_metric_and_34_models_but_for_30_cells():
    assert len(names.HEAR_TASKS) == len({*names.HEAR_TASKS.values()}) == 19
    counts = {task: sum(row["task"] == task for row in FIGURES) for task in names.HEAR_TASKS}
    assert {task: 34 - n for task, n in counts.items() if n < 34} == {
        **{"beehive": 18, "fsd50k": 3, "maestro": 3},
        **dict.fromkeys(("dcase2016_task2", "crema_d", "gtzan", "gtzan_music_speech"), 1),
        **dict.fromkeys(("mridangam_stroke", "mridangam_tonic"), 1),
    }
    best = {task: round(best_of(task), 3) for task in ("beehive", "esc50", "vocal_imitation")}
    assert best == {"beehive": 0.878, "esc50": 0.966, "vocal_imitation": 0.227}


def test_a_complete_row_is_ranked_on_a_page_of_its_own_and_in_the_csv(tmp_path):
    write_row(tmp_path / "r" / "my.best")
    write_row(tmp_path / "r" / "my.partial", but=("esc50", "gunshot_triangulation"))
    write_row(tmp_path / "r" / "my.random-untrained=true")
    write_row(tmp_path / "r" / "my.small", coverage="9 of 99 clips")
    assert main(["build", str(tmp_path / "r"), "--out", str(tmp_path / "site")]) == 0
    rows = rows_of(tmp_path / "site")
    name = next(name for name in rows if name.startswith("best"))
    assert rows[name][0] == "1" and float(rows[name][2]) > 0.8
    assert "measured here" in name and rows[name][3] == "92.5"  # DCASE 2016
    assert sum(cells[0].isdigit() for cells in rows.values()) == 35
    partial = rows[next(name for name in rows if name.startswith("partial"))]
    assert not partial[0].isdigit() and partial.count("") == 2
    assert "untrained" in next(name for name in rows if name.startswith("random"))
    assert "92.5 †" in rows[next(name for name in rows if name.startswith("small"))]
    page = (tmp_path / "site" / "hear.html").read_text(encoding="utf-8")
    line = next(line for line in re.findall(r"<tr>.*?</tr>", page) if "measured here" in line)
    heat = [int(step) for step in re.findall(r'class="heat(-?[0-4])"', line)]
    assert len(heat) == 19 and heat.count(4) > 10 and min(heat) > 0  # best of each task
    assert len(re.findall(r'<td [^>]*class="heat', page)) == 616 + 19
    with (tmp_path / "site" / "hear_leaderboard.csv").open(encoding="utf-8", newline="") as file:
        of_csv = {row["Model"]: row for row in csv.DictReader(file)}
    scores = {model: row["Normalised score"] for model, row in of_csv.items()}
    assert f"{float(scores.pop('best')):.3f}" == rows[name][2]
    assert {*scores.values()} == {""} and of_csv["best"]["Submission Date"] == "2026-11-29"


def test_tasks_of_whole_clips_have_pages_but_are_not_among_those_of_events(tmp_path):
    write_row(tmp_path / "r" / "my.best")
    assert main(["build", str(tmp_path / "r"), "--out", str(tmp_path / "site")]) == 0
    index = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "task-esc50.html" not in index and "task-maestro.html" in index
    assert 'href="hear.html"' in index
    page = (tmp_path / "site" / "task-esc50.html").read_text(encoding="utf-8")
    assert "RedRice ced_base" in page and "accuracy" in page
    hear_page = (tmp_path / "site" / "hear.html").read_text(encoding="utf-8")
    links = {*re.findall(r'href="(task-[^"]*)"', hear_page)}
    assert len(links) >= 19 and all((tmp_path / "site" / link).is_file() for link in links)


def test_beehive_is_the_mean_of_its_two_folders_and_one_alone_is_no_score(tmp_path):
    write_scores(tmp_path / "my.both", "beehive", [0.5, 0.9])
    rows = hear.hear_rows(stats.cells(collect([tmp_path], figures=False).entries))
    assert rows[0].scores["beehive"].value == pytest.approx(0.7)
    for path in (tmp_path / "my.both" / folders_of("beehive")[1]).iterdir():
        path.unlink()
    rest = stats.cells(collect([tmp_path], figures=False).entries)
    assert len(rest) == 1 and hear.hear_rows(rest) == []


def test_scores_on_a_part_of_the_clips_have_a_column_of_their_own(tmp_path):
    write_scores(tmp_path / "my.net", "esc50", 0.5)
    write_scores(tmp_path / "my.small", "esc50", 0.9, coverage="9 of 2000 clips")
    cells = stats.cells(collect([tmp_path], figures=False).entries)
    assert {cell.row.model: cell.small_data for cell in cells} == {"net": False, "small": True}
    assert len({cell.column for cell in cells}) == 2 and all(cell.rank != 2 for cell in cells)


def test_a_row_is_compared_over_the_tasks_that_it_has(tmp_path, capsys):
    tasks = {"esc50": 0.9, "libricount": 0.3}  # of which all 34 models have a score
    for task, score in tasks.items():
        write_scores(tmp_path / "my.net", task, score)
    assert main(["hear", str(tmp_path / "my.net")]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[:2] == [
        "Model,URL,Submission Date,ESC-50,Libricount",
        "net,,2026-11-29,0.900000000,0.300000000",
    ]
    assert "net: HEAR's normalised score over 2 of 19 tasks" in said
    scaled = []
    for task, score in tasks.items():
        column = [float(row["printed"]) for row in FIGURES if row["task"] == task] + [score]
        scaled.append(np.clip((score - np.mean(column)) / np.std(column), -1, 1))
    (line,) = (line for line in said.splitlines() if line.startswith(">"))
    assert line.split()[2:] == [f"{np.mean(scaled):.3f}", "net"]
    assert "not measured: DCASE 2016, Maestro 5h" in said


def test_results_without_a_task_of_hear_are_told(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["hear", str(tmp_path / "empty")]) == 1
    assert "no score of HEAR's tasks" in capsys.readouterr().err
    write_scores(tmp_path / "my.net", "esc50", 0.5, coverage="two\nlines")
    assert main(["hear", str(tmp_path / "my.net")]) == 1
    assert "rejected my.net/esc50-v1-full" in capsys.readouterr().err
