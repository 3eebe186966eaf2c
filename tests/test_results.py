"""The committed records in results/: read by the board without a complaint, number by number."""

import json
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from eval_tasks.demo.evaluation import SCORED_STAGES
from hear_ptsed.metrics.records import problems_of_record
from leaderboards.collect import collect
from leaderboards.stats import cells

RESULTS = Path(__file__).parents[1] / "results"
FILES = sorted(RESULTS.rglob("*.json"))
MIB = 2**20


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def collected():
    return collect([RESULTS], figures=False)


def test_the_board_takes_every_record(collected):
    assert collected.rejected == []
    assert len(collected.entries) == len(FILES) > 0
    for path in FILES:
        assert problems_of_record(path.read_text(encoding="utf-8"), read(path)) == []
    assert sum(path.stat().st_size for path in FILES) < 4 * MIB


def test_records_are_of_small_tasks_with_ten_test_clips_and_of_a_commit():
    for path in FILES:
        record = read(path)
        assert record["task"] in ("office", "piano", "home") and not record["published_task"]
        assert record["clips"] >= 10 and not record["untrained"]
        assert "+" not in record["commit"] and record["hardware"] and record["started"]
        assert record["task_version"] == path.parts[-3] and record["protocol"] == path.parts[-2]
        if record["module"] == "hear_ptsed.plugins.checkpoint":
            assert record["name"] == "frame_mn02, soundscapes" and record["stage"] in SCORED_STAGES


def test_scores_and_intervals_of_the_cells_are_those_of_the_records(collected):
    of_identity = {record["identity"]: record for record in map(read, FILES)}
    counted = 0
    for cell in cells(collected.entries):
        metric = cell.column.metric
        records = [of_identity[entry.identity] for entry in cell.entries]
        scores = [r["scores"][metric] for r in records if r["scores"][metric] is not None]
        assert cell.seeds == len(records) == len({record["seed"] for record in records})
        assert np.isnan(cell.mean) if not scores else cell.mean == pytest.approx(fmean(scores))
        replicates = np.array([record["replicates"][metric] for record in records], float)
        known = replicates[:, ~np.isnan(replicates).all(0)]
        if known.size:
            ends = np.percentile(np.nanmean(known, 0), (2.5, 97.5))
            assert (cell.low, cell.high) == pytest.approx(tuple(ends))
        assert not cell.few and cell.small_data
        counted += len(records)
    assert counted == sum(len(record["scores"]) for record in of_identity.values())
