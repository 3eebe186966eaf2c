"""The DCASE 2023 Task 4 baseline: a CRNN beside the embeddings of a frozen module, mean teacher.

A batch holds strongly labelled, weakly labelled and unlabelled clips, in this order. The networks
work on 156 frames of 64 ms, and so does the set-up's own median filter; the task's median follows.
A score is brought to 40 ms by taking that of the 64 ms frame in which the centre of the 40 ms frame
lies, so that a border moves by 20 ms at most.
"""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from eval_tasks import score
from eval_tasks.fit.crnn import CRNN, FRAME_MS, FRAMES, Mel, scaled
from eval_tasks.fit.features import Features, features
from eval_tasks.fit.loop import autocast, fit
from eval_tasks.fit.recipe import OFF, Recipe
from eval_tasks.plugin import Module
from eval_tasks.tasks.base import MORE_PARTS, Outcome, Part, Split, Task, TaskData
from hear_ptsed.events import median_filter
from hear_ptsed.grid import SAMPLE_RATE, WINDOW_FRAMES
from training import optim
from training.augment import mixup
from training.data.sampling import AUGMENT, MODEL, ORDER, Plan, TrainPicks, steps_in, torch_seed
from training.targets import Targets

CONSISTENCY = 2.0  # weight of the mean teacher's loss behind the ramp
WEAK_SHARE, WEAK_SEED = 0.9, 42  # of the weak clips to train on; the others validate
MEDIAN = 7  # frames of 64 ms
CHUNK = 32  # clips at once without gradients
# What optim must stay at: this training has no use for it.
IDLE = {"accumulate": 1, "weight_decay": 0.0, "vector_decay": 0.0, "layer_decay": 1.0}
IDLE |= {"part_batches": False, "precision": "auto"}


class Clip(NamedTuple):
    """A clip of a part, and its embeddings."""

    features: Features
    file: str

    @property
    def part(self) -> Part:
        return self.features.part


def objective(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    strong: Tensor,
    weak: Tensor,
    consistency: float,
) -> Tensor:
    """Cross-entropy of the labelled clips, and distance of student and teacher on all.

    Args:
        student, teacher: logits (B, C, 156) and (B, C).
        strong: (S, C, 156), of the first clips.
        weak: (W, C), of those that follow.
        consistency: weight of the distance.
    """
    frames, clips = student
    s, w = len(strong), len(weak)
    known = F.binary_cross_entropy_with_logits(frames[:s].float(), strong)
    known = known + F.binary_cross_entropy_with_logits(clips[s : s + w].float(), weak)
    distance = sum(
        F.mse_loss(ours.float().sigmoid(), theirs.float().sigmoid())
        for ours, theirs in zip(student, teacher, strict=True)
    )
    return known + consistency * distance


