"""Recipes: yaml files of differences from the defaults below, read strictly.

Several recipes can be given, the later wins; a recipe can itself begin with `extends: other.yaml`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import Field

from hear_ptsed.errors import shown
from hear_ptsed.schema import Number, admitted, check, read_yaml, read_yaml_file, settings

# Ranges of numbers: checks, messages, `--print` and the commands' options come from these lines.
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Share = Annotated[Number, Field(ge=0, le=1)]  # also probabilities
Decay = Annotated[Number, Field(ge=0, lt=1)]
Rate = Annotated[Number, Field(ge=1e-9, le=10)]
Alpha = Annotated[Number, Field(ge=0.001, le=100)]  # of Beta(alpha, alpha)
Batch = Annotated[int, Field(ge=1, le=65536)]  # clips of 10 s: the largest are 21 GB of int16
Frames = Annotated[int, Field(ge=1, le=250)]  # of a median filter over a window
Resamples = Annotated[int, Field(ge=0, le=100_000)]
Workers = Annotated[int, Field(ge=0, le=512)]  # processes; 0: none beside the main one
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Probability = Annotated[Number, Field(gt=0, lt=1)]


@settings
class Model:
    """The network and where its weights start."""

    name: str = "atst_frame"  # see `hear-ptsed list`
    start: str = "weak"  # none (random), ssl, weak, strong (released files), or a checkpoint's path
    sequence_model: Literal["bigru", "bilstm", "attention", "transformer", "mamba"] | None = None
    # of the sequence model: units per direction, or width
    dim: Annotated[int, Field(ge=1, le=8192)] = 2048
    layers: Annotated[int, Field(ge=1, le=32)] = 2  # of the sequence model
    head: Literal["linear", "attention"] = "linear"
    head_prior: Probability | None = None  # probability that new heads begin with; null: about 0.5
    compile: bool = False  # torch.compile the backbone
    # of batch-norm statistics; null: the model's own (frame_mn 0.01, for thousands of steps)
    batch_norm_momentum: Share | None = None
    # of atst_frame: 80 dB below the loudest part of a clip, or of the whole batch, as published
    decibel_floor: Literal["clip", "batch"] = "clip"


@settings
class Source:
    """Clips and their annotation."""

    audio: str  # HDF5 file, Hugging Face directory, folder of audio files, or of packed shards
    events: str | None = None  # annotation file; None: what the audio source itself carries
    classes: str | None = None  # file of the classes annotated here; None: all of them


@settings
class Data:
    """What is learned from, and what is scored; paths are relative to `root`."""

    root: str = "."
    train: tuple[Source, ...] = ()
    eval: tuple[Source, ...] = ()
    labels: Literal["strong", "weak"] = "strong"  # events per frame, or classes per clip
    # audioset_strong (447), events (those of the training events), or a file: one name per line, or
    # a CSV with a column display_name (AudioSet's class_labels_indices.csv)
    classes: str = "audioset_strong"
    names: str | None = None  # file of AudioSet ids and names, for annotation beyond the 447
    max_unreadable: Decay = 0.01  # share of the clips that may be undecodable before a run stops
    workers: Workers = 8  # loader processes per device
    label_times: Literal["exact", "float32"] = "exact"  # float32: as published, rounded to it
    # events of no length in an annotation file; keep: as published, one frame if off the grid
    zero_length: Literal["drop", "keep"] = "drop"
    channels: Literal["mean", "first"] = "mean"  # what is heard of several; first: as published

    def path(self, relative: str) -> Path:
        """A path of the recipe, seen from `root`."""
        return Path(self.root).expanduser() / Path(relative).expanduser()


@settings
class Sampling:
    """Which clips make an epoch."""

    balanced: bool = True  # clips of rare classes more often
    replacement: bool = True  # False: as published, which hardly balances (spec: clip order only)
    epoch_clips: Count = 100_000  # clips of an epoch; never more than there are
    # frames added to each class's count, so the rarest do not dominate
    offset: Annotated[Number, Field(ge=0, le=1_000_000_000)] = 30.0


@settings
class Augment:
    """Augmentations in the order of their use; a probability or range of 0 switches one off."""

    wavmix_p: Share = 0.8  # per clip
    wavmix_partner: Literal["dataset", "batch"] = "dataset"  # batch: no second clip is read
    wavmix_mean: Literal["all", "mixed"] = "all"  # whose mean is removed; mixed: as published
    frame_shift: Share = 0.125  # standard deviation of the circular shift, share of the clip
    mixup_p: Share = 0.3  # per batch, as all that follow
    mixup_alpha: Alpha = 0.2
    # of the clip itself: folded to at least a half, or whole, as EfficientSED's published students
    mixup_share: Literal["folded", "whole"] = "folded"
    mixstyle_p: Share = 0.3
    mixstyle_alpha: Alpha = 0.4
    time_mask: Share = 0.0  # largest masked share of the clip
    time_mask_pseudo: bool = True  # mask pseudo labels too; False: as published
    time_mask_end: bool = True  # it may reach the clip's end; False: as published, one frame less
    filter_p: Share = 0.8
    filter_db: Annotated[Number, Field(ge=0, le=40)] = 6.0
    filter_mode: Literal["log", "reference"] = "log"  # a gain in dB, or the published scaling
    warp_p: Share = 0.8
    # smallest share of the mel bands that is stretched to all
    warp_min: Annotated[Number, Field(ge=0.05, le=1)] = 0.6

    def __post_init__(self):
        if 0 < self.time_mask < 0.052:
            raise ValueError(
                f"augment.time_mask is {self.time_mask}; it must be 0, or 0.052 to 1: the "
                "shortest mask is 0.048 of the clip"
            )


@settings
class Distill:
    """Soft targets, from files of pseudo labels or from teachers on the same device."""

    weight: Share = 0.0  # share of the soft target in the blended one
    pseudo_labels: tuple[str, ...] = ()  # relative to data.root; clips without use hard labels
    teachers: tuple[str, ...] = ()  # checkpoints that hear every batch

    def __post_init__(self):
        if (self.weight > 0) != bool(self.pseudo_labels or self.teachers):
            raise ValueError(
                f"distill.weight is {self.weight} with {len(self.pseudo_labels)} pseudo-label "
                f"files and {len(self.teachers)} teachers; give both a weight and a source, or none"
            )
        if self.pseudo_labels and self.teachers:
            raise ValueError("distill has pseudo_labels and teachers; give one of them")


@settings
class Optim:
    """The optimiser, its schedule, and how long it runs."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: Rate = 7e-5
    lr_end: Annotated[Number, Field(ge=0, le=10)] = 2e-7  # of the linear schedule
    weight_decay: Annotated[Number, Field(ge=0, le=10)] = 0.0  # of matrices
    # of biases and norms under adamw; published: 0.01, downstream 0.001
    vector_decay: Annotated[Number, Field(ge=0, le=10)] = 0.0
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    momentum: Decay = 0.9  # of sgd
    # published: cosine behind 20,000 steps of warm-up (downstream 4,000), however short the run, as
    # the public code; its exp has none: warmup_steps 0
    schedule: Literal["cosine", "linear", "exp", "constant", "ramp", "published"] = "cosine"
    gamma: Annotated[Number, Field(gt=0, le=1)] = 0.999996  # per step, of the exp schedule
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = 5000  # optimiser steps
    # the learning rate's factor per block, from the top
    layer_decay: Annotated[Number, Field(gt=0, le=1)] = 1.0
    layer_decay_from: Literal[0, 1] = 1  # its power for the top block; 0: EfficientSED's students
    # of the gradient; 0: no clipping
    clip_norm: Annotated[Number, Field(ge=0, le=1_000_000_000)] = 0.0
    epochs: Annotated[Number, Field(ge=1e-9, le=1_000_000)] = 30.0  # of sampling.epoch_clips clips
    batch: Batch = 256  # clips per optimiser step, over all devices
    accumulate: Batch = 1  # parts of a batch that go through the network one after another
    # epochs end with a smaller batch of what is left, as published; false: they are one stream
    part_batches: bool = False
    ema: Decay = 0.0  # decay of the averaged weights that are scored and exported; 0: no averaging
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"  # auto: bf16 on a GPU

    def __post_init__(self):
        if self.batch % self.accumulate:
            raise ValueError(
                f"optim.batch {self.batch} cannot be cut into optim.accumulate {self.accumulate}"
            )


