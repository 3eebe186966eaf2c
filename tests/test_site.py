"""The site in a real browser, and its bytes."""

import csv
import re
from pathlib import Path

import pytest
from conftest import needs_chromium
from site_records import TABLE, find_column, served

WIDTHS = (390, 1440)


F = "event_onset_200ms_fms"


@pytest.fixture(scope="module")
def address(board_site):
    """Of the site on a local server."""
    with served(board_site) as root:
        yield root


def _pages(board_site: Path) -> list[str]:
    """All but the run pages, of which the first."""
    run = min(path.name for path in (board_site / "runs").glob("*.html"))
    return sorted(path.name for path in board_site.glob("*.html")) + [f"runs/{run}"]


def _values(page, k: int) -> list[float | None]:
    """Of the rows with a rank and those without, as they stand."""
    return page.evaluate(
        """([table, k]) => [...document.querySelector(table).tBodies[0].rows]
          .filter(row => row.dataset.show && !row.hidden)
          .map(row => row.cells[k].dataset.v)
          .map(value => value === undefined ? null : Number(value))""",
        [TABLE, k],
    )


def _visible(page) -> list[str]:
    """Models and stages of the rows that are shown."""
    return page.locator(f"{TABLE} tbody tr:visible:not(.rule)").evaluate_all(
        "rows => rows.map(row => `${row.cells[1].querySelector('a, th').textContent} "
        "${row.dataset.stage} ${row.dataset.show}`)"
    )


@needs_chromium
@pytest.mark.parametrize("where", ["file", "server"])
def test_every_page_loads_without_a_complaint_or_a_request_elsewhere(
    page, board_site, address, where
):
    root = board_site.as_uri() if where == "file" else address
    for name in _pages(board_site):
        page.goto(f"{root}/{name}")
        assert page.locator("h1").count() == 1, name
        assert page.evaluate("getComputedStyle(document.querySelector('.top')).display") == "flex"
        assert page.locator("#theme").is_visible(), name
        assert page.evaluate("window.hostile") is None, name


def test_links_within_the_site_lead_somewhere(board_site):
    for path in sorted(board_site.rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r'(?:href|src)="([^"]+)"', text):
            if target.startswith("https://"):
                continue  # from the facts of models
            file, _, place = target.partition("#")
            at = (path.parent / file).resolve() if file else path
            assert at.is_file(), f"{path.name}: {target}"
            if place:
                assert f'id="{place}"' in at.read_text(encoding="utf-8"), f"{path.name}: {target}"


