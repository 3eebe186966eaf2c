"""All tasks: of this package, of other packages, or in a file.

A task is a module with a `TASK`, see eval_tasks.tasks.base. Other packages name theirs in the entry
point group `hear_ptsed.tasks`: the module, or the Task in it.
"""

import logging
import pkgutil
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from eval_tasks.tasks.base import Task
from hear_ptsed.errors import one_line
from hear_ptsed.schema import is_name

GROUP = "hear_ptsed.tasks"
log = logging.getLogger(__name__)


def find_task(name: str) -> Task:
    """A task by name, or by the path of the file that holds it."""
    if name.endswith(".py") or not is_name(name):
        return _load_file(Path(name).absolute())
    tasks = _find_built_in()  # alone, as long as that is enough: no other package can spoil it
    tasks = tasks if name in tasks else all_tasks()
    if name not in tasks:
        raise ValueError(
            f"unknown task {name!r}; known: {', '.join(tasks)}, or the path of a file: my_task.py"
        )
    return tasks[name]


def all_tasks() -> dict[str, Task]:
    """The tasks of this package and of others by name; one that cannot be had is logged."""
    tasks = _find_built_in()
    for point in entry_points(group=GROUP):
        try:
            task = _require_task(point.load(), point.value)
            if task.name in tasks:
                raise ValueError(f"there is a task {task.name} already")
        except Exception as error:
            log.warning(
                "the task %s (%s) is left out: %s", point.name, point.value, one_line(error)
            )
        else:
            tasks[task.name] = task
    return tasks


def prepare(
    name: str, tasks_dir: Path, *, force: bool = False, **options: Any
) -> Path | list[Path]:
    """Make the folder of a task in `tasks_dir`, or its folders, and return it.

    Args:
        name: see `find_task`.
        force: make a folder anew that is there with other options.
        options: fields of the task's `options`.
    """
    task = find_task(name)
    return task.make(Path(tasks_dir), task.options(**options), force)


def _find_built_in() -> dict[str, Task]:
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    modules = [import_module(f"{__name__}.{name}") for name in names]
    tasks = [module.TASK for module in modules if hasattr(module, "TASK")]
    return {task.name: task for task in tasks}


@cache
def _load_file(path: Path) -> Task:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of a task")
    name = f"task_file_{path.stem}"  # which hides no other module
    spec = spec_from_file_location(name, path)
    if spec is None:
        raise ValueError(f"{path} is no Python file; a task's name ends in .py")
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return _require_task(module, path.name)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{path} cannot be used: {one_line(error)}") from error


def _require_task(loaded: Any, where: str) -> Task:
    task = getattr(loaded, "TASK", loaded)
    if not isinstance(task, Task):
        raise ValueError(f"{where} has no TASK = Task(…), see eval_tasks.tasks.base")
    return task
