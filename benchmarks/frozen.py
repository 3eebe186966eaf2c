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

from eval_tasks.fit.features import Features, estimate, features
from eval_tasks.fit.frozen import Crop, Frozen
from eval_tasks.fit.loop import fit
from eval_tasks.fit.recipe import Recipe, recipe
from eval_tasks.plugin import GENERIC, Module
from eval_tasks.score import rate
from eval_tasks.tasks import find_task, prepare
from eval_tasks.tasks.base import Part, Split, TaskData, open_task
from hear_ptsed.grid import FRAME, WINDOW_FRAMES
from hear_ptsed.metrics.bootstrap import Bootstrap, Scored, paired

PARTS = ("train", "valid", "test")
EPOCHS, BATCH = 500, 256  # as published
DC16 = {"clips": 44, "frames": 3000, "dim": 768, "classes": 11}


class Uncached(Frozen):
    """The same training, but every crop goes through the frozen backbone every time."""

    module: Module
    parts: dict[str, Part]

    def gather(self, kind: str, crops: list[Crop]) -> Tensor:
        """Embeddings (F, D) of the crops, one after the other, F frames in all."""
        if not hasattr(self, "backbone"):
            self.backbone = self.module.load(str(self.device))
        audio = [self.parts[c.part].read(c.file, c.first, WINDOW_FRAMES) for c in crops]
        frames = self.module.embed(self.backbone, torch.from_numpy(np.stack(audio)))
        return torch.cat([clip[: c.frames] for clip, c in zip(frames, crops, strict=True)])


def uncached(module: Module, data: TaskData) -> Callable[..., Uncached]:
    def make(*args, **options) -> Uncached:
        problem = Uncached(*args, **options)
        problem.module, problem.parts = module, data.parts
        return problem

    return make


def trained(
    make: Callable[..., Frozen], data: TaskData, embedded: dict, chosen: Recipe, seed: int
) -> Scored:
    problem = make(data, data.splits[0], embedded, chosen, seed=seed, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        fit(problem, chosen, Path(folder), seed=seed, progress=False)
    problem.model.eval()
    probabilities = problem.probabilities(embedded["test"])
    return rate(data.task, data.parts["test"], probabilities, bootstrap=Bootstrap())


def percent(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def equivalence(data: TaskData, module: Module, cache: Path, seeds: Sequence[int], epochs: float):
    chosen = recipe(
        data.task,
        "linear",
        [f"optim.epochs={epochs}", "optim.batch=64", "optim.lr=0.02", "optim.warmup_steps=2"],
    )
    embedded = {n: features(data, n, module, cache, shifts=chosen.fit.shifts) for n in PARTS}
    metric = data.task.metrics[0]
    print(f"| seed | {metric}: cached | uncached | difference |\n|---|---|---|---|")
    means = []
    for seed in seeds:
        a = trained(Frozen, data, embedded, chosen, seed)
        b = trained(uncached(module, data), data, embedded, chosen, seed)
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


def times(data: TaskData, module: Module, cache: Path, crops: int, quick: bool) -> str:
    """A row of the second table.

    Args:
        crops: of an uncached step; its time is proportional to them.
        quick: take the estimate for the time of the features instead of computing them.
    """
    chosen = recipe(data.task, "linear", [f"optim.epochs={EPOCHS}", f"optim.batch={BATCH}"])
    few = recipe(data.task, "linear", [f"optim.epochs={EPOCHS}", f"optim.batch={crops}"])
    ahead = estimate(data, PARTS, module, cache, shifts=chosen.fit.shifts)
    if quick:
        dim = module.load().timestamp_embedding_size
        embedded = {name: made_up(data.parts[name], dim, chosen.fit.shifts) for name in PARTS}
        embedding = ahead.seconds
    else:
        started = time.perf_counter()
        embedded = {n: features(data, n, module, cache, shifts=chosen.fit.shifts) for n in PARTS}
        embedding = time.perf_counter() - started
    options = {"seed": 0, "device": "cpu"}
    cached = Frozen(data, data.splits[0], embedded, chosen, **options)
    fresh = uncached(module, data)(data, data.splits[0], embedded, few, **options)
    step, slow = seconds_per_step(cached, 5), seconds_per_step(fresh, 2) / crops
    total = embedding + cached.steps * step
    want = cached.steps * BATCH * slow
    name = module.model + (" (untrained)" if module.untrained else "")
    dim = embedded["train"].rows.shape[1]
    return (
        f"| {name} | {dim} | {embedding:.0f} (ahead: {ahead.seconds:.0f}) | {1000 * step:.0f} | "
        f"{1000 * BATCH * slow:.0f} | {total:.0f} | {want:.0f} | {want / total:.0f} |"
    )


def made_up(part: Part, dim: int, shifts: int) -> Features:
    """Random features of the size of a part."""
    rows = sum(part.frames(f) * (shifts if part.frames(f) > 250 else 1) for f in part.files)
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
    trained_one = Module(GENERIC, args.checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        epochs, seeds = (10, args.seeds[:1]) if args.quick else (args.epochs, args.seeds)
        equivalence(data, trained_one, cache / "equal", seeds, epochs)
        print("| model | dim | features, s | cached: ms per step | uncached: ms per step | "
              f"cached, s in {EPOCHS} epochs | uncached, s | ratio |")  # fmt: skip
        print("|---" * 8 + "|")
        plug_ins = [trained_one] + [
            Module(f"hear_ptsed.plugins.{name}", None, {"untrained": True})
            for name in ("frame_mn06_strong", "atst_frame_strong")
        ]
        for module in plug_ins:
            crops = 4 if "atst" in module.name else 64
            print(times(data, module, cache / "timed", crops, args.quick), flush=True)
    print()
    dc16_size()


if __name__ == "__main__":
    main()
