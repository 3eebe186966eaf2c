"""Recipes: yaml files of differences from the defaults below, read strictly.

The files in `recipes/` are the kinds of runs, such as `student`. Several recipes can be given, the
later wins; a recipe can itself begin with `extends: other.yaml`.
"""

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field
from pydantic_core import to_jsonable_python

from hear_ptsed.errors import shown
from hear_ptsed.grid import WINDOW_FRAMES
from hear_ptsed.registry import STAGES
from hear_ptsed.schema import (
    Number,
    admitted,
    check,
    find_type,
    read_option,
    read_yaml_file,
    setting,
    settings,
)

RECIPES = Path(__file__).with_name("recipes")

# Ranges of numbers: checks, messages, `--print` and the commands' options come from these lines.
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Share = Annotated[Number, Field(ge=0, le=1)]  # also probabilities
Decay = Annotated[Number, Field(ge=0, lt=1)]
Rate = Annotated[Number, Field(ge=1e-9, le=10)]
Alpha = Annotated[Number, Field(ge=0.001, le=100)]  # of Beta(alpha, alpha)
Batch = Annotated[int, Field(ge=1, le=65536)]  # clips of 10 s: the largest are 21 GB of int16
Frames = Annotated[int, Field(ge=1, le=WINDOW_FRAMES)]  # of a median filter over a window
Resamples = Annotated[int, Field(ge=0, le=100_000)]
Workers = Annotated[int, Field(ge=0, le=512)]  # processes; 0: none beside the main one
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Probability = Annotated[Number, Field(gt=0, lt=1)]


@settings
class Model:
    """The network and where its weights start."""

    name: str = setting("atst_frame", "a model of `hear-ptsed list`")
    start: str = setting(
        "weak", f"none (random), {', '.join(STAGES)} (released files), or the path of a checkpoint"
    )
    sequence_model: (
        Literal["bigru", "bilstm", "attention", "transformer", "mamba", "hybrid", "mamba2", "tcn"]
        | None
    ) = setting(None, "between backbone and head")
    dim: int = setting(2048, "of the sequence model: units per direction, or width", ge=1, le=8192)
    layers: int = setting(2, "of the sequence model", ge=1, le=32)
    head: Literal["linear", "attention"] = setting("linear", "what makes scores of classes")
    head_prior: Probability | None = setting(
        None, "probability that new heads begin with; null: about 0.5"
    )
    compile: bool = setting(False, "torch.compile the backbone")
    batch_norm_momentum: Share | None = setting(
        None,
        "momentum of batch-norm statistics; null: the model's own (frame_mn 0.01)",
    )
    decibel_floor: Literal["clip", "batch"] = setting(
        "clip",
        "of atst_frame: 80 dB below the loudest part of this; batch: as published",
    )


@settings
class Source:
    """Clips and their annotation."""

    audio: str = setting(..., "HDF5 file, Hugging Face directory, folder of audio files or shards")
    events: str | None = setting(None, "annotation file; null: what the audio itself carries")
    classes: str | None = setting(None, "file of the classes annotated here; null: all of them")


@settings
class Data:
    """What is learned from, and what is scored; paths are relative to `root`."""

    root: str = setting(".", "folder where relative paths start")
    train: tuple[Source, ...] = setting((), "what is learned from")
    eval: tuple[Source, ...] = setting((), "what is scored; none: nothing")
    labels: Literal["strong", "weak"] = setting("strong", "events per frame, or classes per clip")
    classes: str = setting(
        "audioset_strong",
        "audioset_strong (447), events (those of the training events), or a file: a name per "
        "line, or a CSV with a column display_name (AudioSet's class_labels_indices.csv)",
    )
    names: str | None = setting(None, "file of AudioSet ids and names, for annotation beyond 447")
    max_unreadable: Decay = setting(0.01, "share of undecodable clips above which a run stops")
    workers: Workers = setting(8, "loader processes per device")
    label_times: Literal["exact", "float32"] = setting("exact", "of events; float32: as published")
    zero_length: Literal["drop", "keep"] = setting(
        "drop", "events without length in a file; keep: as published, one frame if off the grid"
    )
    channels: Literal["mean", "first"] = setting("mean", "heard of several; first: as published")

    def path(self, relative: str) -> Path:
        """A path of the recipe, seen from `root`."""
        return Path(self.root).expanduser() / Path(relative).expanduser()


