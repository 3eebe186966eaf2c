"""Leaderboards: records of others, and whether they can be true."""

from dataclasses import replace
from pathlib import Path

import leaderboard_parts as parts
import numpy as np
import pytest

from leaderboards.__main__ import main
from leaderboards.submit import problems_of_file

F, ER = "event_onset_200ms_fms", "segment_1s_er"


def told(tmp_path: Path, **changes: object) -> list[str]:
    return problems_of_file(parts.write_raw(tmp_path / "one.json", parts.record(), **changes))


def test_a_record_of_this_suite_is_accepted(tmp_path, capsys):
    path = parts.write(tmp_path, parts.record())
    assert main(["submit", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: accepted\n"


def test_a_plug_in_without_stages_is_accepted(tmp_path):
    assert told(tmp_path, module="hear_ptsed.plugins.yamnet", model="yamnet", stage="") == []


IMPLAUSIBLE = {
    "names no checkpoint": {"checkpoint": {"file": None, "sha256": None}},
    "and yet from a checkpoint": {"untrained": True},
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
        assert problems_of_file(parts.write(tmp_path / str(k), made)) == []


def test_a_file_name_cannot_forge_a_line(tmp_path, capsys):
    bad = tmp_path / "a\n\x1b[1mb.json"
    bad.write_text("{}")
    assert main(["submit", str(tmp_path / "none.json"), str(bad)]) == 1
    said = capsys.readouterr().out
    assert "\x1b" not in said and "a\\n\\x1b[1mb.json: refused" in said
    assert "none.json: refused\n  cannot be read: No such file" in said
