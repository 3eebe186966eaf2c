"""Heads on frozen features: crops, losses, resuming."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from frozen_parts import PITCHES_HZ, TASK, tones
from torch.nn import functional as F

from eval_tasks.fit import frozen
from eval_tasks.fit.features import features
from eval_tasks.fit.recipe import Recipe, recipe
from eval_tasks.fit.trainer import Context, Predictions
from eval_tasks.plugin import Plugin
from eval_tasks.score import rate
from eval_tasks.tasks.base import TaskData, open_task
from hear_ptsed.heads import AttentionHead

LOGMEL = Plugin("eval_tasks.logmel")
QUICK = ("optim.batch=8", "optim.lr=0.02", "optim.warmup_steps=5")
WEAK = ("optim.batch=8", "fit.weak_batch=4", "optim.warmup_steps=5", "optim.epochs=20")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TaskData:
    return tones(tmp_path_factory.mktemp("tasks"), weak=6)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def numbers(epochs: float, *settings: str) -> Recipe:
    return recipe(TASK, "linear", (*QUICK, f"optim.epochs={epochs}", *settings))


def problem(data, cache, chosen, weak=False, seed=0) -> frozen.Frozen:
    names = ("train", "valid", *(["weak"] if weak else []))
    embedded = {n: features(data, n, LOGMEL, cache, shifts=2, progress=False) for n in names}
    return frozen.Frozen(data, data.splits[0], embedded, chosen, seed=seed, device="cpu", weak=weak)


def trained(data, cache, folder, chosen, protocol="linear", **changes) -> Predictions:
    context = Context(
        data=data,
        split=data.splits[0],
        plugin=LOGMEL,
        protocol=protocol,
        recipe=chosen,
        folder=folder,
        cache=cache,
        seed=0,
        device="cpu",
        progress=False,
    )
    return frozen.train_head(replace(context, **changes))


def test_a_linear_head_learns_and_beats_one_that_did_not(data, cache, tmp_path):
    scores = {}
    for epochs in (6, 60):
        outcome = trained(data, cache, tmp_path / str(epochs), numbers(epochs))
        scores[epochs] = rate(TASK, data.parts["test"], outcome.probabilities).scores
    assert outcome.part == "test" and outcome.parameters == 2 * (128 + 1)
    assert outcome.seconds_per_minute > 0 and outcome.training["step"] == 60
    assert all(p.shape == (600, 2) for p in outcome.probabilities.values())
    assert scores[60]["event_onset_200ms_fms"] > 0.9
    assert not scores[6]["event_onset_200ms_fms"] > 0.8


def test_an_attention_head_learns_from_strong_and_weak_clips(data, cache, tmp_path):
    chosen = recipe(TASK, "weak-linear", (*WEAK, "optim.lr=0.5", "optim.epochs=40"))
    outcome = trained(data, cache, tmp_path, chosen, "weak-linear")
    assert outcome.parameters == 2 * 2 * (128 + 1)
    assert outcome.training["step"] == 40 * 12 / 4  # an epoch is a pass over the weak clips
    scores = rate(TASK, data.parts["test"], outcome.probabilities).scores
    assert scores["event_onset_200ms_fms"] > 0.8


@pytest.mark.parametrize("attention", [False, True])
def test_the_seed_alone_draws_a_new_head(attention):
    first, again, other = (
        frozen.new_head(8, 2, 0.1, seed, attention=attention).state_dict() for seed in (0, 0, 1)
    )
    for name, weights in first.items():
        assert torch.equal(weights, again[name])
        assert name.endswith("bias") or not torch.equal(weights, other[name])


def test_crops_lie_anywhere_on_the_grid_and_in_all_grids_of_windows(data, cache):
    made = problem(data, cache, numbers(100))
    assert (made.steps, made.epoch_steps) == (100, 1.0)  # 4 clips of 24 s hold 8 full windows
    batches = list(made.batches(0))
    crops = [crop for batch in batches for crop in batch["strong"]]
    assert {crop.part.name for crop in crops} == {"train"} and len(crops) == 800
    assert set(Counter(crop.file for crop in crops).values()) == {200}
    first = np.array([crop.first for crop in crops])
    assert (first.min(), first.max()) == (0, 350) and {crop.frames for crop in crops} == {250}
    assert abs(first.mean() - 175) < 4 * 101 / math.sqrt(800)
    grids = Counter(crop.grid for crop in crops)
    assert set(grids) == {0, 1} and abs(grids[0] - 400) < 4 * math.sqrt(200)
    assert list(made.batches(40)) == batches[40:]
    assert list(problem(data, cache, numbers(100), seed=1).batches(0)) != batches


def test_padding_is_never_learned_from(tmp_path):
    short = tones(tmp_path / "tasks", seconds=12.0)
    durations = {"train_0.wav": 12.0, "train_1.wav": 6.02, "train_2.wav": 12.0, "train_3.wav": 9.9}
    (short.folder / "durations.json").write_text(json.dumps({"train": durations}))
    short = open_task(TASK, short.folder)
    made = problem(short, tmp_path / "cache", numbers(50))
    crops = [crop for batch in made.batches(0) for crop in batch["strong"]]
    for file, real in {"train_0.wav": 300, "train_1.wav": 151, "train_3.wav": 248}.items():
        assert real - 10 < max(c.first + c.frames for c in crops if c.file == file) <= real


def cross_entropy(logits: np.ndarray, wanted: np.ndarray) -> float:
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return float(-np.where(wanted > 0, np.log(p), np.log(1 - p)).mean())


def test_the_loss_is_that_of_the_crops_in_the_audio(data, cache):
    """From the definition: embeddings of each grid, targets by HEAR's rule at the centres."""
    made = problem(data, cache, numbers(10))
    batch = next(made.batches(3))
    model, train = LOGMEL.load(), data.parts["train"]
    torch.nn.init.normal_(made.model.weight, std=0.1)
    logits, wanted = [], []
    for crop in batch["strong"]:
        audio = torch.from_numpy(train.read(crop.file))[None]
        frames = LOGMEL.embed(model, audio)[0]
        if crop.grid:
            later = LOGMEL.embed(model, audio[:, 125 * 640 :])[0]
            frames = torch.cat([frames[:125], later])
        frames = frames[crop.first : crop.first + 250]
        logits.append((frames @ made.model.weight.T + made.model.bias).detach().numpy())
        for i in range(250):
            centre = 20 + 40 * (crop.first + i)
            sounding = [
                e["label"]
                for e in train.events[crop.file]
                if e["start"] <= centre < e["end"] + 1e-4
            ]
            wanted.append([name in sounding for name in PITCHES_HZ])
    want = cross_entropy(np.concatenate(logits), np.array(wanted))
    assert made.loss(batch, 3).item() == pytest.approx(want, rel=2e-3)


