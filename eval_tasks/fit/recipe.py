"""Numbers of a downstream training: defaults below, then the task's, then --set."""

from collections.abc import Sequence
from dataclasses import asdict, field
from typing import Annotated, Any, Literal

from pydantic import Field

from eval_tasks.tasks.base import MORE_PARTS, NEEDS, Task, TaskData
from hear_ptsed.schema import Number, check, settings
from training.recipe import Alpha, Augment, Optim, Probability, Share, override

Batch = Annotated[int, Field(ge=0, le=65536)]  # clips; 0: none


@settings
class Fit:
    """What a downstream training has beside its optimiser."""

    check_every_epochs: Annotated[Number, Field(gt=0, le=1_000_000)] = 10.0  # validations
    # validations without a better one that end the run; 0: it runs to its end
    patience: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    # probability that new heads begin with; null: PyTorch's own bias, as published
    head_prior: Probability | None = 0.02
    wavmix_alpha: Alpha = 0.2
    weak_batch: Batch = 0  # clips of a batch from the weak part, beside optim.batch strong ones
    unlabelled_batch: Batch = 0
    # auto: bf16 on a GPU; 16-mixed: float16 with scaled losses, as published
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    # of fine-tuned atst_frame, see training.recipe.Model
    decibel_floor: Literal["clip", "batch"] = "clip"
    # of batch-norm statistics; null: the model's own (frame_mn 0.01, for thousands of steps)
    batch_norm_momentum: Share | None = None
    # of cached features: windows also begin in between, at 1 / shifts of their 10 s
    shifts: Annotated[int, Field(ge=1, le=250)] = 2


@settings
class Recipe:
    """All numbers of a downstream training; one epoch hears as much audio as the task has."""

    optim: Optim = field(default_factory=Optim)
    augment: Augment = field(default_factory=Augment)
    fit: Fit = field(default_factory=Fit)

    @property
    def batch_sizes(self) -> dict[str, int]:
        """Kind of clips -> how many of them a batch has."""
        weak, unlabelled = self.fit.weak_batch, self.fit.unlabelled_batch
        return {"strong": self.optim.batch, "weak": weak, "unlabelled": unlabelled}

    def as_dict(self) -> dict[str, Any]:
        """All numbers; lr_above only where it is given: earlier records keep their identity."""
        values = asdict(self)
        if self.optim.lr_above is None:
            del values["optim"]["lr_above"]
        return values


OFF = dict.fromkeys(("wavmix_p", "frame_shift", "mixup_p", "mixstyle_p", "filter_p", "warp_p"), 0.0)
# An epoch is a pass over the weak clips (11 steps of DESED), 5 of 100 warm up.
WEAK = {"warmup_steps": 55, "clip_norm": 3.0, "batch": 128, "epochs": 100.0}
PROTOCOLS: dict[str, dict[str, dict[str, Any]]] = {
    # a linear layer on frozen features, as published: 500 epochs of Adam at 0.2
    "linear": {
        "optim": {"name": "adam", "lr": 0.2, "warmup_steps": 100, "batch": 256, "epochs": 500.0},
        "augment": OFF,
    },
    # all of the network, as published but with a warm-up that ends
    "finetuned": {
        "optim": {
            "lr": 1.06e-4,
            "weight_decay": 0.001,
            "layer_decay": 0.95,
            "warmup_steps": 100,
            "batch": 256,
            "epochs": 300.0,
        },
        "augment": OFF | {"wavmix_p": 0.5, "mixup_p": 0.5},
    },
    # DESED, attention head on frozen features, as published in audiossl: it begins at zero bias
    "weak-linear": {
        "optim": WEAK | {"name": "sgd", "lr": 0.1, "momentum": 0.9},
        "augment": OFF,
        "fit": {"head_prior": 0.5, "weak_batch": 128},
    },
    # all of the network, at the published decay of 0.5 per block; of the learning rate only a grid
    # is published (SGD at 0.1 is for the head and the last block), so it is AdamW, untuned, such
    # that the uppermost blocks learn at 2e-4, 1e-4, ...
    "weak-finetuned": {
        "optim": WEAK | {"lr": 4e-4, "weight_decay": 0.001, "layer_decay": 0.5},
        "augment": OFF | {"wavmix_p": 0.5, "mixup_p": 0.5},
        "fit": {"head_prior": 0.5, "weak_batch": 128},
    },
    # DESED, CRNN beside frozen features and a mean teacher, as published: an epoch is a pass over
    # the smallest of the three sets (59 steps), 50 of 200 warm up
    "mean-teacher": {
        "optim": {
            "name": "adam",
            "lr": 1e-3,
            "schedule": "ramp",
            "warmup_steps": 2950,
            "ema": 0.999,
            "batch": 24,
            "epochs": 200.0,
        },
        "augment": OFF | {"mixup_p": 0.5},
        "fit": {"head_prior": 0.5, "weak_batch": 24, "unlabelled_batch": 48},
    },
}