@settings
class Evaluation:
    """Scoring of the evaluation clips."""

    every_epochs: Annotated[Number, Field(gt=0, le=1_000_000)] = 5.0  # and after the last step
    batch: Batch = 64  # clips per device
    median: Frames = 9  # frames of 40 ms
    bootstrap: Resamples = 0  # resamples for 95 % intervals of the scores after the last step
    # of clips over 10 s, for PSDS1 and pAUROC: what is heard, or whole, as published
    durations: Literal["heard", "whole"] = "heard"
    loss_mean: Literal["clips", "batches"] = "clips"  # over these; batches: as published


@settings
class Run:
    """Where and on what a run happens; none of it changes what is learned, but the seed."""

    out: str = "runs"  # folder of this run
    seed: Seed = 0
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: Annotated[int, Field(ge=1, le=64)] = 1  # per node
    nodes: Annotated[int, Field(ge=1, le=10_000)] = 1
    loggers: tuple[Literal["tensorboard", "csv", "wandb"], ...] = ("tensorboard", "csv")
    log_every_steps: Count = 50
    # optimiser steps between checkpoints, beside those of evaluations
    save_every_steps: Count = 500
    progress: bool = True


@settings
class Recipe:
    """All of a training run."""

    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    sampling: Sampling = field(default_factory=Sampling)
    augment: Augment = field(default_factory=Augment)
    distill: Distill = field(default_factory=Distill)
    optim: Optim = field(default_factory=Optim)
    evaluation: Evaluation = field(default_factory=Evaluation)
    run: Run = field(default_factory=Run)


