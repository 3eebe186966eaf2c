"""Curves and class figures on the task pages, and AudioSet Strong measured here."""

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import leaderboard_parts as parts
import numpy as np
import pytest
from conftest import CHROMIUM, needs_chromium
from playwright.sync_api import expect
from plotly.offline import get_plotlyjs

from hear_ptsed.labels import load_labels
from leaderboards import charts, pivots, site, stats
from leaderboards.__main__ import main
from leaderboards.collect import Collected, collect, published_entries
from leaderboards.pages import Names
from leaderboards.pictures import figures_of_site

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
            made = parts.record(model, seed=seed, f=f + 0.02 * seed)
            parts.write(folder, replace(made, cost={"parameters": 9e7}))
    parts.write(folder, parts.record("beats", "ssl", protocol="finetuned"))
    parts.write(folder, parts.record("beats", "strong", protocol="finetuned"))
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


def of_task(found: Collected, task: str, protocol: str = "") -> list:
    """Cells of one column, and the names of all rows."""
    cells = stats.cells(found.entries, primary_only=True)
    column = [c for c in cells if c.column.task == task and protocol in c.column.protocol]
    return [column, Names(cells).row]


def draw(page, address: str, kind: str):
    """The first chart of a kind on a page, drawn."""
    page.goto(address)
    figure = page.locator(f"figure.plot[id^='{kind}']").first
    figure.scroll_into_view_if_needed()
    figure.locator(".main-svg").first.wait_for()
    return figure


def point_at(page, figure, place: int = 0) -> str:
    """What is said of a point."""
    figure.locator(".point path, path.point").nth(place).hover(force=True)
    page.locator(".hovertext").first.wait_for()
    return page.locator(".hovertext text").first.text_content()


# Numbers.


def test_scores_and_intervals_are_those_of_the_records_best_first(found):
    chart = charts.score_chart(*of_task(found, "dcase2016_task2", "linear"))
    names = chart["layout"]["yaxis"]["ticktext"]
    assert names[:2] == ["BEATs strong", "fPaSST strong"]
    assert names[-1] == "ATST-F strong (untrained)"
    trace = next(trace for trace in chart["data"] if trace["name"] == "M2D")
    runs = [e for e in found.entries if e.model == "m2d" and e.task == "dcase2016_task2"]
    files = [json.loads(entry.path.read_text()) for entry in runs]
    assert trace["x"] == [pytest.approx(100 * np.mean([file["scores"][F] for file in files]))]
    replicates = np.mean([file["replicates"][F] for file in files], axis=0)
    ends = 100 * np.percentile(replicates, [2.5, 97.5])
    (value,), error = trace["x"], trace["error_x"]
    assert (value - error["arrayminus"][0], value + error["array"][0]) == pytest.approx(tuple(ends))
    assert trace["y"] == [names.index("M2D strong")]


def test_a_backbone_has_one_colour_in_all_charts_and_published_figures_are_grey(found):
    both = stats.cells([*found.entries, *published_entries()], primary_only=True)
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


def test_untrained_models_are_hollow_and_dashed(found):
    cells = of_task(found, "dcase2016_task2", "linear")
    hollow = charts.score_chart(*cells)["data"][-1]
    assert hollow["name"] == "ATST-F" and hollow["marker"]["symbol"] == ["triangle-up-open"]
    dashes = {line["name"]: line["line"]["dash"] for line in charts.curve_charts(*cells)[0]["data"]}
    assert dashes["ATST-F strong (untrained)"] == "dash" and dashes["BEATs strong"] == "solid"