def test_the_loss_of_weak_linear_adds_that_of_weak_clips(data, cache):
    made = problem(data, cache, recipe(TASK, "weak-linear", WEAK), weak=True)
    batch = next(made.batches(0))
    head, weak = made.model, data.parts["weak"]
    assert isinstance(head, AttentionHead) and len(batch["weak"]) == 4
    alone = made.loss({"strong": batch["strong"]}, 0)
    frames = [
        made.embedded["weak"].get(c.file, c.first, c.frames, c.grid).float() for c in batch["weak"]
    ]
    logits = torch.cat([head(one[None])[1] for one in frames])
    wanted = np.stack([[n in weak.tags[c.file] for n in PITCHES_HZ] for c in batch["weak"]])
    want = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(wanted).float())
    torch.testing.assert_close(made.loss(batch, 0), alone + want)
    uneven = [c._replace(frames=c.frames - 50 * i) for i, c in enumerate(batch["weak"])]
    cut = torch.cat([head(one[: c.frames][None])[1] for one, c in zip(frames, uneven, strict=True)])
    torch.testing.assert_close(made.clip_logits(uneven), cut)


def test_a_training_that_was_killed_ends_at_the_same_weights(data, cache, tmp_path, monkeypatch):
    def run(folder):
        place = tmp_path / folder
        outcome = trained(data, cache, place, numbers(40), seed=3, save_every_s=0)
        return outcome, torch.load(place / "state.pt", weights_only=True)

    want, state = run("undisturbed")
    for step in (7, 25):
        with monkeypatch.context() as patch:

            def die(self, now, step=step):
                if now == step:
                    raise KeyboardInterrupt

            patch.setattr(frozen.Frozen, "after_step", die)
            with pytest.raises(KeyboardInterrupt):
                run("killed")
    got, again = run("killed")
    for name in ("model", "best_model"):
        assert all(torch.equal(state[name][key], again[name][key]) for key in again[name])
    assert all(
        np.array_equal(want.probabilities[f], got.probabilities[f]) for f in got.probabilities
    )
    assert {**want.training, "seconds": 0} == {**got.training, "seconds": 0}


WRONG = {
    "no weak part": ("weak-linear", (), "no weak.json, which --protocol weak-linear"),
    "weak batch without weak clips": ("linear", ("fit.weak_batch=4",), "fit.weak_batch is 4"),
    "augmentation": ("linear", ("augment.mixup_p=0.5",), "augment.mixup_p is 0.5"),
    "averaging": ("linear", ("optim.ema=0.9",), "optim.ema is 0.9"),
    "grids": ("linear", ("fit.shifts=0",), "fit.shifts is 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_frozen_head_cannot_do_is_refused(tmp_path, case):
    protocol, settings, message = WRONG[case]
    small = tones(tmp_path, {"train": 1, "valid": 1, "test": 1}, seconds=2.0)
    with pytest.raises(ValueError, match=message):
        trained(small, tmp_path, tmp_path / "run", recipe(TASK, protocol, settings), protocol)
    assert not (tmp_path / "run").exists()
