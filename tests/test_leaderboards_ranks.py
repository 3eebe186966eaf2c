"""Leaderboards: ranks by paired resamples, what few clips allow, and the headline."""

import csv
import json
import re
from pathlib import Path

import leaderboard_parts as parts
import numpy as np
import pytest

from leaderboards.__main__ import main
from leaderboards.collect import collect
from leaderboards.stats import cells, difference

F, ER = "event_onset_200ms_fms", "segment_1s_er"
FEW = 9  # test clips


def measured(folder: Path) -> list:
    """Cells of the F-score."""
    collected = collect([folder], figures=False)
    assert not collected.rejected
    return [cell for cell in cells(collected.entries) if cell.column.metric == F]


def build(folder: Path, out: Path) -> dict[str, dict[str, str]]:
    """Model and stage -> row of the CSV, of the F-score."""
    assert main(["build", str(folder), "--out", str(out)]) == 0
    with (out / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "measured"]
    return {f"{row['model']} {row['stage']}": row for row in rows if row["metric"] == F}


def overview(site: Path) -> str:
    """The rows of its first table."""
    page = (site / "index.html").read_text(encoding="utf-8")
    return re.search(r'<table class="scores".*?</thead>(.*?)</table>', page, re.S)[1]


def places(site: Path) -> dict[str, str]:
    """Model and stage -> rank in the overview."""
    rows = re.findall(
        r'<tr data-model="(\w+)" data-stage="(\w+)" data-show="measured".*?<td[^>]*>([^<]*)</td>',
        overview(site),
        re.S,
    )
    return {f"{model} {stage}": rank for model, stage, rank in rows}


def test_ranks_and_the_page_of_gains_say_the_same_of_a_pair(tmp_path):
    for stage, f in (("ssl", 0.78), ("strong", 0.80)):  # intervals that overlap
        parts.write(tmp_path / "r", parts.record(stage=stage, f=f))
    rows = build(tmp_path / "r", tmp_path / "site")
    assert float(rows["beats ssl"]["high"]) > float(rows["beats strong"]["low"])
    assert {title: row["rank"] for title, row in rows.items()} == {
        "beats ssl": "2",
        "beats strong": "1",
    }
    assert {row["tied"] for row in rows.values()} == {"False"}
    gain = (tmp_path / "site" / "gain.html").read_text(encoding="utf-8")
    assert re.search(r">ssl → strong</td>.*?>better</td>", gain, re.S)
    assert places(tmp_path / "site") == {"beats strong": "1", "beats ssl": "2"}


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_rank_counts_those_that_are_better_in_pairs(tmp_path, seeds):
    rng = np.random.default_rng(seeds)
    for k in range(8):
        for seed in range(seeds):
            f = 0.7 + 0.01 * k + rng.normal(0, 0.005)
            parts.write(tmp_path, parts.record(f"m{k}", seed=seed, f=f))
    own = measured(tmp_path)
    ties = 0
    for cell in own:
        others = [difference(cell, other).improves for other in own if other is not cell]
        assert cell.rank == 1 + others.count(True)
        assert cell.tied == (None in others)
        ties += cell.tied
    assert 0 < ties and len({cell.rank for cell in own}) > 3


def test_lower_error_rates_rank_first_by_the_paired_test_too(tmp_path):
    for model, er in (("beats", 0.40), ("m2d", 0.38)):
        parts.write(tmp_path, parts.record(model, er=er))
    all_cells = cells(collect([tmp_path], figures=False).entries)
    ranks = {cell.row.model: cell.rank for cell in all_cells if cell.column.metric == ER}
    assert ranks == {"m2d": 1, "beats": 2}