@settings
class Sampling:
    """Which clips make an epoch."""

    balanced: bool = setting(True, "clips of rare classes more often")
    replacement: bool = setting(True, "false: as published, hardly balanced: a clip order only")
    epoch_clips: Count = setting(100_000, "clips of an epoch; never more than there are")
    offset: Number = setting(30.0, "frames added to each class's count", ge=0, le=10**9)


@settings
class Augment:
    """Augmentations in the order of their use; a probability or range of 0 switches one off."""

    wavmix_p: Share = setting(0.8, "probability per clip to be mixed with another")
    wavmix_partner: Literal["dataset", "batch"] = setting(
        "dataset", "batch: no second clip is read"
    )
    wavmix_mean: Literal["all", "mixed"] = setting("all", "lose their mean; mixed: as published")
    frame_shift: Share = setting(0.125, "standard deviation of the circular shift, share of a clip")
    mixup_p: Share = setting(0.3, "probability per batch, as all that follow")
    mixup_alpha: Alpha = setting(0.2, "of Beta(alpha, alpha)")
    mixup_share: Literal["folded", "whole"] = setting(
        "folded", "of a clip itself: at least a half; whole: 0 to 1, as EfficientSED's students"
    )
    mixstyle_p: Share = setting(0.3, "probability per batch")
    mixstyle_alpha: Alpha = setting(0.4, "of Beta(alpha, alpha)")
    time_mask: Share = setting(0.0, "largest masked share of the clip: 0, or 0.052 to 1")
    time_mask_pseudo: bool = setting(True, "mask pseudo labels too; false: as published")
    time_mask_end: bool = setting(True, "up to the clip's end; false: as published, a frame less")
    filter_p: Share = setting(0.8, "probability per batch")
    filter_db: Number = setting(6.0, "largest gain or loss, in dB", ge=0, le=40)
    filter_mode: Literal["log", "reference"] = setting("log", "a gain in dB, or as published")
    warp_p: Share = setting(0.8, "probability per batch")
    warp_min: Number = setting(0.6, "smallest share of mel bands stretched to all", ge=0.05, le=1)

    def __post_init__(self):
        if 0 < self.time_mask < 0.052:
            raise ValueError(
                f"augment.time_mask is {self.time_mask}; it must be 0, or 0.052 to 1: the "
                "shortest mask is 0.048 of the clip"
            )


@settings
class Distill:
    """Soft targets, from files of pseudo labels or from teachers on the same device."""

    weight: Share = setting(0.0, "share of the soft target in the blended one")
    pseudo_labels: tuple[str, ...] = setting((), "files in data.root; other clips use hard labels")
    teachers: tuple[str, ...] = setting(
        (), "checkpoints that hear every batch, or models, whose strong file is taken"
    )
    teachers_hear: Literal["audio", "augmented"] = setting(
        "audio",
        "audio: clips before augmentations of the spectrogram, targets are mixed; augmented: what "
        "the student hears, as EfficientSED",
    )

    def __post_init__(self):
        if (self.weight > 0) != bool(self.pseudo_labels or self.teachers):
            raise ValueError(
                f"distill.weight is {self.weight} with {len(self.pseudo_labels)} pseudo-label "
                f"files and {len(self.teachers)} teachers; give both a weight and a source, or none"
            )
        if self.pseudo_labels and self.teachers:
            raise ValueError("distill has pseudo_labels and teachers; give one of them")


