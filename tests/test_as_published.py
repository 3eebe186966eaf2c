"""The recipes of published behaviours: every field that they set changes what a run does."""

import logging
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from conftest import SMALL
from training_parts import random_batch, seeded

import training
from hear_ptsed.registry import MODELS
from training.augment import augment
from training.callbacks import Keep
from training.data.sampling import Picks, TrainPicks
from training.fit import make_module, make_trainer, open_data, start_model
from training.module import Training
from training.recipe import Recipe, load

RECIPES = Path(training.__file__).parent / "recipes"
ALL, SMALL_STUDENTS = RECIPES / "as_published.yaml", RECIPES / "as_published_small.yaml"
RATE, SAMPLES = 32000, 320_001  # 10.00003 s: the shortest excess in the published table
EVENTS = """filename\tonset\toffset\tevent_label
0.wav\t1.4\t9.8\tdog
1.wav\t0.0\t0.28\tcat
1.wav\t0.5\t3.21\tdog
1.wav\t5.01\t5.01\tcat
2.wav\t1.0\t9.8\tcat
2.wav\t0.0\t9.9\tbird
"""
BASE = ("data.classes=events", "data.workers=0", "model.start=none", "model.head_prior=0.02")
BASE += ("optim.batch=2", "optim.warmup_steps=0", "optim.layer_decay=0.9", "optim.epochs=2")
BASE += ("evaluation.batch=2", "run.loggers=[]", "run.progress=false", "run.accelerator=cpu")
BASE += ("augment.wavmix_p=1", "augment.time_mask=0.5", "augment.mixup_p=1", "augment.filter_p=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three clips of two channels, and their events."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "audio").mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        loud = 0.2 * 10.0 ** (-2 * i)  # far apart, so that a floor over the batch shows
        audio = loud * (0.3 + rng.standard_normal((SAMPLES, 2)))
        soundfile.write(folder / "audio" / f"{i}.wav", audio.clip(-1, 1), RATE, subtype="PCM_16")
    (folder / "events.tsv").write_text(EVENTS)
    return folder


@pytest.fixture(autouse=True)
def small_model(monkeypatch, one_thread):
    monkeypatch.setitem(
        MODELS, "atst_frame", replace(MODELS["atst_frame"], backbone=SMALL["atst_frame"])
    )


def recipe_of(folder: Path, *settings: str) -> Recipe:
    source = f"[{{audio: {folder / 'audio'}, events: {folder / 'events.tsv'}}}]"
    data = f"data.train={source}", f"data.eval={source}", f"run.out={folder / 'run'}"
    return load([], [*data, *BASE, *settings])


def module_of(recipe: Recipe) -> Training:
    train, scores = open_data(recipe)
    return make_module(recipe, start_model(recipe, train.classes), train, scores)


def batch_of(recipe: Recipe) -> dict:
    """All clips, each mixed with the next."""
    train = open_data(recipe)[0]
    return train[Picks(0, np.arange(3), np.zeros(3), np.array([1, 2, 0]))]


def spectrogram(recipe: Recipe) -> list[torch.Tensor]:
    """What the network hears of these clips, unmixed and not augmented."""
    module = module_of(recipe).eval()
    audio = torch.stack([torch.full((160000,), 0.0), torch.randn(160000, generator=seeded())])
    return [module.model.frontend(audio)]


def inputs(recipe: Recipe) -> list[torch.Tensor]:
    """Of a step of training, without the augmentations of spectrograms."""
    off = dict.fromkeys(("mixup_p", "mixstyle_p", "filter_p", "warp_p", "frame_shift"), 0.0)
    recipe = replace(recipe, augment=replace(recipe.augment, **off, time_mask=0.0))
    batch = batch_of(recipe) | {"partner": torch.tensor([0, 2, 1])}
    spec, targets = module_of(recipe).inputs(batch, seeded())
    return [spec, targets.strong]


def augmented(recipe: Recipe) -> list[torch.Tensor]:
    spec, targets = augment(*random_batch(), recipe.augment, seeded(), per_db=0.05)
    return [spec, *targets]


