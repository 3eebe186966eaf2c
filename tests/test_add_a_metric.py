"""A new metric is one entry of METRICS and its function, and nothing else."""

import json

import numpy as np
import pytest
from eval_parts import LOGMEL, tiny_tasks

from eval_tasks.__main__ import main
from hear_ptsed.metrics.bootstrap import Scored
from hear_ptsed.metrics.catalogue import METRICS, Metric
from leaderboards.__main__ import main as board

LOUD = "loud_frames"


def share_of_loud_frames(predictions, metrics, bootstrap, curves) -> Scored:
    """Share of the frames in which a class is likelier than not."""
    files, classes = sorted(predictions.reference), predictions.classes
    loud = [np.mean(predictions.scores[file] > 0.5, axis=0) for file in files]  # (C,) of each
    replicates = (bootstrap.weights(files) @ np.array(loud)).mean(1) / len(files)
    return Scored(
        {LOUD: float(np.mean(loud))},
        {name: {LOUD: float(of)} for name, of in zip(classes, np.mean(loud, 0), strict=True)},
        {LOUD: "share of frames above 0.5"},
        {LOUD: {}},
        {LOUD: replicates.tolist()},
        {LOUD: [bootstrap.draws(files)]},
    )


TASK = f"""
from dataclasses import replace
from eval_tasks.tasks.office import TASK as OFFICE
TASK = replace(OFFICE, metrics=(*OFFICE.metrics, {LOUD!r}))
"""


@pytest.fixture
def metric(monkeypatch) -> str:
    entry = Metric(
        "share of loud frames", function=f"{__name__}:share_of_loud_frames", of_frames=True
    )
    monkeypatch.setitem(METRICS, LOUD, entry)
    return LOUD


def test_a_metric_of_one_entry_reaches_the_record_and_the_board(metric, tmp_path):
    (tmp_path / "loud.py").write_text(TASK)
    folder = tiny_tasks(tmp_path)
    where = ["--tasks-dir", str(folder / "tasks"), "--work", str(tmp_path / "work")]
    where += ["--results", str(tmp_path / "results"), "--device", "cpu"]
    command = [
        "run",
        "--task",
        str(tmp_path / "loud.py"),
        "--folder",
        "office_synthetic-v1-tiny",
        *LOGMEL,
        *where,
    ]
    assert main(command) == 0
    (path,) = (tmp_path / "results").rglob("*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert list(record["scores"])[-1] == metric
    assert 0 <= record["scores"][metric] <= 1
    low, high = record["ci95"][metric]
    assert (
        low <= record["scores"][metric] <= high and record["draws"][metric][0]["resamples"] == 500
    )
    assert all(metric in row for row in record["per_class"].values())
    assert board(["build", str(tmp_path / "results"), "--out", str(tmp_path / "site")]) == 0
    assert "share of loud frames" in (tmp_path / "site" / "task-office.html").read_text("utf-8")
