"""`--protocol hear`: the real heareval in the folder of a run, and what it predicted, collected."""

import json
import math
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from eval_tasks.base import Outcome, Part, TaskData
from eval_tasks.event_based import Decoding
from eval_tasks.features import alone
from eval_tasks.modules import Module
from hear_ptsed.windows import SAMPLE_RATE

GRID_MS = 40.0
NEAR_MS = 0.01


def hear(
    data: TaskData,
    module: Module,
    folder: Path,
    *,
    grid: str = "default",
    grid_points: int = 8,
    progress: bool = True,
) -> list[Outcome]:
    """Embed and predict with heareval; one outcome for each part it tests on.

    What heareval has finished in `folder` is not computed again, so a folder is of one module with
    one checkpoint and of one grid. Events are heareval's own. Probabilities are on the module's
    grid, which `training` has as "frame_ms": PSDS asks for 40. The speed is that of heareval's
    embedding, with its reading and writing of files.
    """
    folder = Path(folder).resolve()
    embeddings = folder / "embeddings"
    # A process that outlives us, because we alone were killed, keeps the folder until it ends.
    with alone(folder, "runs heareval") as handle:
        with tqdm(total=2, desc="heareval", disable=not progress) as bar:
            _run(_embed(data, module, embeddings), folder / "logs" / "embeddings.txt", handle)
            bar.update()
            task = _embedded(embeddings, data)
            options = ["--grid", grid, "--grid-points", str(grid_points)]
            command = ["heareval", "predictions", str(task), *options]
            _run(command, folder / "logs" / "predictions.txt", handle)
            bar.update()
        return _outcomes(data, module, task)


def _embed(data: TaskData, module: Module, embeddings: Path) -> list[str]:
    command = ["heareval", "embeddings", module.name, "--embeddings-dir", str(embeddings)]
    folder = data.folder.resolve()
    command += ["--tasks-dir", str(folder.parent), "--task", folder.name]
    if module.checkpoint is not None:
        command += ["--model", str(module.checkpoint)]
    if module.options:
        command += ["--model-options", json.dumps(module.options)]
    return command


def _run(arguments: Sequence[str], log: Path, handle: int | None) -> None:
    """`python -m eval_tasks …` with its output in a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [sys.executable, "-m", "eval_tasks", *arguments],
            stdout=file,
            stderr=file,
            pass_fds=() if handle is None else (handle,),
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


def _outcomes(data: TaskData, module: Module, task: Path) -> list[Outcome]:
    results = _json(task / "test.predicted-scores.json")
    profile = _json(task / "profile.embeddings.json")
    samples = sum(n for name in data.metadata["splits"] for n in data.parts[name].samples.values())
    hparams = results["hparams"]
    dim = _json(task / f"{data.splits[0].test}.embedding-dimensions.json")[1]
    predictor = _predictor_parameters(dim, len(data.classes), hparams)
    parameters = _parameters(module) + predictor
    outcomes = []
    for name in (split.test for split in data.splits):
        predicted = _unpickled(task / f"{name}.predictions.pkl")
        rows = _json(task / f"{name}.filename-timestamps.json")
        part, scores = data.parts[name], results[name]
        probabilities, frame_ms = _per_file(part, rows, predicted["prediction"].cpu().numpy())
        training = {
            "best": scores["validation_score"],
            "best_step": scores["epoch"],
            "heareval_score": scores["test_score"],
            "frame_ms": frame_ms,
            "postprocessing": results["postprocessing"],
            "hparams": {key: hparams[key] for key in ("hidden_layers", "hidden_dim", "lr")},
        }
        outcomes.append(
            Outcome(
                name,
                probabilities,
                parameters,
                profile["time_elapsed"] / (samples / SAMPLE_RATE / 60),
                training,
                _events(part, predicted["predicted_events"]),
                _decoding(results["postprocessing"]),
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


def _events(part: Part, predicted: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """With plain numbers, of every clip."""
    return {
        file: [
            {
                "label": str(event["label"]),
                "start": float(event["start"]),
                "end": float(event["end"]),
            }
            for event in predicted.get(file, ())
        ]
        for file in part.files
    }


def _decoding(postprocessing: Sequence[tuple[str, float]]) -> Decoding:
    """What heareval chose on the validation part."""
    chosen = dict(postprocessing)
    return Decoding(chosen["median_filter_ms"], chosen["min_duration"])


def _parameters(module: Module) -> int:
    """Of the module, whatever audio it takes."""
    path = [] if module.checkpoint is None else [str(module.checkpoint)]
    model = module.plugin.load_model(*path, **module.options)
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


def _unpickled(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return pickle.load(file)
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} cannot be read ({type(error).__name__}); delete {path.parent} to run it again"
    )
