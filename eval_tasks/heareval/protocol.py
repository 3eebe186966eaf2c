"""`--protocol hear`: the real heareval in the folder of a run, and what it predicted, collected."""

import json
import math
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from eval_tasks.fit.trainer import Predictions
from eval_tasks.heareval.adjustments import PREDICTED
from eval_tasks.heareval.modules import hear_module
from eval_tasks.plugin import Plugin
from eval_tasks.processes import logged
from eval_tasks.tasks.base import Part, TaskData
from hear_ptsed.files import locked
from hear_ptsed.grid import SAMPLE_RATE
from hear_ptsed.metrics.decoding import Decoding

EMBEDDINGS, SCORES = "embeddings", "test.predicted-scores.json"
NEAR_MS = 0.01


def hear(
    data: TaskData,
    plugin: Plugin,
    folder: Path,
    *,
    grid: str = "default",
    grid_points: int = 8,
    progress: bool = True,
) -> list[Predictions]:
    """Embed and predict with heareval; one outcome for each part it tests on.

    What heareval has finished in `folder` is not computed again, so a folder is of one module with
    one checkpoint and of one grid. Events are heareval's own. Probabilities are on the module's
    grid, which `training` has as "frame_ms": PSDS asks for that of the parts. The speed is that of
    heareval's embedding, with its reading and writing of files.
    """
    task = embed_and_predict(
        data.folder, plugin, folder, grid=grid, grid_points=grid_points, progress=progress
    )
    return read_predictions(data, plugin, task)


def embed_and_predict(
    task: Path,
    plugin: Plugin,
    folder: Path,
    *,
    grid: str = "default",
    grid_points: int = 8,
    progress: bool = True,
) -> Path:
    """heareval's two steps on any HEAR folder; where its embeddings and its scores lie.

    What it has finished in `folder` is not computed again, see `hear`.
    """
    folder = Path(folder).resolve()
    embeddings = folder / EMBEDDINGS
    with locked(folder, wait=True), tqdm(total=2, desc="heareval", disable=not progress) as bar:
        if not _finished(embeddings, task):
            command = _embedding_command(task, plugin, embeddings)
            _run_step(command, folder / "logs" / "embeddings.txt")
        bar.update()
        embedded = _embedded(embeddings, task)
        if not (embedded / "prediction-done.json").exists():
            options = ["--grid", grid, "--grid-points", str(grid_points)]
            command = ["heareval", "predictions", str(embedded), *options]
            _run_step(command, folder / "logs" / "predictions.txt")
        bar.update()
        return embedded


def _embedding_command(task: Path, plugin: Plugin, embeddings: Path) -> list[str]:
    command = ["heareval", "embeddings", plugin.name, "--embeddings-dir", str(embeddings)]
    folder = task.resolve()
    command += ["--tasks-dir", str(folder.parent), "--task", folder.name]
    if plugin.checkpoint is not None:
        command += ["--model", str(plugin.checkpoint)]
    if plugin.options:
        command += ["--model-options", json.dumps(plugin.options)]
    return command


def _run_step(arguments: Sequence[str], log: Path) -> None:
    """`python -m eval_tasks …` with its output in a file."""
    code, last = logged([sys.executable, "-m", "eval_tasks", *arguments], log)
    if code:
        name = " ".join(arguments[:2])
        raise RuntimeError(f"{name} failed: {last} (exit code {code}, all output: {log})")


def _finished(embeddings: Path, task: Path) -> list[Path]:
    """The task folders that heareval wrote, each below one named by a module and its options."""
    name = task.resolve().name
    return [path.parent for path in embeddings.glob(f"*/{name}/.done.embeddings")]


def _embedded(embeddings: Path, task: Path) -> Path:
    folders = _finished(embeddings, task)
    if len(folders) != 1:
        raise ValueError(
            f"{embeddings} has {len(folders)} finished embeddings of {task.name}; expected "
            "1: delete it to begin again"
        )
    return folders[0]


