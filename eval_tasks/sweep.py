"""Many evaluations from one yaml: each a process of its own, here or on other machines."""

import math
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from eval_tasks import processes
from eval_tasks.request import (
    NEW_WORDS,
    ModuleChoice,
    Place,
    Protocol,
    ProtocolChoice,
    Request,
    Seeds,
    TaskChoice,
)
from eval_tasks.tasks import find_task
from eval_tasks.tasks.base import TaskData, open_task
from hear_ptsed import cluster
from hear_ptsed.errors import EXPECTED, one_line
from hear_ptsed.options import write_options
from hear_ptsed.schema import check, read_yaml_file, setting, settings
from training.recipe import Seed

MOST = 100_000  # runs of a sweep
KEPT_FOR_OTHERS = 3  # times that Ray repeats a run whose machine was lost
FOLDERS = ("tasks_dir", "results", "work")
ROWS = {"tasks": "task", "modules": "module", "protocols": "protocol"}  # list -> what names a row


@settings(kw_only=True)
class TaskEntry(TaskChoice):
    """A task of a sweep."""

    protocols: tuple[Protocol, ...] | None = setting(
        None, "Those of the sweep's that it takes part in; null: all."
    )
    set: dict[Protocol, tuple[str, ...]] = setting(
        dict, "Numbers of the recipes, after those of the protocol's entry."
    )


@settings
class Sweep:
    """A sweep's file."""

    tasks: tuple[TaskEntry, ...]
    modules: tuple[ModuleChoice, ...]
    protocols: tuple[ProtocolChoice, ...]
    seeds: tuple[Seed, ...] = (0,)


@dataclass(frozen=True)
class PlannedRun:
    """One evaluation of a sweep."""

    title: str
    request: Request
    state: str  # planned, finished, failed
    message: str = ""
    log: Path | None = None


class _Running:
    """Processes of this machine, to be ended together."""

    def __init__(self):
        self.processes: list[subprocess.Popen] = []
        self.ended = False

    def add(self, process: subprocess.Popen) -> None:
        self.processes.append(process)
        if self.ended:
            process.terminate()

    def end(self) -> None:
        self.ended = True
        for process in self.processes:
            process.terminate()


def parse_sweep(values: Any, where: str) -> Sweep:
    """A sweep from the values of its file, where a name stands for an entry with that name only.

    Unknown keys are refused.
    """
    if isinstance(values, dict):
        values = dict(values)
        keys = {*values}
        for key, name in ROWS.items():
            if isinstance(values.get(key), list):
                rows = [{name: row} if isinstance(row, str) else row for row in values[key]]
                keys.update(*(row for row in rows if isinstance(row, dict)))
                values[key] = rows
        if old := keys & {"mode", "modes", "setup"}:
            raise ValueError(f"{where} has {min(old)}; give protocols instead: {NEW_WORDS}")
        if type(values.get("seeds")) is int:
            values["seeds"] = list(range(check(Seeds, values["seeds"], f"{where}: seeds")))
    sweep = check(Sweep, values, where)
    n = math.prod(map(len, (sweep.tasks, sweep.modules, sweep.protocols, sweep.seeds)))
    if n > MOST:
        raise ValueError(f"{where} asks for {n} runs; allowed are {MOST}: make several of it")
    return sweep


def plan_sweep(path: Path, place: Place, *, download: bool = True) -> list[PlannedRun]:
    """Every evaluation of a sweep's file, and whether it is finished.

    Args:
        download: see eval_tasks.plan.plan_run.
    """
    opened: dict[tuple, TaskData] = {}

    def data(request: Request) -> TaskData | None:
        """The task's folder, opened once for all of its runs."""
        task = find_task(request.task)
        if not task.protocols:
            return None  # which plan says, too
        folder = request.tasks_dir / (request.folder or task.folder)
        if (task.name, folder) not in opened:
            opened[task.name, folder] = open_task(task, folder)
        return opened[task.name, folder]

    sweep = parse_sweep(read_yaml_file(Path(path), "sweep"), str(path))
    return [_entry(request, data, download) for request in requests(sweep, place)]


def requests(sweep: Sweep, place: Place) -> list[Request]:
    """What a sweep asks for, task by task."""
    asked = []
    for task, module, protocol in product(sweep.tasks, sweep.modules, sweep.protocols):
        name = protocol.protocol
        if task.protocols is not None and name not in task.protocols:
            continue
        values = vars(place) | vars(task) | vars(module) | vars(protocol)
        values["set"] = (*protocol.set, *task.set.get(name, ()))
        del values["protocols"]
        if name == "hear":  # which has folds, device and seed of its own
            asked.append(Request(**values | {"folds": None, "device": None}))
        else:
            asked += [Request(**values, seed=seed) for seed in sweep.seeds]
    return asked


