"""Leaderboards: records of others, and whether they can be true."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import leaderboard_parts as parts
import numpy as np
import pytest

from leaderboards.__main__ import main
from leaderboards.submit import problems_of_file

F, ER = "event_onset_200ms_fms", "segment_1s_er"
LATER = datetime(2026, 12, 1, tzinfo=UTC)
CURVE = {"threshold": [0.1, 0.5], "f_measure": [0.3, 0.7], "precision": [0.2, None]}
CURVE["recall"] = [0.9, 0.5]


def told(tmp_path: Path, **changes: object) -> list[str]:
    return problems_of_file(
        parts.write_raw(tmp_path / "one.json", parts.record(), **changes), LATER
    )


def test_a_record_of_this_suite_is_accepted(tmp_path, capsys):
    path = parts.write(tmp_path, parts.record())
    assert main(["submit", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: accepted\n"


IMPLAUSIBLE = {
    "seconds is 0": {"seconds": 0},
    "cost has no parameters": {"cost": {"seconds_per_minute": 1}},
    "no hash of git": {"commit": "v1"},
    "before 2024-09": {"started": "2019-01-01T00:00:00+00:00"},
    "still to come": {"started": "2031-01-01T00:00:00+00:00"},
    "names no checkpoint": {"checkpoint": {"file": None, "sha256": None}},
    "and yet from a checkpoint": {"untrained": True},
    "task dcase2016_task2 has no protocol weak-linear": {"protocol": "weak-linear"},
    "published_task is False": {"published_task": False},
    "is not model beats, stage 'weak'": {"stage": "weak"},
    "draws has 0 parts of event_onset_200ms_fms; expected one": {"draws": {}},
    "not as many as draws says": {"draws": {m: [{"resamples": 9, **parts.DRAWN}] for m in (F, ER)}},
    "more clips than were tested, 39": {"clips": 39},
    "ci95 of event_onset_200ms_fms is not that of its replicates": {
        "ci95": parts.record().ci95 | {F: [0.79, 0.81]}
    },
    "lies outside its own interval": {"scores": {F: 0.88, ER: 0.4}},
    "one of them lacks event_onset_200ms_fms": {"ci95": {ER: parts.record().ci95[ER]}},
    "differ in their number": {
        "replicates": parts.record().replicates | {F: parts.record().replicates[F][1:]}
    },
    "above that of every class": {"per_class": {"a": {F: 0.5}}},
    "per_class is empty": {"per_class": {}},
    "0.8 is not that of its curve at 0.5, 0.7": {"curves": {F: CURVE}},
    "nan is not the mean of its folds": {
        "scores": {F: None, ER: 0.4},
        "folds": [{F: 0.9}],
        "folds_of": 1,
    },
    "not the mean of its folds": {"folds": [{F: 0.1}, {F: 0.2}], "folds_of": 2},
}


@pytest.mark.parametrize("problem", IMPLAUSIBLE)
def test_a_record_that_cannot_be_true_is_refused(tmp_path, problem):
    assert any(problem in line for line in told(tmp_path, **IMPLAUSIBLE[problem]))


def psds_record(**changes) -> dict:
    own = {"scores": {"psds1": 0.5}, "ci95": {}, "replicates": {}, "draws": {}, "curves": {}}
    own |= {
        "conventions": {"psds1": "in words"},
        "per_class": {"a": {"psds1": 0.6}, "b": {"psds1": 0.5}},
    }
    return own | changes


def test_psds_above_the_mean_of_its_classes_is_refused(tmp_path):
    classes = {"a": {"psds1": 0.6}, "b": {"psds1": 0.3}}
    found = told(tmp_path, **psds_record(per_class=classes))
    assert found == ["psds1 0.5 is above the mean of the classes, 0.45"]


def test_psds_that_is_not_the_area_of_its_roc_is_refused(tmp_path):
    roc = {"efpr_per_hour": [*range(101)], "etpr": [k / 100 for k in range(101)]}
    assert told(tmp_path, **psds_record(curves={"psds1": roc})) == []
    short = {"efpr_per_hour": [0, 1e-9], "etpr": [0.5, 0.5]}
    found = told(tmp_path, **psds_record(curves={"psds1": short}))
    assert found == ["the curve of psds1 does not go from 0 to 100"]
    roc["etpr"] = [0.4] * 101
    found = told(tmp_path, **psds_record(curves={"psds1": roc}))
    assert found == ["psds1 0.5 is not the area of its curve, 0.4"]


def test_all_problems_are_told_at_once_and_the_exit_code_is_1(tmp_path, capsys):
    good = parts.write(tmp_path, parts.record())
    bad = parts.write_raw(
        tmp_path / "bad.json", parts.record(), seed=-1, clips=0, ci95={F: [0.9, 0.7]}
    )
    assert main(["submit", str(good), str(bad)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("accepted") and lines[1].endswith("refused")
    told = {line.split()[0].partition(".")[0] for line in lines[2:]}
    assert len(lines) == 5 and told == {"seed", "clips", "ci95"}


def test_what_this_suite_scores_is_accepted(tmp_path):
    from scoring_parts import EVENT_METRICS, psds_scores

    from hear_ptsed.metrics import bootstrap, events

    heard = [{"label": "a", "start": 100.0, "end": 900.0}]
    clips = {f"{k}.wav": heard for k in range(2)}
    draws = bootstrap.Bootstrap(2)
    of_events = events.event_scores(clips, clips, ["a"], EVENT_METRICS, draws)
    frames = {file: np.full((100, 1), 0.5) for file in clips}
    seconds = dict.fromkeys(clips, 4.0)
    areas = psds_scores(frames, clips, seconds, ["a"], ("psds1", "psds2"), 7, draws)
    folds = bootstrap.mean_of_folds([of_events, of_events])
    for k, scored in enumerate((of_events, areas, folds)):
        parts_of = ("scores", "per_class", "ci95", "replicates", "draws", "conventions", "settings")
        values = {key: getattr(scored, key) for key in (*parts_of, "curves")}
        if k == 2:
            values |= {"folds": [of_events.scores] * 2, "folds_of": 2}
        made = replace(parts.record(), **values)
        assert problems_of_file(parts.write(tmp_path / str(k), made), LATER) == []


def test_a_file_name_cannot_forge_a_line(tmp_path, capsys):
    bad = tmp_path / "a\n\x1b[1mb.json"
    bad.write_text("{}")
    assert main(["submit", str(tmp_path / "none.json"), str(bad)]) == 1
    said = capsys.readouterr().out
    assert "\x1b" not in said and "a\\n\\x1b[1mb.json: refused" in said
    assert "none.json: refused\n  cannot be read: No such file" in said