def read_predictions(data: TaskData, plugin: Plugin, task: Path) -> list[Predictions]:
    """What heareval left in an embedding task folder: predictions of each part it tests on."""
    results = _json(task / SCORES)
    profile = _json(task / "profile.embeddings.json")
    samples = sum(n for name in data.metadata["splits"] for n in data.parts[name].samples.values())
    hparams = results["hparams"]
    dim = _json(task / f"{data.splits[0].test}.embedding-dimensions.json")[1]
    predictor = _predictor_parameters(dim, len(data.classes), hparams)
    parameters = _parameters(plugin) + predictor
    chosen = dict(results["postprocessing"])  # on the validation part
    outcomes = []
    for name in (split.test for split in data.splits):
        rows = _json(task / f"{name}.filename-timestamps.json")
        part, scores = data.parts[name], results[name]
        values, events = _predicted(task / f"{name}{PREDICTED}", len(rows), len(data.classes))
        probabilities, frame_ms = _per_file(part, rows, values)
        training = {
            "best": scores["validation_score"],
            "best_step": scores["epoch"],
            "heareval_score": scores["test_score"],
            "frame_ms": frame_ms,
            "postprocessing": results["postprocessing"],
            "hparams": {key: hparams[key] for key in ("hidden_layers", "hidden_dim", "lr")},
        }
        outcomes.append(
            Predictions(
                part=name,
                probabilities=probabilities,
                parameters=parameters,
                seconds_per_minute=profile["time_elapsed"] / (samples / SAMPLE_RATE / 60),
                training=training,
                frame_ms=frame_ms,
                events={file: events.get(file, []) for file in part.files},
                decoding=Decoding(chosen["median_filter_ms"], chosen["min_duration"]),
            )
        )
    return outcomes


def _per_file(
    part: Part, rows: list[tuple[str, float]], values: np.ndarray
) -> tuple[dict[str, np.ndarray], float]:
    """heareval's rows (N, C) of all files as file -> (T, C), and their spacing in milliseconds."""
    rows_of: dict[str, list[tuple[float, int]]] = {file: [] for file in part.files}
    for row, (path, timestamp) in enumerate(rows):
        rows_of[Path(path).name].append((timestamp, row))
    probabilities, steps, on_grid = {}, [], True
    for file, timed_rows in rows_of.items():
        stamps, order = zip(*sorted(timed_rows), strict=True)
        probabilities[file] = values[list(order)]
        steps += np.diff(stamps).tolist()
        centres = part.centres(file)
        same = len(stamps) == len(centres) and np.abs(centres - stamps).max() < NEAR_MS
        on_grid = on_grid and bool(same)
    if on_grid:
        return probabilities, float(part.hop_ms)
    return probabilities, float(np.mean(steps)) if steps else math.nan


def _predicted(path: Path, n_rows: int, n_classes: int) -> tuple[np.ndarray, dict[str, list]]:
    """What `no_pickle_is_run` wrote: predictions (N, C), and the events of each file."""
    events: dict[str, list[dict]] = {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            values = stored["prediction"]
            columns = [stored[key].tolist() for key in ("files", "labels", "starts", "ends")]
        for file, label, start, end in zip(*columns, strict=True):
            events.setdefault(file, []).append({"label": label, "start": start, "end": end})
        if values.shape != (n_rows, n_classes) or values.dtype.kind != "f":
            raise ValueError(f"{values.dtype} {values.shape} for {n_rows} frames")
    except (OSError, TypeError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error
    return values, events


def _parameters(plugin: Plugin) -> int:
    """Of the module, whatever audio it takes."""
    path = [] if plugin.checkpoint is None else [str(plugin.checkpoint)]
    with hear_module(plugin.name) as module:
        model = module.load_model(*path, **plugin.options)
    return sum(p.numel() for p in model.parameters())


def _predictor_parameters(dim: int, n_classes: int, hparams: dict[str, Any]) -> int:
    """Of heareval's network: linear layers, each hidden one with a batch norm."""
    total = 0
    for _ in range(hparams["hidden_layers"]):
        total += (dim + 1 + 2) * hparams["hidden_dim"]
        dim = hparams["hidden_dim"]
    return total + (dim + 1) * n_classes


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} cannot be read ({type(error).__name__}); delete {path.parent} to run it again"
    )
