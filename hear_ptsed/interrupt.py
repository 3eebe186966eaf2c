"""Ctrl-C in long jobs: never lost, and between two parts of the work instead of within one.

Python raises KeyboardInterrupt wherever it happens to be, also within a callback of the garbage
collector, where it is printed and forgotten. So a command notes Ctrl-C first (`listening`), and a
job that has parts (`deferred`, `between`) stops where it asks (`safe_point`). A second Ctrl-C
raises at once.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_noted = False
_jobs: set[object] = set()  # those with safe points that are under way, one within the other
_process = os.getpid()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Note Ctrl-C while a command runs; where it is ignored (a background job), leave it so."""
    global _noted, _process
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    _noted, _process = False, os.getpid()
    _jobs.clear()  # an error that somebody keeps may hold a job of an earlier command
    signal.signal(signal.SIGINT, _note)
    try:
        yield
        safe_point()  # noted, and lost since
    finally:
        _noted = False
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _note(_signal: int, _frame: object) -> None:
    global _noted
    again, _noted = _noted, True
    if again or not _jobs:
        raise KeyboardInterrupt
    if os.getpid() == _process:  # a forked worker waits for its parent, and says nothing
        text = "stopping soon; Ctrl-C again stops at once"
        os.write(sys.__stderr__.fileno(), f"\n{text}\n".encode())


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """A job with safe points: within it a first Ctrl-C waits for the next of them."""
    job = object()
    _jobs.add(job)
    try:
        yield
    finally:
        _jobs.discard(job)
    safe_point()


def safe_point() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed since the command began."""
    if _noted:
        raise KeyboardInterrupt


def between(parts: Iterable[T]) -> Iterator[T]:
    """Go through the parts of a job, with a safe point before each and behind the last."""
    with deferred():
        for part in parts:
            safe_point()
            yield part
