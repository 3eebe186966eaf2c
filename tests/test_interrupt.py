"""Ctrl-C in long commands: never lost, between two parts of the work; pressed twice, at once."""

import os
import signal
import subprocess
import sys
import time
import weakref

import pytest

from hear_ptsed import interrupt
from hear_ptsed.errors import run_command


@pytest.fixture(autouse=True)
def as_in_a_terminal():
    """A background job of a shell begins with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Thing:
    """Something that the garbage collector can take."""


def press_within_a_weak_reference_callback():
    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    del thing
    return reference


def run(action, capfd):
    code = run_command("a command", action, debug=False, interrupted="call again")
    return code, capfd.readouterr().err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_press_that_python_swallows_ends_the_job_at_its_next_part(capfd):
    done = []

    def job():
        for part in interrupt.between(range(5)):
            if part == 2:
                press_within_a_weak_reference_callback()
            done.append(part)

    code, err = run(job, capfd)
    assert code == 130 and done == [0, 1, 2]
    assert err.splitlines()[-1] == "a command: interrupted; call again"
    assert "stopping soon" in err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_swallowed_press_outside_of_any_part_ends_the_command_with_its_code(capfd):
    assert run(press_within_a_weak_reference_callback, capfd)[0] == 130


def test_outside_of_parts_a_press_ends_at_once_and_a_part_is_finished_first(capfd):
    done = []

    def at_once():
        signal.raise_signal(signal.SIGINT)
        done.append("never")

    def after_the_part():
        for part in interrupt.between("ab"):
            signal.raise_signal(signal.SIGINT)
            done.append(part)

    assert run(at_once, capfd)[0] == 130 and done == []
    assert run(after_the_part, capfd)[0] == 130 and done == ["a"]


def test_a_press_within_the_last_part_is_told_when_the_job_is_done(capfd):
    def job():
        for part in interrupt.between([1, 2]):
            if part == 2:
                signal.raise_signal(signal.SIGINT)

    assert run(job, capfd)[0] == 130


def test_a_second_press_ends_a_part_at_once(capfd):
    def job():
        for _ in interrupt.between([1]):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the part went on")

    assert run(job, capfd)[0] == 130


def test_a_job_within_a_job_stops_both_and_nothing_is_left_for_the_next_command(capfd):
    def job():
        for _ in interrupt.between("ab"):
            for part in interrupt.between([1, 2, 3]):
                if part == 2:
                    signal.raise_signal(signal.SIGINT)

    assert run(job, capfd)[0] == 130
    assert run(lambda: list(interrupt.between("ab")) and None, capfd)[0] == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


IGNORED = """
import os, signal, sys
from hear_ptsed import interrupt
from hear_ptsed.errors import run_command

def job():
    for part in interrupt.between([1, 2]):
        os.kill(os.getpid(), signal.SIGINT)
        print(part)

sys.exit(run_command("a command", job, False, "call again"))
"""


def test_a_background_job_that_ignores_ctrl_c_goes_on_ignoring_it():
    ignore = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # noqa: E731
    ended = subprocess.run(
        [sys.executable, "-c", IGNORED], preexec_fn=ignore, capture_output=True, text=True
    )
    assert ended.returncode == 0 and ended.stdout == "1\n2\n", ended.stderr


def test_a_terminals_ctrl_c_reaches_a_real_command_once_and_ends_it(tmp_path):
    script = f"""
import sys, time
from pathlib import Path
from hear_ptsed import interrupt
from hear_ptsed.errors import run_command

def job():
    for part in interrupt.between(range(1000)):
        Path({str(tmp_path)!r}, str(part)).touch()
        time.sleep(0.05)

sys.exit(run_command("a command", job, False, "call again"))
"""
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    while not any(tmp_path.iterdir()):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert len(list(tmp_path.iterdir())) < 1000
