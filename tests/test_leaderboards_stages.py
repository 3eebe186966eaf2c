"""Rows: what records of one name are together, and what stays apart."""

import leaderboard_parts as parts
import pytest
from test_leaderboards import measured

from hear_ptsed.metrics.records import Record
from leaderboards.collect import collect
from leaderboards.stats import cells, gains
from leaderboards.titles import labels

OTHER = {"hyperparameters": {"optim": {"lr": 0.1}}}


def named(seed: int, stage: str = "weak", checkpoint: int = 0, **changes: object) -> Record:
    """Of a checkpoint of one's own, which its user calls small."""
    values = {
        "name": "small",
        "module": "hear_ptsed.plugins.checkpoint",
        "checkpoint": {"file": "model.pt", "sha256": parts.digest("small", stage, checkpoint)},
        "identity": parts.digest(stage, seed, checkpoint, str(changes)),
    }
    return parts.record("frame_mn06", stage, seed, **values | changes)


def test_checkpoints_of_one_name_and_stage_are_averaged_as_seeds(tmp_path):
    (cell,) = measured(tmp_path, *(named(0, checkpoint=k, f=0.1 * (k + 1)) for k in range(3)))
    assert cell.seeds == 3 and cell.mean == pytest.approx(0.2)
    assert cell.row.title == "small weak" and "a seed twice" not in cell.flags
    assert cell.low < cell.mean < cell.high


def test_a_seed_of_one_checkpoint_that_comes_twice_is_told(tmp_path):
    twice = [named(0), named(0, identity=parts.digest("again"))]
    (cell,) = measured(tmp_path, *twice)
    assert cell.flags == ("a seed twice",)


def test_without_a_name_each_checkpoint_is_a_row(tmp_path):
    measured_cells = measured(tmp_path, *(named(k, checkpoint=k, name="") for k in range(2)))
    assert [cell.seeds for cell in measured_cells] == [1, 1]
    assert len({*labels(cell.row for cell in measured_cells).values()}) == 2


def test_a_name_is_one_row_in_all_columns_and_its_stages_are_its_gain(tmp_path):
    tuned = named(0, checkpoint=7, protocol="finetuned")
    measured_cells = measured(
        tmp_path, named(0), named(1, checkpoint=1), tuned, named(0, "strong", f=0.9)
    )
    assert {cell.row.title: cell.row for cell in measured_cells}.keys() == {
        "small weak",
        "small strong",
    }
    (gain,) = gains([cell for cell in measured_cells if cell.column.protocol == "linear"])
    assert gain.model == "small" and gain.steps[0].value == pytest.approx(0.1)


@pytest.mark.parametrize(
    "changes", [OTHER, {"hyperparameters": {"model_options": {"layer": 3}}}, {"untrained": True}]
)
def test_what_was_trained_or_embedded_otherwise_stays_apart_in_one_name(tmp_path, changes):
    if "untrained" in changes:
        changes = changes | {"checkpoint": {"file": None, "sha256": None}}
    measured_cells = measured(tmp_path, named(0), named(1, **changes))
    assert [cell.seeds for cell in measured_cells] == [1, 1]
    assert len({*labels(cell.row for cell in measured_cells).values()}) == 2


def test_evaluations_of_training_of_one_name_are_one_row(tmp_path):
    for seed in range(2):
        changes = {"name": "mine", "protocol": "as-trained", "module": f"seed {seed}.pt"}
        checkpoint = {"file": f"seed {seed}.pt", "sha256": parts.digest(seed)}
        made = parts.record("small", "", None, checkpoint=checkpoint, **changes)
        parts.write_raw(tmp_path / f"{seed}.json", made, identity=parts.digest(seed, "run"))
    collected = collect([tmp_path], figures=False)
    assert not collected.rejected and len(collected.entries) == 2
    assert {(cell.row.title, cell.seeds) for cell in cells(collected.entries)} == {("mine", 2)}