def order(recipe: Recipe) -> list[torch.Tensor]:
    """Of the clips of three epochs."""
    plan = replace(module_of(recipe).plan, clips=40, epoch_clips=40, epochs=3.0)
    weights = 1.0 + np.arange(40) % 7
    picks = TrainPicks(plan, weights, recipe.sampling.replacement, seed=0)
    return [torch.from_numpy(np.concatenate([pick.clips for pick in picks]))]


def optimiser(recipe: Recipe) -> list[torch.Tensor]:
    """Rate and weight decay of every parameter at the first ten steps."""
    made = module_of(recipe).configure_optimizers()
    schedule, rows = made["lr_scheduler"]["scheduler"], []
    for group in made["optimizer"].param_groups:
        rates = [group["initial_lr"] * schedule.lr_lambdas[0](step) for step in range(10)]
        rows += [[*rates, group["weight_decay"]]] * len(group["params"])
    return [torch.tensor(sorted(rows), dtype=torch.float64)]


def steps(recipe: Recipe) -> list[torch.Tensor]:
    return [torch.tensor(module_of(recipe).plan.steps)]


def precision(recipe: Recipe) -> str:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return make_trainer(recipe, module_of(recipe), Keep(Path(recipe.run.out), 1, {}, [])).precision


def scores(recipe: Recipe) -> list[torch.Tensor]:
    """Of the untrained network."""
    module = module_of(recipe)
    trainer = make_trainer(recipe, module, Keep(Path(recipe.run.out), 1, {}, []))
    trainer.validate(module, verbose=False)
    return [torch.tensor([module.result["pauroc"], module.result["loss"]])]


def same(a: list[torch.Tensor] | str, b: list[torch.Tensor] | str) -> bool:
    if isinstance(a, str):
        return a == b
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


EFFECTS = {
    "model.decibel_floor": spectrogram,
    "data.label_times": inputs,
    "data.zero_length": inputs,
    "data.channels": inputs,
    "sampling.replacement": order,
    "augment.wavmix_mean": inputs,
    "augment.mixup_share": augmented,
    "augment.filter_mode": augmented,
    "augment.time_mask_pseudo": augmented,
    "augment.time_mask_end": augmented,
    "optim.schedule": optimiser,
    "optim.part_batches": steps,
    "optim.vector_decay": optimiser,
    "optim.layer_decay_from": optimiser,
    "optim.precision": precision,
    "evaluation.durations": scores,
    "evaluation.loss_mean": scores,
}


def told(path: Path) -> dict[str, object]:
    """section.key -> value of all that a recipe and those below it set."""
    values = yaml.safe_load(path.read_text())
    below = values.pop("extends", None)
    own = {f"{s}.{key}": value for s, keys in values.items() for key, value in keys.items()}
    return (told(path.parent / below) if below else {}) | own


def test_the_published_recipes_set_what_has_an_effect_and_nothing_else():
    assert told(SMALL_STUDENTS).keys() == EFFECTS.keys()
    only = told(SMALL_STUDENTS).keys() - told(ALL).keys()
    assert only == {"augment.mixup_share", "optim.layer_decay_from"}


@pytest.mark.parametrize("name", EFFECTS)
def test_every_field_of_a_published_recipe_changes_what_a_run_does(folder, name):
    value = told(SMALL_STUDENTS)[name]
    section, key = name.split(".")
    before, after = recipe_of(folder), recipe_of(folder, f"{name}={value}")
    default = {one.name: one.default for one in fields(getattr(before, section))}[key]
    assert getattr(getattr(before, section), key) == default != value
    first, again, second = map(EFFECTS[name], (before, before, after))
    assert same(first, again)
    assert not same(first, second)


def test_a_published_row_has_the_published_optimiser_and_its_recipe_behind_it_the_old_behaviour():
    for name in ("teacher", "student"):
        new, old = load([name]), load([name, "as_published"])
        assert new.optim.name == old.optim.name == "adam"  # which decays nothing
        assert old.optim.weight_decay == 0
        for path, value in told(ALL).items():
            section, key = path.split(".")
            assert getattr(getattr(old, section), key) == value != getattr(new, section)
    small = load(["student_small", "as_published_small"])
    assert (small.augment.mixup_share, small.optim.layer_decay_from) == ("whole", 0)
    assert (small.optim.layer_decay, small.optim.schedule) == (0.9, "published")
