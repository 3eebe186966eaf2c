"""What every trainer is given, and what it gives back."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from eval_tasks.fit.recipe import Recipe
from eval_tasks.plugin import Plugin
from eval_tasks.tasks.base import Part, Split, TaskData
from hear_ptsed.grid import SAMPLE_RATE
from hear_ptsed.metrics.decoding import BoxDecoding, Decoding

TRAINERS = {  # protocol -> module of this package and function
    "linear": "frozen:train_head",
    "weak-linear": "frozen:train_head",
    "finetuned": "finetune:train_network",
    "weak-finetuned": "finetune:train_network",
    "mean-teacher": "mean_teacher:train_mean_teacher",
}


@dataclass(frozen=True)
class Context:
    """One training: of a plug-in, on one split of a task, by one protocol."""

    data: TaskData
    split: Split
    plugin: Plugin
    protocol: str
    recipe: Recipe
    folder: Path  # for its state and its logs
    cache: Path  # of embeddings
    seed: int
    device: str
    workers: int = 0  # loader processes
    progress: bool = True
    export: Path | None = None  # .pt or .safetensors, for the fine-tuned network
    boxes: bool = False  # decode by bounding boxes: they are tuned on the validation part
    save_every_s: float = 60.0  # least time between two states

    @property
    def weak(self) -> bool:
        """Whether an attention head learns from weakly labelled clips, too."""
        return self.protocol in ("weak-linear", "weak-finetuned")

    @property
    def test(self) -> Part:
        return self.data.parts[self.split.test]

    @property
    def embedding(self) -> dict[str, Any]:
        """Options of eval_tasks.fit.features.features."""
        return {"device": self.device, "progress": self.progress}

    @property
    def fitting(self) -> dict[str, Any]:
        """Options of eval_tasks.fit.loop.train_problem."""
        every_s = self.save_every_s
        return {"seed": self.seed, "progress": self.progress, "save_every_s": every_s}


@dataclass(frozen=True)
class Predictions:
    """What a trained network says of a test part."""

    part: str
    probabilities: dict[str, np.ndarray]  # file -> (T, C) per frame
    parameters: int  # that ran: backbone, and what was trained on it
    seconds_per_minute: float  # of audio, from samples to probabilities
    training: dict[str, Any]  # best validation score, its step, steps
    frame_ms: float  # from frame to frame; PSDS asks for that of the part
    events: dict[str, list[dict]] | None = None  # decoded elsewhere (heareval)
    decoding: Decoding | None = None  # how; None: as the task says
    valid: dict[str, np.ndarray] | None = None  # probabilities of the validation part, for boxes
    boxes: BoxDecoding | None = None  # tuned on it


class Trainer(Protocol):
    """Trains, chooses the best weights on the validation part, and predicts the test part.

    A training that was killed goes on from the embeddings in the cache and the state in the folder,
    and ends at the same predictions.
    """

    def __call__(self, context: Context) -> Predictions: ...


def find_trainer(protocol: str) -> Trainer:
    """The trainer of a protocol; its module is imported only now."""
    module, _, name = TRAINERS[protocol].partition(":")
    return getattr(import_module(f"eval_tasks.fit.{module}"), name)


def predict_test_part(
    context: Context,
    fitted: dict[str, Any],
    predict: Callable[[str], dict[str, np.ndarray]],
    parameters: int,
    embedding_s: float = 0.0,
) -> Predictions:
    """The predictions of a trained network, and how long they took.

    Args:
        fitted: what eval_tasks.fit.loop.train_problem returned.
        predict: gives file -> (T, C) of the test or validation part of a name.
        parameters: that ran.
        embedding_s: seconds that a minute of audio took before, where embeddings are cached.
    """
    started = time.perf_counter()
    probabilities = predict(context.split.test)
    seconds = time.perf_counter() - started
    minutes = sum(context.test.samples.values()) / SAMPLE_RATE / 60
    training = {key: value for key, value in fitted.items() if key != "history"}
    speed = embedding_s + seconds / minutes
    name, hop_ms = context.test.name, float(context.test.hop_ms)
    valid = predict(context.split.valid) if context.boxes else None
    return Predictions(name, probabilities, parameters, speed, training, hop_ms, valid=valid)
