"""The published rows: commands that are recipes of models there are, with published numbers."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
from conftest import GOLDEN

import training
from hear_ptsed.options import list_given
from hear_ptsed.registry import MODELS
from hear_ptsed.sequence import DEFAULTS
from training.__main__ import build_parser
from training.recipe import Recipe, load

CODE = Path(training.__file__).parent
with (CODE / "published.csv").open(encoding="utf-8") as file:
    PUBLISHED = list(csv.DictReader(file))
ROWS = json.loads((GOLDEN / "published_rows.json").read_text())
with (GOLDEN / "efficientsed_rows.csv").open(encoding="utf-8") as file:
    EFFICIENTSED = list(csv.DictReader(file))

NAMES = {"ATST-F": "atst_frame", "BEATs": "beats", "fPaSST": "fpasst", "M2D": "m2d", "ASiT": "asit"}
RELEASED_KINDS = {"none": None, "tf": "transformer", "attn": "attention", "gru": "bigru"}
RELEASED_KINDS |= {"hybrid": "hybrid", "mamba": "mamba2", "tcn": "tcn"}
SEQUENCES = {"RNN": "bigru", "TF": "transformer", "ATT": "attention", "MAMBA": "mamba"}
MIXING = {"wavmix_p": 0.5, "mixup_p": 0.3, "frame_shift": 0.125}
ALL_ON = {"mixstyle_p": 0.3, "filter_p": 0.8, "warp_p": 0.8, "time_mask": 0.0}
AUGMENT = {
    "student": MIXING | dict.fromkeys(ALL_ON, 0.0),
    "teacher": MIXING | {"wavmix_p": 1.0} | ALL_ON,
}


def row_of(row: dict) -> tuple[str, str, str]:
    return row["table"], row["model"], row["setting"]


COMMANDS = {row_of(row): row["command"] for row in PUBLISHED}


def recipe_of(command: str) -> Recipe:
    """What a command of published.csv would train."""
    words = shlex.split(command)
    assert words[:4] == ["python", "-m", "training", "fit"]
    args = build_parser().parse_args(words[3:])
    return load(args.recipe, list_given(args))


def sequence_of(row: dict) -> tuple[str | None, int, int]:
    """Kind, units and layers; the last two count only with the first."""
    teacher = row["table"] == "teachers" and row["setting"] != "no_rnn"
    if teacher:
        return "bigru", 2048, 2
    if row["table"] != "sequence_models" or row["setting"] == "none":
        return None, 2048, 2
    kind, layers, dim = row["setting"].replace(" dim=", ":").split(":")
    return SEQUENCES[kind], int(dim), int(layers)


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: "-".join(row_of(row)))
def test_a_published_command_is_a_recipe_of_a_model_and_a_start_that_exist(row):
    recipe = recipe_of(row["command"])
    assert recipe.data.root == "DIR" and row["source"]
    assert recipe.model.name in MODELS
    if recipe.model.start in ("ssl", "weak", "strong"):
        assert recipe.model.start in MODELS[recipe.model.name].checkpoints


def test_the_published_rows_are_those_of_the_three_tables_and_step_two():
    tables = [row["table"] for row in ROWS]
    counts = {table: tables.count(table) for table in set(tables)}
    expected = {"students": 20, "teachers": 15, "sequence_models": 41, "low_complexity": 2}
    assert counts == expected
    assert len(COMMANDS) == len(PUBLISHED) == 78 + 5 + 42
    others = ("step_2", "efficientsed")
    assert {row_of(row) for row in ROWS} == {k for k in COMMANDS if k[0] not in others}
    # three tables share the row without sequence model
    assert len({COMMANDS[row_of(row)] for row in ROWS}) == 20 + 10 + 40 + 2


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: "-".join(str(row[key]) for key in ("table", "model", "setting"))
)
def test_a_published_row_has_its_command(row):
    (published,) = (one for one in PUBLISHED if row_of(one) == row_of(row))
    assert float(published["psds1_percent"]) == row["value"]
    recipe = recipe_of(published["command"])
    distilled = row["table"] in ("students", "low_complexity") and row["setting"] != "no_kd"
    kind, dim, layers = sequence_of(row)
    model = recipe.model
    assert model.name == NAMES.get(row["model"], row["model"])
    assert (model.sequence_model, model.dim, model.layers) == (kind, dim, layers)
    if row["table"] == "low_complexity":
        assert model.start.endswith("_weak.pt")
    else:
        assert model.start == ("ssl" if row["setting"] == "no_step2" else "weak")
    assert recipe.distill.weight == (0.9 if distilled else 0.0)
    assert len(recipe.distill.pseudo_labels) == distilled
    assert recipe.sampling.balanced != distilled
    assert recipe.sampling.replacement
    assert (recipe.sampling.epoch_clips, recipe.sampling.offset) == (100_000, 30)
    assert (recipe.optim.epochs, recipe.optim.batch) == (120 if distilled else 30, 256)
    for key, value in AUGMENT["student" if distilled else "teacher"].items():
        assert getattr(recipe.augment, key) == value, key
    rates = {"frame_mn10": (3e-3, 0.9, 4), "frame_mn06": (6e-3, 0.9, 4)}
    expected = rates.get(model.name, (1e-4 if distilled else 7e-5, 1.0, 1))
    assert (recipe.optim.lr, recipe.optim.layer_decay, recipe.optim.accumulate) == expected
    assert (recipe.data.labels, recipe.data.classes) == ("strong", "audioset_strong")
    assert [len(recipe.data.train), len(recipe.data.eval)] == [2, 1]
    assert recipe.evaluation.median == 9


@pytest.mark.parametrize("i", range(42))
def test_a_row_of_efficientsed_has_its_command_and_its_learning_rates(i):
    row, published = EFFICIENTSED[i], [p for p in PUBLISHED if p["table"] == "efficientsed"][i]
    online = "extended distillation" in row["notes"]
    assert (published["model"], published["psds1_percent"]) == (row["model"], row["psds1"])
    assert published["setting"].startswith("alone" if row["head"] == "none" else row["head"])
    recipe = recipe_of(published["command"])
    model, optim = recipe.model, recipe.optim
    assert (model.name, model.start) == (row["model"], "weak")
    assert model.sequence_model == RELEASED_KINDS[row["head"]]
    if row["head"] != "none":
        assert (model.dim, model.layers) == (int(row["dim"]), int(row["layers"]))
    rates = dict(re.findall(r"(seq lr|lr) (\d+e-\d)", row["notes"]))
    assert bool(rates) != ("learning rates not published" in published["source"])
    assert optim.lr == float(rates.get("lr", 3e-3))
    assert (optim.lr_above or optim.lr) == float(rates.get("seq lr", optim.lr))
    assert (optim.layer_decay, optim.accumulate, optim.batch) == (0.9, 4, 256)
    assert (optim.name, optim.weight_decay) == ("adam", 0)
    assert optim.epochs == (240 if online else 120)
    assert recipe.distill.weight == 0.9
    assert recipe.distill.pseudo_labels == (() if online else ("ensemble.h5",))
    assert recipe.distill.teachers == (("beats",) if online else ())
    for key, value in AUGMENT["student"].items():
        assert getattr(recipe.augment, key) == value, key


def test_extended_distillation_is_the_published_one():
    (row,) = (row for row in EFFICIENTSED if "extended" in row["notes"])
    recipe = load(["student_online", "as_published_small"])
    extra = recipe.extra
    assert len(EFFICIENTSED) == 42 and row["psds1"] == "45.25"
    assert recipe.distill.teachers_hear == "augmented"
    assert [source.audio for source in extra.clips] == [s.audio for s in recipe.data.train]
    assert {source.classes for source in extra.clips} == {"class_labels_indices.csv"}
    assert (extra.weight, extra.balanced, extra.offset) == (0.5, True, 100)
    assert (extra.mixup_p, extra.mixup_alpha) == (1.0, 0.3)
    assert (recipe.augment.mixup_alpha, recipe.augment.mixup_share) == (0.3, "whole")
    assert (recipe.optim.schedule, recipe.optim.layer_decay_from) == ("published", 0)


def test_a_recipe_takes_every_kind_of_sequence_model():
    for kind in DEFAULTS:
        assert load(["teacher"], [f"model.sequence_model={kind}"]).model.sequence_model == kind


def test_students_learn_from_the_ensemble_of_their_row():
    for model in NAMES:
        files = [
            recipe_of(COMMANDS["students", model, setting]).distill.pseudo_labels
            for setting in ("full", "no_rnn_in_teachers", "no_step2")
        ]
        expected = ["ensemble.h5", "ensemble_without_rnn.h5", "ensemble_without_step2.h5"]
        assert [file for (file,) in files] == expected


@pytest.mark.parametrize("model", NAMES)
def test_step_two_learns_clip_labels_from_self_supervised_weights(model):
    recipe = recipe_of(COMMANDS["step_2", model, "AudioSet Weak"])
    assert (recipe.model.name, recipe.model.start) == (NAMES[model], "ssl")
    assert (recipe.data.labels, recipe.data.classes) == ("weak", "class_labels_indices.csv")
    assert recipe.model.sequence_model is None
    assert recipe.distill.weight == 0


def test_the_old_behaviour_comes_with_one_more_recipe_and_not_without():
    new, old = load(["teacher"]), load(["teacher", "as_published"])
    assert (new.sampling.replacement, old.sampling.replacement) == (True, False)
    assert (new.optim.schedule, old.optim.schedule) == ("cosine", "published")
    assert (new.augment.filter_mode, old.augment.filter_mode) == ("log", "reference")
    assert (new.augment.wavmix_mean, old.augment.wavmix_mean) == ("all", "mixed")
    assert (new.augment.time_mask_pseudo, old.augment.time_mask_pseudo) == (True, False)
    assert old.augment.wavmix_p == new.augment.wavmix_p == 1.0
