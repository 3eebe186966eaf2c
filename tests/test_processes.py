"""A command with all of its output in a file."""

import sys

import pytest

from eval_tasks.processes import logged


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_exit_code_last_line_and_all_output_are_kept(tmp_path):
    log = tmp_path / "logs" / "it.txt"
    code = "import os, sys; print(os.environ['WORD'], os.getcwd(), flush=True); sys.exit('no\\n ')"
    folder = tmp_path.resolve()
    assert logged(python(code), log, folder=folder, environment={"WORD": "one"}) == (1, "no")
    assert log.read_text() == f"one {folder}\nno\n \n"
    assert logged(python(""), log) == (0, "no output") and log.read_text() == ""
    assert logged(python("input()"), log)[1].startswith("EOFError")


def test_a_command_is_ended_with_a_wait_that_is_broken_off_or_by_who_was_given_it(tmp_path):
    endless, processes = python("import time\nwhile True: time.sleep(1)"), []

    def interrupt(process):
        processes.append(process)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        logged(endless, tmp_path / "log.txt", started=interrupt)
    assert processes[0].poll() is not None
    code, last = logged(endless, tmp_path / "log.txt", started=lambda process: process.terminate())
    assert (code, last) == (-15, "no output")
