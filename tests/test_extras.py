"""Each documented installation works alone: its modules need only the packages of its extra."""

import subprocess
import sys
from pathlib import Path

import pytest
from import_all import EXTRAS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_module_imports_with_the_packages_of_its_extra_alone(extra):
    command = [sys.executable, "tests/import_all.py", extra]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    hidden, *failed = ended.stdout.splitlines() or ["0"]
    assert int(hidden) > 20, ended.stderr  # the packages of the other extras
    assert not failed
    assert ended.returncode == 0, ended.stderr
