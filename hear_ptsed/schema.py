"""What comes from outside is checked once, against types with ranges; an error is one line.

A class of options is a dataclass under `settings`, its ranges are pydantic's; what a field is and
its range stand in one place, from which checks, messages and the commands' help come:

    @settings
    class Window:
        overlap_s: float = setting(0.0, "heard twice, in seconds", ge=0, lt=10)
"""

import dataclasses
import functools
import json
import math
import re
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import pydantic.dataclasses
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic.fields import FieldInfo

from hear_ptsed.errors import few, printable, shown

T = TypeVar("T")
CHARACTERS = 1_000_000  # of yaml
NODES = 200_000  # values in one file of settings; more is an attack or a mistake
NAME, TEXT = 255, 10_000  # characters at most
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def _number(value: Any) -> Any:
    """Text such as 1e-4, which yaml does not take for a number, as one."""
    try:
        return float(value) if isinstance(value, str) and len(value) < 40 else value
    except ValueError:
        return value


Number = Annotated[float, BeforeValidator(_number)]

# Control and format characters, line separators, half surrogates: nothing that prints.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ud800-\udfff\U000e0000-\U000e0fff]"
)
_MARKUP = re.compile(r"<\s*[a-zA-Z/!?]")


def is_line(text: str) -> bool:
    """Whether a text has no line breaks, control or format characters, or half surrogates."""
    return not _HIDDEN.search(text)


def is_label(text: str) -> bool:
    """Whether a text is such a line, and has nothing that looks like markup."""
    return is_line(text) and not _MARKUP.search(text)


def is_name(text: str) -> bool:
    """Whether a text is such a label, and could name a file."""
    return is_label(text) and text not in ("", ".", "..") and not set(text) & set("/\\")


def _require(test: Callable[[str], Any], what: str) -> AfterValidator:
    def check_text(value: str) -> str:
        if not test(value):
            raise ValueError(f"it must be {what}")
        return value

    return AfterValidator(check_text)


# Texts that are shown to others: a line, a name of a class, and what could name a file.
Line = Annotated[
    str, Field(max_length=TEXT), _require(is_line, "a line without control characters")
]
Label = Annotated[
    str, Field(max_length=NAME), _require(is_label, "a line without control characters and markup")
]
Name = Annotated[Label, _require(is_name, "a name, without / or \\")]
Sha256 = Annotated[
    str, _require(re.compile("[0-9a-f]{64}").fullmatch, "the 64 digits of a SHA-256")
]


def setting(default: Any, about: str, **limits: float) -> Any:
    """A field of a class under `settings`: its default, what it is with its unit, and its range.

    Args:
        default: ... where the field must be given; dict for an empty one.
        limits: ge, gt, le, lt, as in pydantic's Field.
    """
    made = {"default_factory": dict} if default is dict else {"default": default}
    return Field(**made, description=about, **limits)


@dataclass_transform(frozen_default=True, field_specifiers=(setting, dataclasses.field))
def settings(
    cls: type[T] | None = None,
    *,
    config: ConfigDict = STRICT,
    where: str = "",
    kw_only: bool = False,
) -> type[T]:
    """A frozen dataclass whose fields have the declared types and ranges, or a ValueError.

    Args:
        config: pydantic's.
        where: what errors call it; its own name if empty.
        kw_only: fields are given by name, so that a class can add some that must be given.
    """
    if cls is None:
        return functools.partial(settings, config=config, where=where, kw_only=kw_only)
    for name, value in list(vars(cls).items()):
        # As a part of the type it is found by all readers below.
        if isinstance(value, FieldInfo):
            cls.__annotations__[name] = Annotated[cls.__annotations__[name], value]
            if value.default_factory is not None:
                setattr(cls, name, dataclasses.field(default_factory=value.default_factory))
            elif value.is_required():
                delattr(cls, name)
            else:
                setattr(cls, name, value.default)
    made = pydantic.dataclasses.dataclass(frozen=True, config=config, kw_only=kw_only)(cls)
    validate = made.__init__

    @functools.wraps(validate)
    def __init__(self, *values: Any, **named: Any) -> None:
        try:
            validate(self, *values, **named)
        except ValidationError as error:
            raise ValueError(_message(made, error, where or made.__name__)) from None

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
        text = json.dumps(values, ensure_ascii=False).encode()
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


def admitted(kind: Any, name: str = "x") -> str:
    """What a type takes, in few words: "0 <= x < 1", "adam, sgd"; empty for all that it can be."""
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return ", ".join(map(str, arguments))
    if get_origin(kind) is Annotated:
        limits = [limit for one in kind.__metadata__ for limit in getattr(one, "metadata", [one])]
        low = [f"{limit.ge} <= " for limit in limits if hasattr(limit, "ge")]
        low += [f"{limit.gt} < " for limit in limits if hasattr(limit, "gt")]
        high = [f" <= {limit.le}" for limit in limits if hasattr(limit, "le")]
        high += [f" < {limit.lt}" for limit in limits if hasattr(limit, "lt")]
        if low or high:
            return f"{''.join(low)}{name}{''.join(high)}"
    inside = next(filter(None, (admitted(one, name) for one in arguments)), "")
    return f"{inside} or null" if inside and types.NoneType in arguments else inside


def read_option(kind: Any, text: str, where: str) -> Any:
    """The plain value of an option's text: of a field for text the text itself, else yaml."""
    whole = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if strip_type(kind) is str and (text != "null" or types.NoneType not in get_args(whole)):
        return text
    return read_yaml(text, where)


def describe(kind: Any) -> str:
    """What `setting` said of a field with this type; empty if it did not."""
    details = kind.__metadata__ if get_origin(kind) is Annotated else ()
    return next((d.description for d in details if getattr(d, "description", None)), "")


