"""Frozen features from the cache against embedding every crop: `python benchmarks/frozen.py`.

First table: linear heads on `office`, trained on cached crops (random grid of windows) and on crops
that the frozen backbone hears one by one; same recipe, same seeds, same crops. Intervals are over
test clips; the difference is paired. Second table: time of the published 500 epochs, from seconds
per crop (uncached), and from the time of all features plus seconds per step (cached). Third: the
head alone on made-up features of DC16-T2's size.

The checkpoint is one of the small pipeline (`benchmarks/pipeline.py`).
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval_tasks.fit.crops import Crop
from eval_tasks.fit.features import Features, count_rows, features
from eval_tasks.fit.frozen import Frozen
from eval_tasks.fit.loop import train_problem
from eval_tasks.fit.recipe import Recipe, recipe
from eval_tasks.plugin import GENERIC, Plugin
from eval_tasks.score import rate
from eval_tasks.tasks import find_task, prepare
from eval_tasks.tasks.base import Part, Split, TaskData, open_task
from hear_ptsed.grid import FRAME, WINDOW, WINDOW_FRAMES
from hear_ptsed.metrics.bootstrap import Bootstrap, Scored, paired

PARTS = ("train", "valid", "test")
EPOCHS, BATCH = 500, 256  # as published
DC16 = {"clips": 44, "frames": 3000, "dim": 768, "classes": 11}


class Uncached(Frozen):
    """The same training, but every crop goes through the frozen backbone every time."""

    plugin: Plugin

    def gather(self, kind: str, crops: list[Crop]) -> Tensor:
        """Embeddings (F, D) of the crops, one after the other, F frames in all."""
        if not hasattr(self, "backbone"):
            self.backbone = self.plugin.load(str(self.device))
        audio = [c.part.read(c.file, c.first, WINDOW_FRAMES) for c in crops]
        frames = self.plugin.embed(self.backbone, torch.from_numpy(np.stack(audio)))
        return torch.cat([clip[: c.frames] for clip, c in zip(frames, crops, strict=True)])


def uncached(plugin: Plugin) -> Callable[..., Uncached]:
    def make(*args, **options) -> Uncached:
        problem = Uncached(*args, **options)
        problem.plugin = plugin
        return problem

    return make


def trained(
    make: Callable[..., Frozen], data: TaskData, embedded: dict, chosen: Recipe, seed: int
) -> Scored:
    problem = make(data, data.splits[0], embedded, chosen, seed=seed, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        train_problem(problem, chosen, Path(folder), seed=seed, progress=False)
    problem.model.eval()
    probabilities = problem.probabilities(embedded["test"])
    return rate(data.task, data.parts["test"], probabilities, bootstrap=Bootstrap())


def percent(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def equivalence(data: TaskData, plugin: Plugin, cache: Path, seeds: Sequence[int], epochs: float):
    chosen = recipe(
        data.task,
        "linear",
        [f"optim.epochs={epochs}", "optim.batch=64", "optim.lr=0.02", "optim.warmup_steps=2"],
    )
    embedded = {n: features(data, n, plugin, cache, shifts=chosen.fit.shifts) for n in PARTS}
    metric = data.task.metrics[0]
    print(f"| seed | {metric}: cached | uncached | difference |\n|---|---|---|---|")
    means = []
    for seed in seeds:
        a = trained(Frozen, data, embedded, chosen, seed)
        b = trained(uncached(plugin), data, embedded, chosen, seed)
        cells = [percent(scored.scores[metric], *scored.ci95[metric]) for scored in (a, b)]
        print(f"| {seed} | {' | '.join(cells)} | {percent(*paired(a, b, metric))} |", flush=True)
        means.append([scored.scores[metric] for scored in (a, b)])
    cached, fresh = 100 * np.mean(means, 0)
    print(f"| mean | {cached:.1f} | {fresh:.1f} | {cached - fresh:.1f} |\n")


def seconds_per_step(problem: Frozen, steps: int) -> float:
    """The median; one step before is not counted."""
    taken = []
    for step, batch in zip(range(steps + 1), problem.batches(0), strict=False):
        started = time.perf_counter()
        problem.loss(batch, step).backward()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken[1:]))


def seconds_per_window(plugin: Plugin, model: torch.nn.Module) -> float:
    """Of 10 s, behind one that prepares."""
    audio = torch.randn(1, WINDOW, generator=torch.Generator().manual_seed(0)).mul(0.1)
    for _ in range(2):
        started = time.perf_counter()
        plugin.embed(model, audio)
    return time.perf_counter() - started


def times(data: TaskData, plugin: Plugin, cache: Path, crops: int, quick: bool) -> str:
    """A row of the second table.

    Args:
        crops: of an uncached step; its time is proportional to them.
        quick: take the time of one window for that of the features instead of computing them.
    """
    chosen = recipe(data.task, "linear", [f"optim.epochs={EPOCHS}", f"optim.batch={BATCH}"])
    few = recipe(data.task, "linear", [f"optim.epochs={EPOCHS}", f"optim.batch={crops}"])
    if quick:
        model = plugin.load()
        dim = model.timestamp_embedding_size
        embedded = {name: made_up(data.parts[name], dim, chosen.fit.shifts) for name in PARTS}
        embedding = sum(map(len, (part.rows for part in embedded.values()))) / WINDOW_FRAMES
        embedding *= seconds_per_window(plugin, model)
    else:
        started = time.perf_counter()
        embedded = {n: features(data, n, plugin, cache, shifts=chosen.fit.shifts) for n in PARTS}
        embedding = time.perf_counter() - started
    options = {"seed": 0, "device": "cpu"}
    cached = Frozen(data, data.splits[0], embedded, chosen, **options)
    fresh = uncached(plugin)(data, data.splits[0], embedded, few, **options)
    step, slow = seconds_per_step(cached, 5), seconds_per_step(fresh, 2) / crops
    total = embedding + cached.steps * step
    want = cached.steps * BATCH * slow
    name = plugin.model + (" (untrained)" if plugin.untrained else "")
    dim = embedded["train"].rows.shape[1]
    return (
        f"| {name} | {dim} | {embedding:.0f} | {1000 * step:.0f} | "
        f"{1000 * BATCH * slow:.0f} | {total:.0f} | {want:.0f} | {want / total:.0f} |"
    )


def made_up(part: Part, dim: int, shifts: int) -> Features:
    """Random features of the size of a part."""
    rows = count_rows(part, shifts)
    draw = torch.Generator().manual_seed(0)
    return Features(part, shifts, torch.randn(rows, dim, generator=draw).half(), 0, 0.0)


def dc16_size() -> None:
    classes = tuple(map(str, range(DC16["classes"])))
    files = {f"{i}.wav": DC16["frames"] * FRAME for i in range(DC16["clips"])}
    durations = dict.fromkeys(files, DC16["frames"] * FRAME / 16_000)
    nothing = {name: [] for name in files}
    part = Part("train", Path(), classes, nothing, {}, files, durations)
    task = replace(find_task("office"), metrics=("event_onset_200ms_fms",))
    data = TaskData(task, Path(), {}, classes, {"train": part}, None)
    chosen = recipe(task, "linear")
    embedded = {"train": made_up(part, DC16["dim"], chosen.fit.shifts)}
    split = Split(("train",), "train", "train")
    problem = Frozen(data, split, embedded, chosen, seed=0, device="cpu")
    step = seconds_per_step(problem, 10)
    size = embedded["train"].rows.numel() * 2 / 1e6
    print("| DC16-T2's size, dim 768 | MB | s per step | steps of 500 epochs | minutes |")
    print("|---|---|---|---|---|")
    print(f"| batch {chosen.optim.batch} | {size:.0f} | {step:.3f} | {problem.steps} | "
          f"{problem.steps * step / 60:.1f} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks-dir", type=Path, default=Path("tasks"))
    model = Path("work/pipeline/full/seed0/strong/model.pt")
    parser.add_argument("--checkpoint", type=Path, default=model)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=30, help="of the first table")
    parser.add_argument("--quick", action="store_true", help="ten epochs, one seed, estimates")
    args = parser.parse_args()
    data = open_task(find_task("office"), prepare("office", args.tasks_dir))
    trained_one = Plugin(GENERIC, args.checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        epochs, seeds = (10, args.seeds[:1]) if args.quick else (args.epochs, args.seeds)
        equivalence(data, trained_one, cache / "equal", seeds, epochs)
        print("| model | dim | features, s | cached: ms per step | uncached: ms per step | "
              f"cached, s in {EPOCHS} epochs | uncached, s | ratio |")  # fmt: skip
        print("|---" * 8 + "|")
        plug_ins = [trained_one] + [
            Plugin(f"hear_ptsed.plugins.{name}", None, {"untrained": True})
            for name in ("frame_mn06_strong", "atst_frame_strong")
        ]
        for plugin in plug_ins:
            crops = 4 if "atst" in plugin.name else 64
            print(times(data, plugin, cache / "timed", crops, args.quick), flush=True)
    print()
    dc16_size()


if __name__ == "__main__":
    main()
