"""Curves and class figures on the task pages, and AudioSet Strong measured here."""

import json
import re
from dataclasses import replace
from pathlib import Path

import leaderboard_parts as parts
import numpy as np
import pytest
from conftest import needs_chromium

from hear_ptsed.labels import load_labels
from leaderboards import charts, pivots, site, stats
from leaderboards.collect import Collected, collect, published_entries
from leaderboards.pages import Names

F = "event_onset_200ms_fms"
PSDS = "sed_scores_eval 0.0.4: dtc 0.7, gtc 0.7, no cross triggers, alpha_ct 0, alpha_st 1"


def psds_record(model: str, etpr: list[float | None], seed: int = 0):
    """A record of `home`; its stairs are at 0, 10, … false positives per hour."""
    own = {"task": "home", "protocol": "weak-linear"}
    curve = {"efpr_per_hour": [*range(0, 101, 10)], "etpr": etpr}
    own |= {
        "ci95": {},
        "replicates": {},
        "draws": {},
        "primary": "psds1",
        "conventions": {"psds1": PSDS},
    }
    made = parts.record(model, seed=seed, **own)
    return replace(made, scores={"psds1": 0.3}, curves={"psds1": curve}, per_class={})


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Collected:
    folder = tmp_path_factory.mktemp("results")
    for model, f in (("beats", 0.8), ("m2d", 0.6), ("asit", 0.4)):
        for seed in range(3):  # three times 0.1 is not 0.3
            parts.write(folder, parts.record(model, seed=seed, f=f + 0.02 * seed))
    without = replace(parts.record("fpasst"), curves={})
    parts.write(folder, without)
    own = {"untrained": True, "checkpoint": {"file": None, "sha256": None}}
    parts.write(folder, parts.record("atst_frame", f=0.1, **own))
    parts.write(folder, psds_record("beats", [0.1 * k for k in range(11)]))
    parts.write(folder, psds_record("m2d", [0.5] * 11))
    return collect([folder], figures=False)


@pytest.fixture(scope="module")
def built(found, tmp_path_factory) -> Path:
    assert not found.rejected
    return site.build_site(found, tmp_path_factory.mktemp("site") / "site").parent


def chart_of(found: Collected, task: str) -> charts.Curves:
    cells = stats.cells(found.entries, primary_only=True)
    return charts.curve_chart([cell for cell in cells if cell.column.task == task], Names(cells))


def test_a_curve_is_the_mean_of_its_seeds_best_first_and_none_is_made_up(found):
    chart = chart_of(found, "dcase2016_task2")
    labels = [line.label for line in chart.lines]
    assert labels == ["BEATs strong", "M2D strong", "ASiT strong", "ATST-F strong (untrained)"]
    assert [panel.y_title for panel in chart.panels] == ["F1", "precision"]
    runs = [entry for entry in found.entries if entry.model == "beats" and entry.task != "home"]
    files = [json.loads(entry.path.read_text())["curves"][F] for entry in runs]
    values = np.mean([file["f_measure"] for file in files], axis=0)
    np.testing.assert_allclose(chart.lines[0].points[0], np.c_[files[0]["threshold"], values])
    precision = [(r, p) for r, p in zip(files[0]["recall"], files[0]["precision"], strict=True)]
    np.testing.assert_allclose(chart.lines[0].points[1], precision)
    assert chart.lines[0].numbers == pytest.approx(values.tolist())
    assert chart.lines[0].numbers[4] == pytest.approx(0.82)  # at 0.5: the score


def test_undefined_points_are_left_out_and_seeds_without_them_do_not_count(tmp_path):
    gap = parts.record().curves[F] | {"f_measure": [None] * 8 + [0.7]}
    for seed, curve in enumerate((gap, parts.record(f=0.5).curves[F])):
        parts.write_raw(tmp_path / f"{seed}.json", parts.record(seed=seed), curves={F: curve})
    parts.write_raw(tmp_path / "2.json", parts.record("m2d"), curves={F: gap})
    chart = chart_of(collect([tmp_path], figures=False), "dcase2016_task2")
    both, alone = chart.lines
    assert both.points[0][0] == (0.1, pytest.approx(0.3))  # of the second seed only
    assert both.points[0][-1] == (0.9, pytest.approx((0.7 + 0.3) / 2))
    assert alone.points[0] == [(0.9, 0.7)]
    assert np.isnan(alone.numbers[:8]).all()


def test_a_roc_is_drawn_in_stairs(found):
    chart = chart_of(found, "home")
    rising = next(line for line in chart.lines if line.label == "BEATs strong")
    path = chart.path(rising, 0)
    assert re.fullmatch(r"M0\.0 [\d.]+(H[\d.]+V[\d.]+){10}", path)
    assert path.endswith("H316.0V0.0") and chart.places[1] == 10


