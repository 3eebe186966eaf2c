"""A model from a file with what is asked for: what the file holds, or parts that are random."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from hear_ptsed.checkpoints.loading import PARTS, open_parts
from hear_ptsed.heads import HEADS
from hear_ptsed.model import SEDModel
from hear_ptsed.registry import Count, build_head, float32
from hear_ptsed.schema import check
from hear_ptsed.sequence import SequenceOptions, build_sequence_model, options_of


@float32()
def open_as_asked(
    path: Path | str,
    model: str,
    n_classes: int | Literal["file"] | None = "file",
    sequence_model: str | None = None,
    head: str | None = None,
    random: str | Collection[str] = (),
    **sequence_options: Any,
) -> SEDModel:
    """The model in a file, in evaluation mode; what goes beyond the file is refused, see load."""
    path, random = Path(path), {random} if isinstance(random, str) else set(random)
    _refuse_contradictions(n_classes, sequence_model, head, random, sequence_options)
    sequence = {"kind": sequence_model} | sequence_options if sequence_model else None
    leave_out = random | (set() if n_classes is not None else {"head"})
    net = open_parts(path, model, leave_out, sequence, head)
    if "sequence_model" in random:
        net.sequence = build_sequence_model(in_dim=net.backbone.embed_dim, **sequence)
    elif sequence:
        _refuse_other_sequence(net, sequence, path)
    if "head" in random:
        width = net.sequence.out_dim if net.sequence else net.backbone.embed_dim
        net.head = build_head(head or "linear", width, n_classes)
    elif n_classes is not None:
        _refuse_other_head(net, n_classes, head, path)
    drawn = tuple(f"{part.removesuffix('_model')}." for part in random)
    new = tuple(name for name in net.state_dict() if name.startswith(drawn)) if drawn else ()
    net.report = replace(net.report, random=(*net.report.random, *new))
    return net.eval()


def _refuse_contradictions(
    n_classes: int | str | None,
    sequence_model: str | None,
    head: str | None,
    random: set[str],
    sequence_options: dict[str, Any],
) -> None:
    if unknown := random - set(PARTS):
        raise ValueError(f"random has the unknown {unknown.pop()!r}; known: {', '.join(PARTS)}")
    if sequence_options and sequence_model is None:
        raise ValueError(f"{', '.join(sequence_options)} given without a sequence_model")
    if sequence_model is not None:
        SequenceOptions(kind=sequence_model, **sequence_options)
    if head is not None and head not in HEADS:
        raise ValueError(f"unknown head {head!r}; known: {', '.join(HEADS)}")
    if n_classes not in (None, "file"):
        check(Count, n_classes, "n_classes")
    if "sequence_model" in random and sequence_model is None:
        raise ValueError("a random sequence model: say of which kind, by sequence_model")
    if "sequence_model" in random and "head" not in random and n_classes is not None:
        raise ValueError(
            "a head reads the sequence model, so a random one needs a random head, too: "
            "random=('sequence_model', 'head'), or n_classes=None for no head"
        )
    if "head" in random and n_classes in (None, "file"):
        raise ValueError("a random head: say for how many classes, by n_classes")


def _refuse_other_sequence(net: SEDModel, asked: dict[str, Any], path: Path) -> None:
    has = {} if net.sequence is None else options_of(net.sequence)
    if any(has.get(key, False) != value for key, value in asked.items()):
        _refuse(path, "sequence model", has, asked, ("sequence_model", "head"))


def _refuse_other_head(net: SEDModel, n_classes: int | str, head: str | None, path: Path) -> None:
    has = {}
    if net.head is not None:
        kind = next(name for name, cls in HEADS.items() if type(net.head) is cls)
        counts = {len(layer.bias) for layer in net.head.children()}
        has = {"head": kind, "n_classes": counts.pop() if len(counts) == 1 else sorted(counts)}
    asked = {"head": head, "n_classes": None if n_classes == "file" else n_classes}
    asked = {key: value for key, value in asked.items() if value is not None}
    if any(has.get(key) != value for key, value in asked.items()):
        _refuse(path, "head", has, asked, ("head",))


def _refuse(
    path: Path, part: str, has: dict[str, Any], asked: dict[str, Any], random: tuple[str, ...]
) -> None:
    def listed(options: dict[str, Any]) -> str:
        return ", ".join(f"{key} {value}" for key, value in options.items())

    raise ValueError(
        f"{path} holds {f'a {part} ({listed(has)})' if has else f'no {part}'}, asked for is "
        f"{listed(asked)}: leave that out, or ask for random weights by random={random}"
    )
