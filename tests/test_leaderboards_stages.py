"""Rows of files of one's own: which results of a stage belong together."""

import leaderboard_parts as parts
import pytest
from test_leaderboards import measured

from hear_ptsed.metrics.records import Record


def own_file(seed: int, stage: str, trained: int, **changes: object) -> Record:
    """Of a file of one's own that was trained with a seed."""
    return parts.record(
        "small",
        stage,
        seed,
        module="hear_ptsed.plugins.checkpoint",
        checkpoint={"file": "model.pt", "sha256": parts.digest("small", stage, trained)},
        identity=parts.digest(stage, seed, trained, str(changes)),
        **changes,
    )


def test_files_trained_and_evaluated_with_a_seed_each_make_one_row_of_their_stage(tmp_path):
    found = measured(tmp_path, *(own_file(s, "weak", s, f=0.1 * (s + 1)) for s in range(3)))
    (cell,) = found
    assert cell.seeds == 3 and cell.mean == pytest.approx(0.2)
    assert cell.row.variant == "a checkpoint per seed"


def test_such_a_row_is_one_whatever_the_number_of_seeds_in_a_column(tmp_path):
    tuned = {"mode": "finetuned", "protocol": "finetuned"}
    records = [own_file(s, "weak", s) for s in range(3)]
    found = measured(tmp_path, *records, own_file(0, "weak", 0, **tuned))
    assert sorted(cell.seeds for cell in found) == [1, 3]
    assert len({cell.row for cell in found}) == 1


def test_one_conflict_keeps_the_files_of_a_stage_apart_everywhere(tmp_path):
    tuned = {"mode": "finetuned", "protocol": "finetuned"}
    records = [own_file(s, "weak", s) for s in range(2)]
    found = measured(tmp_path, *records, *(own_file(0, "weak", k, **tuned) for k in range(2)))
    assert len({cell.row for cell in found}) == 2


def test_two_files_evaluated_with_the_same_seed_stay_apart(tmp_path):
    found = measured(tmp_path, own_file(0, "weak", 0), own_file(0, "weak", 1))
    assert sorted(cell.seeds for cell in found) == [1, 1]
    assert len({cell.row.variant for cell in found}) == 2


def test_files_embedded_by_different_blocks_stay_apart(tmp_path):
    layers = [{"model_options": {"layer": layer}} for layer in (3, 4)]
    found = measured(
        tmp_path,
        *(own_file(s, "weak", s, hyperparameters=one) for s, one in enumerate(layers)),
    )
    assert [cell.seeds for cell in found] == [1, 1]
