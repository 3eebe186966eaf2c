"""Leaderboards: a measured score and the printed figure of the same thing."""

from dataclasses import replace

import leaderboard_parts as parts
import pytest

from hear_ptsed.labels import load_labels
from leaderboards.beside import printed_beside
from leaderboards.collect import collect
from leaderboards.stats import cells

F = "event_onset_200ms_fms"


def beside(folder, *records):
    for made in records:
        parts.write(folder, made)
    joined = printed_beside(cells(collect([folder]).entries))
    return {(row.title, column.protocol, column.metric): c for (row, column), c in joined.items()}


def test_a_measured_score_has_the_printed_figure_of_its_task_protocol_model_and_stage(tmp_path):
    made = [parts.record(m, s) for m in ("beats", "m2d") for s in ("ssl", "weak", "strong")]
    made.append(parts.record(protocol="finetuned"))
    joined = beside(tmp_path, *made)
    assert len(joined) == 7 and {metric for _, _, metric in joined} == {F}
    figures = {key: cell.entries[0].record for key, cell in joined.items()}
    for (title, protocol, _), figure in figures.items():
        assert title == f"{figure['model']} {figure['stage']}"
        assert (figure["table"], figure["task"]) == ("downstream", "dcase2016_task2")
        assert figure["protocol"] == protocol


def test_on_audioset_the_student_as_released_stands_beside_its_evaluation(tmp_path):
    values = {"task": "audioset_strong", "task_version": "audioset_strong", "model": "beats"}
    values |= {
        "title": "AudioSet Strong",
        "published_task": True,
        "stage": "strong",
        "clips": 17_000,
    }
    made = parts.as_trained(load_labels(evaluated=True), **values)
    made = replace(made, scores={"psds1": 0.3, "psds1_macro": 0.4321})
    joined = beside(tmp_path, replace(made, module="BEATs_strong_1.pt"))
    assert {key[2]: cell.text for key, cell in joined.items()} == {"psds1_macro": "46.5"}
    joined = beside(tmp_path / "own", replace(made, module="model.pt"))
    assert joined == {}


NONE = {"file": None, "sha256": None}


@pytest.mark.parametrize(
    "changes",
    [
        {"coverage": "3 of 40 clips are missing"},
        {"untrained": True, "checkpoint": NONE},
        {"hyperparameters": {"model_options": {"drop_layers": 2}}},
        {"module": "hear_ptsed.plugins.checkpoint"},
        {"protocol": "hear"},
        {"task": "office"},
        {"name": "ours"},
    ],
)
def test_what_was_measured_otherwise_has_none(tmp_path, changes):
    assert beside(tmp_path, parts.record(**changes)) == {}
