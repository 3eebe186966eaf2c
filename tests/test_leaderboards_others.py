"""Leaderboards: results that are no records of this suite: heareval's folders, training's files."""

import math

import leaderboard_parts as parts
import numpy as np
import pytest

from leaderboards.collect import collect
from leaderboards.stats import cells

F = "event_onset_200ms_fms"


def test_a_folder_of_heareval_is_a_result_without_interval(tmp_path):
    parts.write_heareval(tmp_path)
    parts.write_heareval(tmp_path, "other.plugin-layer=6", score="0.25", folds=5)
    parts.write_heareval(tmp_path, "quiet.plugin", score="NaN")
    found = collect([tmp_path], figures=False)
    assert not found.rejected
    entries = {entry.module: entry for entry in found.entries}
    own = entries["hear_ptsed.plugins.m2d_weak"]
    assert (own.model, own.stage, own.protocol, own.scores) == ("m2d", "weak", "hear", {F: 0.71})
    assert entries["other.plugin-layer=6"].scores == {"event_onset_50ms_fms": 0.25}
    assert math.isnan(entries["quiet.plugin"].scores[F])
    assert all(math.isnan(cell.low) for cell in cells(found.entries))


def test_an_evaluation_of_training_is_read_with_its_interval(tmp_path):
    from training import metrics
    from training.annotations import Events

    events = Events.from_columns(
        ["a", "b", "b"], ["Dog", "Bark", "Dog"], [1.0, 3.0, 0.5], [2.0, 4.0, 1.5]
    )
    scores = np.random.default_rng(0).normal(size=(2, 2, 250)).astype(np.float32)
    scored = metrics.evaluate(
        scores, ["a", "b"], ["Bark", "Dog"], events, np.full(2, 10.0), bootstrap=20
    )
    values = {
        "checkpoint": {"file": "BEATs_strong_1.pt", "sha256": parts.digest(1)},
        "device": "cpu",
    }
    values |= scored.to_dict() | {"coverage": [{"expected": 2, "found": 2, "unreadable": {}}]}
    (tmp_path / "evaluation.json").write_text(metrics.as_json(values), encoding="utf-8")
    found = collect([tmp_path], figures=False)
    assert not found.rejected
    (entry,) = found.entries
    assert (entry.task, entry.model, entry.stage) == ("strong_labels", "beats", "strong")
    assert entry.small_data  # two classes are not AudioSet Strong
    assert entry.scores["psds1_macro"] == scored.psds1_macro
    assert entry.ci95["pauroc"] == pytest.approx(scored.ci95["pauroc"], nan_ok=True)
    assert entry.per_class["Dog"]["map"] == scored.per_class["Dog"]["ap"]
