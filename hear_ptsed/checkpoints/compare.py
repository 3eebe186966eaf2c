"""What of a file fits a model, tensor by tensor, and why the rest does not."""

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from hear_ptsed.backbones.base import Backbone
from hear_ptsed.checkpoints.names import HEADS, Contents, convert, find_closest, is_stored
from hear_ptsed.errors import few
from hear_ptsed.heads import LinearHead


def read_backbone(backbone: Backbone, file: Contents, path: Path) -> dict[str, Tensor]:
    """The backbone's part of our state dict (name: tensor); a ValueError if the file's differs."""
    try:
        state, got = convert(file.backbone, type(backbone))
    except ValueError as error:
        raise ValueError(f"{path} does not fit {type(backbone).__name__}: {error}") from error
    if faults := _find_faults(backbone, file, got):
        looks = find_closest({file.names[name]: value for name, value in file.backbone.items()})
        raise ValueError(
            f"{path} does not fit {type(backbone).__name__}: it {', it '.join(faults)}"
            + (f"; it looks like {looks}" if looks else "")
        )
    tensors = file.backbone | file.above
    if cut := [file.names[name] for name, value in tensors.items() if not is_stored(value)]:
        raise ValueError(f"{path} holds fewer numbers of {few(cut)} than its shape needs")
    if bad := [file.names[name] for name, value in tensors.items() if not _is_finite(value)]:
        raise ValueError(f"{path} has NaN or infinite values in {few(bad)}")
    return {f"backbone.{name}": value for name, value in state.items()}


def _find_faults(backbone: Backbone, file: Contents, got: dict[str, Tensor]) -> list[str]:
    """What of the file's backbone, `got` under released names, differs from a backbone."""
    want = backbone.to_released(backbone.state_dict())
    marks = [mark for mark in backbone.absent if mark in file.backbone]
    absent = tuple(prefix for mark in marks for prefix in backbone.absent[mark])

    def named(names: Iterable[str]) -> str:
        return few([file.names.get(name, backbone.prefixes[0] + name) for name in names])

    faults = []
    if missing := [n for n in want if n not in got and not n.startswith(absent)]:
        faults.append(f"misses {named(missing)}")
    if unexpected := [name for name in got if name not in want]:
        faults.append(f"has the unexpected {named(unexpected)}")
    if wrong := [name for name in want if name in got and not _fits(got[name], want[name])]:
        first = wrong[0]
        faults.append(
            f"has {named(wrong)} of another shape ({_spell_shape(got[first])}, "
            f"the model's is {_spell_shape(want[first])})"
        )
    return faults


def match_above(
    sequence: nn.Module | None, head: LinearHead | None, file: Contents
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What fits of the file's sequence model and heads (name: tensor), by names in SEDModel; and
    why the rest doesn't, by names in the file.

    The sequence model fits as a whole; a head, if it also reads the output of the same sequence
    model.
    """
    fitting, dropped, other_sequence = {}, {}, ""
    parts = [("seq_model.", "sequence.", "sequence model", sequence)]
    parts += [(f"{kind}.", f"head.{kind}.", kind, getattr(head, kind, None)) for kind in HEADS]
    for released, ours, part, module in parts:
        got = {
            name.removeprefix(released): value
            for name, value in file.above.items()
            if name.startswith(released)
        }
        why = _differ(got, {} if module is None else module.state_dict(), part)
        if released == "seq_model.":
            other_sequence = why
        elif not why and other_sequence:
            why = f"trained on another input: {other_sequence}"
        if why:
            dropped |= {file.names[released + name]: why for name in got}
        else:
            fitting |= {ours + name: value for name, value in got.items()}
    return fitting, dropped


def _differ(got: dict[str, Tensor], want: dict[str, Tensor], part: str) -> str:
    """Why the file's tensors of a part cannot be loaded into the model's; empty if they can."""
    if got and not want:
        return f"the model has no {part}"
    if want and not got:
        return f"the file has no {part}"
    if got.keys() != want.keys():
        faults = [
            f"{verb} {few(sorted(names))}"
            for verb, names in (("misses", want.keys() - got), ("has", got.keys() - want))
            if names
        ]
        return f"another {part} than the model's: it {' and '.join(faults)}"
    for name, value in want.items():
        if not _fits(got[name], value):
            return f"{_spell_shape(got[name])} in the file, {_spell_shape(value)} in the model"
    return ""


def _fits(got: Tensor, want: Tensor) -> bool:
    return got.shape == want.shape and got.is_floating_point() == want.is_floating_point()


def _is_finite(value: Tensor) -> bool:
    """Whether the values are finite in float32, which models have."""
    if not value.is_floating_point():
        return True
    # One sum is several times faster than a look at every element, which only doubt requires.
    value = value.float()
    return bool(value.sum().isfinite() or value.isfinite().all())


def _spell_shape(value: Tensor) -> str:
    text = " x ".join(map(str, value.shape)) or "scalar"
    return text if value.is_floating_point() else f"{text} of {value.dtype}"
