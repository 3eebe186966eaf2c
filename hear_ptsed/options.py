"""The commands' options: wrong usage is one line, and numbers have a range that help shows."""

import argparse
from collections.abc import Callable
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
    told = [text, admitted(kind, "N"), *([] if default is None else [f"default {default}"])]
    help_text = "; ".join(told).replace("%", "%%")
    add(flag, type=partial(_number, kind), default=default, metavar="N", help=help_text)


def _number(kind: Any, text: str) -> float:
    try:
        return from_text(kind, text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)}; give {admitted(kind, 'N')}") from None
