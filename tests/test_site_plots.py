"""Charts in a real browser: drawn, pointed at, saved, in both schemes."""

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import leaderboard_parts as parts
import pytest
from conftest import CHROMIUM, needs_chromium
from playwright.sync_api import expect
from plotly.offline import get_plotlyjs

from leaderboards import site
from leaderboards.__main__ import main
from leaderboards.collect import collect
from leaderboards.pictures import figures_of_site

F = "event_onset_200ms_fms"


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


@needs_chromium
@pytest.mark.parametrize("kind", ["scores", "class", "curve", "cost", "chart-gain"])
def test_each_kind_is_drawn_and_says_what_it_is_pointed_at(page, chart_site, kind):
    name = "gain.html" if kind == "chart-gain" else "task-dcase2016_task2.html"
    figure = draw(page, (chart_site / name).as_uri(), kind)
    if kind != "curve":
        assert re.search(r"BEATs (ssl|strong): \d\d\.\d", point_at(page, figure).replace("\n", " "))
    assert figure.locator(".plot-container path.js-line, .points path").count() > 0
    assert figure.locator(".legendtext, .ytick text").count() > 1


@needs_chromium
def test_a_roc_is_drawn_in_stairs(page, chart_site):
    figure = draw(page, (chart_site / "task-home.html").as_uri(), "curve")
    path = figure.locator("path.js-line").first.get_attribute("d")
    assert re.fullmatch(r"M[\d.,]+([HV][\d.]+)+", path)


@needs_chromium
def test_a_chart_is_drawn_when_it_comes_into_view(page, chart_site):
    page.goto((chart_site / "task-dcase2016_task2.html").as_uri())
    page.locator("figure.plot .main-svg").first.wait_for()
    last = page.locator("figure.plot").last
    assert last.locator("svg").count() == 0
    height = page.evaluate("document.documentElement.scrollHeight")
    last.scroll_into_view_if_needed()
    last.locator(".main-svg").first.wait_for()
    assert page.evaluate("document.documentElement.scrollHeight") == height


@needs_chromium
@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_chart_is_saved_by_its_button_in_light_colours_with_its_title(page, chart_site, kind):
    page.emulate_media(color_scheme="dark")
    figure = draw(page, (chart_site / "task-dcase2016_task2.html").as_uri(), "scores")
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
def test_charts_follow_the_scheme_of_the_page(page, chart_site):
    figure = draw(page, (chart_site / "task-dcase2016_task2.html").as_uri(), "scores")

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
def test_two_models_are_picked_and_their_classes_sorted(page, class_results, tmp_path):
    chart_site = site.build_site(class_results, tmp_path / "site").parent
    figure = draw(page, (chart_site / "task-dcase2016_task2.html").as_uri(), "class")

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
    chart_results = collect([tmp_path], figures=False)
    assert not chart_results.rejected
    out = site.build_site(chart_results, tmp_path / "site").parent
    figure = draw(page, (out / "task-dcase2016_task2.html").as_uri(), "scores")
    assert figure.locator("text a, text tspan[style*=bold]").count() == 0
    assert figure.locator(".ytick text").first.text_content() == hostile
    assert hostile in point_at(page, figure)


@needs_chromium
def test_pages_without_scripts_have_the_numbers_in_tables(browser, chart_site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((chart_site / "task-dcase2016_task2.html").as_uri())
    assert page.get_by_text("The chart is drawn by a script").first.is_visible()
    for title in page.locator("summary", has_text="Numbers of the chart").all():
        title.click()
        assert title.locator("xpath=..").locator("td").first.is_visible()
    context.close()


@needs_chromium
def test_the_numbers_below_a_curve_are_those_of_the_records(page, chart_site, chart_results):
    page.goto((chart_site / "task-home.html").as_uri())
    part = page.locator("details", has=page.locator("[aria-label^='PSD-ROC']"))
    part.locator("summary").click()
    for entry in (e for e in chart_results.entries if e.task == "home"):
        label = {"beats": "BEATs strong", "m2d": "M2D strong"}[entry.model]
        read = part.locator("tbody tr", has_text=label).locator("td").all_inner_texts()
        values = json.loads(entry.path.read_text())["curves"]["psds1"]["etpr"]
        assert read == [f"{value:.3f}" for value in values]


def test_a_site_has_one_copy_of_the_installed_plotly_and_a_policy_without_eval(chart_site):
    (copy,) = chart_site.rglob("plotly*.js")
    assert copy.read_text("utf-8") == get_plotlyjs()
    page = (chart_site / "task-home.html").read_text(encoding="utf-8")
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


@needs_chromium
def test_the_view_stays_in_the_address_when_a_place_on_the_page_is_gone_to(page, chart_site):
    page.goto((chart_site / "task-dcase2016_task2.html").as_uri() + "#q=beats")
    page.locator(".toc a").last.click()
    page.wait_for_url("**#q=beats")
    page.reload()
    assert page.get_by_label("Find a model").input_value() == "beats"
