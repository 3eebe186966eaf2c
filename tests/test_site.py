"""The site in a real browser, and its bytes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import needs_chromium
from site_records import collected, served

from leaderboards import pages, site, stats
from leaderboards.collect import Collected

WIDTHS = (390, 1440)
F = "event_onset_200ms_fms"


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Collected:
    return collected(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def built(found, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site") / "made" / "SITE"
    assert site.build_site(found, out) == out / "index.html"
    return out


@pytest.fixture(scope="module")
def address(built):
    """Of the site on a local server."""
    with served(built) as root:
        yield root


def _pages(built: Path) -> list[str]:
    """All but the run pages, and one of these of each kind."""
    runs = sorted(path.name for path in (built / "runs").glob("*.html"))
    own = next(name for name in runs if not name.startswith("published"))
    return sorted(path.name for path in built.glob("*.html")) + [f"runs/{own}", f"runs/{runs[-1]}"]


def _column(page, task: str, protocol: str, kind: str = "measured") -> tuple[str, int]:
    """Identity and place of a column of the overview."""
    return page.evaluate(
        """([kind, task, protocol]) => {
          const heads = [...document.querySelector(`[data-table=${kind}] thead tr`).cells];
          const fits = (data) => data.task === task && data.protocol === protocol;
          const k = heads.findIndex((head) => fits(head.dataset));
          return [heads[k].dataset.col, k];
        }""",
        [kind, task, protocol],
    )


def _values(page, k: int) -> list[float | None]:
    return page.evaluate(
        """k => [...document.querySelectorAll("[data-table=measured] tbody tr")].map(
          row => row.cells[k].dataset.v === undefined ? null : Number(row.cells[k].dataset.v))""",
        k,
    )


def _visible(page) -> list[str]:
    return page.locator("table.scores tbody tr:visible th").all_inner_texts()


@needs_chromium
@pytest.mark.parametrize("where", ["file", "server"])
def test_every_page_loads_without_a_complaint_or_a_request_elsewhere(page, built, address, where):
    root = built.as_uri() if where == "file" else address
    for name in _pages(built):
        page.goto(f"{root}/{name}")
        assert page.locator("h1").count() == 1, name
        assert page.evaluate("getComputedStyle(document.querySelector('.top')).display") == "flex"
        assert page.locator("#theme").is_visible(), name
        assert page.evaluate("window.hostile") is None, name


def test_links_within_the_site_lead_somewhere(built):
    for path in sorted(built.rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r'(?:href|src)="([^"]+)"', text):
            file, _, place = target.partition("#")
            at = (path.parent / file).resolve() if file else path
            assert at.is_file(), f"{path.name}: {target}"
            if place:
                assert f'id="{place}"' in at.read_text(encoding="utf-8"), f"{path.name}: {target}"


@needs_chromium
def test_no_page_scrolls_sideways_on_phone_or_desk(page, built):
    for name in _pages(built):
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            page.goto(f"{built.as_uri()}/{name}")
            over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert over <= 0, f"{name} at {width}"


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_either_scheme(page, built, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.emulate_media(color_scheme=scheme)
    # One page of each template: axe takes seconds for each.
    for name in set(_pages(built)) - {"task-audioset_strong.html", "task-office.html"}:
        page.goto(f"{built.as_uri()}/{name}")
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        results = axe.run(page, options={"preload": False}).response
        serious = [one for one in results["violations"] if one["impact"] in ("serious", "critical")]
        told = [(one["id"], one["nodes"][0]["html"]) for one in serious]
        assert not told, f"{name}: {told}"
        assert any(one["id"] == "color-contrast" for one in results["passes"]), name


@needs_chromium
def test_a_column_is_sorted_by_click_and_keyboard_and_says_so(page, built):
    page.goto((built / "index.html").as_uri())
    column, k = _column(page, "dcase2016_task2", "linear")
    head = page.locator(f"th[data-col='{column}']")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    values = _values(page, k)
    there = [value for value in values if value is not None]
    assert len(there) > 5 and there == sorted(there, reverse=True)
    assert None in values and None not in values[: len(there)]
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    values = _values(page, k)
    assert values[: len(there)] == sorted(there) and set(values[len(there) :]) == {None}
    assert page.locator("[data-table=measured] [aria-sort=ascending]").count() == 1


@needs_chromium
def test_filters_leave_only_what_fits_and_come_back_from_the_address(page, built, browser):
    page.goto((built / "index.html").as_uri())
    everything = len(_visible(page))
    page.locator("summary").click()
    page.get_by_role("checkbox", name="BEATs", exact=True).check()
    page.get_by_role("checkbox", name="measured").check()
    page.get_by_role("checkbox", name="linear", exact=True).check()
    page.get_by_role("checkbox", name="strong", exact=True).check()
    column, _ = _column(page, "dcase2016_task2", "linear")
    page.locator(f"th[data-col='{column}'] button").click()
    rows = _visible(page)
    assert rows and len(rows) < everything and all(text == "BEATs strong" for text in rows)
    assert page.locator("[data-table=measured] th[data-protocol=finetuned]:visible").count() == 0
    assert page.locator("[data-table=measured] th[data-protocol=linear]:visible").count() > 0
    assert not page.locator("[data-table=published]").is_visible()

    other = browser.new_page()
    other.goto(page.url)
    assert _visible(other) == rows
    assert other.locator(f"th[data-col='{column}']").get_attribute("aria-sort") == "descending"
    assert other.get_by_role("checkbox", name="linear", exact=True).is_checked()
    other.get_by_role("button", name="Clear all").click()
    assert len(_visible(other)) == everything
    assert "protocol=" not in other.url and "sort=" in other.url
    other.close()


@needs_chromium
def test_a_search_narrows_and_says_when_nothing_fits(page, built):
    page.goto((built / "index.html").as_uri())
    page.get_by_label("Find a model").fill("beats untrained")
    assert all("untrained" in text for text in _visible(page))
    page.get_by_label("Find a model").fill("no such thing")
    assert _visible(page) == [] and "No row" in page.locator("#count").inner_text()


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
def test_the_keyboard_reaches_skip_link_tables_and_results(page, built):
    page.goto((built / "index.html").as_uri())
    page.keyboard.press("Tab")
    skip = page.evaluate("document.activeElement.className")
    assert skip == "skip" and page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    seen = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.closest('main')?.id"))
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        seen.add(page.evaluate("document.activeElement.className"))
    assert {"main", "find", "SUMMARY", "scroll", "BUTTON"} <= seen
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


@needs_chromium
def test_classes_of_two_models_are_compared(page, built, found):
    page.goto((built / "task-dcase2016_task2.html").as_uri())
    part = page.locator(".classes").first
    part.locator("select").nth(1).select_option(label="M2D strong")
    entries = [
        e
        for e in found.entries
        if (e.task, e.protocol, e.model) == ("dcase2016_task2", "linear", "m2d")
        and (e.kind, e.stage) == ("measured", "strong")
    ]
    row = part.locator("tbody tr", has_text="class 03")
    mean = sum(e.per_class["class 03"][F] for e in entries) / len(entries)
    assert row.locator("td.second").inner_text() == f"{mean:.3f}"
    width = row.locator("rect.b").get_attribute("width")
    assert float(width.removesuffix("%")) == pytest.approx(100 * mean, abs=1e-3)
    assert "b-c" in page.url


@needs_chromium
def test_numbers_on_the_page_are_those_of_the_records(page, built, found):
    page.goto((built / "index.html").as_uri())
    cells = {
        (cell.row.model, cell.row.stage): cell
        for cell in stats.cells(found.entries, primary_only=True)
        if (cell.column.task, cell.column.protocol) == ("dcase2016_task2", "linear")
        and (cell.row.kind, cell.row.untrained) == ("measured", False)
    }
    _, k = _column(page, "dcase2016_task2", "linear")
    read = {
        (model, stage): text
        for model, stage, show, text in page.evaluate(
            """k => [...document.querySelectorAll("[data-table=measured] tbody tr")].map(
              ({ dataset: d, cells }) => [d.model, d.stage, d.show, cells[k].textContent])""",
            k,
        )
        if show == "measured" and text.strip()
    }
    assert read.keys() == cells.keys() and len(read) == 13
    top = max(round(cell.mean, 3) for cell in cells.values())
    for key, cell in cells.items():
        files = [json.loads(entry.path.read_text()) for entry in cell.entries]
        values = [file["scores"][F] for file in files]
        mean = sum(values) / len(values)
        text = " ".join(read[key].split())
        assert text.startswith(f"{mean:.3f}"), key
        assert (" best" in text) == (round(mean, 3) == top), key
        if len(values) > 1:
            spread = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
            assert f"± {spread:.3f} ({len(values)})" in text, key
        else:
            low, high = files[0]["ci95"][F]
            assert f"{low:.3f} to {high:.3f}" in text
        pairs = [stats.difference(cell, other) for other in cells.values() if other is not cell]
        better = [
            pair.after.low > cell.high if np.isnan(pair.low) else pair.improves is True
            for pair in pairs
        ]
        worse = [
            pair.after.high < cell.low if np.isnan(pair.low) else pair.improves is False
            for pair in pairs
        ]
        tied = "=" * (sum(better) + sum(worse) < len(pairs))
        unpaired = "*" * any(np.isnan(pair.low) for pair in pairs)
        assert text.endswith(f" #{1 + sum(better)}{tied}{unpaired}"), key
    assert any("=" in text for text in read.values()) and any("=" not in t for t in read.values())


def test_published_figures_keep_their_digits_and_never_share_a_table_with_measured_ones(found):
    cells = stats.cells(found.entries)
    for table in pages.tables(cells, pages.Names(cells)):
        assert {line.row.kind for line in table.lines} == {table.kind}
        assert {head.column.kind for head in table.heads} == {table.kind}
    figures = {c.entries[0].record["printed"]: c for c in cells if c.row.kind == "published"}
    assert pages.printed(figures["43.26"]) == "0.4326"
    assert pages.printed(figures["0.925"]) == "0.925"
    assert pages.printed(figures["72.0"]) == "0.720"


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [
        (0.8125, False, "0.812"),  # exact in binary: to the even digit
        (0.8135, False, "0.814"),
        (-0.0004, True, "0.000"),
        (-0.0126, True, "−0.013"),
        (float("nan"), False, "undefined"),
    ],
)
def test_numbers_are_rounded_once_and_zero_has_no_sign(value, signed, text):
    assert pages.number(value, signed) == text


def test_rejected_files_are_listed_with_their_reasons_and_nothing_hostile_is_markup(built, found):
    about = (built / "about.html").read_text(encoding="utf-8")
    assert len(found.rejected) == 6 and "Rejected files: 6" in about
    assert "6 files rejected" in (built / "index.html").read_text(encoding="utf-8")
    for file in ("markup", "path", "long", "metric", "cut"):
        assert f"bad/{file}.json" in about
    for path in built.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "<img" not in text and "<script>window" not in text, path
        assert not re.search(r"<[^>]* (on\w+|style)=", text), path
    assert "&lt;script&gt;window.hostile" in "".join(
        path.read_text(encoding="utf-8") for path in (built / "runs").glob("*.html")
    )
    for path in (built / "runs").iterdir():
        assert re.fullmatch(r"([0-9a-f]{64}|published-[a-z_]+-\d+)\.(html|json)", path.name)


def test_untrained_and_small_data_are_marked_in_every_table(built):
    overview = (built / "index.html").read_text(encoding="utf-8")
    row = re.search(r'<tr[^>]*data-show="untrained".*?</tr>', overview, re.S)[0]
    assert '<span class="flag">untrained</span>' in row
    for head in re.findall(r'<th[^>]*data-task="office".*?</th>', overview, re.S):
        assert '<span class="flag">small data</span>' in head
    task = (built / "task-office.html").read_text(encoding="utf-8")
    for row in re.findall(r"<tr><th scope=\"row\">.*?</tr>", task, re.S):
        assert 'class="plot"' not in row or "small data" in row
    dcase = (built / "task-dcase2016_task2.html").read_text(encoding="utf-8")
    assert re.search(r'untrained</span></th>\s*<td class="plot"><svg[^>]*class="untrained"', dcase)


def test_a_run_page_has_the_command_and_all_of_the_record(built, found):
    entry = next(entry for entry in found.entries if entry.model == "beats" and entry.replicates)
    text = (built / pages.run_href(entry)).read_text(encoding="utf-8")
    assert entry.record["command"] in text
    for key in entry.record:
        assert f"&#34;{key}&#34;:" in text
    download = built / "runs" / f"{entry.identity}.json"
    assert download.read_bytes() == entry.path.read_bytes()


def test_equal_results_give_equal_bytes(built, found, tmp_path):
    files = {p.relative_to(built): p.read_bytes() for p in built.rglob("*") if p.is_file()}
    other = site.build_site(found, tmp_path / "again", processes=1).parent
    again = {p.relative_to(other): p.read_bytes() for p in other.rglob("*") if p.is_file()}
    assert files.keys() == again.keys() and any(path.suffix == ".png" for path in files)
    assert [path for path in files if files[path] != again[path]] == []
