"""What the pages say: the numbers of the records, printed figures, models, runs, rejected files."""

import json
import re

import numpy as np
import pytest
from conftest import needs_chromium
from site_records import TABLE, find_column

from leaderboards import pages, site, stats

F = "event_onset_200ms_fms"


@needs_chromium
def test_numbers_on_the_page_are_those_of_the_records(page, board_site, board_results):
    page.goto((board_site / "index.html").as_uri())
    cells = {
        (cell.row.model, cell.row.stage): cell
        for cell in stats.cells(board_results.entries, primary_only=True)
        if (cell.column.task, cell.column.protocol) == ("dcase2016_task2", "linear")
        and (cell.row.kind, cell.row.untrained) == ("measured", False)
    }
    _, k = find_column(page, "dcase2016_task2")
    read = {
        (model, stage): (text, hover, mark)
        for model, stage, show, text, hover, mark in page.evaluate(
            """([table, k]) => [...document.querySelectorAll(`${table} tbody tr:not(.rule)`)].map(
              ({ dataset: d, cells }) => [d.model, d.stage, d.show, cells[k].textContent,
                                          cells[k].title, cells[k].className])""",
            [TABLE, k],
        )
        if show == "measured" and text.strip()
    }
    assert read.keys() == cells.keys() and len(read) == 13
    top = max(round(cell.mean, 3) for cell in cells.values())
    for key, cell in cells.items():
        files = [json.loads(entry.path.read_text()) for entry in cell.entries]
        values = [file["scores"][F] for file in files]
        mean = sum(values) / len(values)
        text, hover, mark = read[key]
        assert text.startswith(f"{100 * mean:.1f}"), key
        assert (mark == "best") == (round(mean, 3) == top), key
        if len(values) > 1:
            spread = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
            assert f"{len(values)} seeds" in hover
            assert f"standard deviation over seeds {100 * spread:.1f}" in hover, key
        else:
            low, high = files[0]["ci95"][F]
            assert f"95 % interval {100 * low:.1f} to {100 * high:.1f}" in hover
            assert text.endswith(f"±{50 * (high - low):.1f}")
        pairs = [stats.difference(cell, other) for other in cells.values() if other is not cell]
        better = [
            pair.after.low > cell.high if np.isnan(pair.low) else pair.improves is True
            for pair in pairs
        ]
        assert f"rank {1 + sum(better)} by" in hover, key
        unpaired = any(np.isnan(pair.low) for pair in pairs)
        assert ("not paired with all" in hover) == unpaired


def test_published_figures_keep_the_digits_of_their_source_in_percent(board_results):
    cells = stats.cells(board_results.entries)
    figures = {c.entries[0].record["printed"]: c for c in cells if c.row.kind == "published"}
    for figure, text in {"43.26": "43.26", "72.0": "72.0", "58.3": "58.3"}.items():
        assert pages.printed(figures[figure]) == text
    raw = next(c for c in figures.values() if c.entries[0].record["scale"] == "1")
    assert float(pages.printed(raw)) == pytest.approx(100 * raw.mean)


def test_beside_a_measured_score_stands_what_was_printed_and_the_difference(
    board_site, board_results
):
    overview = (board_site / "index.html").read_text(encoding="utf-8")
    row = re.search(
        r'<tr data-model="m2d" data-stage="strong" data-show="measured".*?</tr>', overview, re.S
    )
    runs = [
        e.scores[F]
        for e in board_results.entries
        if (e.kind, e.task, e.protocol) == ("measured", "dcase2016_task2", "linear")
        and (e.model, e.stage) == ("m2d", "strong")
    ]
    ours = 100 * sum(runs) / len(runs)
    less = f"{ours - 70.1:+.1f}".replace("-", "−")
    assert 'class="grey"' in row[0] and ">70.1<" in row[0] and "Table II" in row[0]
    assert f"published 70.1, ours {less}" in row[0]
    page = (board_site / "model-m2d.html").read_text(encoding="utf-8")
    assert re.search(rf'title="[^"]*Table II[^"]*">70.1</td><td>{re.escape(less)}</td>', page)


