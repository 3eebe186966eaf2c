"""`--protocol hear`: the real heareval in the folder of a run, and what it predicted, collected."""

import json
import math
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from eval_tasks.fit.trainer import Predictions
from eval_tasks.heareval.launch import PREDICTED
from eval_tasks.plugin import Plugin
from eval_tasks.processes import ending_with_parent
from eval_tasks.tasks.base import Part, TaskData
from hear_ptsed.files import locked
from hear_ptsed.grid import SAMPLE_RATE
from hear_ptsed.metrics.decoding import Decoding

EMBEDDINGS = "embeddings"
GRID_MS = 40.0
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
    grid, which `training` has as "frame_ms": PSDS asks for 40. The speed is that of heareval's
    embedding, with its reading and writing of files.
    """
    folder = Path(folder).resolve()
    embeddings = folder / EMBEDDINGS
    with locked(folder, wait=True):
        with tqdm(total=2, desc="heareval", disable=not progress) as bar:
            _run(_embed(data, plugin, embeddings), folder / "logs" / "embeddings.txt")
            bar.update()
            task = _embedded(embeddings, data)
            options = ["--grid", grid, "--grid-points", str(grid_points)]
            command = ["heareval", "predictions", str(task), *options]
            _run(command, folder / "logs" / "predictions.txt")
            bar.update()
        return _outcomes(data, plugin, task)


def _embed(data: TaskData, plugin: Plugin, embeddings: Path) -> list[str]:
    command = ["heareval", "embeddings", plugin.name, "--embeddings-dir", str(embeddings)]
    folder = data.folder.resolve()
    command += ["--tasks-dir", str(folder.parent), "--task", folder.name]
    if plugin.checkpoint is not None:
        command += ["--model", str(plugin.checkpoint)]
    if plugin.options:
        command += ["--model-options", json.dumps(plugin.options)]
    return command


def _run(arguments: Sequence[str], log: Path) -> None:
    """`python -m eval_tasks …` with its output in a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [sys.executable, "-m", "eval_tasks", *arguments],
            stdout=file,
            stderr=file,
            preexec_fn=ending_with_parent(),
        )
    if done.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1].strip() if lines else f"it ended with {done.returncode}, and said nothing"
        raise RuntimeError(f"{' '.join(arguments[:2])} failed: {last} (all output: {log})")


def _embedded(embeddings: Path, data: TaskData) -> Path:
    """The task folder that heareval wrote, below one named by the module and its options."""
    name = data.folder.resolve().name
    found = [path.parent for path in embeddings.glob(f"*/{name}/.done.embeddings")]
    if len(found) != 1:
        raise ValueError(
            f"{embeddings} has {len(found)} finished embeddings of {data.folder.name}; expected 1: "
            "delete it to begin again"
        )
    return found[0]


def _outcomes(data: TaskData, plugin: Plugin, task: Path) -> list[Predictions]:
    results = _json(task / "test.predicted-scores.json")
    profile = _json(task / "profile.embeddings.json")
    samples = sum(n for name in data.metadata["splits"] for n in data.parts[name].samples.values())
    hparams = results["hparams"]
    dim = _json(task / f"{data.splits[0].test}.embedding-dimensions.json")[1]
    predictor = _predictor_parameters(dim, len(data.classes), hparams)
    parameters = _parameters(plugin) + predictor
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
                name,
                probabilities,
                parameters,
                profile["time_elapsed"] / (samples / SAMPLE_RATE / 60),
                training,
                {file: events.get(file, []) for file in part.files},
                _decoding(results["postprocessing"]),
                frame_ms,
            )
        )
    return outcomes


def _per_file(
    part: Part, rows: list[tuple[str, float]], values: np.ndarray
) -> tuple[dict[str, np.ndarray], float]:
    """heareval's rows of all files -> file -> (T, C), and their spacing in milliseconds."""
    where: dict[str, list[tuple[float, int]]] = {file: [] for file in part.files}
    for row, (path, timestamp) in enumerate(rows):
        where[Path(path).name].append((timestamp, row))
    found, steps, on_grid = {}, [], True
    for file, places in where.items():
        stamps, order = zip(*sorted(places), strict=True)
        found[file] = values[list(order)]
        steps += np.diff(stamps).tolist()
        centres = GRID_MS * (np.arange(part.frames(file)) + 0.5)
        same = len(stamps) == len(centres) and np.abs(centres - stamps).max() < NEAR_MS
        on_grid = on_grid and bool(same)
    return found, GRID_MS if on_grid else float(np.mean(steps)) if steps else math.nan


def _predicted(path: Path, n_rows: int, n_classes: int) -> tuple[np.ndarray, dict[str, list]]:
    """What `hear_tools` wrote of heareval's predictions: (N, C), and the events of each file."""
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


def _decoding(postprocessing: Sequence[tuple[str, float]]) -> Decoding:
    """What heareval chose on the validation part."""
    chosen = dict(postprocessing)
    return Decoding(chosen["median_filter_ms"], chosen["min_duration"])


def _parameters(plugin: Plugin) -> int:
    """Of the module, whatever audio it takes."""
    path = [] if plugin.checkpoint is None else [str(plugin.checkpoint)]
    model = plugin.module.load_model(*path, **plugin.options)
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
