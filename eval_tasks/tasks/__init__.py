"""All tasks by name, and how each folder is made."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from eval_tasks.tasks import dcase2016_task2, desed, maestro, rendered
from eval_tasks.tasks.base import Task, read_json

# Minutes of audio instead of hours: smaller batches, two minutes for a narrow network on a core.
SMALL = {
    "finetuned": {
        "optim": {"batch": 8, "epochs": 20.0, "warmup_steps": 20},
        "fit": {"check_every_epochs": 4.0},
    }
}
SMALL_HOME = {
    "weak-linear": {
        "optim": {"batch": 32, "epochs": 100.0, "warmup_steps": 20},
        "fit": {"weak_batch": 32},
    },
    "weak-finetuned": {
        "optim": {"batch": 8, "epochs": 12.0, "warmup_steps": 15},
        "fit": {"weak_batch": 8, "check_every_epochs": 2.0},
    },
    "mean-teacher": {
        "optim": {"batch": 8, "epochs": 40.0, "warmup_steps": 75},
        "fit": {"weak_batch": 8, "unlabelled_batch": 16},
    },
}


def _small(name: str, like: Task, recipes: dict) -> Task:
    """A task of this suite's own sounds that asks for what a published one does."""
    return replace(
        like,
        name=name,
        title=f"{name.capitalize()} (small)",
        folder=f"{name}-v1-demo",
        about=rendered.NAMES[name],
        published=False,
        recipes=recipes,
    )


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        dcase2016_task2.TASK,
        maestro.TASK,
        desed.TASK,
        _small("office", dcase2016_task2.TASK, SMALL),
        _small("piano", maestro.TASK, SMALL),
        _small("home", desed.TASK, SMALL_HOME),
    )
}


def _soundscapes(tasks_dir: Path, **options: Any) -> Path:
    from eval_tasks.tasks.rendered import soundscapes  # which nothing else of the tasks needs

    return soundscapes.prepare(tasks_dir, **options)


RENDERED = frozenset({"size", "seed", "synthetic"})
DOWNLOADED = frozenset({"sources", "jobs"})
# How each folder is made, and the options of that.
PREPARE: dict[str, tuple[Callable[..., Path], frozenset[str]]] = {
    "dcase2016_task2": (dcase2016_task2.prepare, DOWNLOADED),
    "maestro": (maestro.prepare, DOWNLOADED),
    "desed": (desed.prepare, DOWNLOADED | {"strong_real", "mode"}),
    **{name: (partial(rendered.prepare, name), RENDERED) for name in rendered.NAMES},
    "soundscapes": (_soundscapes, RENDERED | {"jobs"}),
}


def prepare(name: str, tasks_dir: Path, *, force: bool = False, **options: Any) -> Path:
    """Make the folder of a task in `tasks_dir` and return it; see each task for its options."""
    if name not in PREPARE:
        raise ValueError(f"unknown task {name!r}; known: {', '.join(PREPARE)}")
    make, known = PREPARE[name]
    if strange := sorted(options.keys() - known):
        raise ValueError(
            f"{name} does not take {', '.join(map(_flag, strange))}; it takes "
            f"{', '.join(map(_flag, sorted(known)))}"
        )
    if "sources" in known and not options.get("sources"):
        raise ValueError(f"{name} is made from a download; name its folder or archive: --source")
    source = [options.pop("sources")] if "sources" in known else []
    return make(*source, tasks_dir, force=force, **options)


def coverage(folder: Path) -> str | None:
    """What of the data set is not in a prepared folder; None if nothing is missing."""
    path = Path(folder) / "coverage.json"
    return read_json(path)["summary"] if path.exists() else None


def _flag(option: str) -> str:
    return {"sources": "--source"}.get(option, "--" + option.replace("_", "-"))