def test_a_model_has_a_page_with_facts_lines_to_load_scores_and_runs(board_site, board_results):
    text = (board_site / "model-beats.html").read_text(encoding="utf-8")
    for part in (
        "90.3 M",
        "768",
        "MIT",
        "BEATs_strong_1.pt",
        "plugins import beats_strong as plugin",
    ):
        assert part in text
    own = [e for e in board_results.entries if (e.kind, e.model) == ("measured", "beats")]
    assert all(pages.run_href(entry) in text for entry in own)
    # Of this one there is only what was printed.
    assert not (board_site / "model-wav2vec2.html").exists()


@pytest.mark.parametrize(
    ("value", "metric", "signed", "text"),
    [
        (0.8125, F, False, "81.2"),  # exact in binary: to the even digit
        (0.8135, F, False, "81.4"),
        (-0.0004, F, True, "0.0"),
        (-0.0126, F, True, "−1.3"),
        (0.384, "segment_1s_er", False, "0.38"),
        (float("nan"), F, False, "undefined"),
    ],
)
def test_numbers_are_rounded_once_and_zero_has_no_sign(value, metric, signed, text):
    assert pages.number(value, metric, signed) == text


def test_rejected_files_are_listed_with_their_reasons_and_nothing_hostile_is_markup(
    board_site, board_results
):
    about = (board_site / "about.html").read_text(encoding="utf-8")
    assert len(board_results.rejected) == 6 and "Rejected files: 6" in about
    assert "6 files rejected" in (board_site / "index.html").read_text(encoding="utf-8")
    for file in ("markup", "path", "long", "metric", "cut"):
        assert f"bad/{file}.json" in about
    for path in board_site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "<img" not in text and "<script>window" not in text, path
        assert not re.search(r"<[^>]* (on\w+|style)=", text), path
    assert "&lt;script&gt;window.hostile" in "".join(
        path.read_text(encoding="utf-8") for path in (board_site / "runs").glob("*.html")
    )
    for path in (board_site / "runs").iterdir():
        assert re.fullmatch(r"[0-9a-f]{64}\.(html|json)", path.name)


def test_untrained_and_small_data_are_marked_once_where_they_appear(board_site):
    overview = (board_site / "index.html").read_text(encoding="utf-8")
    row = re.search(r'<tr[^>]*data-show="untrained".*?</tr>', overview, re.S)[0]
    assert row.count('<span class="flag">untrained</span>') == 1
    heads = re.findall(r'<th scope="colgroup"[^>]*><a href="task-office.html">.*?</th>', overview)
    assert heads and all(head.count('<span class="flag">small data</span>') == 1 for head in heads)
    task = (board_site / "task-office.html").read_text(encoding="utf-8")
    assert re.search(r'<h1>Office \(small\) <span class="flag">small data</span>', task)


def test_a_run_page_has_the_command_and_leads_to_all_of_the_record(board_site, board_results):
    entry = next(
        entry for entry in board_results.entries if entry.model == "beats" and entry.replicates
    )
    text = (board_site / pages.run_href(entry)).read_text(encoding="utf-8")
    assert entry.record["command"] in text
    assert f'<a href="{entry.identity}.json">' in text
    download = board_site / "runs" / f"{entry.identity}.json"
    assert download.read_bytes() == entry.path.read_bytes()


def test_equal_results_give_equal_bytes(board_site, board_results, tmp_path):
    files = {
        p.relative_to(board_site): p.read_bytes() for p in board_site.rglob("*") if p.is_file()
    }
    other = site.build_site(board_results, tmp_path / "again").parent
    again = {p.relative_to(other): p.read_bytes() for p in other.rglob("*") if p.is_file()}
    assert files.keys() == again.keys()
    assert [path for path in files if files[path] != again[path]] == []