@settings
class Extra:
    """Clips that only the teachers label, as many in every batch as there are of data.train."""

    clips: tuple[Source, ...] = setting(
        (), "their labels choose clips and teach nothing; classes: the names of stored labels"
    )
    weight: Probability = setting(0.5, "their share of what is learned from teachers")
    balanced: bool = setting(True, "first the clips of rare classes, each once in an epoch")
    offset: Number = setting(100.0, "clips added to each class's count", ge=0, le=10**9)
    mixup_p: Share = setting(1.0, "probability per batch; no other augmentation")
    mixup_alpha: Alpha = setting(0.3, "of Beta(alpha, alpha), folded")


@settings
class Optim:
    """The optimiser, its schedule, and how long it runs."""

    name: Literal["adam", "adamw", "sgd"] = setting("adamw", "the optimiser")
    lr: Rate = setting(7e-5, "learning rate, the highest of its schedule")
    lr_end: Number = setting(2e-7, "of the linear schedule", ge=0, le=10)
    lr_above: Rate | None = setting(
        None, "learning rate of sequence model and heads, above the backbone; null: lr"
    )
    weight_decay: Number = setting(0.0, "of matrices", ge=0, le=10)
    vector_decay: Number = setting(
        0.0, "of biases, norms under adamw; published 0.01, downstream 0.001", ge=0, le=10
    )
    betas: tuple[Decay, Decay] = setting((0.9, 0.999), "of adam and adamw")
    momentum: Decay = setting(0.9, "of sgd")
    schedule: Literal["cosine", "linear", "exp", "constant", "ramp", "published"] = setting(
        "cosine",
        "of the learning rate; published: cosine behind 20,000 steps of warm-up (downstream "
        "4,000), however short the run, as the public code; its exp has none: warmup_steps 0",
    )
    gamma: Number = setting(0.999996, "factor per step, of the exp schedule", gt=0, le=1)
    warmup_steps: int = setting(5000, "optimiser steps", ge=0, le=10**9)
    layer_decay: Number = setting(1.0, "rate's factor per block, from the top", gt=0, le=1)
    layer_decay_from: Literal[0, 1] = setting(1, "its power at the top; 0: EfficientSED's students")
    clip_norm: Number = setting(0.0, "largest norm of gradients; 0: no clipping", ge=0, le=10**9)
    epochs: Number = setting(30.0, "of sampling.epoch_clips clips", ge=1e-9, le=1_000_000)
    batch: Batch = setting(256, "clips of 10 s per optimiser step, over all devices")
    accumulate: Batch = setting(1, "parts of a batch that pass the network one after another")
    part_batches: bool = setting(False, "an epoch ends with a smaller batch, as published")
    ema: Decay = setting(0.0, "decay of averaged weights, scored and exported; 0: no averaging")
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = setting(
        "auto", "auto: bf16-mixed on a GPU"
    )

    def __post_init__(self):
        if self.batch % self.accumulate:
            raise ValueError(
                f"optim.batch {self.batch} cannot be cut into optim.accumulate {self.accumulate}"
            )


@settings
class Evaluation:
    """Scoring of the evaluation clips."""

    every_epochs: Number = setting(5.0, "epochs; also after the last step", gt=0, le=1_000_000)
    batch: Batch = setting(64, "clips per device")
    median: Frames = setting(9, "median filter of the scores, in frames of 40 ms")
    bootstrap: Resamples = setting(0, "resamples for 95 % intervals after the last step")
    durations: Literal["heard", "whole"] = setting(
        "heard", "of clips over 10 s, for PSDS1 and pAUROC; whole: as published"
    )
    loss_mean: Literal["clips", "batches"] = setting("clips", "over these; batches: as published")


@settings
class Run:
    """Where and on what a run happens; none of it changes what is learned, but the seed."""

    out: str = setting("runs", "folder of this run")
    seed: Seed = setting(0, "of all that is drawn")
    accelerator: Literal["auto", "cpu", "gpu"] = setting("auto", "auto: a GPU if there is one")
    devices: int = setting(1, "per node", ge=1, le=64)
    nodes: int = setting(1, "machines", ge=1, le=10_000)
    loggers: tuple[Literal["tensorboard", "csv", "wandb"], ...] = setting(
        ("tensorboard", "csv"), "of losses, scores"
    )
    log_every_steps: Count = setting(50, "optimiser steps between losses that are logged")
    save_every_steps: Count = setting(500, "optimiser steps; evaluations make checkpoints, too")
    progress: bool = setting(True, "show a progress bar")


