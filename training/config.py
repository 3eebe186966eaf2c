"""Recipes: yaml files of differences from the defaults below, read strictly.

Several recipes can be given, the later wins; a recipe can itself begin with `extends: other.yaml`.
"""

import dataclasses
import math
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml


@dataclass(frozen=True)
class Model:
    """The network and where its weights start."""

    name: str = "atst_frame"  # see `hear-ptsed list`
    start: str = "weak"  # none (random), ssl, weak, strong (released files), or a checkpoint's path
    sequence_model: Literal["bigru", "bilstm", "attention", "transformer", "mamba"] | None = None
    dim: int = 2048  # of the sequence model: units per direction, or width
    layers: int = 2  # of the sequence model
    head: Literal["linear", "attention"] = "linear"
    head_prior: float | None = None  # probability that new heads begin with; null: about 0.5
    compile: bool = False  # torch.compile the backbone
    # of batch-norm statistics; null: the model's own (frame_mn 0.01, for thousands of steps)
    batch_norm_momentum: float | None = None
    # of atst_frame: 80 dB below the loudest part of a clip, or of the whole batch, as published
    decibel_floor: Literal["clip", "batch"] = "clip"

    def __post_init__(self):
        if self.head_prior is not None and not 0 < self.head_prior < 1:
            raise ValueError(f"model.head_prior is {self.head_prior}; allowed is between 0 and 1")


@dataclass(frozen=True)
class Source:
    """Clips and their annotation."""

    audio: str  # HDF5 file, Hugging Face directory, folder of audio files, or of packed shards
    events: str | None = None  # annotation file; None: what the audio source itself carries
    classes: str | None = None  # file of the classes annotated here; None: all of them


@dataclass(frozen=True)
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
    max_unreadable: float = 0.01  # share of the clips that may be undecodable before a run stops
    workers: int = 8  # loader processes per device
    label_times: Literal["exact", "float32"] = "exact"  # float32: as published, rounded to it
    # events of no length in an annotation file; keep: as published, one frame if off the grid
    zero_length: Literal["drop", "keep"] = "drop"
    channels: Literal["mean", "first"] = "mean"  # what is heard of several; first: as published

    def __post_init__(self):
        if not 0 <= self.max_unreadable < 1:
            raise ValueError(f"data.max_unreadable is {self.max_unreadable}; allowed is 0 up to 1")


@dataclass(frozen=True)
class Sampling:
    """Which clips make an epoch."""

    balanced: bool = True  # clips of rare classes more often
    replacement: bool = True  # False: as published, which hardly balances (spec: clip order only)
    epoch_clips: int = 100_000  # clips of an epoch; never more than there are
    offset: float = 30.0  # frames added to each class's count, so the rarest do not dominate


@dataclass(frozen=True)
class Augment:
    """Augmentations in the order of their use; a probability or range of 0 switches one off."""

    wavmix_p: float = 0.8  # per clip
    wavmix_partner: Literal["dataset", "batch"] = "dataset"  # batch: no second clip is read
    wavmix_mean: Literal["all", "mixed"] = "all"  # whose mean is removed; mixed: as published
    frame_shift: float = 0.125  # standard deviation of the circular shift, share of the clip
    mixup_p: float = 0.3  # per batch, as all that follow
    mixup_alpha: float = 0.2
    # of the clip itself: folded to at least a half, or whole, as EfficientSED's published students
    mixup_share: Literal["folded", "whole"] = "folded"
    mixstyle_p: float = 0.3
    mixstyle_alpha: float = 0.4
    time_mask: float = 0.0  # largest masked share of the clip
    time_mask_pseudo: bool = True  # mask pseudo labels too; False: as published
    time_mask_end: bool = True  # it may reach the clip's end; False: as published, one frame less
    filter_p: float = 0.8
    filter_db: float = 6.0
    filter_mode: Literal["log", "reference"] = "log"  # a gain in dB, or the published scaling
    warp_p: float = 0.8
    warp_min: float = 0.6  # smallest share of the mel bands that is stretched to all

    def __post_init__(self):
        for name in ("wavmix_p", "mixup_p", "mixstyle_p", "filter_p", "warp_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augment.{name} is {getattr(self, name)}; allowed is 0 to 1")


