"""What a file of this project says about its model. It may come from a stranger: see `check`."""

from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from hear_ptsed import tensor_files
from hear_ptsed.errors import shown
from hear_ptsed.schema import check, settings
from hear_ptsed.sequence import SequenceOptions

FORMAT = 1
Name = Annotated[str, Field(min_length=1, max_length=1000)]


@settings
class Description:
    """Facts that the tensors do not tell; fields of later versions are ignored."""

    format: Literal[1] = FORMAT
    model: Name | None = None  # in the registry; None: not registered
    backbone: Name | None = None  # its class
    sequence_model: SequenceOptions | None = None
    head: Literal["LinearHead", "AttentionHead"] | None = None
    # of the strong head or, without one, of the weak one
    classes: Annotated[tuple[Name, ...], Field(max_length=100_000)] | None = None


def read_described(path: Path) -> tuple[dict[str, Any], Description]:
    """The tensors of a file, and its description, which is empty if it is of others."""
    tensors, values = tensor_files.read(path)
    return tensors, check_description(values, path)


def check_description(values: Any, path: Path) -> Description:
    """Plain values as a description of the file at `path`, or a ValueError."""
    if isinstance(values, dict):
        if (version := values.get("format", FORMAT)) != FORMAT:
            raise ValueError(
                f"{path} is of format {shown(version)}, this version reads {FORMAT}: "
                "update hear_ptsed"
            )
        known = {field.name for field in fields(Description)}
        values = {key: value for key, value in values.items() if key in known}
    description = check(Description, values, f"{path}: its description")
    for name, count in Counter(description.classes or ()).items():
        if count > 1:
            raise ValueError(f"{path} names the class {shown(name)} twice; names must differ")
    return description


def describe(path: Path | str) -> dict[str, Any]:
    """What `save_checkpoint` wrote about the model: model (its registered name or None), backbone,
    sequence_model (None or options of `build_sequence_model`), head, classes; empty for files of
    others.
    """
    _, values = tensor_files.read(Path(path))
    if values:
        check_description(values, Path(path))
    return values