def test_results_that_cannot_be_paired_are_ranked_by_their_intervals_and_marked(tmp_path):
    parts.write(tmp_path / "r", parts.record("beats", f=0.80))
    parts.write(tmp_path / "r", parts.record("m2d", f=0.78))
    parts.write(tmp_path / "r", parts.record("asit", f=0.79, resamples=90))  # of other draws
    rows = build(tmp_path / "r", tmp_path / "site")
    ranks = {title: (row["rank"], row["tied"], row["paired"]) for title, row in rows.items()}
    assert ranks == {
        "beats strong": ("1", "True", "False"),
        "m2d strong": ("2", "True", "False"),
        "asit strong": ("1", "True", "False"),
    }
    assert places(tmp_path / "site") == {
        "beats strong": "1*",
        "asit strong": "1*",
        "m2d strong": "2*",
    }
    assert "not paired with all: there by intervals" in overview(tmp_path / "site")
    pairs = measured(tmp_path / "r")
    assert all(cell.paired is False for cell in pairs)


def test_below_ten_clips_there_is_no_rank_interval_or_mean_anywhere(tmp_path, capsys):
    for model, f in (("beats", 0.9), ("m2d", 0.1)):
        parts.write(tmp_path / "r", parts.record(model, f=f, clips=FEW))
    rows = build(tmp_path / "r", tmp_path / "site")
    for row in rows.values():
        assert (row["low"], row["high"], row["rank"], row["tied"]) == ("", "", "", "")
        assert row["mean"] and row["best"] == "False"
    site = tmp_path / "site"
    text = (site / "leaderboard.md").read_text(encoding="utf-8")
    measured_part = text[text.index("### Measured") : text.index("### Published")]
    assert "90.0" in measured_part and not re.search(r"±|\*\*", measured_part)
    rows = re.findall(r'data-show="measured".*?</tr>', overview(site), re.S)
    assert len(rows) == 2 and ">90.0<" in rows[0] + rows[1]
    assert not re.search('±|class="(best|near)"|rank by|interval', rows[0] + rows[1])
    task = (site / "task-dcase2016_task2.html").read_text(encoding="utf-8")
    chart = json.loads(re.search(r'id="scores-.*?<script[^>]*>(.*?)</script>', task, re.S)[1])
    ends = [end for trace in chart["data"] for end in trace["error_x"]["array"]]
    assert ends == [None, None]
    for page in (site / "runs").glob("[0-9a-f]*.html"):
        scores = re.search(r"<table.*?</table>", page.read_text(encoding="utf-8"), re.S)[0]
        assert " to " not in scores
    capsys.readouterr()
    pair = [str(next((tmp_path / "r").rglob(f"*{model}*.json"))) for model in ("beats", "m2d")]
    assert main(["compare", *pair]) == 0
    said = capsys.readouterr().out
    assert "No verdict: 9 test clips are too few" in said and " to " not in said
    ten = parts.record("beats", f=0.9, clips=10)
    parts.write(tmp_path / "ten", ten)
    (cell,) = measured(tmp_path / "ten")
    assert cell.rank == 1 and cell.low < cell.high


def test_a_row_of_some_tasks_has_no_normalised_score_in_the_csv_of_hears_form(tmp_path):
    for model, f in (("beats", 0.8), ("m2d", 0.3)):
        own = {"protocol": "hear", "identity": parts.digest(model, "hear")}
        parts.write(tmp_path / "r", parts.record(model, f=f, **own))
    build(tmp_path / "r", tmp_path / "site")
    with (tmp_path / "site" / "hear_leaderboard.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["Model"]: row["DCASE 2016"] for row in rows} == {
        "BEATs strong": "0.800000000",
        "M2D strong": "0.300000000",
    }
    assert "Normalised score" not in rows[0]
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'href="hear_leaderboard.csv"' in page


def test_markdown_has_the_stages_in_the_order_of_training_as_the_pages(tmp_path):
    for stage in ("strong", "weak", "ssl"):
        parts.write(tmp_path / "r", parts.record(stage=stage))
    build(tmp_path / "r", tmp_path / "site")
    text = (tmp_path / "site" / "leaderboard.md").read_text(encoding="utf-8")
    part = text[text.index("### Measured") : text.index("### Published")]
    assert re.findall(r"BEATs (\w+) \|", part) == ["ssl", "weak", "strong"]
    chips = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'name="stage" value="(\w+)"', chips) == ["ssl", "weak", "strong"]
