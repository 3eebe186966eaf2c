"""Sequence models beside each other: `python benchmarks/sequence.py`.

Time and memory of 250 frames in batches of 8, as the published students have them (backbone width
960, 2 layers), each kind in a process of its own. Prints a table: millions of parameters, ms of an
evaluation and of a training step (forward and backward, without optimizer), each the fastest of
--runs, and the growth of memory by a training step in MB, weights and gradients included. On a CPU
it is the time of one thread, without what others on the machine take.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hear_ptsed.grid import WINDOW_FRAMES
from hear_ptsed.sequence import DEFAULTS, build_sequence_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=DEFAULTS, default=list(DEFAULTS))
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--backbone", type=int, default=960, help="width of its frames")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    print(f"{'kind':<12} {'params':>8} {'eval ms':>8} {'train ms':>9} {'memory MB':>10}")
    context = multiprocessing.get_context("spawn")
    for kind in args.kinds:
        with context.Pool(1) as pool:
            millions, evaluation, training, memory = pool.apply(measure, (kind, args))
        print(f"{kind:<12} {millions:>8.2f} {evaluation:>8.1f} {training:>9.1f} {memory:>10.0f}")


def measure(kind: str, args: argparse.Namespace) -> tuple[float, float, float, float]:
    """Millions of parameters, ms of an evaluation, ms of a training step, MB of memory."""
    torch.set_num_threads(1)
    step(
        nn.Linear(8, 8).to(args.device), torch.rand(2, 3, 8, device=args.device)
    )  # loads libraries
    frames = torch.randn(args.batch, WINDOW_FRAMES, args.backbone, device=args.device)
    before = peak(args.device)
    options = {"dim": args.dim, "layers": args.layers}
    model = build_sequence_model(kind, args.backbone, **options).to(args.device)
    step(model, frames)
    memory = (peak(args.device) - before) / 1e6
    training = fastest_ms(lambda: step(model, frames), args)
    model.eval()
    with torch.no_grad():
        evaluation = fastest_ms(lambda: model(frames), args)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return millions, evaluation, training, memory


def step(model: nn.Module, frames: Tensor) -> None:
    """Forward and backward of frames (B, T, E)."""
    model(frames).square().mean().backward()


def fastest_ms(run: Callable[[], object], args: argparse.Namespace) -> float:
    """Least time of --runs runs, behind one that is not counted."""
    clock = time.process_time if args.device == "cpu" else time.perf_counter
    times = []
    for _ in range(args.runs + 1):
        start = clock()
        run()
        if args.device != "cpu":
            torch.cuda.synchronize()
        times.append(1e3 * (clock() - start))
    return min(times[1:])


def peak(device: str) -> int:
    """Most bytes in use so far."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
