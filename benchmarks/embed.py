"""Embedding speed: how much of the machine's matrix-product rate each backbone reaches.

    python benchmarks/embed.py [--device cuda] [--models beats frame_mn10] [--rounds 5]

Every variant runs once per round, in turn, so that a busy machine slows all of them; the best round
counts. "plain" is the unfolded model with written-out attention, one window at a time. Floating-
point operations are those of matrix products, convolutions and attention, counted by PyTorch.
"""

import argparse
import copy
import math
import sys
from collections.abc import Callable
from contextlib import contextmanager
from unittest.mock import patch

import torch
from machine import PRODUCT, machine_facts, matrix_product, product_flops, seconds
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from hear_ptsed.grid import WINDOW
from hear_ptsed.hear import HearModel, Options
from hear_ptsed.registry import build, trainable

CLIPS = 8  # windows per call, the default of the plug-ins


def written_out_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout_p: float = 0.0
) -> Tensor:
    """Attention of q (B, H, T, D) over k and v (B, H, S, D): (B, H, T, D), each step by itself."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return torch.softmax(scores if mask is None else scores + mask, -1) @ v


@contextmanager
def plain_attention():
    with patch.object(F, "scaled_dot_product_attention", written_out_attention):
        yield


def variants(name: str, audio: Tensor, compiled: bool) -> dict[str, Callable[[], object]]:
    """What is timed; each call embeds all windows of `audio` (B, 160000)."""
    torch.manual_seed(0)
    plain = build(name, n_classes=None).to(audio.device).eval()
    ours = HearModel(copy.deepcopy(plain)).eval()
    low = HearModel(copy.deepcopy(plain), Options(precision="bfloat16")).eval()

    def one_by_one():
        with plain_attention():
            for clip in audio:
                plain.embed(clip[None])

    runs = {"plain": one_by_one, "float32": lambda: ours(audio)}
    if low.low_precision:
        runs["bfloat16"] = lambda: low(audio)
    if compiled:
        precision = "bfloat16" if audio.is_cuda and low.low_precision else "float32"
        fast = HearModel(copy.deepcopy(plain), Options(precision=precision, compile=True)).eval()
        runs[f"{precision} compiled"] = lambda: fast(audio)
    return runs


def count_flops(name: str) -> int:
    model = build(name, n_classes=None).eval()
    with FlopCounterMode(display=False) as counter, plain_attention():
        model.embed(torch.zeros(1, WINDOW))
    return counter.get_total_flops()


@torch.no_grad()
def measure(name: str, device: torch.device, rounds: int, compiled: bool) -> list[str]:
    """Rows of the results table of one model."""
    audio = torch.randn(CLIPS, WINDOW, device=device) * 0.1
    flops = count_flops(name)
    n = PRODUCT[device.type]
    products = {
        dtype: matrix_product(dtype, device, n) for dtype in (torch.float32, torch.bfloat16)
    }
    runs = variants(name, audio, compiled)
    everything = runs | products
    best = dict.fromkeys(everything, math.inf)
    for run in everything.values():
        run()  # warm-up
    for _ in range(rounds):
        for key, run in everything.items():
            best[key] = min(best[key], seconds(run, device))
    rows = []
    for key in runs:
        dtype = torch.bfloat16 if key.startswith("bfloat16") else torch.float32
        rate = product_flops(n) / best[dtype]
        share = CLIPS * flops / best[key] / rate
        rows.append(
            f"| {name} | {key} | {flops / 1e9:.1f} | {CLIPS / best[key]:.2f} | "
            f"{best['plain'] / best[key]:.2f} | {best['float32'] / best[key]:.2f} | "
            f"{rate / 1e9:.0f} | {100 * share:.0f} % |"
        )
        print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    """Print the results table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="*", default=trainable(), choices=trainable())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiled", action="store_true")
    args = parser.parse_args()
    device = torch.device(args.device)
    facts = machine_facts(device)
    print(f"torch {facts['torch']}, {facts['threads']} threads, {facts['device']}\n")
    print("| model | variant | GFLOP | clips/s | x plain | x float32 | product GFLOP/s | share |")
    print("|---|---|---|---|---|---|---|---|")
    for name in args.models:
        print("\n".join(measure(name, device, args.rounds, args.compiled)), flush=True)


if __name__ == "__main__":
    main()
