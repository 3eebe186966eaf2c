"""Who makes the parts of a long job: this process, others here, or actors of a Ray cluster.

A worker that is lost is replaced, and its part made again.
"""

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

from hear_ptsed import cluster, interrupt
from hear_ptsed.errors import few, one_line, printable

Advance = Callable[[int, float], None]  # files that were done, and their seconds of audio
Make = Callable[[int, Sequence[Path], Advance], None]  # number and files of a part, who to tell
Open = Callable[[int], Make]  # threads of a worker -> what makes parts there
Todo = Mapping[int, Sequence[Path]]  # number of a part -> its files
ROUNDS = 3  # losses of a part, none finished since the first of them, that end the job
WAIT_S = 1.0  # from look to look for Ctrl-C


@dataclass(frozen=True)
class Crew:
    """How many work where.

    Args:
        jobs: processes here; 1 for this one.
        ray_address: of a cluster instead; "local" starts one here.
    """

    jobs: int = 1
    ray_address: str | None = None


ALONE = Crew()


class PartQueue:
    """Parts that wait for a worker, and those whose workers were lost."""

    def __init__(self, todo: Todo):
        self.unfinished, self.waiting = dict(todo), deque(todo)
        self.losses: Counter[int | None] = Counter()

    def finished(self, n: int) -> None:
        self.unfinished.pop(n, None)
        self.losses.clear()

    def lost(self, n: int | None, why: str) -> None:
        """Part `n` has to be made again, behind the others; None: its worker had none yet."""
        self.losses[n] += 1
        if n is not None:
            self.waiting.append(n)
        if self.losses[n] < ROUNDS:
            return
        if n is None:
            raise RuntimeError(f"workers end before they begin ({why}), {ROUNDS} times in turn")
        names = [printable(str(file), 200) for file in self.unfinished[n]]
        raise RuntimeError(
            f"part {n} ended its worker {ROUNDS} times ({why}) while no other was finished; take "
            "fewer jobs, or make this part elsewhere, without the file that does so: list its "
            f"files, {few(names, 5)}, for another folder"
        )


def run(open_make: Open, todo: Todo, how: Crew, advance: Advance, threads: int) -> None:
    """Make all parts.

    Args:
        open_make: called once in each worker, to which it is sent.
        threads: of this process, which those here share.
        advance: called as files are done; with negative numbers for those of a lost worker's part.
    """
    if not todo:
        return
    if how.ray_address is not None:
        with cluster.connected(how.ray_address) as ray:
            _run_on_ray(ray, open_make, PartQueue(todo), advance)
    elif how.jobs > 1:
        _run_here(open_make, PartQueue(todo), how.jobs, advance, threads)
    else:
        make = open_make(threads)
        for n, files in interrupt.between(todo.items()):
            make(n, files, advance)


@dataclass
class _Worker:
    """A process of ours."""

    process: multiprocessing.Process
    part: int | None = None
    done: Counter = field(default_factory=Counter)  # files and seconds of the part


