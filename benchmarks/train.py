"""Training speed: `python benchmarks/train.py [--device cuda] [--compiled]`.

Whole training steps (audio to resampling, mixing, mel, augmentation, network, loss, gradients,
optimiser) of the strong recipe on random clips with random labels of 447 classes. Prints clips per
second, the share of the rate at which the same device multiplies matrices of the same type (three
times the FLOP of the network's forward pass, PyTorch's count), and memory. The second table is the
loader alone, from packed shards.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch.utils.flop_counter import FlopCounterMode

from hear_ptsed.labels import load_labels
from hear_ptsed.registry import MODELS, build, trainable
from training import optim
from training.data.annotations import Events
from training.data.batch import ClipSet, loader
from training.data.clips import open_clips
from training.data.pack import pack
from training.data.sampling import Plan, TrainPicks
from training.data.sources import AnnotatedClips, OpenSources
from training.fit import make_module
from training.labels import FrameLabels
from training.optim import freeze_unused
from training.recipe import Data, Optim, Recipe

CLIPS, EVENTS = 64, 9  # in the folder; per clip


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP per second of a large matrix product."""
    a = torch.randn(4096, 4096, device=device, dtype=dtype)
    best = 0.0
    for _ in range(5):
        start = now(device)
        a @ a
        best = max(best, 2 * 4096**3 / (now(device) - start))
    return best


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


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


def train_rate(
    name: str, clips: ClipSet, device: torch.device, batch: int, dtype: torch.dtype, compiled: bool
) -> tuple[float, float, float]:
    """Clips per second, FLOP per clip, and GB of memory of training one model."""
    recipe = Recipe(optim=Optim(batch=batch, epochs=1000.0, warmup_steps=10), data=Data(workers=0))
    model = build(name).train()
    freeze_unused(model, FrameLabels())
    module = make_module(recipe, model, clips).to(device)
    if compiled:
        model.backbone.compile()
    picks = TrainPicks(module.plan, None, False, 0, recipe.augment.wavmix_p)
    adamw = optim.optimizer(optim.groups(model, recipe.optim), recipe.optim)
    batches = [
        {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in clips[p].items()}
        for p in map(picks.at, range(2))
    ]
    draw = torch.Generator().manual_seed(0)

    def step(i: int) -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            with torch.no_grad():
                spec, targets = module.inputs(batches[i % 2], draw)
            loss = module.loss(spec, targets)
        loss.backward()
        adamw.step()
        adamw.zero_grad()

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step(0)
    flop = 0.0
    if not compiled:
        spec, targets = module.inputs(batches[0], draw)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module.loss(spec, targets)
        flop = 3 * counter.get_total_flops() / batch
    best = float("inf")
    for i in range(4):
        start = now(device)
        step(i)
        best = min(best, now(device) - start)
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 1e9
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return batch / best, flop, memory


def loader_rate(clips: ClipSet, workers: int, batch: int) -> float:
    """Clips per second that the loader delivers from packed shards."""
    plan = Plan(len(clips), len(clips), 200.0, batch, 1)
    batches = iter(loader(clips, TrainPicks(plan, None, False, 0, 0.8), workers, False))
    for _ in range(4 + 4 * workers):  # what the workers read ahead
        next(batches)
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
    name = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{torch.get_num_threads()} threads"
    )
    print(f"{name}, torch {torch.__version__}, batch {args.batch}\n")
    with tempfile.TemporaryDirectory() as folder:
        clips = shards(Path(folder))
        print("| model | variant | clips/s | GFLOP per clip | share of products | memory, GB |")
        print("|---|---|---|---|---|---|")
        for model in args.models:
            for dtype in (torch.float32, torch.bfloat16):
                peak, flop = product_rate(device, dtype), 0.0
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