@dataclass(frozen=True)
class Distill:
    """Soft targets, from files of pseudo labels or from teachers on the same device."""

    weight: float = 0.0  # share of the soft target in the blended one
    pseudo_labels: tuple[str, ...] = ()  # relative to data.root; clips without use hard labels
    teachers: tuple[str, ...] = ()  # checkpoints that hear every batch

    def __post_init__(self):
        if not 0 <= self.weight <= 1:
            raise ValueError(f"distill.weight is {self.weight}; allowed is 0 to 1")
        if (self.weight > 0) != bool(self.pseudo_labels or self.teachers):
            raise ValueError(
                f"distill.weight is {self.weight} with {len(self.pseudo_labels)} pseudo-label "
                f"files and {len(self.teachers)} teachers; give both a weight and a source, or none"
            )
        if self.pseudo_labels and self.teachers:
            raise ValueError("distill has pseudo_labels and teachers; give one of them")


@dataclass(frozen=True)
class Optim:
    """The optimiser, its schedule, and how long it runs."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: float = 7e-5
    lr_end: float = 2e-7  # of the linear schedule
    weight_decay: float = 0.0  # of matrices
    vector_decay: float = 0.0  # of biases and norms under adamw; published: 0.01, downstream 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9  # of sgd
    # published: cosine behind 20,000 steps of warm-up (downstream 4,000), however short the run, as
    # the public code; its exp has none: warmup_steps 0
    schedule: Literal["cosine", "linear", "exp", "constant", "ramp", "published"] = "cosine"
    gamma: float = 0.999996  # per step, of the exp schedule
    warmup_steps: int = 5000  # optimiser steps
    layer_decay: float = 1.0  # the learning rate's factor per block, from the top
    layer_decay_from: Literal[0, 1] = 1  # its power for the top block; 0: EfficientSED's students
    clip_norm: float = 0.0  # of the gradient; 0: no clipping
    epochs: float = 30.0  # of sampling.epoch_clips clips
    batch: int = 256  # clips per optimiser step, over all devices
    accumulate: int = 1  # parts of a batch that go through the network one after another
    # epochs end with a smaller batch of what is left, as published; false: they are one stream
    part_batches: bool = False
    ema: float = 0.0  # decay of the averaged weights that are scored and exported; 0: no averaging
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"  # auto: bf16 on a GPU

    def __post_init__(self):
        for name in ("lr", "epochs", "batch", "accumulate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"optim.{name} is {getattr(self, name)}; it must be positive")
        if self.batch % self.accumulate:
            raise ValueError(
                f"optim.batch {self.batch} cannot be cut into optim.accumulate {self.accumulate}"
            )
        if not 0 <= self.ema < 1:
            raise ValueError(f"optim.ema is {self.ema}; allowed is 0 up to, not including, 1")


@dataclass(frozen=True)
class Evaluation:
    """Scoring of the evaluation clips."""

    every_epochs: float = 5.0  # and after the last step
    batch: int = 64  # clips per device
    median: int = 9  # frames of 40 ms
    bootstrap: int = 0  # resamples for 95 % intervals of the scores after the last step
    # of clips over 10 s, for PSDS1 and pAUROC: what is heard, or whole, as published
    durations: Literal["heard", "whole"] = "heard"
    loss_mean: Literal["clips", "batches"] = "clips"  # over these; batches: as published


@dataclass(frozen=True)
class Run:
    """Where and on what a run happens; none of it changes what is learned, but the seed."""

    out: str = "runs"  # folder of this run
    seed: int = 0
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1  # per node
    nodes: int = 1
    loggers: tuple[Literal["tensorboard", "csv", "wandb"], ...] = ("tensorboard", "csv")
    log_every_steps: int = 50
    save_every_steps: int = 500  # optimiser steps between checkpoints, beside those of evaluations
    progress: bool = True


@dataclass(frozen=True)
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

    def path(self, relative: str) -> Path:
        """A path of the recipe, seen from data.root."""
        return Path(self.data.root).expanduser() / Path(relative).expanduser()


def load(recipes: Sequence[Path | str], settings: Sequence[str] = ()) -> Recipe:
    """Recipes in order, then settings such as "optim.lr=1e-4"; later values win.

    Settings are yaml: `model.sequence_model=null`, `data.eval=[{audio: eval.hdf}]`.
    """
    merged: dict[str, Any] = {}
    for path in recipes:
        _merge(merged, _read(Path(path)))
    return checked(Recipe, overridden(merged, settings))


def overridden(values: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Sections of values with settings such as "optim.lr=1e-4" in them."""
    merged: dict[str, Any] = {}
    _merge(merged, values)
    for setting in settings:
        name, separator, value = setting.partition("=")
        if not separator or name.count(".") != 1:
            raise ValueError(f"--set {setting!r}: expected section.key=value")
        section, key = name.split(".")
        try:
            _merge(merged, {section: {key: yaml.safe_load(value)}})
        except yaml.YAMLError as error:
            raise ValueError(f"--set {setting!r}: {_flat(error)}") from None
    return merged


