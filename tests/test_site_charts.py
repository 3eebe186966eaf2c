"""Curves and class figures on the task pages, and AudioSet Strong measured here."""

import json
import re
from dataclasses import replace

import leaderboard_parts as parts
import numpy as np
import pytest

from hear_ptsed.labels import load_labels
from leaderboards import charts, pivots, site, stats
from leaderboards.collect import Collected, collect, published_entries
from leaderboards.pages import Names

F = "event_onset_200ms_fms"


def of_task(chart_results: Collected, task: str, protocol: str = "") -> list:
    """Cells of one column, and the names of all rows."""
    cells = stats.cells(chart_results.entries, primary_only=True)
    column = [c for c in cells if c.column.task == task and protocol in c.column.protocol]
    return [column, Names(cells).row]


def test_scores_and_intervals_are_those_of_the_records_best_first(chart_results):
    chart = charts.score_chart(*of_task(chart_results, "dcase2016_task2", "linear"))
    names = chart["layout"]["yaxis"]["ticktext"]
    assert names[:2] == ["BEATs strong", "fPaSST strong"]
    assert names[-1] == "ATST-F strong (untrained)"
    trace = next(trace for trace in chart["data"] if trace["name"] == "M2D")
    runs = [e for e in chart_results.entries if e.model == "m2d" and e.task == "dcase2016_task2"]
    files = [json.loads(entry.path.read_text()) for entry in runs]
    assert trace["x"] == [pytest.approx(100 * np.mean([file["scores"][F] for file in files]))]
    replicates = np.mean([file["replicates"][F] for file in files], axis=0)
    ends = 100 * np.percentile(replicates, [2.5, 97.5])
    (value,), error = trace["x"], trace["error_x"]
    assert (value - error["arrayminus"][0], value + error["array"][0]) == pytest.approx(tuple(ends))
    assert trace["y"] == [names.index("M2D strong")]


def test_a_backbone_has_one_colour_in_all_charts_and_published_figures_are_grey(chart_results):
    both = stats.cells([*chart_results.entries, *published_entries()], primary_only=True)
    labels = Names(both).row
    cells = [c for c in both if c.column.task == "dcase2016_task2"]
    colours: dict[str, set] = {}
    for column in {cell.column for cell in cells}:
        alike = [cell for cell in cells if cell.column == column]
        drawn = [charts.score_chart(alike, labels), *charts.curve_charts(alike, labels)]
        drawn += [charts.cost_chart(alike, labels, "parameters"), charts.class_chart(alike, labels)]
        for trace in (trace for chart in drawn if chart for trace in chart["data"]):
            backbone = trace["name"].split()[0]
            marker = trace.get("marker", {})
            of = trace.get("line") or marker.get("line") or marker
            colours.setdefault((column.kind, backbone), set()).add(of["color"])
    measured = {key[1]: value for key, value in colours.items() if key[0] == "measured"}
    assert measured.keys() == {"BEATs", "M2D", "ASiT", "fPaSST", "ATST-F"}
    assert all(len(value) == 1 for value in measured.values())
    assert len(set.union(*measured.values())) == 5
    grey = set.union(*(value for key, value in colours.items() if key[0] == "published"))
    assert grey == {charts.GREY}


def test_untrained_models_are_hollow_and_dashed(chart_results):
    cells = of_task(chart_results, "dcase2016_task2", "linear")
    hollow = charts.score_chart(*cells)["data"][-1]
    assert hollow["name"] == "ATST-F" and hollow["marker"]["symbol"] == ["triangle-up-open"]
    dashes = {line["name"]: line["line"]["dash"] for line in charts.curve_charts(*cells)[0]["data"]}
    assert dashes["ATST-F strong (untrained)"] == "dash" and dashes["BEATs strong"] == "solid"


def test_a_curve_is_the_mean_of_its_seeds_best_first_and_none_is_made_up(chart_results):
    f, precision = charts.curve_charts(*of_task(chart_results, "dcase2016_task2", "linear"))
    labels = [line["meta"] for line in f["data"]]
    assert labels == ["BEATs strong", "M2D strong", "ASiT strong", "ATST-F strong (untrained)"]
    titles = [chart["layout"]["yaxis"]["title"]["text"] for chart in (f, precision)]
    assert titles == ["F1", "precision"]
    runs = [
        entry
        for entry in chart_results.entries
        if (entry.model, entry.task) == ("beats", "dcase2016_task2")
    ]
    runs = [entry for entry in runs if entry.protocol == "linear"]
    files = [json.loads(entry.path.read_text())["curves"][F] for entry in runs]
    values = np.mean([file["f_measure"] for file in files], axis=0)
    line = f["data"][0]
    assert line["x"] == files[0]["threshold"] and line["y"] == pytest.approx(values.tolist())
    assert precision["data"][0]["x"] == pytest.approx(
        np.mean([file["recall"] for file in files], axis=0).tolist()
    )
    assert precision["data"][0]["y"] == pytest.approx(
        np.mean([file["precision"] for file in files], axis=0).tolist()
    )
    assert charts.height_at(line, 0.5) == pytest.approx(0.82)  # the score