def _entry(
    request: Request, data: Callable[[Request], TaskData | None], download: bool
) -> PlannedRun:
    from eval_tasks.plan import plan_run

    parts = [request.task, request.module, request.checkpoint and request.checkpoint.stem]
    parts += [request.stage]
    parts += [request.protocol, *request.set]
    parts += [f"{key}={value}" for key, value in request.options.items()]
    parts += [] if request.seed is None else [f"seed {request.seed}"]
    title = " ".join(str(part) for part in parts if part)
    try:
        run = plan_run(request, data(request), download=download)
        done = run.finished()
        name = f"{run.data.version}-{request.protocol}-{run.plugin.name}-seed{run.seed}"
        log = request.work / "sweep" / f"{name}-{run.identity[:12]}.txt"
    except EXPECTED as error:
        return PlannedRun(title, request, "failed", one_line(error))
    return PlannedRun(title, request, "finished" if done else "planned", log=log)


def describe(entries: Sequence[PlannedRun]) -> str:
    """What a sweep has to do, for people."""
    counts = Counter(entry.state for entry in entries)
    head = f"{len(entries)} runs: " + ", ".join(f"{n} {state}" for state, n in counts.items())
    rows = (
        f"  {entry.state:8}  {entry.title}" + (f": {entry.message}" if entry.message else "")
        for entry in entries
    )
    return "\n".join([head, *rows])


def run_here(
    entries: Sequence[PlannedRun], jobs: int = 1, retries: int = 0
) -> Iterator[PlannedRun]:
    """Carry out what is planned on this machine, and yield every entry as it ends."""
    yield from (entry for entry in entries if entry.state != "planned")
    threads = {} if jobs == 1 else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    planned = [entry for entry in entries if entry.state == "planned"]
    running = _Running()
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(_carry_out, entry, retries, threads, running) for entry in planned]
        try:
            for done in as_completed(waiting):
                yield done.result()
        except BaseException:  # Ctrl-C, or nobody asks for more
            pool.shutdown(wait=False, cancel_futures=True)
            running.end()
            raise


def run_on_ray(
    entries: Sequence[PlannedRun], address: str | None, retries: int = 0
) -> Iterator[PlannedRun]:
    """As `run_here`, on a Ray cluster: a GPU for each run, or a CPU where the cluster has no GPU.

    A run whose machine is lost is repeated elsewhere, where it goes on from its last state.

    Args:
        address: of a running cluster; None starts one here.
    """
    yield from (entry for entry in entries if entry.state != "planned")
    names = (*FOLDERS, "checkpoint")
    planned = [_absolute(entry, *names) for entry in entries if entry.state == "planned"]
    with cluster.connected(address or "local") as ray:
        needs, _ = cluster.one_share(ray)
        remote = ray.remote(**needs, max_retries=KEPT_FOR_OTHERS)(_carry_out)
        waiting = {remote.remote(entry, retries): entry for entry in planned}
        while waiting:
            (done,), _ = ray.wait([*waiting])
            entry = waiting.pop(done)
            try:
                yield ray.get(done)
            except ray.exceptions.RayError as error:
                lines = str(error).strip().splitlines()
                yield replace(entry, state="failed", message=lines[0] if lines else repr(error))


def write_line(entry: PlannedRun) -> str:
    """A line for a shell that carries out an entry, from any folder and with any scheduler.

    It goes to this folder first, so that the record names the checkpoint as it is named here.
    """
    command = _command(_absolute(entry, *FOLDERS).request)
    line = f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(command)}"
    if "\n" in line:
        raise ValueError(f"{entry.title!r} takes more than one line; rename its folder or file")
    return line


def _absolute(entry: PlannedRun, *names: str) -> PlannedRun:
    """With paths of its request that mean the same in every working folder."""
    paths = {name: path.absolute() for name in names if (path := getattr(entry.request, name))}
    return replace(entry, request=replace(entry.request, **paths), log=entry.log.absolute())


def _command(request: Request) -> list[str]:
    return [sys.executable, "-m", "eval_tasks", "run", "--quiet", *write_options(request)]


def _carry_out(
    entry: PlannedRun,
    retries: int = 0,
    environment: dict[str, str] | None = None,
    running: _Running | None = None,
) -> PlannedRun:
    """Run an entry in a process, again if it fails; its output goes to its log."""
    started = None if running is None else running.add
    for _ in range(retries + 1):
        code, last = processes.logged(
            _command(entry.request), entry.log, environment=environment, started=started
        )
        if code == 0:
            return replace(entry, state="finished")
        if running is not None and running.ended:
            break
    ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    message = f"{last} ({ended}, all output: {entry.log})"
    return replace(entry, state="failed", message=message)