def load(recipes: Sequence[Path | str], settings: Sequence[str] = ()) -> Recipe:
    """Recipes in order, then settings such as "optim.lr=1e-4"; later values win.

    Settings are yaml: `model.sequence_model=null`, `data.eval=[{audio: eval.hdf}]`.
    """
    merged: dict[str, Any] = {}
    for path in recipes:
        _merge(merged, _read(Path(path)))
    return check(Recipe, overridden(merged, settings), "recipe")


def overridden(values: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Sections of values with settings such as "optim.lr=1e-4" in them."""
    merged: dict[str, Any] = {}
    _merge(merged, values)
    for setting in settings:
        name, separator, text = setting.partition("=")
        where = f"--set {shown(setting)}"
        if not separator or name.count(".") != 1:
            raise ValueError(f"{where}: expected section.key=value")
        section, key = name.split(".")
        _merge(merged, {section: {key: read_yaml(text, where)}})
    return merged


def as_dict(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Every value of a recipe, in plain types."""
    return _plain(dataclasses.asdict(recipe))


def explained(recipe: Recipe) -> str:
    """A recipe as yaml, with the allowed values behind each that has limits."""
    text = []
    for section, values in as_dict(recipe).items():
        kinds = get_type_hints(type(getattr(recipe, section)), include_extras=True)
        text.append(f"{section}:")
        for key, value in values.items():
            first, *more = yaml.safe_dump({key: value}, width=1_000_000).splitlines()
            limits = admitted(kinds[key], key)
            text += [f"  {first}" + (f"  # {limits}" if limits else ""), *(f"  {m}" for m in more)]
    return "\n".join([*text, ""])


def from_dict(values: Any, where: str = "recipe") -> Recipe:
    """The recipe that `as_dict` wrote; fields that it did not know yet have their defaults."""
    return check(Recipe, values, where)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _read(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path.resolve() in below:
        raise ValueError(f"{path} extends itself")
    values = read_yaml_file(path, "recipe")
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {shown(values)}; expected sections of a recipe")
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ValueError(f"{path}: extends is {shown(base)}; expected the path of a recipe")
    merged = _read(path.parent / base, (*below, path.resolve()))
    _merge(merged, values)
    return merged


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for section, fields in values.items():
        if isinstance(fields, dict) and isinstance(into.get(section), dict):
            into[section] = into[section] | fields
        else:
            into[section] = fields
