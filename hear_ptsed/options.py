"""The commands' options: wrong usage is one line, and numbers have a range that help shows."""

import argparse
import dataclasses
import difflib
import json
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from hear_ptsed.errors import LINE, printable, shown
from hear_ptsed.schema import admitted, describe, read_json, strip_type

T = TypeVar("T")
WORDS = {bool: "BOOL", int: "INT", float: "NUMBER", str: "TEXT", Literal: "CHOICE", tuple: "LIST"}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line; sub-commands get the same kind."""

    def error(self, message: str) -> None:
        text = printable(" ".join(message.split()), LINE)
        self.exit(2, f"{self.prog}: {text}; --help lists the options\n")


def add_number(
    add: Callable[..., Any], flag: str, kind: Any, default: float | None, text: str
) -> None:
    """Add an option for a number.

    Args:
        add: `add_argument` of a parser or of a group.
        kind: the number's type with its range, such as Annotated[int, Field(ge=0, le=9)].
        text: what it is, for help.
    """
    parts = [text, admitted(kind, "N"), *([] if default is None else [f"default {default}"])]
    help_text = "; ".join(parts).replace("%", "%%")
    add(flag, type=partial(_number, kind), default=default, metavar="N", help=help_text)


def add_number_of(add: Callable[..., Any], flag: str, kind: Any, owner: str, text: str) -> None:
    """Add an option that may be repeated, `flag OWNER N`; its value is a dictionary of them.

    Args:
        add, kind, text: see add_number.
        owner: what has such a number, for help.
    """
    help_text = f"{text}; {admitted(kind, 'N')}; may be repeated".replace("%", "%%")
    shape = {"nargs": 2, "default": {}, "metavar": (owner, "N")}
    add(flag, action=_NumberOf, const=partial(_number, kind), **shape, help=help_text)


class _NumberOf(argparse.Action):
    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Sequence[str], option: Any = None
    ) -> None:
        name, text = values
        try:
            number = self.const(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from None
        setattr(namespace, self.dest, getattr(namespace, self.dest) | {name: number})


def add_fields(parser: argparse.ArgumentParser, kind: type) -> list[str]:
    """Add an option --SECTION.FIELD for every field of a class whose fields are `settings`.

    What is given stands in the namespace as text, under SECTION.FIELD; see `list_given`.

    Returns:
        The options.
    """
    added = []
    for section in dataclasses.fields(kind):
        group = parser.add_argument_group(section.name, section.default_factory.__doc__)
        hints = get_type_hints(section.default_factory, include_extras=True)
        for field in dataclasses.fields(section.default_factory):
            hint = hints[field.name]
            added.append(f"--{section.name}.{field.name}")
            help_text = _describe_option(hint, field.default)
            group.add_argument(
                added[-1], default=argparse.SUPPRESS, metavar=_name_type(hint), help=help_text
            )
    return added


def add_options(parser: argparse.ArgumentParser, kind: type) -> None:
    """Add an option for every field of a class under `settings`, such as --batch-size.

    The class and its bases are a group each, with the first line of their docstring as title.
    Values come from `read_options`.
    """
    hints = get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for base in reversed(kind.__mro__[:-1]):
        group = parser.add_argument_group(base.__doc__.splitlines()[0].rstrip("."))
        for name in vars(base).get("__annotations__", ()):
            shape = _shape_option(hints[name], _default(fields[name]))
            group.add_argument(_flag(name), **shape)


def read_options(kind: type[T], args: argparse.Namespace) -> T:
    """What was given for the options of `add_options`."""
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(kind)}
    given = {name: value for name, value in values.items() if value is not None}
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


def write_options(values: Any, leave_out: Collection[str] = ()) -> list[str]:
    """The arguments that `read_options` makes the same values of; defaults are left out."""
    arguments = []
    for field in dataclasses.fields(values):
        value, flag = getattr(values, field.name), _flag(field.name)
        if field.name in leave_out or value == _default(field):
            continue
        if value is True:
            arguments.append(flag)
        elif isinstance(value, dict):
            arguments += [flag, json.dumps(value)]
        else:
            items = value if isinstance(value, tuple) else (value,)
            arguments += [text for item in items for text in (flag, str(item))]
    return arguments


def list_given(args: argparse.Namespace) -> list[str]:
    """Options of `add_fields` that were given, each as "section.field=text"."""
    return [f"{name}={text}" for name, text in vars(args).items() if "." in name]


def describe_unknown(option: str, known: Sequence[str]) -> str:
    """What is said of an option that is none of the known ones."""
    similar = difflib.get_close_matches(option.partition("=")[0], known)
    return f"unknown {shown(option)}" + (f"; similar: {', '.join(similar)}" if similar else "")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _default(field: dataclasses.Field) -> Any:
    """A field's default; MISSING where it must be given."""
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def _shape_option(kind: Any, default: Any) -> dict[str, Any]:
    """What `add_argument` takes for a field: its help is a sentence with range and default."""
    bare, text = strip_type(kind), describe(kind)
    number = {"metavar": "N", "type": partial(_number, kind)}
    shapes = {
        bool: {"action": "store_true"},
        int: number,
        float: number,
        str: {"metavar": "TEXT"},
        Path: {"metavar": "PATH", "type": Path},
        Literal: {"choices": get_args(bare), "type": type(next(iter(get_args(bare)), None))},
        tuple: {"metavar": "TEXT", "action": "append"},
        dict: {"metavar": "JSON", "type": _json_object},
    }
    shape = shapes[get_origin(bare) or bare]
    if get_origin(bare) is tuple and strip_type(get_args(bare)[0]) is Path:
        shape = {"metavar": "PATH", "type": Path, "nargs": "+", "action": "extend"}
    brackets = [admitted(kind, "N").removesuffix(" or null")] if shape is number else []
    if shape is number and default is not None or isinstance(default, Path):
        brackets.append(f"default {default}")
    if brackets:
        text = f"{text.removesuffix('.')} ({'; '.join(brackets)})."
    required = default is dataclasses.MISSING
    return shape | {"required": required, "default": None, "help": text.replace("%", "%%")}


def _json_object(text: str) -> dict:
    try:
        value = read_json(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{shown(text)} is {error}") from None
    if not isinstance(value, dict):
        example = '{"overlap": 5}'
        raise argparse.ArgumentTypeError(f"{shown(text)} is no JSON object such as {example}")
    return value


def _name_type(kind: Any) -> str:
    bare = strip_type(kind)
    return WORDS[get_origin(bare) or bare]


def _describe_option(kind: Any, default: Any) -> str:
    """What a field is, and in brackets what it takes and its default."""
    texts = [describe(kind)]
    for item in filter(dataclasses.is_dataclass, map(strip_type, get_args(strip_type(kind)))):
        parts = get_type_hints(item, include_extras=True).items()
        texts.append("each has " + ", ".join(f"{name} ({describe(part)})" for name, part in parts))
    takes = "true, false" if strip_type(kind) is bool else admitted(kind, _name_type(kind))
    shown_default = default if isinstance(default, str) else json.dumps(default)
    texts[-1] += f" ({'; '.join(filter(None, (takes, f'default {shown_default}')))})"
    return "; ".join(texts).replace("%", "%%")


def _number(kind: Any, text: str) -> float:
    try:
        return TypeAdapter(kind).validate_strings(text)
    except ValidationError:
        raise argparse.ArgumentTypeError(f"{shown(text)}; give {admitted(kind, 'N')}") from None