# Fine-tuned networks with batch norm, beside their protocol: the rates above are of transformers.
# Chosen with a narrow frame_mn on the validation part of `office`.
BATCH_NORM = {
    "optim": {"lr": 2e-3, "layer_decay": 0.95},
    "fit": {"batch_norm_momentum": 0.1},
}

# Old behaviours of the public script for dcase2016_task2, beside a protocol: --set as_published.
AS_PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "linear": {
        # 4,000 steps of warm-up in 1,500: no more than 0.075; 3 steps for 2.06 batches of an epoch
        "optim": {"schedule": "published", "part_batches": True},
        "fit": {"head_prior": None},
    },
    "finetuned": {
        # 4,000 steps of warm-up in 900: no more than 2.38e-5
        "optim": {"schedule": "published", "part_batches": True, "vector_decay": 0.001},
        "augment": {"wavmix_mean": "mixed", "filter_mode": "reference", "time_mask_end": False},
        "fit": {"head_prior": None, "decibel_floor": "batch", "precision": "16-mixed"},
    },
}


def recipe(
    task: Task, protocol: str, settings: Sequence[str] = (), *, batch_norm: bool = False
) -> Recipe:
    """The recipe of a protocol on a task, for a network with batch norm or without.

    Args:
        settings: such as "optim.lr=1e-4"; "as_published" stands for all of AS_PUBLISHED.
    """
    parts = [PROTOCOLS.get(protocol, {}), task.recipes.get(protocol, {})]
    if batch_norm and protocol.endswith("finetuned"):
        parts.insert(1, BATCH_NORM)
    if "as_published" in settings:
        if protocol not in AS_PUBLISHED:
            raise ValueError(
                f"--set as_published is of {', '.join(AS_PUBLISHED)}; the public code has no "
                f"{protocol}"
            )
        parts.append(AS_PUBLISHED[protocol])
        settings = [setting for setting in settings if setting != "as_published"]
    merged: dict[str, Any] = {}
    for values in parts:
        merged = {key: merged.get(key, {}) | values.get(key, {}) for key in merged | values}
    return check(Recipe, override(Recipe, merged, settings), "recipe")


def check_recipe(
    data: TaskData,
    recipe: Recipe,
    protocol: str,
    *,
    optim: dict[str, Any],
    augment: dict[str, Any] | None = None,
) -> None:
    """Refuse what a training would silently leave undone.

    Args:
        optim, augment: numbers that the training does not read, and the value each must keep.
    """
    for name in MORE_PARTS:
        key, batch = f"fit.{name}_batch", getattr(recipe.fit, f"{name}_batch")
        if name not in NEEDS[protocol]:
            if batch:
                raise ValueError(
                    f"{key} is {batch}; --protocol {protocol} takes no such clips: set 0"
                )
            continue
        if name not in data.parts:
            raise ValueError(
                f"{data.folder} has no {name}.json, which --protocol {protocol} learns from; "
                "prepare the task again, or use --protocol linear or finetuned"
            )
        if batch < 1:
            raise ValueError(f"{key} is {batch}; --protocol {protocol} needs at least 1")
    for section, kept in (("optim", optim), ("augment", augment or {})):
        for name, value in kept.items():
            if (given := getattr(getattr(recipe, section), name)) != value:
                raise ValueError(
                    f"{section}.{name} is {given}; with --protocol {protocol} it must stay {value}"
                )
