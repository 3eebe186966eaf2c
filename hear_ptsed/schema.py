"""What comes from outside is checked once, against types with ranges; an error is one line.

A class of options is a dataclass under `settings`, its ranges are pydantic's:

    @settings
    class Window:
        overlap_s: Annotated[float, Field(ge=0, lt=10)] = 0.0
"""

import functools
import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar, Union, dataclass_transform, get_args, get_origin

import pydantic.dataclasses
from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from hear_ptsed.errors import shown

T = TypeVar("T")
NODES = 200_000  # values in one file of settings; more is an attack or a mistake
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def _number(value: Any) -> Any:
    """Text such as 1e-4, which yaml does not take for a number, as one."""
    try:
        return float(value) if isinstance(value, str) and len(value) < 40 else value
    except ValueError:
        return value


Number = Annotated[float, BeforeValidator(_number)]


@dataclass_transform(frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """A frozen dataclass whose fields have the declared types and ranges, or a ValueError."""
    made = pydantic.dataclasses.dataclass(frozen=True, config=STRICT)(cls)
    validate = made.__init__

    @functools.wraps(validate)
    def __init__(self, *values: Any, **named: Any) -> None:
        try:
            validate(self, *values, **named)
        except ValidationError as error:
            raise ValueError(_message(made, error, made.__name__)) from None

    made.__init__ = __init__
    return made


def check(kind: type[T], values: Any, where: str) -> T:
    """Plain values, as JSON and yaml give them, as `kind`; a ValueError says what is wrong.

    Args:
        kind: a class under `settings`, a pydantic model, or any type that pydantic takes.
        where: what holds the values, such as a file's name.
    """
    for i, _ in enumerate(_nodes(values)):
        if i > NODES:
            raise ValueError(f"{where} has more than {NODES} values; repeated references count")
    try:
        text = json.dumps(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no plain data ({error}); quote what is text") from None
    return check_json(kind, text, where)


def check_json(kind: type[T], text: str | bytes, where: str) -> T:
    """JSON text as `kind`, see `check`."""
    try:
        return _adapter(kind).validate_json(text)
    except ValidationError as error:
        raise ValueError(_message(kind, error, where)) from None


@functools.cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


def _nodes(value: Any, depth: int = 0) -> Iterator[None]:
    yield
    if depth > 100:
        raise ValueError("values are nested more than 100 levels deep")
    inside = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list | tuple):
        for item in inside:
            yield from _nodes(item, depth + 1)


def _message(kind: Any, error: ValidationError, where: str) -> str:
    """The first faults of several, each with its place, what came, and what is allowed."""
    faults = error.errors(include_url=False)
    texts = [_fault(kind, fault, where) for fault in faults[:3]]
    more = f"; and {len(faults) - 3} more faults" if len(faults) > 3 else ""
    return "; ".join(dict.fromkeys(texts)) + more


def _fault(kind: Any, fault: dict[str, Any], where: str) -> str:
    place = ""
    for key in fault["loc"]:
        place += f"[{key}]" if isinstance(key, int) else f".{key}"
    place = shown(place.removeprefix("."), 120)[1:-1]
    if fault["type"] == "missing":
        return f"{where} lacks {place}"
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _fields(kind, fault["loc"][:-1])
        return f"{where} has the unknown {place}" + (
            f"; known: {', '.join(known)}" if known else ""
        )
    if fault["type"] == "value_error":  # of a check of ours, which says all
        return fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "json_invalid":
        return f"{where}: {fault['msg']}"
    allowed = fault["msg"].replace("Input should be ", "it must be ")
    about = f"{where}: {place}" if place else where
    return f"{about} is {shown(fault['input'])}; {allowed[0].lower()}{allowed[1:]}"


def _fields(kind: Any, place: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the class that stands at a place within `kind`."""
    while get_origin(kind) in (Annotated, Union, types.UnionType):
        kind = get_args(kind)[0]
    if isinstance(kind, type) and not get_origin(kind):
        fields = getattr(kind, "__pydantic_fields__", {})
        if not place:
            return list(fields)
        return _fields(fields[place[0]].annotation, place[1:]) if place[0] in fields else []
    inside = get_args(kind)
    return _fields(inside[-1 if get_origin(kind) is dict else 0], place[1:]) if inside else []


def read_yaml(text: str, where: str) -> Any:
    """Plain values of yaml text; a ValueError says what is wrong, in one line."""
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"{where}: not yaml ({why})") from None
