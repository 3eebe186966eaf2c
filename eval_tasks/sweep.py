"""Many evaluations from one yaml: each a process of its own, here or on a Ray cluster."""

import math
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from eval_tasks.processes import ending_with_parent
from eval_tasks.request import Block, DropLayers, Folds, GridPoints, Protocol, Request, Seeds
from eval_tasks.tasks import find_task
from eval_tasks.tasks.base import TaskData, open_task
from hear_ptsed.errors import EXPECTED, one_line
from hear_ptsed.schema import check, read_yaml_file, settings
from training.recipe import Seed

MOST = 100_000  # runs of a sweep
KEPT_FOR_OTHERS = 3  # times that Ray repeats a run whose machine was lost


@settings
class TaskEntry:
    """A task of a sweep."""

    task: str
    folder: str | None = None
    folds: Folds | None = None
    protocols: tuple[Protocol, ...] | None = (
        None  # of the sweep's, that it takes part in; null: all
    )
    # settings, behind those of the protocol
    set: dict[Protocol, tuple[str, ...]] = field(default_factory=dict)


@settings
class ModuleEntry:
    """A module of a sweep."""

    module: str
    checkpoint: str | None = None
    stage: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    untrained: bool = False


@settings
class ProtocolEntry:
    """A protocol of a sweep, and how."""

    protocol: Protocol
    set: tuple[str, ...] = ()
    layer: Block | None = None
    layers: str | None = None
    drop_layers: DropLayers | None = None
    grid: str | None = None
    grid_points: GridPoints | None = None


@settings
class Sweep:
    """A sweep's file."""

    tasks: tuple[TaskEntry, ...]
    modules: tuple[ModuleEntry, ...]
    protocols: tuple[ProtocolEntry, ...]
    seeds: tuple[Seed, ...] = (0,)


@dataclass(frozen=True)
class Entry:
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


def read(path: Path) -> Sweep:
    """A sweep's file; unknown keys are refused."""
    return parse(read_yaml_file(Path(path), "sweep"), str(path))


def parse(values: Any, where: str) -> Sweep:
    """A sweep from the values of its file, where a name stands for an entry with that name only."""
    if isinstance(values, dict):
        values = dict(values)
        for key, name in (("tasks", "task"), ("modules", "module"), ("protocols", "protocol")):
            if isinstance(values.get(key), list):
                rows = values[key]
                values[key] = [{name: row} if isinstance(row, str) else row for row in rows]
        if type(values.get("seeds")) is int:
            values["seeds"] = list(range(check(Seeds, values["seeds"], f"{where}: seeds")))
    sweep = check(Sweep, values, where)
    n = math.prod(map(len, (sweep.tasks, sweep.modules, sweep.protocols, sweep.seeds)))
    if n > MOST:
        raise ValueError(f"{where} asks for {n} runs; allowed are {MOST}: make several of it")
    return sweep


