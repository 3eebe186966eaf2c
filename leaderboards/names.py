"""How stages, models and the tasks of published figures and of heareval are called in print."""

import csv
from pathlib import Path
from typing import NamedTuple

from hear_ptsed.facts import all_facts
from hear_ptsed.metrics.catalogue import METRICS
from hear_ptsed.metrics.protocols import PROTOCOLS


class TaskName(NamedTuple):
    """What published figures and heareval's folders do not say of a task: a row of tasks.csv."""

    title: str
    folders: tuple[str, ...]  # its task folders: what their names begin with, or whole names
    published: bool  # false: rendered by this suite
    hear_column: str  # of the public HEAR leaderboard; "" for none
    labels: str  # events, or clips where only whole clips have labels


def rows_of(name: str) -> list[dict[str, str]]:
    """The rows of a table beside this file."""
    with Path(__file__).with_name(name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


KNOWN_TASKS = {
    row["task"]: TaskName(
        row["title"],
        tuple(row["folders"].split()),
        row["published"] == "yes",
        row["hear_column"],
        row["labels"],
    )
    for row in rows_of("tasks.csv")
}
HEAR_TASKS = {name: task.hear_column for name, task in KNOWN_TASKS.items() if task.hear_column}
# Of whole clips, which only heareval takes: they are on HEAR's page, not among the tasks of events.
HEAR_ONLY = frozenset(name for name in HEAR_TASKS if KNOWN_TASKS[name].labels == "clips")
KNOWN_STAGES = (  # in order of training
    "scratch",
    "imagenet",
    "ssl",
    "weak",
    "strong",
    "strong_kd",
    "advanced",
)
FAMILIES = {row.model: row.family for row in all_facts().values()}  # of which release
_FILES = [row for row in all_facts().values() if row.release_file]
RELEASED = {Path(row.release_file).stem: (row.model, row.stage) for row in _FILES}
MODELS = {  # of this suite -> as printed in papers
    "atst_frame": "ATST-F",
    "beats": "BEATs",
    "fpasst": "fPaSST",
    "m2d": "M2D",
    "asit": "ASiT",
    "frame_mn06": "frame_mn06",
    "frame_mn10": "frame_mn10",
    "yamnet": "YAMNet",
    "logmel": "log-mel",
}
MODELS |= {row.model: row.title for row in _FILES if row.family == "EfficientSED"}
OTHER_NAMES = {"frame_mn02": "fmn02", "frame_mn04": "fmn04"}  # in older records
PROTOCOL_TITLES = {
    "hear": "HEAR protocol",
    "linear": "frozen",
    "finetuned": "fine-tuned",
    "weak-linear": "frozen, strong and weak labels",
    "weak-finetuned": "fine-tuned, strong and weak labels",
    "mean-teacher": "mean teacher",
    "as-trained": "own head",
}
SETTINGS = {  # keys of the published tables -> in words
    "full": "full recipe",
    "li_et_al": "recipe of Li et al.",
    "no_kd": "without distillation",
    "no_step2": "without AudioSet Weak",
    "no_rnn": "without sequence model",
    "no_rnn_in_teachers": "teachers without sequence model",
    "mean_of_single_models": "mean of the single models",
    "ensemble_of_row": "ensemble of these models",
}


def model_title(model: str) -> str:
    """As printed in papers, or as its user calls it."""
    return MODELS.get(model, model)


def task_of_folder(version: str) -> str | None:
    """Name of the task whose folder is called so, None if no known one is."""
    called = {version, version.split("-", 1)[0]}
    tasks = KNOWN_TASKS.items()
    return next((name for name, task in tasks if called & {*task.folders}), None)


def family(model: str) -> str:
    """The release that a model is of, empty for others."""
    return FAMILIES.get(model, "")


def model_order(model: str) -> tuple[bool, int, str, str]:
    """To sort by: the models of this suite, family by family, then others, each by name."""
    place = [*FAMILIES.values()].index(family(model)) if model in MODELS else 0
    return model not in MODELS, place, model.lower(), model


def setting_title(setting: str) -> str:
    """A setting of a published figure in words."""
    table, colon, key = setting.rpartition(": ")
    return table + colon + SETTINGS.get(key, key)


def task_order(task: str) -> tuple[int, str]:
    """To sort by: the tasks of tasks.csv in its order, then others by name."""
    return [*KNOWN_TASKS, task].index(task), task


def protocol_order(protocol: str) -> int:
    return [*PROTOCOLS].index(protocol)


def metric_order(metric: str) -> int:
    return [*METRICS].index(metric)


def stage_order(stage: str) -> tuple[int, str]:
    """To sort by: known stages as they are trained, then others by name."""
    return (KNOWN_STAGES.index(stage) if stage in KNOWN_STAGES else len(KNOWN_STAGES), stage)


def model_and_stage(name: str) -> tuple[str, str]:
    """Model and stage of a plug-in's name or of a released checkpoint's; else itself and ""."""
    name = name.rsplit(".", 1)[-1]
    if name in RELEASED:
        return RELEASED[name]
    for model, printed in MODELS.items():
        for start in (model, printed):
            rest = name.lower().removeprefix(start.lower())
            stage = rest.removeprefix("_").removesuffix("_1")
            if rest != name.lower() and stage in ("", *KNOWN_STAGES):
                return model, stage
    return name, ""
