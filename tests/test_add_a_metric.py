"""A new metric is one entry of METRICS and its function, and nothing else."""

import json
from dataclasses import replace

import numpy as np
import pytest
from eval_parts import LOGMEL, tiny_tasks

from eval_tasks.__main__ import main
from eval_tasks.tasks import TASKS
from hear_ptsed.metrics.bootstrap import Scored
from hear_ptsed.metrics.catalogue import METRICS, Metric

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


@pytest.fixture
def metric(monkeypatch) -> str:
    entry = Metric("share of loud frames", function=share_of_loud_frames, of_frames=True)
    monkeypatch.setitem(METRICS, LOUD, entry)
    task = TASKS["office"]
    monkeypatch.setitem(TASKS, "office", replace(task, metrics=(*task.metrics, LOUD)))
    return LOUD


def test_a_metric_of_one_entry_reaches_the_record(metric, tmp_path):
    folder = tiny_tasks(tmp_path)
    where = ["--tasks-dir", str(folder / "tasks"), "--work", str(tmp_path / "work")]
    where += ["--results", str(tmp_path / "results"), "--device", "cpu"]
    command = ["run", "--task", "office", "--folder", "office_synthetic-v1-tiny", *LOGMEL, *where]
    assert main(command) == 0
    (path,) = (tmp_path / "results").rglob("*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert list(record["scores"]) == list(TASKS["office"].metrics)
    assert 0 <= record["scores"][metric] <= 1
    low, high = record["ci95"][metric]
    assert (
        low <= record["scores"][metric] <= high and record["draws"][metric][0]["resamples"] == 500
    )
    assert all(metric in row for row in record["per_class"].values())
