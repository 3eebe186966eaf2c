"""`scenes`: which of eleven classes a short clip holds, a clip-level task for heareval."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator

from eval_tasks.sounds.signal import decibels, room
from eval_tasks.sounds.sources import SPLITS, variation
from eval_tasks.tasks import rendered
from eval_tasks.tasks.base import Task
from eval_tasks.tasks.hear_folder import describe_folder
from eval_tasks.tasks.office import OFFICE_NOTES, background, office_bank, percentages
from eval_tasks.tasks.rendered import FolderOptions, RenderedClip, Rendering, RenderOptions


@dataclass(frozen=True)
class Singles:
    """Size of `scenes`."""

    per_class: tuple[int, int, int]  # train, valid, test
    seconds: float


SIZES = {
    "tiny": Singles((6, 3, 3), 1.0),
    "demo": Singles((12, 4, 4), 4.0),
    "full": Singles((60, 20, 20), 4.0),
}

# A training set of a few hundred clips is one minibatch: an epoch is a single step.
EVALUATION = {
    "task_specific_param_grid": {
        "max_epochs": [100],
        "check_val_every_n_epoch": [10],
        "lr": [3.2e-3, 1e-3],
    }
}


def render_scenes(options: RenderOptions, folder: str) -> Rendering:
    """Clips with one event each, as many of every class."""
    plan, bank = SIZES[options.mode], office_bank(options.synthetic)

    def clips() -> Iterator[RenderedClip]:
        for split, count in zip(SPLITS, plan.per_class, strict=True):
            for label in bank.classes:
                for i in range(count):
                    file = f"{split}_{label}_{i:02d}.wav"
                    rng = rendered.clip_generator(options.seed, folder, file)
                    audio = single(bank.sources[split][label], plan, rng)
                    yield RenderedClip(split, file, audio, [label])

    metadata = describe_folder(
        folder,
        SPLITS,
        plan.seconds,
        ("top1_acc", "mAP"),
        embedding_type="scene",
        prediction_type="multiclass",
        split_percentage=percentages(plan.per_class),
        max_task_duration_by_split=dict.fromkeys(SPLITS),
        evaluation_params=EVALUATION,
    )
    count = sum(plan.per_class) * len(bank.classes)
    provenance = rendered.describe_bank(bank, OFFICE_NOTES)
    return Rendering(metadata, bank.classes, clips(), count, provenance)


def single(sources: list, plan: Singles, rng: Generator) -> np.ndarray:
    """One event of -35 to -16 dBFS at any place in a clip over noise of -60 to -45 dBFS."""
    bed = background(plan.seconds, rng.uniform(-60, -45), rng)
    response = room(rng) if rng.random() < 0.4 else None
    sound = variation(sources, response, decibels(rng.uniform(-35, -16)), rng)[: len(bed)]
    start = rng.integers(len(bed) - len(sound) + 1)
    bed[start : start + len(sound)] += sound
    return bed


TASK = Task(
    name="scenes",
    title="Scenes (small)",
    folder="officeclips-v1-demo",
    about="which of 11 classes a 4-s clip holds; a clip-level task, for heareval",
    labels=(),
    clip_s=4.0,
    prepare=partial(rendered.prepare_rendered, render_scenes),
    options=FolderOptions,
)
