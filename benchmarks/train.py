"""Training speed: `python benchmarks/train.py [--device cuda] [--compiled]`.

Whole training steps (audio to resampling, mixing, mel, augmentation, network, loss, gradients,
optimiser) of the strong recipe on random clips with random labels of 447 classes. Prints clips per
second, the share of the rate at which the same device multiplies matrices of the same type (three
times the FLOP of the network's forward pass, PyTorch's count), and memory. The second table is the
loader alone, from packed shards.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from machine import machine_facts, peak_gb, product_rate, reset_peak, seconds
from torch.utils.flop_counter import FlopCounterMode

from hear_ptsed.labels import load_labels
from hear_ptsed.registry import MODELS, build, trainable
from training import optim
from training.data.annotations import Events
from training.data.batch import Batch, ClipSet, loader
from training.data.clips import open_clips
from training.data.pack import pack
from training.data.sampling import Plan, TrainPicks
from training.data.sources import AnnotatedClips, OpenSources
from training.fit import make_module
from training.labels import FrameLabels
from training.optim import freeze_unused
from training.recipe import Data, Optim, Recipe

CLIPS, EVENTS = 64, 9  # in the folder; per clip


def shards(folder: Path) -> ClipSet:
    """Noise clips packed to shards, with random events."""
    rng, labels = np.random.default_rng(0), load_labels()
    (folder / "wav").mkdir()
    names = [f"clip{i:03d}.wav" for i in range(CLIPS)]
    for name in names:
        noise = 0.1 * rng.standard_normal(160000)
        soundfile.write(folder / "wav" / name, noise, 16000, subtype="PCM_16")
    onset = rng.uniform(0, 8, CLIPS * EVENTS)
    events = Events.from_columns(
        np.repeat(names, EVENTS), rng.choice(labels, CLIPS * EVENTS), onset, onset + 1.5
    )
    pack([open_clips(folder / "wav")], events, folder / "shards", workers=1)
    clips = open_clips(folder / "shards")
    source = AnnotatedClips(clips, annotation=0)
    return OpenSources([clips.events()], [source], FrameLabels()).clip_set(labels)


class Steps:
    """Whole training steps of one model, by the strong recipe."""

    def __init__(
        self,
        name: str,
        clips: ClipSet,
        device: torch.device,
        batch: int,
        dtype: torch.dtype,
        compiled: bool,
    ):
        recipe = Recipe(
            optim=Optim(batch=batch, epochs=1000.0, warmup_steps=10), data=Data(workers=0)
        )
        model = build(name).train()
        freeze_unused(model, FrameLabels())
        self.module = make_module(recipe, model, clips).to(device)
        if compiled:
            model.backbone.compile()
        self.picks = TrainPicks(self.module.plan, None, False, 0, recipe.augment.wavmix_p)
        self.adamw = optim.optimizer(optim.groups(model, recipe.optim), recipe.optim)
        self.device, self.dtype = device, dtype
        self.draw = torch.Generator().manual_seed(0)

    def move(self, batch: Batch) -> Batch:
        return {
            k: v.to(self.device, non_blocking=True) if isinstance(v, torch.Tensor) else v
            for k, v in batch.items()
        }

    def run(self, batch: Batch) -> None:
        """One step with a batch that lies on the device."""
        low = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=low):
            with torch.no_grad():
                inputs = self.module.inputs(batch, self.draw)
            loss = self.module.loss(inputs)
        loss.backward()
        self.adamw.step()
        self.adamw.zero_grad()

    def count_flops(self, batch: Batch) -> int:
        """Of a step: three times those of the network's forward pass."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.module.loss(self.module.inputs(batch, self.draw))
        return 3 * counter.get_total_flops()


def train_rate(
    name: str, clips: ClipSet, device: torch.device, batch: int, dtype: torch.dtype, compiled: bool
) -> tuple[float, float, float]:
    """Clips per second, FLOP per clip (0 if compiled), and GB of memory of training one model."""
    steps = Steps(name, clips, device, batch, dtype, compiled)
    batches = [steps.move(clips[p]) for p in map(steps.picks.at, range(2))]
    reset_peak(device)
    steps.run(batches[0])
    flop = 0.0 if compiled else steps.count_flops(batches[0]) / batch
    best = min(seconds(lambda i=i: steps.run(batches[i % 2]), device) for i in range(4))
    return batch / best, flop, peak_gb(device)


def beyond_read_ahead(
    clips: ClipSet, picks: TrainPicks, workers: int, pin: bool
) -> Iterator[Batch]:
    """Batches of a loader, once those are gone that its workers read ahead."""
    batches = iter(loader(clips, picks, workers, pin))
    for _ in range(4 + 4 * workers):
        next(batches)
    return batches


def loader_rate(clips: ClipSet, workers: int, batch: int) -> float:
    """Clips per second that the loader delivers from packed shards."""
    plan = Plan(len(clips), len(clips), 200.0, batch, 1)
    batches = beyond_read_ahead(clips, TrainPicks(plan, None, False, 0, 0.8), workers, False)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 5 and (item := next(batches, None)) is not None:
        count += len(item["partner"])
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument(
        "--models", nargs="+", default=[n for n in trainable() if MODELS[n].checkpoints]
    )
    parser.add_argument("--compiled", action="store_true", help="torch.compile too")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    device = torch.device(args.device)
    facts = machine_facts(device)
    print(f"{facts['device']}, {facts['threads']} threads, torch {facts['torch']}, ", end="")
    print(f"batch {args.batch}\n")
    with tempfile.TemporaryDirectory() as folder:
        clips = shards(Path(folder))
        print("| model | variant | clips/s | GFLOP per clip | share of products | memory, GB |")
        print("|---|---|---|---|---|---|")
        for model in args.models:
            for dtype in (torch.float32, torch.bfloat16):
                peak, flop = product_rate(dtype, device), 0.0
                for compiled in (False, True)[: 1 + args.compiled]:
                    rate, counted, memory = train_rate(
                        model, clips, device, args.batch, dtype, compiled
                    )
                    flop = flop if compiled else counted
                    variant = str(dtype).removeprefix("torch.") + " compiled" * compiled
                    print(
                        f"| {model} | {variant} | {rate:.2f} | {flop / 1e9:.0f} | "
                        f"{rate * flop / peak:.0%} | {memory:.1f} |",
                        flush=True,
                    )
        print("\n| loader workers | clips/s from shards |\n|---|---|")
        for workers in args.workers:
            print(f"| {workers} | {loader_rate(clips, workers, args.batch):.0f} |")


if __name__ == "__main__":
    main()