def test_a_curve_is_the_mean_of_its_seeds_best_first_and_none_is_made_up(found):
    f, precision = charts.curve_charts(*of_task(found, "dcase2016_task2", "linear"))
    labels = [line["meta"] for line in f["data"]]
    assert labels == ["BEATs strong", "M2D strong", "ASiT strong", "ATST-F strong (untrained)"]
    titles = [chart["layout"]["yaxis"]["title"]["text"] for chart in (f, precision)]
    assert titles == ["F1", "precision"]
    runs = [
        entry
        for entry in found.entries
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


@pytest.fixture
def classes(tmp_path) -> Collected:
    """Two models that differ by class."""
    for model, scores in (("beats", (0.5, 0.9, 0.2, None)), ("m2d", (0.4, 0.1, 0.6, 0.3))):
        names = ("a little", "much", "worse", "open")
        own = {n: {F: value, "events": 7} for n, value in zip(names, scores, strict=True)}
        parts.write_raw(tmp_path / f"{model}.json", parts.record(model), per_class=own)
    return collect([tmp_path], figures=False)


def test_classes_are_sorted_by_the_difference_of_the_two(classes):
    chart = charts.class_chart(*of_task(classes, "dcase2016_task2"))
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


def test_sizes_are_drawn_on_a_logarithmic_axis(found):
    cells, labels = of_task(found, "dcase2016_task2", "linear")
    chart = charts.size_chart({c.row: (9e7, 100 * c.mean) for c in cells}, labels, "mean, %")
    assert chart["layout"]["xaxis"]["type"] == "log"
    by_name = {trace["name"]: trace for trace in chart["data"]}
    assert by_name["BEATs"]["x"] == [9e7] and by_name["BEATs"]["y"] == pytest.approx([82])
    assert by_name["BEATs"]["hovertext"] == ["BEATs strong: 82.0<br>90 M parameters"]


# Pictures.


@needs_chromium
@pytest.mark.parametrize("kind", ["scores", "class", "curve", "cost", "chart-gain"])
def test_each_kind_is_drawn_and_says_what_it_is_pointed_at(page, built, kind):
    name = "gain.html" if kind == "chart-gain" else "task-dcase2016_task2.html"
    figure = draw(page, (built / name).as_uri(), kind)
    if kind != "curve":
        assert re.search(r"BEATs (ssl|strong): \d\d\.\d", point_at(page, figure).replace("\n", " "))
    assert figure.locator(".plot-container path.js-line, .points path").count() > 0
    assert figure.locator(".legendtext, .ytick text").count() > 1


@needs_chromium
def test_a_roc_is_drawn_in_stairs(page, built):
    figure = draw(page, (built / "task-home.html").as_uri(), "curve")
    path = figure.locator("path.js-line").first.get_attribute("d")
    assert re.fullmatch(r"M[\d.,]+([HV][\d.]+)+", path)


@needs_chromium
def test_a_chart_is_drawn_when_it_comes_into_view(page, built):
    page.goto((built / "task-dcase2016_task2.html").as_uri())
    page.locator("figure.plot .main-svg").first.wait_for()
    last = page.locator("figure.plot").last
    assert last.locator("svg").count() == 0
    height = page.evaluate("document.documentElement.scrollHeight")
    last.scroll_into_view_if_needed()
    last.locator(".main-svg").first.wait_for()
    assert page.evaluate("document.documentElement.scrollHeight") == height


@needs_chromium
@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_chart_is_saved_by_its_button_in_light_colours_with_its_title(page, built, kind):
    page.emulate_media(color_scheme="dark")
    figure = draw(page, (built / "task-dcase2016_task2.html").as_uri(), "scores")
    with page.expect_download() as download:
        figure.get_by_label(f"Download as {kind.upper()}").click()
    data = Path(download.value.path()).read_bytes()
    assert download.value.suggested_filename.endswith(f".{kind}")
    if kind == "png":
        assert data.startswith(b"\x89PNG")
        return
    text = data.decode()
    assert "DCASE 2016 task 2, onset F1" in text and "BEATs strong" in text
    assert "rgb(255, 255, 255)" in text


@needs_chromium
def test_charts_follow_the_scheme_of_the_page(page, built):
    figure = draw(page, (built / "task-dcase2016_task2.html").as_uri(), "scores")

    ink, light, dark = (
        figure.locator(".ytick text").first,
        "rgb(28, 33, 38)",
        "rgb(231, 234, 237)",
    )
    expect(ink).to_have_css("fill", light)
    page.locator("#theme").click()  # light
    page.locator("#theme").click()
    expect(ink).to_have_css("fill", dark)
    page.locator("#theme").click()  # as the system
    expect(ink).to_have_css("fill", light)
    page.emulate_media(color_scheme="dark")
    expect(ink).to_have_css("fill", dark)


@needs_chromium
def test_two_models_are_picked_and_their_classes_sorted(page, classes, tmp_path):
    built = site.build_site(classes, tmp_path / "site").parent
    figure = draw(page, (built / "task-dcase2016_task2.html").as_uri(), "class")

    def down() -> list[str]:
        """Names of the classes from top to bottom."""
        ticks = figure.locator(".ytick text").all()
        return [t.text_content() for t in sorted(ticks, key=lambda t: t.bounding_box()["y"])]

    assert down() == ["much", "a little", "worse", "open"]
    figure.get_by_label("First").select_option(label="M2D strong")
    expect(figure.locator(".legendtext")).to_have_count(1)  # with itself
    figure.get_by_label("Second").select_option(label="BEATs strong")
    expect(figure.locator(".legendtext")).to_have_count(2)
    assert down() == ["worse", "a little", "much", "open"]


@needs_chromium
def test_names_with_markup_or_templates_are_shown_as_they_are(page, tmp_path):
    hostile = "R&D &lt;b> %{x} $a_b$"
    made = replace(parts.record("beats"), model="mine", stage="", module="mine", name=hostile)
    parts.write(tmp_path, made)
    results = collect([tmp_path], figures=False)
    assert not results.rejected
    out = site.build_site(results, tmp_path / "site").parent
    figure = draw(page, (out / "task-dcase2016_task2.html").as_uri(), "scores")
    assert figure.locator("text a, text tspan[style*=bold]").count() == 0
    assert figure.locator(".ytick text").first.text_content() == hostile
    assert hostile in point_at(page, figure)


@needs_chromium
def test_pages_without_scripts_have_the_numbers_in_tables(browser, built):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((built / "task-dcase2016_task2.html").as_uri())
    assert page.get_by_text("The chart is drawn by a script").first.is_visible()
    for title in page.locator("summary", has_text="Numbers of the chart").all():
        title.click()
        assert title.locator("xpath=..").locator("td").first.is_visible()
    context.close()


@needs_chromium
def test_the_numbers_below_a_curve_are_those_of_the_records(page, built, found):
    page.goto((built / "task-home.html").as_uri())
    part = page.locator("details", has=page.locator("[aria-label^='PSD-ROC']"))
    part.locator("summary").click()
    for entry in (e for e in found.entries if e.task == "home"):
        label = {"beats": "BEATs strong", "m2d": "M2D strong"}[entry.model]
        read = part.locator("tbody tr", has_text=label).locator("td").all_inner_texts()
        values = json.loads(entry.path.read_text())["curves"]["psds1"]["etpr"]
        assert read == [f"{value:.3f}" for value in values]


def test_a_site_has_one_copy_of_the_installed_plotly_and_a_policy_without_eval(built):
    (copy,) = built.rglob("plotly*.js")
    assert copy.read_text("utf-8") == get_plotlyjs()
    page = (built / "task-home.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert "unsafe" not in policy and "data:" not in policy
    assert "script-src 'self';" in policy


needs_kaleido = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("kaleido") is None, reason="no kaleido or chromium"
)


@needs_kaleido
def test_each_chart_of_the_site_is_written_as_svg_and_pdf(tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", CHROMIUM)
    parts.write(tmp_path / "results", parts.record())
    page = site.build_site(collect([tmp_path / "results"], figures=False), tmp_path / "site")
    made = figures_of_site(page.parent, tmp_path / "figures")
    assert sorted(made) == sorted((tmp_path / "figures").iterdir())
    pages = [path.read_text("utf-8") for path in page.parent.glob("*.html")]
    assert len(made) == 2 * sum(text.count('<figure class="plot"') for text in pages) > 0
    scores, pdf = (path for path in made if "task2-scores" in path.name)
    assert "DCASE 2016 task 2, onset F1" in scores.read_text("utf-8")
    assert "BEATs strong" in scores.read_text("utf-8")
    assert pdf.read_bytes().startswith(b"%PDF")


def test_without_a_browser_figures_are_refused_in_a_line(tmp_path, monkeypatch, capsys):
    pytest.importorskip("kaleido")
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    parts.write(tmp_path / "results", parts.record())
    command = ["build", str(tmp_path / "results"), "--out", str(tmp_path / "site")]
    assert main([*command, "--figures", str(tmp_path / "figures")]) == 1
    assert "figures need Chrome or Chromium; set BROWSER_PATH" in capsys.readouterr().err


def test_a_class_that_some_seeds_leave_undefined_says_so(tmp_path):
    for seed, f in enumerate((0.4, None, 0.6)):
        own = {"dog": {F: f, "events": 7}, "cat": {F: 0.5, "events": 7}}
        parts.write_raw(tmp_path / f"{seed}.json", parts.record(seed=seed), per_class=own)
    out = site.build_site(collect([tmp_path], figures=False), tmp_path / "site").parent
    text = (out / "task-dcase2016_task2.html").read_text(encoding="utf-8")
    dog, cat = (re.search(rf">{name}</th>.*?</tr>", text)[0] for name in ("dog", "cat"))
    assert "50.0 (2 of 3)</td>" in dog and "50.0</td>" in cat


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