def targets(part: Part, file: str) -> np.ndarray:
    """(C, 156) float32: 1 in every frame of 64 ms that an event touches."""
    found = np.zeros((len(part.classes), FRAMES), np.float32)
    for event in part.events[file]:
        first, end = int(event["start"] // FRAME_MS), int(-(-event["end"] // FRAME_MS))
        found[part.classes.index(str(event["label"])), first:end] = 1
    return found


def at_40_ms(scores: np.ndarray, frames: int) -> np.ndarray:
    """(156, C) -> (frames, C), see the head of this file."""
    return scores[np.minimum((20 + 40 * np.arange(frames)) // FRAME_MS, FRAMES - 1)]


def weak_split(clips: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The weak clips to train on and to validate on: pandas' `sample` of 90 %, seed 42."""
    drawn = np.random.RandomState(WEAK_SEED).choice(
        len(clips), round(WEAK_SHARE * len(clips)), replace=False
    )
    rest = sorted(set(range(len(clips))) - set(drawn.tolist()))
    return [clips[i] for i in drawn], [clips[i] for i in rest]


def macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean F1 of the classes that occur in either; both (N, C), 0 or 1."""
    hits = (predicted * labels).sum(0)
    total = predicted.sum(0) + labels.sum(0)
    return float(np.mean(2 * hits[total > 0] / total[total > 0])) if total.any() else 0.0


class Batch(NamedTuple):
    """One step's clips; see `objective` for the targets."""

    audio: Tensor  # (B, 160000)
    embeddings: Tensor  # (B, 250, D)
    strong: Tensor
    weak: Tensor


class Batches(Dataset):
    """The batch of every step."""

    def __init__(self, sets: Sequence[Sequence[Clip]], sizes: Sequence[int], seed: int):
        self.sets = sets
        self.picks = [
            TrainPicks(Plan(len(s), len(s), 1.0, n, 1), None, False, torch_seed(seed, ORDER, i))
            for i, (s, n) in enumerate(zip(sets, sizes, strict=True))
        ]

    def __getitem__(self, step: int) -> Batch:
        strong, weak, unlabelled = (
            [clips[i] for i in picks.at(step).clips]
            for clips, picks in zip(self.sets, self.picks, strict=True)
        )
        return Batch(
            *read([*strong, *weak, *unlabelled]),
            torch.from_numpy(np.stack([targets(clip.part, clip.file) for clip in strong])),
            torch.from_numpy(tags(weak)).float(),
        )


def read(clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
    """Audio (B, 160000) and embeddings (B, 250, D), zero-padded to 10 s."""
    audio = np.stack([clip.part.read(clip.file, 0, WINDOW_FRAMES) for clip in clips])
    found = pad_sequence([clip.features.get(clip.file) for clip in clips], batch_first=True)
    found = F.pad(found, (0, 0, 0, WINDOW_FRAMES - found.shape[1]))
    return torch.from_numpy(audio), found.float()


def tags(clips: Sequence[Clip]) -> np.ndarray:
    """(N, C) uint8 of weakly labelled clips."""
    return np.stack([clip.part.clip_targets(clip.file) for clip in clips])


class MeanTeacher:
    """Student and teacher on the three kinds of clips, as eval_tasks.fit.loop trains them.

    The teacher is the student's moving average. Its batch-norm statistics are its own: like the
    student it is in training mode, with dropout, whenever it hears a batch.
    """

    def __init__(
        self,
        student: CRNN,
        task: Task,
        clips: dict[str, list[Clip]],
        split: Split,
        recipe: Recipe,
        *,
        seed: int,
        device: str,
        workers: int = 0,
    ):
        self.task, self.valid, self.recipe = task, clips[split.valid], recipe
        self.seed, self.device, self.workers = seed, torch.device(device), workers
        weak, self.weak_valid = weak_split(clips["weak"])
        strong = [clip for name in split.train for clip in clips[name]]
        sets = (strong, weak, clips["unlabelled"])
        sizes = (recipe.optim.batch, recipe.fit.weak_batch, recipe.fit.unlabelled_batch)
        self.picked = Batches(sets, sizes, seed)
        self.epoch_steps = max(1, min(len(s) // n for s, n in zip(sets, sizes, strict=True)))
        self.steps = steps_in(recipe.optim.epochs, self.epoch_steps)
        # The teacher's weight follows the published ramp whatever the learning rate does.
        self.ramp = replace(recipe.optim, schedule="ramp")
        teacher = copy.deepcopy(student).requires_grad_(False)
        self.model = nn.ModuleDict({"student": student, "teacher": teacher}).to(self.device)
        self.mel = Mel().to(self.device)

    def groups(self) -> list[dict[str, Any]]:
        parameters = list(self.model["student"].parameters())
        return [{"params": parameters, "lr": self.recipe.optim.lr, "weight_decay": 0.0}]

    def batches(self, first: int) -> Iterator[Batch]:
        return iter(
            DataLoader(
                self.picked,
                batch_size=None,
                sampler=range(first, self.steps),
                num_workers=self.workers,
                pin_memory=self.device.type == "cuda",
            )
        )

    def loss(self, batch: Batch, step: int) -> Tensor:
        audio, embeddings, strong, weak = (t.to(self.device, non_blocking=True) for t in batch)
        draw = torch.Generator().manual_seed(torch_seed(self.seed, AUGMENT, step))
        mel, strong, weak = self.mixed(self.mel(audio), strong, weak, draw)
        spec = scaled(mel)
        student = self.model["student"](spec, embeddings)
        with torch.no_grad():
            teacher = self.model["teacher"](spec, embeddings)
        consistency = CONSISTENCY * optim.schedule(step, self.steps, self.ramp)
        return objective(student, teacher, strong, weak, consistency)

    def mixed(
        self, mel: Tensor, strong: Tensor, weak: Tensor, draw: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Magnitudes and labels mixed inside the strong and inside the weak part."""
        s, w, o = len(strong), len(weak), self.recipe.augment
        how = draw, o.mixup_p, o.mixup_alpha, o.mixup_share
        first, labels = mixup(mel[:s], Targets(strong), *how)
        second, whole = mixup(mel[s : s + w], Targets(None, weak), *how)
        return torch.cat([first, second, mel[s + w :]]), labels.strong, whole.weak

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        decay = min(1 - 1 / (step + 1), self.recipe.optim.ema)
        student, teacher = self.model["student"], self.model["teacher"]
        for average, new in zip(teacher.parameters(), student.parameters(), strict=True):
            average.lerp_(new, 1 - decay)

    def validate(self) -> dict[str, float]:
        """The student's score on the validation part plus macro F1 of the weak clips kept back."""
        student = self.model["student"]
        strong, _ = self.detect(student, self.valid)
        _, weak = self.detect(student, self.weak_valid)
        scores = score.validation(self.task, self.valid[0].part, strong)
        f1 = macro_f1(weak > 0.5, tags(self.weak_valid))
        return {"score": next(iter(scores.values())) + f1, "weak_f1": f1} | scores

    @torch.no_grad()
    def detect(
        self, network: CRNN, clips: Sequence[Clip]
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Probabilities file -> (T, C) per frame of 40 ms, and of the clips (N, C)."""
        strong, weak = {}, []
        for first in range(0, len(clips), CHUNK):
            chunk = clips[first : first + CHUNK]
            audio, embeddings = (t.to(self.device) for t in read(chunk))
            answer = network(scaled(self.mel(audio)), embeddings)
            frames, whole = (t.float().sigmoid().cpu().numpy() for t in answer)
            weak.append(whole)
            for clip, scores in zip(chunk, frames, strict=True):
                strong[clip.file] = at_40_ms(
                    median_filter(scores.T, MEDIAN), clip.part.frames(clip.file)
                )
        return strong, np.concatenate(weak)


def run(
    data: TaskData,
    split: Split,
    module: Module,
    recipe: Recipe,
    folder: Path,
    cache: Path,
    *,
    seed: int,
    device: str,
    workers: int = 0,
    progress: bool = True,
    save_every_s: float = 60.0,
) -> Outcome:
    """Train beside the frozen module, and let the best step's teacher hear the test part.

    A run that was killed goes on from the state in `folder`. `Outcome.training` has the student's
    scores, too.

    Args:
        cache: folder of embeddings.
        workers: loader processes.
    """
    check(data, split, recipe)
    heard = {
        name: features(data, name, module, cache, device=device, progress=progress)
        for name in parts_of(split)
    }
    clips = {
        name: [Clip(found, file) for file in found.part.files] for name, found in heard.items()
    }
    test = heard[split.test]
    student = network(len(data.classes), test.rows.shape[1], recipe, seed)
    problem = MeanTeacher(
        student, data.task, clips, split, recipe, seed=seed, device=device, workers=workers
    )
    fitted = fit(problem, recipe, folder, seed=seed, progress=progress, save_every_s=save_every_s)
    problem.model.eval()
    with autocast(recipe.fit.precision, problem.device):
        of_student, _ = problem.detect(problem.model["student"], clips[split.test])
        started = time.perf_counter()
        found, _ = problem.detect(problem.model["teacher"], clips[split.test])
        seconds = time.perf_counter() - started
    minutes = sum(test.part.samples.values()) / SAMPLE_RATE / 60
    scores = score.rate(data.task, test.part, of_student).scores
    return Outcome(
        split.test,
        found,
        test.parameters + sum(p.numel() for p in student.parameters()),
        test.seconds_per_minute + seconds / minutes,
        {key: value for key, value in fitted.items() if key != "history"} | {"student": scores},
    )


def parts_of(split: Split) -> tuple[str, ...]:
    """Parts whose embeddings are needed."""
    return (*split.train, split.valid, split.test, *MORE_PARTS)


def network(n_classes: int, embed_dim: int, recipe: Recipe, seed: int) -> CRNN:
    """The student, which the seed draws."""
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(seed, MODEL))
        student = CRNN(n_classes, embed_dim)
    if (prior := recipe.fit.head_prior) is not None:
        nn.init.constant_(student.head.strong_head.bias, math.log(prior / (1 - prior)))
    if recipe.fit.batch_norm_momentum is not None:
        for block in student.cnn:
            block.norm.momentum = recipe.fit.batch_norm_momentum
    return student


def check(data: TaskData, split: Split, recipe: Recipe) -> None:
    """Refuse what this training would silently leave undone."""
    for name in MORE_PARTS:
        if name not in data.parts:
            raise ValueError(
                f"{data.folder} has no {name}.json, which --setup baseline learns from; prepare "
                "the task again, or use --setup simple"
            )
        if getattr(recipe.fit, f"{name}_batch") < 1:
            raise ValueError(f"fit.{name}_batch is 0; --setup baseline needs at least 1")
    if not weak_split(data.parts["weak"].files)[1]:
        raise ValueError(
            f"{data.folder / 'weak.json'} has {len(data.parts['weak'])} clips, too few to keep "
            "a tenth for validation; at least 5 are needed"
        )
    without = dict.fromkeys(OFF, 0.0) | {"time_mask": 0.0, "mixup_p": recipe.augment.mixup_p}
    for section, allowed in (("augment", without), ("optim", IDLE)):
        for name, idle in allowed.items():
            if (value := getattr(getattr(recipe, section), name)) != idle:
                raise ValueError(
                    f"{section}.{name} is {value}; with --setup baseline it must stay {idle}"
                )
    for part in map(data.parts.get, parts_of(split)):
        if long := [file for file in part.files if part.frames(file) > WINDOW_FRAMES]:
            raise ValueError(
                f"{part.audio / long[0]} is longer than 10 s, as are {len(long) - 1} others; "
                "--setup baseline hears clips of up to 10 s"
            )
