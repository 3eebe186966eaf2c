"""Leaderboards: results that are no records of this suite: heareval's folders, training's files."""

import json
import math
from pathlib import Path

import leaderboard_parts as parts
import pytest

from leaderboards.collect import collect
from leaderboards.stats import cells

F = "event_onset_200ms_fms"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Results with one good record."""
    parts.write(tmp_path / "results", parts.record())
    return tmp_path / "results"


def test_a_folder_of_heareval_is_a_result_without_interval(tmp_path):
    parts.write_heareval(tmp_path)
    parts.write_heareval(tmp_path, "other.plugin-layer=6", score="0.25", folds=5)
    parts.write_heareval(tmp_path, "quiet.plugin", score="NaN")
    collected = collect([tmp_path], figures=False)
    assert not collected.rejected
    entries = {entry.module: entry for entry in collected.entries}
    own = entries["hear_ptsed.plugins.m2d_weak"]
    assert (own.model, own.stage, own.protocol, own.scores) == ("m2d", "weak", "hear", {F: 0.71})
    assert entries["other.plugin-layer=6"].scores == {"event_onset_50ms_fms": 0.25}
    assert math.isnan(entries["quiet.plugin"].scores[F])
    assert all(math.isnan(cell.low) for cell in cells(collected.entries))


SUITE = "hear_ptsed.plugins.m2d_weak"


@pytest.mark.parametrize(
    "given",
    [True, 1, "yes", "TRUE", 1.0, "no", 0.5, [1], "of course"],
)
def test_any_spelling_of_untrained_in_a_folder_of_heareval_is_marked(tmp_path, given):
    slugify = pytest.importorskip("slugify").slugify
    for k, options in enumerate(
        ({"untrained": given}, {"overlap": 0.5, "untrained": given, "drop_layers": 2})
    ):
        # As heareval 2021.1.3 makes the name of the folder.
        names = [f"{slugify(key)}={slugify(str(value))}" for key, value in options.items()]
        parts.write_heareval(tmp_path / str(k), f"{SUITE}-{'-'.join(names)}")
    collected = collect([tmp_path], figures=False)
    assert not collected.rejected and len(collected.entries) == 2
    assert all(entry.untrained and entry.model == "m2d" for entry in collected.entries)
    assert all(cell.rank is None for cell in cells(collected.entries))


@pytest.mark.parametrize(
    "options", ["untrained=True", "Untrained=true", "drop_layers=2-untrained=1"]
)
def test_folders_that_somebody_renamed_are_marked_too(tmp_path, options):
    parts.write_heareval(tmp_path, f"{SUITE}-{options}")
    (entry,) = collect([tmp_path], figures=False).entries
    assert entry.untrained


@pytest.mark.parametrize(
    "options",
    ["untrained=false", "untrained=0", "untrained=none", "untrained=0-0", "untrained="]
    + ["untrained=-layer=3", "untrained=0-drop-layers=2", "untrained=false-overlap=5"]
    + ["v2", "mine-v2", "layer-3", "=3", "layer=3=4", "3=layer"],
)
def test_a_folder_whose_options_cannot_be_understood_is_refused_by_name(tmp_path, options):
    parts.write_heareval(tmp_path, f"{SUITE}-{options}")
    collected = collect([tmp_path], figures=False)
    (one,) = collected.rejected
    assert not collected.entries and f"{SUITE}-{options}" in one.reason


@pytest.mark.parametrize(
    "options", ["layer=6", "overlap=0-5-drop-layers=2", "x=none", "q=", "l=1-2"]
)
def test_other_options_of_a_folder_of_heareval_make_no_model_untrained(tmp_path, options):
    parts.write_heareval(tmp_path, f"{SUITE}-{options}")
    (entry,) = collect([tmp_path], figures=False).entries
    assert not entry.untrained and entry.module == f"{SUITE}-{options}"


def test_an_evaluation_of_training_is_read_with_its_interval(tmp_path):
    values = parts.evaluation(["Bark", "Dog"], ci95={"pauroc": [0.4, 0.7], "map": [None, None]})
    values["coverage"] = [{"expected": 3, "found": 2, "unreadable": {}}]
    (tmp_path / "evaluation.json").write_text(json.dumps(values), encoding="utf-8")
    collected = collect([tmp_path], figures=False)
    assert not collected.rejected
    (entry,) = collected.entries
    assert (entry.task, entry.model, entry.stage) == ("strong_labels", "beats", "strong")
    assert entry.small_data and entry.coverage == "2 of 3 clips there, 0 of them unreadable"
    assert entry.primary == "psds1_macro" and entry.scores["psds1_macro"] == 0.4
    assert entry.ci95["pauroc"] == (0.4, 0.7) and math.isnan(entry.ci95["map"][0])
    assert entry.per_class["Dog"]["map"] == 0.6


def test_a_checkpoint_called_model_has_the_name_of_its_folder(tmp_path):
    checkpoint = {"file": "model.pt", "sha256": parts.digest(1)}
    for folder, model, stage in (("m2d_weak", "m2d", "weak"), ("my run", "my run", "")):
        values = parts.evaluation(["Dog"], checkpoint=checkpoint)
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "scores.json").write_text(json.dumps(values), encoding="utf-8")
        (entry,) = collect([tmp_path / folder], figures=False).entries
        assert (entry.model, entry.stage, entry.module) == (model, stage, "model.pt")


def test_a_stray_file_of_heareval_hides_no_record(folder):
    (folder / "task_metadata.json").write_text("{}")
    assert len(collect([folder], figures=False).entries) == 1


@pytest.mark.parametrize("hparams", ["null", "[1]", "[" * 500 + "]" * 500, "[" * 9000 + "]" * 9000])
def test_whatever_heareval_hyperparameters_hold_the_rest_is_read(folder, hparams):
    at = parts.write_heareval(folder / "embeddings") / "test.predicted-scores.json"
    text = at.read_text()
    start = text.index('"hparams": ') + len('"hparams": ')
    at.write_text(text[:start] + hparams + text[text.index("}", start) + 1 :])
    told = parts.rejected(folder)[1]
    assert "hparams is " in told or "nested" in told


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"task_name": "mnist"}, "unknown task 'mnist-hear2021-full'"),
        ({"task_name": "../x"}, "must be a name"),
        ({"evaluation": ["wow"]}, "lacks test_wow"),
        ({"evaluation": "event"}, "is 'event'; it must be a valid array"),
        ({"evaluation": []}, "has no score"),
        ({"mode": 3}, "mode is 3; it must be a valid string"),
    ],
)
def test_a_bad_folder_of_heareval_is_told(folder, change, reason):
    path = parts.write_heareval(folder / "embeddings") / "task_metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    file, told = parts.rejected(folder)
    assert file.endswith("test.predicted-scores.json") and reason in told


def test_heareval_scores_out_of_range_and_folders_not_yet_scored_are_told(folder):
    at = parts.write_heareval(folder / "embeddings", score="7.5")
    assert "7.5; allowed are 0 to 1" in parts.rejected(folder)[1]
    (at / "test.predicted-scores.json").unlink()
    assert "not scored by heareval" in parts.rejected(folder)[1]