def strip_type(kind: Any) -> Any:
    """A type without its ranges and without null."""
    while get_origin(kind) in (Annotated, Union, types.UnionType):
        kind = get_args(kind)[0]
    return kind


def problems(kind: type[T], text: str | bytes, where: str = "") -> list[str]:
    """All that is wrong in JSON text for a `kind`, a line each."""
    try:
        _adapter(kind).validate_json(text)
    except ValidationError as error:
        return _problems(kind, error, where)
    return []


def _message(kind: Any, error: ValidationError, where: str) -> str:
    """The first faults of several, each with its place, what came, and what is allowed."""
    texts = _problems(kind, error, where)
    more = f"; and {len(texts) - 3} more faults" if len(texts) > 3 else ""
    return "; ".join(texts[:3]) + more


def _problems(kind: Any, error: ValidationError, where: str) -> list[str]:
    faults = error.errors(include_url=False)
    lacking = sorted(_place(fault["loc"]) for fault in faults if fault["type"] == "missing")
    texts = [f"{where} lacks {few(lacking, 10)}".strip()] if lacking else []
    texts += [_fault(kind, fault, where) for fault in faults if fault["type"] != "missing"]
    return list(dict.fromkeys(texts))


def _fault(kind: Any, fault: dict[str, Any], where: str) -> str:
    place = _place(fault["loc"])
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = ", ".join(_fields(kind, fault["loc"][:-1]))
        return f"{where} has the unknown {place}".strip() + (f"; known: {known}" if known else "")
    allowed = fault["msg"].removeprefix("Value error, ").replace("Input should be ", "it must be ")
    if fault["type"] == "value_error" and not allowed.startswith("it must "):
        return allowed  # of a check of ours, which says all
    if fault["type"] == "json_invalid":
        return ": ".join(filter(None, (where, fault["msg"])))
    if fault["type"] in ("dataclass_type", "model_type"):
        allowed = f"it must have the fields {', '.join(_fields(kind, fault['loc']))}"
    elif fault["type"] == "tuple_type":
        allowed = "it must be a list"
    about = ": ".join(filter(None, (where, place)))
    limits = admitted(find_type(kind, fault["loc"]))
    if "than" in fault["type"] and limits.count("<") == 2:  # the message tells one of both
        allowed += f" ({limits})"
    return f"{about} is {shown(fault['input'])}; {allowed[0].lower()}{allowed[1:]}"


def find_type(kind: Any, place: tuple[int | str, ...]) -> Any:
    """The annotation of a place within `kind`; None where that is not known."""
    for key in place:
        kind = strip_type(kind)
        inside = get_args(kind)
        if isinstance(key, str) and isinstance(kind, type) and not inside:
            kind = get_type_hints(kind, include_extras=True).get(key)
        elif inside:
            kind = inside[key] if isinstance(key, int) and key < len(inside) else inside[-1]
            kind = inside[0] if kind is ... else kind
    return kind


def _place(keys: tuple[int | str, ...]) -> str:
    """Where a value stands, such as data.train[0]."""
    of_key = keys[-1:] == ("[key]",)  # the last but one is the key that is wrong
    place = ""
    for key in keys[:-2] if of_key else keys:
        place += f"[{key}]" if isinstance(key, int) else f".{key}"
    return "a key of " * of_key + shown(place.removeprefix("."), 120)[1:-1]


def _fields(kind: Any, place: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the class that stands at a place within `kind`."""
    return list(getattr(strip_type(find_type(kind, place)), "__pydantic_fields__", ()))


def read_json(text: str, undefined: bool = False) -> Any:
    """Plain values of JSON text; a ValueError says what is wrong, in one line.

    Args:
        undefined: allow NaN and Infinity.
    """
    constants = None if undefined else _no_constant
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=constants)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error}); truncated?") from None
    except RecursionError:
        raise ValueError("not valid JSON: nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"not valid JSON: the key {shown(twice)} comes twice")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON; a score that is not defined is null")


def read_yaml(text: str, where: str) -> Any:
    """Plain values of yaml text; a ValueError says what is wrong, in one line."""
    import yaml

    if len(text) > CHARACTERS:
        raise ValueError(f"{where} has more than {CHARACTERS} characters; no settings need as many")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded(node, {}) > NODES:
            raise ValueError(f"more than {NODES} values, where repeated references count")
        return loader.construct_document(node)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        why = printable(" ".join(str(error).split()), 200)
        raise ValueError(f"{where}: not yaml ({why})") from None


def _expanded(node: Any, sizes: dict[int, float]) -> float:
    """How many values a yaml node stands for when every alias is written out."""
    if isinstance(node.value, str):
        if len(node.value) > 1000 and node.tag.endswith((":int", ":float")):
            raise ValueError("a number has more than 1000 digits")
        return 1
    if id(node) not in sizes:
        sizes[id(node)] = math.inf  # where it contains itself
        if node.tag.endswith(":map"):
            keys = Counter(str(key.value) for key, _ in node.value)
            if keys and (twice := keys.most_common(1)[0])[1] > 1:
                raise ValueError(f"{shown(twice[0])} occurs {twice[1]} times in one place")
        inside = (part for item in node.value for part in (item if type(item) is tuple else [item]))
        sizes[id(node)] = 1 + sum(_expanded(part, sizes) for part in inside)
    return sizes[id(node)]


def read_yaml_file(path: Path, what: str) -> Any:
    """The same of a file; `what` it should be, for the message where there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such {what}")
    with path.open("rb") as file:
        content = file.read(4 * CHARACTERS + 1)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not yaml ({error.reason} at byte {error.start})") from None
    return read_yaml(text, str(path))
