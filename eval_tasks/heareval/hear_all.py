"""Every prepared task of HEAR through the unmodified heareval, cheapest first."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from eval_tasks.heareval.protocol import EMBEDDINGS, SCORES, embed_and_predict
from eval_tasks.plan import full_name
from eval_tasks.plugin import Plugin
from eval_tasks.request import HearAll
from eval_tasks.tasks.base import read_json
from eval_tasks.tasks.hear import FOLDERS, METADATA
from hear_ptsed.errors import one_line
from hear_ptsed.files import atomic_folder, locked, null_for_nan, write_json

COVERAGE = "coverage.json"
SAMPLE_BYTES = 2


def title_of(plugin: Plugin, options: HearAll) -> str:
    """The folder of the scores, called as heareval calls that of a module and its options.

    What else decides the scores is an option there, too: the board tells such rows apart.
    """
    parts = dict(plugin.options)
    if plugin.checkpoint is not None:
        parts["checkpoint"] = plugin.sha256[:8]
    if (options.grid, options.grid_points) != ("default", 8):
        parts |= {"grid": options.grid, "grid_points": options.grid_points}
    words = {key: re.sub(r"[^\w.]+", "-", str(value)).lower() for key, value in parts.items()}
    return "-".join([plugin.name, *(f"{key}={word}" for key, word in words.items())])


def prepared(tasks_dir: Path) -> list[Path]:
    """HEAR's folders that are there, those with the least audio first."""
    folders = [tasks_dir / name for name in FOLDERS]
    folders = [folder for folder in folders if (folder / METADATA).is_file()]
    if not folders:
        raise FileNotFoundError(
            f"no task of HEAR in {tasks_dir}; make them with `python -m eval_tasks prepare hear "
            "--source ARCHIVES`, or name the folder of tasks with --tasks-dir"
        )
    return sorted(folders, key=lambda folder: (seconds_of(folder), folder.name))


def seconds_of(folder: Path) -> float:
    """Of all its audio, by the sizes of the files at one rate."""
    rates = [path for path in sorted(folder.iterdir()) if path.name.isdecimal()]
    sizes = (path.stat().st_size for rate in rates[:1] for path in rate.glob("*/*"))
    return sum(sizes) / SAMPLE_BYTES / int(rates[0].name) if rates else 0.0


def run_all(module: str, options: HearAll) -> Iterator[tuple[bool, str]]:
    """Run what is not finished; of each task whether it has scores, and a line about it.

    Scores are kept as heareval wrote them, in `scores_folder`; embeddings are not kept.
    """
    plugin = open_plugin(module, options)
    for folder in prepared(options.tasks_dir):
        about = f"{folder.name}, {seconds_of(folder) / 3600:.2f} h of audio"
        target = scores_folder(plugin, options) / folder.name
        if (target / SCORES).is_file():
            yield True, f"already done: {about}: {target}"
            continue
        try:
            run_one(plugin, options, folder, target)
        except Exception as error:  # the other tasks do not need this one
            yield False, f"failed: {about}: {one_line(error)}"
        else:
            yield True, f"done: {about}: {target}"


def open_plugin(module: str, options: HearAll) -> Plugin:
    """The module, which must be there, with its checkpoint."""
    plugin = Plugin(full_name(module), options.checkpoint, options.model_options)
    plugin.module  # noqa: B018  it tells whether there is one
    return plugin


def scores_folder(plugin: Plugin, options: HearAll) -> Path:
    """Of all tasks of a module."""
    return options.results / "hear" / title_of(plugin, options)


def run_one(plugin: Plugin, options: HearAll, folder: Path, target: Path) -> None:
    """Embed, predict, and keep the scores."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    work = options.work / "hear" / target.parent.name / folder.name
    numbers = {"grid": options.grid, "grid_points": options.grid_points}
    embedded = embed_and_predict(folder, plugin, work, **numbers, progress=not options.quiet)
    values = read_json(embedded / SCORES)
    values.pop("embedding_path", None)  # of this machine
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target, beside=True), atomic_folder(target) as new:
        write_json(new / SCORES, null_for_nan(values | {"started": started} | numbers))
        for name in (METADATA, COVERAGE):
            if (folder / name).exists():
                shutil.copyfile(folder / name, new / name)
    shutil.rmtree(work / EMBEDDINGS)


def print_row(module: str, options: HearAll) -> int:
    """The row of the leaderboard, beside the published ones; the exit code of what prints it."""
    folder = scores_folder(open_plugin(module, options), options)
    command = [sys.executable, "-m", "leaderboards", "hear", str(folder)]
    return subprocess.run(command).returncode if folder.is_dir() else 0