def _run_here(open_make: Open, queue: PartQueue, jobs: int, advance: Advance, threads: int) -> None:
    workers: dict[connection.Connection, _Worker] = {}
    idle: list[connection.Connection] = []
    try:
        with interrupt.deferred():
            while queue.unfinished:
                while len(workers) < min(jobs, len(queue.unfinished)):
                    pipe, worker = _start(open_make, max(1, threads // jobs))
                    workers[pipe] = worker
                while idle and queue.waiting:
                    pipe = idle.pop()
                    n = workers[pipe].part = queue.waiting.popleft()
                    with suppress(OSError):  # it is lost, as the next look says
                        pipe.send((n, queue.unfinished[n]))
                for pipe in connection.wait([*workers], WAIT_S):
                    if _listen(pipe, workers, queue, advance):
                        idle.append(pipe)
                idle = [pipe for pipe in idle if pipe in workers]
                interrupt.safe_point()
    finally:
        for worker in workers.values():
            worker.process.kill()
        for worker in workers.values():
            worker.process.join()


def _start(open_make: Open, threads: int) -> tuple[connection.Connection, _Worker]:
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    pipe, end = context.Pipe()
    process = context.Process(target=_work, args=(end, open_make, threads), daemon=True)
    process.start()
    end.close()  # so that the pipe ends with the worker
    return pipe, _Worker(process)


def _listen(
    pipe: connection.Connection,
    workers: dict[connection.Connection, _Worker],
    queue: PartQueue,
    advance: Advance,
) -> bool:
    """Take a message of a worker; whether it asks for a part."""
    worker = workers[pipe]
    try:
        message = pipe.recv()
    except (EOFError, OSError):
        del workers[pipe]
        worker.process.join()
        advance(-worker.done["files"], -worker.done["seconds"])
        queue.lost(worker.part, _ending(worker.process.exitcode))
        return False
    if isinstance(message, str):
        raise RuntimeError(message)
    if message is None:
        if worker.part is not None:
            queue.finished(worker.part)
        worker.part = None
        worker.done.clear()
        return True
    files, seconds = message
    worker.done.update(files=files, seconds=seconds)
    advance(files, seconds)
    return False


def _ending(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _work(pipe: connection.Connection, open_make: Open, threads: int) -> None:
    """Make parts as they come. Sends None for a next part, what is done, or text: what failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the first one knows
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        make = open_make(threads)
        while True:
            pipe.send(None)
            make(*pipe.recv(), lambda files, seconds: pipe.send((files, seconds)))
    except Exception as error:
        with suppress(OSError):  # the command has ended
            pipe.send(one_line(error))


def _end_with_parent() -> None:
    """Else the part of a killed command would be made on, beside the same command again."""
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


class _Actor:
    """A worker on a Ray cluster."""

    def __init__(self, open_make: Open, threads: int):
        self.open_make, self.threads = open_make, threads

    def open(self) -> None:
        self.make = self.open_make(min(self.threads, os.cpu_count() or 1))

    def make_part(self, n: int, files: Sequence[Path]) -> tuple[int, float]:
        """Files that were done, and their seconds."""
        done: Counter = Counter()
        self.make(n, files, lambda files, seconds: done.update(files=files, seconds=seconds))
        return done["files"], done["seconds"]


def _run_on_ray(ray: Any, open_make: Open, queue: PartQueue, advance: Advance) -> None:
    """Actors and not Ray Data, which outlives a lost machine, too, but retries without end: a file
    that kills its worker would be tried for ever, and nobody told.
    """
    needs, most = cluster.one_share(ray)
    threads = max(1, int(ray.cluster_resources().get("CPU", 1)) // most)
    remote = ray.remote(**needs)(_Actor)
    tasks: dict[Any, tuple[Any, int | None]] = {}  # what is awaited -> actor and part
    idle: list[Any] = []

    def start() -> None:
        actor = remote.remote(open_make, threads)
        tasks[actor.open.remote()] = actor, None

    for _ in range(min(most, len(queue.unfinished))):
        start()
    try:
        with interrupt.deferred():
            while queue.unfinished:
                while idle and queue.waiting:
                    actor, n = idle.pop(), queue.waiting.popleft()
                    tasks[actor.make_part.remote(n, queue.unfinished[n])] = actor, n
                for task in ray.wait([*tasks], timeout=WAIT_S)[0]:
                    actor, n = tasks.pop(task)
                    if _result(ray, task, n, queue, advance):
                        idle.append(actor)
                    else:
                        start()
                interrupt.safe_point()
    finally:
        for actor in [*idle, *(actor for actor, _ in tasks.values())]:
            ray.kill(actor)


def _result(ray: Any, task: Any, n: int | None, queue: PartQueue, advance: Advance) -> bool:
    """Take the result of an actor; whether it lives on."""
    try:
        result = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise RuntimeError(one_line(error.cause)) from error
    except ray.exceptions.RayError as error:  # it was killed, or its machine was lost
        queue.lost(n, str(error).strip().partition("\n")[0])
        return False
    if n is not None:
        queue.finished(n)
        advance(*result)
    return True