@settings
class Recipe:
    """All of a training run."""

    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    sampling: Sampling = field(default_factory=Sampling)
    augment: Augment = field(default_factory=Augment)
    distill: Distill = field(default_factory=Distill)
    extra: Extra = field(default_factory=Extra)
    optim: Optim = field(default_factory=Optim)
    evaluation: Evaluation = field(default_factory=Evaluation)
    run: Run = field(default_factory=Run)

    def __post_init__(self):
        if self.extra.clips and not (self.distill.teachers and self.data.labels == "strong"):
            raise ValueError(
                f"extra.clips has {len(self.extra.clips)} sources, whose labels are those of "
                f"teachers; data.labels is {self.data.labels} with {len(self.distill.teachers)} "
                "teachers: give distill.teachers and data.labels strong, or no extra.clips"
            )


def list_kinds() -> list[str]:
    """Names of the recipes that come with this package."""
    return sorted(file.stem for file in RECIPES.glob("*.yaml"))


def load(recipes: Sequence[Path | str], options: Sequence[str] = ()) -> Recipe:
    """Recipes in order, then options such as "optim.lr=1e-4"; later values win.

    Args:
        recipes: kinds, such as "student", or paths of yaml files.
        options: values are yaml, "model.sequence_model=null", "data.eval=[{audio: eval.hdf}]";
            where a field is a text, all that follows "=" is its value.
    """
    values: dict[str, Any] = {}
    for recipe in recipes:
        values = _merge(values, _read_recipe(_find_file(recipe)))
    return check(Recipe, override(Recipe, values, options), "recipe")


def override(kind: Any, values: dict[str, Any], options: Sequence[str]) -> dict[str, Any]:
    """Sections of a recipe of some kind with options such as "optim.lr=1e-4" in them."""
    for option in options:
        name, separator, text = option.partition("=")
        if not separator or name.count(".") != 1:
            raise ValueError(f"{shown(option)}: expected section.field=value")
        section, field_name = name.split(".")
        value = read_option(find_type(kind, (section, field_name)), text, shown(option))
        values = _merge(values, {section: {field_name: value}})
    return values


def as_dict(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Every value of a recipe, in plain types."""
    return to_jsonable_python(recipe)


def explain(recipe: Recipe) -> str:
    """A recipe as yaml, with the allowed values behind each that has limits."""
    text = []
    for section, values in as_dict(recipe).items():
        text.append(f"{section}:")
        for key, value in values.items():
            first, *more = yaml.safe_dump({key: value}, width=1_000_000).splitlines()
            limits = admitted(find_type(Recipe, (section, key)), key)
            text += [f"  {first}" + (f"  # {limits}" if limits else ""), *(f"  {m}" for m in more)]
    return "\n".join([*text, ""])


def from_dict(values: Any, where: str = "recipe") -> Recipe:
    """The recipe that `as_dict` wrote; fields that it did not know yet have their defaults."""
    return check(Recipe, values, where)


def _find_file(recipe: Path | str) -> Path:
    """The file of a kind, or the path itself."""
    path = Path(recipe)
    if path.suffix or len(path.parts) > 1:
        return path
    kinds = list_kinds()
    if str(recipe) not in kinds:
        raise FileNotFoundError(
            f"{shown(str(recipe))} is no kind of recipe; give one of {', '.join(kinds)}, or the "
            "path of a .yaml file"
        )
    return RECIPES / f"{recipe}.yaml"


def _read_recipe(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
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
    return _merge(_read_recipe(path.parent / base, (*below, path.resolve())), values)


def _merge(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """The fields of both; those of `more` win."""
    both = dict(values)
    for section, fields in more.items():
        dicts = isinstance(fields, dict) and isinstance(both.get(section), dict)
        both[section] = both[section] | fields if dicts else fields
    return both
