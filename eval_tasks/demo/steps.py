"""One step of the demo: a command in a process of its own, its output in a log."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from eval_tasks.processes import ending_with_parent

CORES = os.cpu_count() or 1


def run(folder: Path, title: str, command: Sequence[str], done: str = "", at_once: int = 1) -> None:
    """Run `python -m COMMAND` in a folder, with its output in logs/TITLE.txt there.

    Args:
        done: a file in the folder that the command leaves at its end; where it is, nothing is run.
        at_once: steps that run at the same time and share the cores.

    Raises:
        RuntimeError with the last line of the output.
    """
    if done and (folder / done).exists():
        return
    log = folder / "logs" / f"{title.replace(' ', '-')}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        result = subprocess.run(
            [sys.executable, "-m", *command],
            stdout=file,
            stderr=file,
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": str(max(1, CORES // at_once))},
            preexec_fn=ending_with_parent(),
        )
    if result.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"{title} failed: {' '.join(last)} (all output: {log})")
    print(f"{title}: {time.monotonic() - started:.0f} s", flush=True)


def side_by_side(*steps: Callable[[], None]) -> None:
    """Run steps at the same time; the first failure is raised when all have ended."""
    with ThreadPoolExecutor(len(steps)) as pool:
        for step in [pool.submit(step) for step in steps]:
            step.result()