def as_dict(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Every value of a recipe, in plain types."""
    return _plain(dataclasses.asdict(recipe))


def from_dict(values: dict[str, Any]) -> Recipe:
    """The recipe that `as_dict` wrote."""
    return checked(Recipe, values)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _read(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such recipe")
    if path.resolve() in below:
        raise ValueError(f"{path} extends itself")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: no yaml: {_flat(error)}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}; expected sections of a recipe")
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ValueError(f"{path}: extends is {base!r}; expected the path of a recipe")
    merged = _read(path.parent / base, (*below, path.resolve()))
    _merge(merged, values)
    return merged


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for section, fields in values.items():
        if isinstance(fields, dict) and isinstance(into.get(section), dict):
            into[section] = into[section] | fields
        else:
            into[section] = fields


def checked(cls: type, values: Any, where: str = "recipe") -> Any:
    """A dataclass from plain values, or a ValueError that names what is wrong."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} is {values!r}; expected {', '.join(_names(cls))}")
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise ValueError(f"{where} has the unknown {key}; known: {', '.join(_names(cls))}")
    for one in dataclasses.fields(cls):
        required = one.default is one.default_factory is dataclasses.MISSING
        if required and one.name not in values:
            raise ValueError(f"{where} lacks {one.name}")
    inside = "" if where == "recipe" else f"{where}."
    return cls(**{key: _value(hints[key], v, inside + key) for key, v in values.items()})


def _names(cls: type) -> list[str]:
    return [one.name for one in dataclasses.fields(cls)]


def _value(kind: Any, value: Any, where: str) -> Any:
    """A yaml value as the annotated type, or a ValueError that says what is allowed."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):  # always "something or None"
        return None if value is None else _value(arguments[0], value, where)
    if dataclasses.is_dataclass(kind):
        return checked(kind, value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        if len(kinds) == len(value):
            pairs = enumerate(zip(kinds, value, strict=True))
            return tuple(_value(k, v, f"{where}[{i}]") for i, (k, v) in pairs)
    elif origin is Literal:
        if value in arguments and not isinstance(value, bool):
            return value
    elif kind is float and math.isfinite(number := _number(value)):
        return number
    elif type(value) is kind:
        return value
    raise ValueError(f"{where} is {value!r}; expected {_expected(kind)}")


def _number(value: Any) -> float:
    """A number, also as text, which is how yaml reads 1e-4; NaN for anything else."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan


def _expected(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple:
        n = "" if arguments[-1] is ... else f"{len(arguments)} of "
        return f"a list: {n}{_expected(arguments[0])}"
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
    return words.get(kind, str(kind))


def _flat(error: Exception) -> str:
    return " ".join(str(error).split())
