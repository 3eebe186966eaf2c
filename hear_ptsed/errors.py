"""What a user reads when something fails: one line for every error, one funnel for all commands."""

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from hear_ptsed import interrupt

# Errors whose message says all; others are named by their type, too.
EXPECTED = (ValueError, RuntimeError, OSError, ImportError, ArithmeticError, argparse.ArgumentError)
LINE = 1000  # characters


def run_command(name: str, action: Callable[[], int | None], debug: bool, interrupted: str) -> int:
    """Run a command to its exit code; a failure is one line on stderr, a traceback with `debug`.

    Args:
        name: of the command, for the message.
        action: gives the exit code; None is 0.
        interrupted: what is said after Ctrl-C.
    Returns:
        0 or what `action` gave, 1 after a failure, 2 after wrong usage, 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot encode is escaped
        with contextlib.suppress(AttributeError):  # a stream that somebody put in its place
            stream.reconfigure(errors="backslashreplace")
    try:
        with interrupt.listening():
            return action() or 0
    except KeyboardInterrupt:
        print(f"{name}: interrupted; {interrupted}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        complain(name, error, debug)
        return 2 if isinstance(error, argparse.ArgumentError) else 1


def complain(name: str, error: Exception, debug: bool, about: str = "") -> str:
    """One line on stderr, with what it is about; the traceback before it with `debug`.

    Returns:
        What was said, without the name of the command.
    """
    if debug:
        traceback.print_exception(error)
    text = one_line(error)
    about = printable(about, LINE)
    said = text if about in text else f"{about}: {text}"
    print(f"{name}: {said}", file=sys.stderr)
    return said


def one_line(error: Exception) -> str:
    """An error's message on one line, with its type where the message alone says too little."""
    text = printable(" ".join(str(error).split()), LINE)
    if isinstance(error, MemoryError):
        return f"not enough memory ({text or 'no more is known'}); use smaller batches or files"
    if not text:  # a bare assert of another package: its source line is all that is known
        frames = traceback.extract_tb(error.__traceback__)
        if frames:
            text = f"{frames[-1].line} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
    elif isinstance(error, EXPECTED):
        return text
    return f"{type(error).__name__}: {text}"


def require_package(name: str, extra: str) -> Any:
    """A package of an extra, imported; an ImportError says what to install."""
    try:
        return import_module(name)
    except ImportError as error:
        text = f"{name} is not installed; install the extra {extra!r} ({error})"
        raise ImportError(text) from error


def printable(text: str, limit: int) -> str:
    """Text without line breaks, control characters or half surrogates, cut at `limit`."""
    cut = text if len(text) <= limit else f"{text[:limit]}…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)


def shown(value: Any, limit: int = 60) -> str:
    """A value for a message: short, on one line, however large or deep the value is."""
    if isinstance(value, int) and abs(value) > 10**limit:  # its digits would take long
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, str | int | float | None):
        return printable(repr(value[: limit + 1] if isinstance(value, str) else value), limit)
    try:
        return f"a {type(value).__name__} of {len(value)}"
    except TypeError:
        return f"a {type(value).__name__}"


def few(names: Sequence[str], n: int = 2) -> str:
    """The first names of many, and how many more there are."""
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")
