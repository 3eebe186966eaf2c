"""The DCASE 2023 Task 4 baseline: a CRNN beside the embeddings of a frozen module, mean teacher.

A batch holds strongly labelled, weakly labelled and unlabelled clips, in this order. The networks
work on 156 frames of 64 ms, and so does the set-up's own median filter; the task's median follows.
A frame of the task has the score of the 64 ms frame in which its centre lies, so that a border
moves by 20 ms at most.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from eval_tasks import score
from eval_tasks.fit import loop
from eval_tasks.fit.crnn import CRNN, FRAME_MS, FRAMES, Mel, scaled
from eval_tasks.fit.crops import load_batches
from eval_tasks.fit.features import Features, features
from eval_tasks.fit.heads import begin_at
from eval_tasks.fit.recipe import OFF, Recipe, check_recipe
from eval_tasks.fit.streams import KINDS, augmentation, picks_seed, seeded
from eval_tasks.fit.trainer import Context, Predictions, predict_test_part
from eval_tasks.tasks.base import MORE_PARTS, Part, Split, Task, TaskData
from hear_ptsed.events import median_filter
from training import optim
from training.augment import mixup
from training.data.sampling import MODEL, Plan, TrainPicks, steps_in, torch_seed
from training.targets import Targets

CONSISTENCY = 2.0  # weight of the mean teacher's loss behind the ramp
WEAK_SHARE, WEAK_SEED = 0.9, 42  # of the weak clips to train on; the others validate
MEDIAN = 7  # frames of 64 ms
CHUNK = 32  # clips at once without gradients
# What `optim` must stay at: this training has no use for it.
IDLE = {"accumulate": 1, "weight_decay": 0.0, "vector_decay": 0.0, "layer_decay": 1.0}
IDLE |= {"part_batches": False, "precision": "auto", "lr_above": None}


class EmbeddedClip(NamedTuple):
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
        F.mse_loss(new.float().sigmoid(), average.float().sigmoid())
        for new, average in zip(student, teacher, strict=True)
    )
    return known + consistency * distance


def targets(part: Part, file: str) -> np.ndarray:
    """(C, 156) float32: 1 in every frame of 64 ms that an event touches."""
    active = np.zeros((len(part.classes), FRAMES), np.float32)
    for event in part.events[file]:
        first, end = int(event["start"] // FRAME_MS), int(-(-event["end"] // FRAME_MS))
        active[part.classes.index(str(event["label"])), first:end] = 1
    return active


def at_centres(scores: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(156, C) at centres of frames (T,) in ms -> (T, C), see the head of this file."""
    return scores[np.minimum(centres // FRAME_MS, FRAMES - 1).astype(int)]


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
    embeddings: Tensor  # (B, T, D), T = 250 at 40 ms
    strong: Tensor
    weak: Tensor


class ClipBatches(Dataset):
    """The batch of every step, with clips of each kind.

    Args:
        sets, sizes: kind -> its clips, and how many of them a batch has.
    """

    def __init__(self, sets: dict[str, list[EmbeddedClip]], sizes: dict[str, int], seed: int):
        self.sets = sets
        self.picks = {}
        for kind, clips in sets.items():
            plan = Plan(len(clips), len(clips), 1.0, sizes[kind], 1)
            self.picks[kind] = TrainPicks(plan, None, False, picks_seed(seed, kind))

    def __getitem__(self, step: int) -> Batch:
        strong, weak, unlabelled = (
            [self.sets[kind][row] for row in self.picks[kind].at(step).clips] for kind in KINDS
        )
        return Batch(
            *read_clips([*strong, *weak, *unlabelled]),
            torch.from_numpy(np.stack([targets(clip.part, clip.file) for clip in strong])),
            torch.from_numpy(tags(weak)).float(),
        )


def read_clips(clips: Sequence[EmbeddedClip]) -> tuple[Tensor, Tensor]:
    """Audio (B, 160000) and embeddings (B, T, D) of one hop, zero-padded to 10 s."""
    window = clips[0].part.window_frames
    audio = np.stack([clip.part.read(clip.file, 0, window) for clip in clips])
    frames = pad_sequence([clip.features.get(clip.file) for clip in clips], batch_first=True)
    frames = F.pad(frames, (0, 0, 0, window - frames.shape[1]))
    return torch.from_numpy(audio), frames.float()


def tags(clips: Sequence[EmbeddedClip]) -> np.ndarray:
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
        clips: dict[str, list[EmbeddedClip]],
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
        sets = {"strong": strong, "weak": weak, "unlabelled": clips["unlabelled"]}
        self.picked = ClipBatches(sets, recipe.batch_sizes, seed)
        self.epoch_steps = count_epoch_steps(recipe, {k: len(clips) for k, clips in sets.items()})
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
        return load_batches(self.picked, range(first, self.steps), self.workers, self.device)

    def loss(self, batch: Batch, step: int) -> Tensor:
        """See `objective`; audio (B, S), embeddings (B, T, D), of all three kinds of clips."""
        audio, embeddings, strong, weak = (t.to(self.device, non_blocking=True) for t in batch)
        draw = augmentation(self.seed, step)
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
        """Magnitudes (B, 1, F, T) and labels mixed inside the strong and inside the weak part."""
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
        self, network: CRNN, clips: Sequence[EmbeddedClip], median: int = MEDIAN
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Probabilities file -> (T, C) per frame, and of the clips (N, C).

        Args:
            median: of the frames of 64 ms.
        """
        strong, weak = {}, []
        for first in range(0, len(clips), CHUNK):
            chunk = clips[first : first + CHUNK]
            audio, embeddings = (t.to(self.device) for t in read_clips(chunk))
            answer = network(scaled(self.mel(audio)), embeddings)
            frames, whole = (t.float().sigmoid().cpu().numpy() for t in answer)
            weak.append(whole)
            for clip, scores in zip(chunk, frames, strict=True):
                strong[clip.file] = at_centres(
                    median_filter(scores.T, median), clip.part.centres(clip.file)
                )
        return strong, np.concatenate(weak)


def train_mean_teacher(context: Context) -> Predictions:
    """The trainer of mean-teacher, see eval_tasks.fit.trainer.Trainer.

    The best step's teacher hears the test part; `training` has the student's scores, too.
    """
    data, split, recipe = context.data, context.split, context.recipe
    check_clips(data, split, recipe)
    embedded = {
        name: features(data, name, context.plugin, context.cache, **context.embedding)
        for name in needed_parts(split)
    }
    clips = {
        name: [EmbeddedClip(part, file) for file in part.part.files]
        for name, part in embedded.items()
    }
    test = embedded[split.test]
    student = new_student(len(data.classes), test.rows.shape[1], recipe, context.seed)
    options = {"seed": context.seed, "device": context.device, "workers": context.workers}
    problem = MeanTeacher(student, data.task, clips, split, recipe, **options)
    fitted = loop.train_problem(problem, recipe, context.folder, **context.fitting)
    problem.model.eval()

    median = 1 if context.boxes else MEDIAN  # boxes are made of what is not smoothed

    def predict(network: str, name: str, median: int = MEDIAN) -> dict[str, np.ndarray]:
        with loop.autocast(recipe.fit.precision, problem.device):
            return problem.detect(problem.model[network], clips[name], median)[0]

    scores = score.rate(data.task, test.part, predict("student", split.test)).scores
    return predict_test_part(
        context,
        fitted | {"student": scores},
        lambda name: predict("teacher", name, median),
        test.parameters + sum(p.numel() for p in student.parameters()),
        test.seconds_per_minute,
    )


def needed_parts(split: Split) -> tuple[str, ...]:
    """Parts whose embeddings are needed."""
    return (*split.train, split.valid, split.test, *MORE_PARTS)


def count_epoch_steps(recipe: Recipe, clips: dict[str, int]) -> int:
    """Steps of an epoch, which is a pass over the smallest set.

    Args:
        clips: kind -> how many there are to train on.
    """
    return max(1, min(clips[kind] // recipe.batch_sizes[kind] for kind in KINDS))


def new_student(n_classes: int, embed_dim: int, recipe: Recipe, seed: int) -> CRNN:
    """The student, which the seed draws."""
    with seeded(torch_seed(seed, MODEL)):
        student = CRNN(n_classes, embed_dim)
    begin_at(recipe.fit.head_prior, student.head.strong_head)
    if recipe.fit.batch_norm_momentum is not None:
        for block in student.cnn:
            block.norm.momentum = recipe.fit.batch_norm_momentum
    return student


def check_clips(data: TaskData, split: Split, recipe: Recipe) -> None:
    """Refuse what this training would silently leave undone."""
    unused = OFF | {"time_mask": 0.0, "mixup_p": recipe.augment.mixup_p}
    check_recipe(data, recipe, "mean-teacher", optim=IDLE, augment=unused)
    if not weak_split(data.parts["weak"].files)[1]:
        raise ValueError(
            f"{data.folder / 'weak.json'} has {len(data.parts['weak'])} clips, too few to keep "
            "a tenth for validation; at least 5 are needed"
        )
    for part in map(data.parts.get, needed_parts(split)):
        if long := [file for file in part.files if part.frames(file) > part.window_frames]:
            raise ValueError(
                f"{part.audio / long[0]} is longer than 10 s, as are {len(long) - 1} others; "
                "--protocol mean-teacher hears clips of up to 10 s"
            )
