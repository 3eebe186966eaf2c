"""The runtimes beside torch, front-end included: `python benchmarks/runtimes.py`.

    python benchmarks/runtimes.py [--models beats frame_mn10] [--rounds 7] [--precision bfloat16]

Every variant embeds the same windows once per round, in turn; the table has the median over the
rounds of how many times as fast as torch it was in that round. "torch again" is a second, identical
copy: what it differs from 1 is noise. "error" is the norm of the difference from torch in float32,
relative to the norm of the embeddings. Weights are random. On a machine that others use, too,
`--cpu` and OMP_NUM_THREADS=1 are the fairest: CPU seconds in place of the clock's.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from hear_ptsed import load
from hear_ptsed.grid import WINDOW
from hear_ptsed.hear import RUNTIMES, HearModel, Options
from hear_ptsed.registry import trainable

VARIANTS = {precision: ["torch", "torch again", runtime] for runtime, precision in RUNTIMES.items()}
Embed = Callable[[Tensor], Tensor]  # audio (B, 160000) -> frames (B, 250, D)


@torch.no_grad()
def measure(name: str, precision: str, rounds: int, clips: int, clock: Callable[[], float]) -> None:
    """Print the rows of one model, which embeds `clips` windows per call."""
    generator = torch.Generator().manual_seed(0)
    audio = 0.1 * torch.randn(clips, WINDOW, generator=generator)

    def embedder(runtime: str, precision: str) -> Embed:
        model = load(name, stage=None, n_classes=None, seed=0)
        options = Options(runtime=runtime, precision=precision, batch=clips)
        return HearModel(model, options).eval()

    exact = embedder("torch", "float32")(audio)
    models = {label: embedder(label.split()[0], precision) for label in VARIANTS[precision]}
    errors = {
        label: ((model(audio) - exact).norm() / exact.norm()).item()
        for label, model in models.items()
    }
    taken: dict[str, list[float]] = {label: [] for label in models}
    for _ in range(rounds):
        for label, model in models.items():
            start = clock()
            model(audio)
            taken[label].append(clock() - start)
    for label, times in taken.items():
        ratios = [ours / theirs for ours, theirs in zip(taken["torch"], times, strict=True)]
        print(
            f"| {name} | {precision} | {label} | {clips / min(times):.2f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | "
            f"{errors[label]:.1e} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=trainable(), choices=trainable())
    parser.add_argument("--precision", nargs="*", default=["float32"], choices=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clips", type=int, default=4, help="windows per call")
    parser.add_argument("--cpu", action="store_true", help="CPU seconds, not the clock's")
    args = parser.parse_args()
    clock = time.process_time if args.cpu else time.perf_counter
    load_before = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {load_before:.1f}\n")
    print("| model | precision | runtime | best clips/s | x torch (range) | error |")
    print("|---|---|---|---|---|---|")
    for name in args.models:
        for precision in args.precision:
            measure(name, precision, args.rounds, args.clips, clock)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
