"""The commands' options: wrong usage is one line, and numbers have a range that help shows."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hear_ptsed.errors import LINE, printable, shown
from hear_ptsed.schema import admitted, from_text


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
    metavar = (owner, "N")
    add(flag, action=_NumberOf, kind=kind, nargs=2, default={}, metavar=metavar, help=help_text)


class _NumberOf(argparse.Action):
    def __init__(self, *, kind: Any, **options: Any):
        super().__init__(**options)
        self.kind = kind

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Sequence[str], option: Any = None
    ) -> None:
        name, text = values
        try:
            number = _number(self.kind, text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from None
        setattr(namespace, self.dest, getattr(namespace, self.dest) | {name: number})


def _number(kind: Any, text: str) -> float:
    try:
        return from_text(kind, text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)}; give {admitted(kind, 'N')}") from None