def test_undefined_points_are_left_out_and_seeds_without_them_do_not_count(tmp_path):
    gap = parts.record().curves[F] | {"f_measure": [None] * 8 + [0.7]}
    for seed, curve in enumerate((gap, parts.record(f=0.5).curves[F])):
        parts.write_raw(tmp_path / f"{seed}.json", parts.record(seed=seed), curves={F: curve})
    parts.write_raw(tmp_path / "2.json", parts.record("m2d"), curves={F: gap})
    results = collect([tmp_path], figures=False)
    both, alone = charts.curve_charts(*of_task(results, "dcase2016_task2"))[0]["data"]
    assert (both["x"][0], both["y"][0]) == (0.1, pytest.approx(0.3))  # of the second seed only
    assert (both["x"][-1], both["y"][-1]) == (0.9, pytest.approx((0.7 + 0.3) / 2))
    assert (alone["x"], alone["y"]) == ([0.9], [0.7])
    assert charts.height_at(alone, 0.5) is None


def test_classes_are_sorted_by_the_difference_of_the_two(class_results):
    chart = charts.class_chart(*of_task(class_results, "dcase2016_task2"))
    assert chart["layout"]["yaxis"]["categoryarray"] == ["much", "a little", "worse", "open"]
    beats = dict(zip(chart["data"][0]["y"], chart["data"][0]["x"], strict=True))
    assert beats == {"a little": 50, "much": 90, "worse": 20, "open": None}


def test_stages_are_joined_in_the_order_of_training(tmp_path):
    for stage, f in (("strong", 0.9), ("ssl", 0.5), ("weak", 0.7)):
        parts.write(tmp_path, parts.record("beats", stage, f=f))
        parts.write(tmp_path, parts.record("m2d", stage, f=f / 2))
    cells, labels = of_task(collect([tmp_path], figures=False), "dcase2016_task2")
    chart = charts.slope_chart(stats.gains(cells), labels)
    assert chart["layout"]["xaxis"]["ticktext"] == ["ssl", "weak", "strong"]
    lines = {line["name"]: line["y"] for line in chart["data"]}
    assert lines == {"BEATs": pytest.approx([50, 70, 90]), "M2D": pytest.approx([25, 35, 45])}
    assert all([round(x) for x in line["x"]] == [0, 1, 2] for line in chart["data"])


def test_sizes_are_drawn_on_a_logarithmic_axis(chart_results):
    cells, labels = of_task(chart_results, "dcase2016_task2", "linear")
    chart = charts.size_chart({c.row: (9e7, 100 * c.mean) for c in cells}, labels, "mean, %")
    assert chart["layout"]["xaxis"]["type"] == "log"
    by_name = {trace["name"]: trace for trace in chart["data"]}
    assert by_name["BEATs"]["x"] == [9e7] and by_name["BEATs"]["y"] == pytest.approx([82])
    assert by_name["BEATs"]["hovertext"] == ["BEATs strong: 82.0<br>90 M parameters"]


def test_a_class_that_some_seeds_leave_undefined_says_so(tmp_path):
    for seed, f in enumerate((0.4, None, 0.6)):
        own = {"dog": {F: f, "events": 7}, "cat": {F: 0.5, "events": 7}}
        parts.write_raw(tmp_path / f"{seed}.json", parts.record(seed=seed), per_class=own)
    out = site.build_site(collect([tmp_path], figures=False), tmp_path / "site").parent
    text = (out / "task-dcase2016_task2.html").read_text(encoding="utf-8")
    dog, cat = (re.search(rf">{name}</th>.*?</tr>", text)[0] for name in ("dog", "cat"))
    assert "50.0 (2 of 3)</td>" in dog and "50.0</td>" in cat


def test_a_published_table_marks_its_own_best_and_a_suspected_misprint():
    cells = stats.cells(published_entries())
    own = [cell for cell in cells if cell.column.task == "audioset_strong"]
    table = next(one for one in pivots.published_tables(own) if one.title == "Teachers")
    full = {row: cells[table.columns.index("full recipe")] for row, cells in table.rows}
    best = [row for row, cell in full.items() if cell.mark == "best"]
    assert best == ["BEATs"]  # not the ensemble
    assert full["ensemble of these models"].text.startswith("47.1")
    assert [row for row, cell in full.items() if "see note" in cell.flags] == [
        "mean of the single models"
    ]
    assert "looks like a misprint" in dict(table.notes)["mean of the single models, full recipe"]
    assert all(cell.mark == "" for cell in table.rows[-1][1] if cell)


def test_what_was_measured_on_audioset_stands_beside_the_published_table(tmp_path):
    values = {"task": "audioset_strong", "task_version": "audioset_strong", "stage": "strong"}
    values |= {"title": "AudioSet Strong", "published_task": True, "model": "beats"}
    made = parts.as_trained(load_labels(evaluated=True), **values)
    made = replace(made, scores={"psds1": 0.3, "psds1_macro": 0.4321})
    parts.write(tmp_path, made)
    results = collect([tmp_path])
    assert not results.rejected
    text = (site.build_site(results, tmp_path / "site").parent / "audioset.html").read_text("utf-8")
    table = re.search(r'id="published-1">Students.*?</section>', text, re.S)[0]
    row = re.search(r'<tr><th scope="row">BEATs</th>.*?</tr>', table, re.S)[0]
    mine = row.split("<td>")[-1]
    assert "43.2" in mine
    assert made.checkpoint["sha256"][:8] in mine
    assert "measured here</th>" in table
    assert text.count("measured here</th>") == 1  # beside the students only
    assert "<small>strong " in mine