@needs_chromium
def test_two_curves_are_picked_by_select_and_come_back_from_the_address(page, built):
    page.goto((built / "task-dcase2016_task2.html").as_uri())
    part = page.locator(".curves").first

    def marked(which: str) -> set[str]:
        return set(part.locator(f"path.{which} title").all_text_contents())

    assert marked("first") == {"BEATs strong"} and not marked("second")
    part.locator("select").nth(1).select_option(label="ASiT strong")
    assert marked("second") == {"ASiT strong"}
    page.reload()
    assert marked("first") == {"BEATs strong"} and marked("second") == {"ASiT strong"}
    colours = part.locator("path").evaluate_all(
        "paths => new Set(paths.map(path => getComputedStyle(path).stroke)).size"
    )
    assert colours == 3
    # The highlighted lines are drawn last, above the grey ones.
    last = part.locator("svg").first.locator("path").last.get_attribute("class")
    assert "first" in last or "second" in last


@needs_chromium
def test_the_numbers_below_a_curve_are_those_of_the_records(page, built, found):
    page.goto((built / "task-home.html").as_uri())
    part = page.locator(".curves").first
    part.locator("summary").click()
    for entry in (e for e in found.entries if e.task == "home"):
        label = {"beats": "BEATs strong", "m2d": "M2D strong"}[entry.model]
        read = part.locator("tbody tr", has_text=label).locator("td").all_inner_texts()
        values = json.loads(entry.path.read_text())["curves"]["psds1"]["etpr"]
        assert read == [f"{value:.3f}" for value in values]


def test_each_chart_of_a_task_page_has_its_png(built):
    text = (built / "task-dcase2016_task2.html").read_text(encoding="utf-8")
    linked = set(re.findall(r'href="(figures/[\w-]+\.png)"', text))
    kinds = {name.split("/")[1].split("-")[0] for name in linked}
    assert kinds == {"scores", "classes", "curve", "cost"}
    for name in linked:
        assert (built / name).read_bytes().startswith(b"\x89PNG")


@needs_chromium
def test_a_class_that_some_seeds_leave_undefined_says_so(page, tmp_path):
    for seed, f in enumerate((0.4, None, 0.6)):
        own = {"dog": {F: f, "events": 7}, "cat": {F: 0.5, "events": 7}}
        parts.write_raw(tmp_path / f"{seed}.json", parts.record(seed=seed), per_class=own)
    out = site.build_site(collect([tmp_path], figures=False), tmp_path / "site").parent
    text = (out / "task-dcase2016_task2.html").read_text(encoding="utf-8")
    assert "0.500 (2 of 3)</td>" in text  # without the script, too
    page.goto((out / "task-dcase2016_task2.html").as_uri())
    cells = page.locator(".classes tbody tr", has_text="dog").locator("td").all_inner_texts()
    assert cells[1] == "0.500 (2 of 3)"
    cells = page.locator(".classes tbody tr", has_text="cat").locator("td").all_inner_texts()
    assert cells[1] == "0.500"


@needs_chromium
def test_the_view_stays_in_the_address_when_a_place_on_the_page_is_gone_to(page, built):
    page.goto((built / "task-dcase2016_task2.html").as_uri() + "#q=beats")
    page.locator(".toc a").last.click()
    page.wait_for_url("**#q=beats")
    page.reload()
    assert page.get_by_label("Find a model").input_value() == "beats"


# AudioSet Strong


def test_a_published_table_marks_its_own_best_and_a_suspected_misprint():
    cells = stats.cells(published_entries())
    own = [cell for cell in cells if cell.column.task == "audioset_strong"]
    table = next(one for one in pivots.published_tables(own) if one.title == "Teachers")
    full = {row: cells[table.columns.index("full")] for row, cells in table.rows}
    assert [row for row, cell in full.items() if cell.best] == ["BEATs"]  # not the ensemble
    assert full["ensemble_of_row"].text == "0.471"
    assert [row for row, cell in full.items() if "see note" in cell.flags] == [
        "mean_of_single_models"
    ]
    assert "looks like a misprint" in dict(table.notes)["mean_of_single_models, full"]
    assert all(cell.best is False for cell in table.rows[-1][1] if cell)


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
    assert "0.432" in mine
    assert made.checkpoint["sha256"][:8] in mine
    assert 'measured here <span class="flag">measured</span>' in table
    assert text.count("measured here <span") == 1  # beside the students only
    assert "<small>strong " in mine
