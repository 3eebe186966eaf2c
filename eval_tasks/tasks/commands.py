"""What `python -m eval_tasks list` says, and what `prepare` takes."""

import dataclasses
from argparse import ArgumentError
from collections.abc import Iterable, Sequence
from pathlib import Path

from eval_tasks.tasks import all_tasks, find_task
from eval_tasks.tasks.base import NEEDS, Task, read_coverage
from hear_ptsed.errors import few, shown
from hear_ptsed.metrics.catalogue import METRICS
from hear_ptsed.metrics.protocols import PROTOCOLS
from hear_ptsed.options import Parser, add_options, read_options

PREPARE = "python -m eval_tasks prepare"


def describe_all(tasks_dir: Path) -> str:
    """All tasks with what is prepared of them in a folder; then metrics and protocols."""
    tasks = all_tasks()
    metrics = list(dict.fromkeys(m for task in tasks.values() for m in task.metrics))
    sections = ["Tasks", *(_describe_task(task, tasks_dir) for task in tasks.values())]
    sections += ["", "Metrics", *_align((name, METRICS[name].title) for name in metrics)]
    sections += ["", "Protocols", *_align((name, PROTOCOLS[name]) for name in NEEDS)]
    return "\n".join(sections)


def _describe_task(task: Task, tasks_dir: Path) -> str:
    stem = task.folder.split("-")[0]
    prepared = sorted(
        path
        for path in tasks_dir.glob("*-*")
        if path.is_dir()
        and (
            path.name in task.folders or path.name.split("-")[0].removesuffix("_synthetic") == stem
        )
    )
    rows = [
        ("metrics", ", ".join(task.metrics) or "none of ours: it can only be prepared"),
        ("protocols", ", ".join(task.protocols)),
        ("prepared", ", ".join(map(str, prepared)) or f"not in {tasks_dir}"),
    ]
    lines = _align(row for row in rows if row[1])
    return "\n".join([f"  {task.name}: {task.title}; {task.about}", *(f"  {x}" for x in lines)])


def _align(rows: Iterable[Sequence[str]]) -> list[str]:
    rows = list(rows)
    width = max(len(first) for first, _ in rows)
    return [f"  {first:{width}}  {second}" for first, second in rows]


def prepare_as_asked(words: Sequence[str]) -> str:
    """Prepare a task as words of the command line say: its folders, and what is missing there."""
    name, *words = words or [""]
    if name in ("-h", "--help"):
        return _describe_choice()
    if not name or name.startswith("-"):
        raise ArgumentError(None, f"{shown(name)} stands where the task must: {PREPARE} TASK …")
    task = find_task(name)
    parser = Parser(f"{PREPARE} {name}", description=f"{task.title}: {task.about}.")
    parser.allow_abbrev = False
    add = parser.add_argument
    add("--tasks-dir", type=Path, default=Path("tasks"), metavar="DIR", help="The folder of tasks.")
    add("--force", action="store_true", help="Make a folder anew that is there already.")
    add_options(parser, task.options)
    args, unknown = parser.parse_known_args(words)
    if unknown:
        _refuse(task, unknown)
    made = task.make(args.tasks_dir, read_options(task.options, args), args.force)
    folders = made if isinstance(made, list) else [made]
    lines = (line for folder in folders for line in (str(folder), read_coverage(folder)))
    return "\n".join(filter(None, lines))


def _describe_choice() -> str:
    tasks = all_tasks().values()
    rows = _align((task.name, f"{task.title}; {task.about}") for task in tasks)
    last = f"Or the path of a file that holds a task. {PREPARE} TASK --help lists its options."
    usage = f"usage: {PREPARE} TASK [--help] [options of the task]"
    return "\n".join([usage, "", "Builds the folder of a task.", "", *rows, "", last])


def _refuse(task: Task, unknown: Sequence[str]) -> None:
    known = sorted(f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(task.options))
    flags = [word.partition("=")[0] for word in unknown if word.startswith("-")] or [*unknown]
    hint = "; --mode is called --size now" if "--mode" in flags and "--size" in known else ""
    takes = f"it takes {', '.join(known)}" if known else "it has no options"
    raise ValueError(f"{task.name} does not take {few(flags, 5)}{hint}; {takes}")