def plan(path: Path, *, download: bool = True, **where: Any) -> list[Entry]:
    """Every evaluation of a sweep's file, and whether it is finished.

    Args:
        download: see eval_tasks.plan.plan_run.
        where: fields of Request: tasks_dir, results, work, device, workers.
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

    return [_entry(request, data, download) for request in requests(read(path), **where)]


def requests(sweep: Sweep, **where: Any) -> list[Request]:
    """What a sweep asks for, task by task."""
    found = []
    for task, module, protocol in product(sweep.tasks, sweep.modules, sweep.protocols):
        if task.protocols is not None and protocol.protocol not in task.protocols:
            continue
        hear = protocol.protocol == "hear"
        more = {one.name: getattr(protocol, one.name) for one in fields(protocol)}
        settings = (*protocol.set, *task.set.get(protocol.protocol, ()))
        request = Request(
            **where
            | more
            | {
                "task": task.task,
                "folder": task.folder,
                "folds": None if hear else task.folds,
                "module": module.module,
                "checkpoint": module.checkpoint and Path(module.checkpoint),
                "stage": module.stage,
                "model_options": module.options,
                "untrained": module.untrained,
                "set": settings,
                "device": None if hear else where.get("device"),
            }
        )
        seeds = (None,) if hear else sweep.seeds
        found += [replace(request, seed=seed) for seed in seeds]
    return found


def _entry(request: Request, data: Callable[[Request], TaskData | None], download: bool) -> Entry:
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
        return Entry(title, request, "failed", one_line(error))
    return Entry(title, request, "finished" if done else "planned", log=log)


def table(entries: Sequence[Entry]) -> str:
    """What a sweep has to do, for people."""
    counts = Counter(entry.state for entry in entries)
    head = f"{len(entries)} runs: " + ", ".join(f"{n} {state}" for state, n in counts.items())
    rows = (
        f"  {entry.state:8}  {entry.title}" + (f": {entry.message}" if entry.message else "")
        for entry in entries
    )
    return "\n".join([head, *rows])


def here(entries: Sequence[Entry], jobs: int = 1, retries: int = 0) -> Iterator[Entry]:
    """Carry out what is planned on this machine, and yield every entry as it ends."""
    yield from (entry for entry in entries if entry.state != "planned")
    threads = {} if jobs == 1 else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    planned = [entry for entry in entries if entry.state == "planned"]
    running = _Running()
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(_carried_out, one, retries, threads, running) for one in planned]
        try:
            for done in as_completed(waiting):
                yield done.result()
        except BaseException:  # Ctrl-C, or nobody asks for more
            pool.shutdown(wait=False, cancel_futures=True)
            running.end()
            raise


def on_ray(entries: Sequence[Entry], address: str | None, retries: int = 0) -> Iterator[Entry]:
    """As `here`, on a Ray cluster: a GPU for each run, or a CPU where the cluster has no GPU.

    A run whose machine is lost is repeated elsewhere, where it goes on from its last state.

    Args:
        address: of a running cluster; None starts one here.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("ray is not installed; install the extra 'ray'") from error
    yield from (entry for entry in entries if entry.state != "planned")
    planned = [_absolute(entry) for entry in entries if entry.state == "planned"]
    mine = not ray.is_initialized()
    if mine:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        local = {} if address else {"include_dashboard": False}
        ray.init(address or "local", log_to_driver=False, **local)
    try:
        needs = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": 1}
        remote = ray.remote(**needs, max_retries=KEPT_FOR_OTHERS)(_carried_out)
        waiting = {remote.remote(entry, retries): entry for entry in planned}
        while waiting:
            (done,), _ = ray.wait([*waiting])
            entry = waiting.pop(done)
            try:
                yield ray.get(done)
            except ray.exceptions.RayError as error:
                lines = str(error).strip().splitlines()
                yield replace(entry, state="failed", message=lines[0] if lines else repr(error))
    finally:
        if mine:
            ray.shutdown()


def _absolute(entry: Entry) -> Entry:
    """With paths that mean the same in the working folder of a Ray worker."""
    paths = {key: getattr(entry.request, key) for key in ("tasks_dir", "results", "work")}
    paths["checkpoint"] = entry.request.checkpoint
    found = {key: path and Path(path).absolute() for key, path in paths.items()}
    return replace(entry, request=replace(entry.request, **found), log=entry.log.absolute())


def _carried_out(
    entry: Entry,
    retries: int = 0,
    environment: dict[str, str] | None = None,
    running: _Running | None = None,
) -> Entry:
    """Run an entry in a process, again if it fails; its output goes to its log."""
    command = [sys.executable, "-m", "eval_tasks", "run", "--quiet", *entry.request.arguments()]
    entry.log.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(retries + 1):
        with entry.log.open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | (environment or {}),
                preexec_fn=ending_with_parent(),
            )
            if running is not None:
                running.add(process)
            code = process.wait()
        if code == 0:
            return replace(entry, state="finished")
        if running is not None and running.ended:
            break
    lines = entry.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    last = lines[-1] if lines else "no output"
    return replace(entry, state="failed", message=f"{last} ({ended}, all output: {entry.log})")