@needs_chromium
def test_no_page_scrolls_sideways_on_phone_or_desk(page, board_site):
    for name in _pages(board_site):
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            page.goto(f"{board_site.as_uri()}/{name}")
            over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert over <= 0, f"{name} at {width}"


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_either_scheme(page, board_site, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.emulate_media(color_scheme=scheme)
    # One page of each template: axe takes seconds for each.
    for name in set(_pages(board_site)) - {"task-audioset_strong.html", "task-office.html"}:
        page.goto(f"{board_site.as_uri()}/{name}")
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        report = axe.run(page, options={"preload": False}).response
        serious = [one for one in report["violations"] if one["impact"] in ("serious", "critical")]
        told = [(one["id"], one["nodes"][0]["html"]) for one in serious]
        assert not told, f"{name}: {told}"
        assert any(one["id"] == "color-contrast" for one in report["passes"]), name


@needs_chromium
def test_a_column_is_sorted_by_click_and_keyboard_and_says_so(page, board_site):
    page.goto((board_site / "index.html").as_uri())
    column, k = find_column(page, "dcase2016_task2")
    head = page.locator(f"th[data-col='{column}']")
    first = _visible(page)
    head.locator("button").first.click()
    assert head.get_attribute("aria-sort") == "descending"
    values = _values(page, k)
    assert len(values) > 5 and values == sorted(values, reverse=True)
    head.locator("button").first.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert _values(page, k) == sorted(values)
    assert page.locator(f"{TABLE} [aria-sort=ascending]").count() == 1
    page.get_by_role("button", name="Reset", exact=True).click()
    assert _visible(page) == first and "sort=" not in page.url


@needs_chromium
def test_rows_without_a_value_stay_last_in_both_directions(page, board_site):
    page.goto((board_site / "index.html").as_uri() + "#show=small")
    column, k = find_column(page, "office")
    button = page.locator(f"th[data-col='{column}'] button").first
    for reverse in (True, False):
        button.click()
        values = _values(page, k)
        filled = [value for value in values if value is not None]
        assert None in values and values[len(filled) :].count(None) == len(values) - len(filled)
        assert filled == sorted(filled, reverse=reverse)


@needs_chromium
def test_the_overview_leads_with_the_best_mean_and_hides_what_is_asked_for_only(page, board_site):
    page.goto((board_site / "index.html").as_uri())
    rows = _visible(page)
    assert rows[:2] == ["my model  measured", "BEATs strong measured"] and {
        row.split()[-1] for row in rows
    } == {"measured"}
    ranks = page.locator(f"{TABLE} tbody tr:visible:not(.rule) td:first-child").all_inner_texts()
    numbers = [int(text.strip("*")) for text in ranks]
    assert ranks[:2] == ["1*", "2*"] and numbers == sorted(numbers)
    assert page.locator(f"{TABLE} th[data-task=office]:visible").count() == 0
    assert page.locator("[data-view=finetuned]").is_hidden()
    for name in ("small tasks", "untrained models", "printed by others"):
        page.get_by_role("checkbox", name=name).check()
    kinds = {row.split()[-1] for row in _visible(page)}
    assert kinds == {"measured", "untrained", "published"}
    assert page.locator(f"{TABLE} th[data-task=office]:visible").count() == 1
    assert "show=small&show=untrained&show=published" in page.url
    page.get_by_role("radio", name="Fine-tuned").check(force=True)
    assert page.locator("[data-view=finetuned]").is_visible()
    assert page.locator("[data-view=frozen]").is_hidden() and "protocol=finetuned" in page.url


@needs_chromium
def test_filters_leave_only_what_fits_and_come_back_from_the_address(page, board_site, browser):
    page.goto((board_site / "index.html").as_uri())
    everything = _visible(page)
    page.locator("summary", has_text="Backbone").click()
    page.get_by_role("checkbox", name="BEATs", exact=True).check()
    page.locator("summary", has_text="Stage").click()
    page.get_by_role("checkbox", name="strong", exact=True).check()
    column, _ = find_column(page, "dcase2016_task2")
    page.locator(f"th[data-col='{column}'] button").first.click()
    rows = _visible(page)
    assert rows and all(text == "BEATs strong measured" for text in rows)

    other = browser.new_page()
    other.goto(page.url)
    assert _visible(other) == rows
    assert other.locator(f"th[data-col='{column}']").get_attribute("aria-sort") == "descending"
    assert other.locator("[data-active=model]").inner_text() == "(1)"
    other.get_by_role("button", name="Reset", exact=True).click()
    assert _visible(other) == everything and "#" not in other.url
    other.close()


@needs_chromium
def test_models_of_one_family(page, board_site):
    page.goto((board_site / "index.html").as_uri())
    page.locator("summary", has_text="Family").click()
    page.get_by_role("checkbox", name="PretrainedSED", exact=True).check()
    names = {row.split(" ")[0] for row in _visible(page)}
    assert "BEATs" in names and "YAMNet" not in names and "family=PretrainedSED" in page.url


@needs_chromium
def test_a_search_narrows_and_says_when_nothing_fits(page, board_site):
    page.goto((board_site / "index.html").as_uri())
    page.get_by_label("Find a model").fill("beats weak")
    assert {row.rsplit(" ", 1)[0] for row in _visible(page)} == {"BEATs weak"}
    page.get_by_label("Find a model").fill("no such thing")
    assert _visible(page) == [] and "No row" in page.locator("#filters output").inner_text()


@needs_chromium
def test_a_phone_shows_rank_model_mean_and_one_task_that_is_chosen(page, board_site):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto((board_site / "index.html").as_uri() + "#show=small")

    def heads() -> list[str]:
        return page.locator(f"{TABLE} thead tr:last-child th:visible").evaluate_all(
            "heads => heads.map(head => head.dataset.name)"
        )

    lead = ["Rank", "Model", "Mean"]
    assert heads() == [*lead, "DCASE 2016 task 2, onset F1, 200 ms, frozen"]
    page.get_by_label("Task", exact=True).select_option("office")
    assert heads() == [*lead, "Office (small), onset F1, 200 ms, frozen"]
    assert "task=office" in page.url
    inside = "part => part.scrollWidth - part.clientWidth"
    assert page.locator(f".scroll:has({TABLE.split()[-1]}):visible").first.evaluate(inside) <= 0
    page.set_viewport_size({"width": 1440, "height": 900})
    page.locator(f"{TABLE} th[data-name=Parameters]").wait_for()  # the page answers a little later
    assert len(heads()) > 8


@needs_chromium
def test_each_head_opens_a_short_explanation(page, board_site):
    page.goto((board_site / "index.html").as_uri())
    column, _ = find_column(page, "dcase2016_task2")
    head = page.locator(f"th[data-col='{column}']")
    assert not head.locator(".pop").is_visible()
    head.locator("button.why").press("Enter")
    text = head.locator(".pop").inner_text()
    assert "onset F1, 200 ms: higher is better" in text and "95 % interval over" in text
    page.keyboard.press("Escape")
    assert not head.locator(".pop").is_visible()
    assert head.get_attribute("aria-sort") == "none"


def _taken(page, form: str) -> str:
    with page.expect_download() as download:
        page.locator("[data-view=frozen]").get_by_label(f"Download {form}").click()
    return Path(download.value.path()).read_text(encoding="utf-8")


@needs_chromium
def test_what_is_taken_away_is_what_is_shown(page, board_site, board_results):
    page.goto((board_site / "index.html").as_uri() + "#stage=strong&model=beats&model=m2d")
    rows = list(csv.reader(_taken(page, "CSV").splitlines()))
    shown = page.locator(f"{TABLE} tbody tr:visible:not(.rule)")
    heads = page.locator(f"{TABLE} thead tr:last-child th:visible")
    assert len(rows) == 1 + shown.count() == 3
    assert [name for name in rows[0] if "half-width" not in name] == heads.evaluate_all(
        "heads => heads.map(head => head.dataset.name)"
    )
    best = dict(zip(rows[0], rows[1], strict=True))
    name = "DCASE 2016 task 2, onset F1, 200 ms, frozen"
    runs = [
        e.scores[F]
        for e in board_results.entries
        if (e.kind, e.task, e.protocol, e.stage)
        == ("measured", "dcase2016_task2", "linear", "strong")
        and e.model == "beats"
        and not e.untrained
    ]
    assert (best["Model"], best["Stage"], best["Rank"]) == ("BEATs", "strong", "2*")
    assert best[name] == f"{100 * sum(runs) / len(runs):.1f}" and float(best[f"{name}, half-width"])
    lines = _taken(page, "Markdown").splitlines()
    assert len(lines) == 4 and lines[2].startswith("| 2\\* | BEATs | strong |")
    tex = _taken(page, "LaTeX")
    assert "\\toprule" in tex and f"& {best[name]} {{" in tex and tex.count("\\\\") == 3
    page.goto((board_site / "index.html").as_uri())
    tex, markdown = _taken(page, "LaTeX"), _taken(page, "Markdown")
    assert "\\textbf{99.0}" in tex and "**99.0**" in markdown


@needs_chromium
def test_the_lines_that_load_a_model_are_copied(browser, address):
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(f"{address}/model-beats.html")
    page.get_by_role("button", name="Copy").first.click()
    page.get_by_text("copied").wait_for()
    assert "plugin.load_model()" in page.evaluate("navigator.clipboard.readText()")
    context.close()


@needs_chromium
def test_the_scheme_follows_the_system_until_it_is_chosen_and_the_choice_stays(page, address):
    def paper():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page.goto(f"{address}/index.html")
    light = paper()
    page.emulate_media(color_scheme="dark")
    dark = paper()
    assert light != dark
    page.locator("#theme").click()
    assert page.locator("#theme").inner_text() == "Theme: light" and paper() == light
    page.goto(f"{address}/about.html")
    assert paper() == light


@needs_chromium
def test_the_keyboard_reaches_skip_link_tables_and_results(page, board_site):
    page.goto((board_site / "index.html").as_uri())
    page.keyboard.press("Tab")
    skip = page.evaluate("document.activeElement.className")
    assert skip == "skip" and page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    seen = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.closest('main')?.id"))
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        seen.add(page.evaluate("document.activeElement.className"))
    assert {"main", "INPUT", "SUMMARY", "BUTTON", "why"} <= seen
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


@needs_chromium
def test_classes_of_two_models_are_compared(page, board_site, board_results):
    page.goto((board_site / "task-dcase2016_task2.html").as_uri())
    part = page.locator("[data-classes]").first
    part.scroll_into_view_if_needed()
    part.locator("select").nth(0).select_option(label="BEATs strong")
    part.locator("select").nth(1).select_option(label="M2D strong")
    part.locator("summary").click()
    entries = [
        e
        for e in board_results.entries
        if (e.task, e.protocol, e.model) == ("dcase2016_task2", "linear", "m2d")
        and (e.kind, e.stage) == ("measured", "strong")
    ]
    row = part.locator("tbody tr", has_text="class 03")
    mean = sum(e.per_class["class 03"][F] for e in entries) / len(entries)
    first, second, less, _ = row.locator("td").all_inner_texts()
    assert second == f"{100 * mean:.1f}"
    minus = float(first.split()[0]) - float(second)
    assert float(less.replace("−", "-")) == pytest.approx(minus, abs=0.11)
    values = part.locator("tbody tr td:nth-child(4)").evaluate_all(
        "cells => cells.map(cell => Number(cell.dataset.v)).filter(value => !Number.isNaN(value))"
    )
    assert len(values) == 11 and values == sorted(values, reverse=True)
