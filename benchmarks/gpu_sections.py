"""What benchmarks/gpu.py measures, a section a process: each row is a line of JSON at once.

python benchmarks/gpu_sections.py eager_networks --models frame_mn10
"""

import argparse
import copy
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from embed import count_flops
from machine import (
    least_seconds,
    machine_facts,
    now_s,
    peak_gb,
    product_rate,
    reset_peak,
    seconds,
    tf32,
)
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from hear_ptsed import load
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.detect import DetectorOptions
from hear_ptsed.files import null_for_nan
from hear_ptsed.grid import WINDOW
from hear_ptsed.hear import HearModel, Options
from hear_ptsed.model import SEDModel
from hear_ptsed.registry import build, find_parts
from training.data.batch import Batch
from training.data.clips import Clips, open_clips
from training.ensemble import write_pseudo_labels

if TYPE_CHECKING:  # Lightning's import takes seconds
    from train import Steps

ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, Any]
known_flops = cache(count_flops)
PRECISIONS = {  # type, and whether products of float32 may be TF32
    "bfloat16": (torch.bfloat16, True),
    "tf32": (torch.float32, True),
    "float32": (torch.float32, False),
}


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    device: torch.device
    models: tuple[str, ...]
    workers: int  # of loaders
    windows: int = 64  # per call of a network
    batch: int = 64  # of a training step
    clips: tuple[int, int] = (256, 2304)  # for pseudo labels; their difference is timed
    matrix: int | None = None  # rows of the product; None: those of the device
    call_s: float = 0.7  # how long a call is repeated
    steps_s: float = 5.0  # how long a training runs


def card(sizes: Sizes) -> Iterator[Row]:
    """The card, the driver and torch."""
    yield machine_facts(sizes.device)


def tests(_: Sizes) -> Iterator[Row]:
    """`pytest -m gpu`, of the files that have such tests."""
    files = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        if "pytest.mark.gpu" in path.read_text(encoding="utf-8")
    ]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "--tb=short", *files]
    begun_s = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or ["no output"]
    row = {"outcome": lines[-1].strip("= "), "code": done.returncode}
    row["seconds"] = time.perf_counter() - begun_s
    failed = [line for line in lines if re.match("FAILED|ERROR|E  ", line)]
    yield row | {"failures": "; ".join(failed)}


@cache
def plain_model(name: str) -> SEDModel:
    """A model without heads, with random weights, as it is trained, on the CPU."""
    torch.manual_seed(0)
    return build(name, n_classes=None).eval()


def plug_in(name: str, precision: str, compiled: bool, sizes: Sizes) -> HearModel:
    """A model as a plug-in has it, but in bfloat16 also where plug-ins refuse that."""
    model = copy.deepcopy(plain_model(name)).to(sizes.device)
    low = precision == "bfloat16"
    model.backbone.bfloat16 = low
    options = Options(
        precision="bfloat16" if low else "float32", compile=compiled, batch=sizes.windows
    )
    return HearModel(model, options).eval()


@torch.no_grad()
def networks(sizes: Sizes, compiled: bool) -> Iterator[Row]:
    """Each backbone in each precision: the bare network, and the plug-in with it."""
    device = sizes.device
    audio = torch.randn(sizes.windows, WINDOW, generator=torch.Generator().manual_seed(0)) * 0.1
    audio = audio.to(device)
    with tf32(False):
        wanted = {
            name: copy.deepcopy(plain_model(name)).to(device).embed(audio).cpu()
            for name in sizes.models
        }
    rates = {}
    for precision, name in product(PRECISIONS, sizes.models):
        dtype, allowed = PRECISIONS[precision]
        with tf32(allowed):
            if precision not in rates:
                rates[precision] = product_rate(dtype, device, sizes.matrix)
            reset_peak(device)
            row = one_network(sizes, name, precision, compiled, audio, wanted[name])
        flops = known_flops(name)
        yield row | {
            "gflop": flops / 1e9,
            "share_of_product": row["windows_per_s"] * flops / rates[precision],
            "product_tflop_per_s": rates[precision] / 1e12,
        }


def one_network(
    sizes: Sizes, name: str, precision: str, compiled: bool, audio: Tensor, wanted: Tensor
) -> Row:
    """Speed, memory and error of windows (N, 160000), whose embeddings (N, 250, D) are known."""
    device = sizes.device
    model = plug_in(name, precision, compiled, sizes)

    def embed() -> Tensor:
        """-> (N, 250, D)"""
        with torch.autocast(device.type, torch.bfloat16, enabled=model.low_precision):
            return model.model.embed(audio)

    first_s = seconds(embed, device)
    bare_s = least_seconds(embed, device, sizes.call_s)
    whole_s = least_seconds(lambda: model(audio), device, sizes.call_s)
    error = (embed().cpu() - wanted).norm() / wanted.norm()
    torch._dynamo.reset()
    return {
        "model": name,
        "precision": precision,
        "windows_per_s": len(audio) / bare_s,
        "plug_in_windows_per_s": len(audio) / whole_s,
        "first_call_s": first_s,
        "memory_gb": peak_gb(device),
        "error": error.item(),
    }


def eager_networks(sizes: Sizes) -> Iterator[Row]:
    """Networks as they come."""
    return networks(sizes, compiled=False)


def compiled_networks(sizes: Sizes) -> Iterator[Row]:
    """Networks by torch.compile."""
    return networks(sizes, compiled=True)


def attention(sizes: Sizes) -> Iterator[Row]:
    """BEATs' attention, whose bias is scaled for each head and query: as a mask, and by flex."""
    device, (heads, tokens, width) = sizes.device, (12, 496, 64)
    kernels = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]
    if device.type == "cpu":
        kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    draw = torch.Generator().manual_seed(0)
    shapes = [(sizes.windows, heads, tokens, width)] * 3
    shapes += [(sizes.windows, heads, tokens, 1), (heads, tokens, tokens)]  # gate, bias
    exact = [torch.randn(shape, generator=draw).to(device) for shape in shapes]
    with tf32(False), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        wanted = masked(*exact)
    compiled_flex = torch.compile(flexible, dynamic=False)
    for dtype in (torch.bfloat16, torch.float32):
        given = [tensor.to(dtype).requires_grad_() for tensor in exact]
        runs = {f"mask, {kernel.name.lower()}": by_kernel(kernel) for kernel in kernels}
        for name, run in (runs | {"flex_attention, compiled": compiled_flex}).items():
            row = {"attention": name, "precision": str(dtype).removeprefix("torch.")}
            try:
                one_attention(row, sizes, run, given, wanted)
            except Exception as error:  # a kernel that a card or torch lacks is a finding
                refused = str(error).strip().partition("\n")[0]
                row["refused"] = f"{type(error).__name__}: {refused}"
            yield row


def masked(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor) -> Tensor:
    """q, k, v (B, H, L, D), gate (B, H, L, 1), bias (H, L, L) -> (B, H, L, D); the model's way."""
    return F.scaled_dot_product_attention(q, k, v, gate * bias)


def flexible(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor) -> Tensor:
    """The same without a mask (B, H, L, L) in memory."""

    def biased(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """A score () and its places () -> ()"""
        return score + gate[b, h, i, 0] * bias[h, i, j]

    return flex_attention(q, k, v, score_mod=biased)


def by_kernel(kernel: SDPBackend) -> Callable[..., Tensor]:
    """`masked`, with its shapes, by one kernel: -> (B, H, L, D)."""

    def run(*given: Tensor) -> Tensor:
        """Arguments of `masked` -> (B, H, L, D)"""
        with sdpa_kernel(kernel):
            return masked(*given)

    return run


def one_attention(
    row: Row, sizes: Sizes, run: Callable[..., Tensor], given: list[Tensor], wanted: Tensor
) -> None:
    """Enter milliseconds and memory of inference, the error, and the same of a training step.

    Args:
        given: arguments of `masked`.
        wanted: (B, H, L, D).
    """
    device, detached = sizes.device, [tensor.detach() for tensor in given]
    with torch.no_grad():
        reset_peak(device)
        row["inference_ms"] = 1e3 * least_seconds(lambda: run(*detached), device, sizes.call_s)
        row["inference_gb"] = peak_gb(device)
        row["error"] = ((run(*detached).float() - wanted).norm() / wanted.norm()).item()

    def step() -> None:
        torch.autograd.grad(run(*given).sum(), given)

    if device.type == "cuda":  # flex_attention has no gradients on a CPU
        reset_peak(device)
        row["training_ms"] = 1e3 * least_seconds(step, device, sizes.call_s)
        row["training_gb"] = peak_gb(device)


@torch.no_grad()
def frontends(sizes: Sizes) -> Iterator[Row]:
    """Each front-end on the device and on the CPU."""
    cpu = torch.device("cpu")
    audio = torch.randn(sizes.windows, WINDOW) * 0.1
    for name in sizes.models:
        on_cpu = find_parts(name).frontend().eval()
        on_device = copy.deepcopy(on_cpu).to(sizes.device)
        moved = audio.to(sizes.device)
        with tf32(False):
            rate, cpu_rate = (
                len(audio) / least_seconds(run, place, sizes.call_s)
                for run, place in (
                    (lambda f=on_device, a=moved: f(a), sizes.device),
                    (lambda f=on_cpu: f(audio), cpu),
                )
            )
            got, want = on_device(moved).cpu(), on_cpu(audio)
        yield {
            "front_end_of": name,
            "windows_per_s": rate,
            "windows_per_s_on_cpu": cpu_rate,
            "error": ((got - want).norm() / want.norm()).item(),
            "largest_difference": (got - want).abs().max().item(),
        }


def training_steps(sizes: Sizes) -> Iterator[Row]:
    """Whole steps in bfloat16, of batches that lie on the device, and of those of a loader."""
    from train import Steps, beyond_read_ahead, shards

    device, dtype = sizes.device, torch.bfloat16
    with tempfile.TemporaryDirectory() as folder, tf32(True):
        clips = shards(Path(folder))
        rate = product_rate(dtype, device, sizes.matrix)
        for name in sizes.models:
            reset_peak(device)
            steps = Steps(name, clips, device, sizes.batch, dtype, compiled=False)
            ready = steps.move(clips[steps.picks.at(0)])
            step_s = step_seconds(steps, repeat(ready), sizes)
            loaded = beyond_read_ahead(clips, steps.picks, sizes.workers, device.type == "cuda")
            loaded_s = step_seconds(steps, loaded, sizes)
            yield {
                "model": name,
                "batch": sizes.batch,
                "steps_per_s": 1 / step_s,
                "steps_per_s_with_loader": 1 / loaded_s,
                "workers": sizes.workers,
                "clips_per_s_with_loader": sizes.batch / loaded_s,
                "share_of_product": steps.count_flops(ready) / step_s / rate,
                "memory_gb": peak_gb(device),
            }


def step_seconds(steps: "Steps", batches: Iterator[Batch], sizes: Sizes) -> float:
    """Mean seconds of steps that fill a time, after a first one; none waits for the device."""
    steps.run(steps.move(next(batches)))
    begun_s, count = now_s(sizes.device), 0
    for batch in batches:
        steps.run(steps.move(batch))
        count += 1
        if time.perf_counter() - begun_s > sizes.steps_s:
            break
    return (now_s(sizes.device) - begun_s) / count


def pseudo_labels(sizes: Sizes) -> Iterator[Row]:
    """Clips per second of the ensemble's writer beyond its start, from files of audio."""
    options = DetectorOptions(batch=sizes.windows, precision="bfloat16", device=sizes.device.type)
    few, many = sizes.clips
    with tempfile.TemporaryDirectory() as temporary, tf32(True):
        folder = Path(temporary)
        sources = folders(folder, sizes.clips)
        paths = [folder / f"{name}.pt" for name in sizes.models]
        for path in paths:
            save_checkpoint(load(path.stem, stage=None, seed=0), path)
        for ensemble in dict.fromkeys([(paths[0],), tuple(paths)]):
            took_s = []
            for source in sources:
                begun_s = time.perf_counter()
                out = folder / f"{len(ensemble)}-{len(source)}.h5"
                write_pseudo_labels(
                    ensemble, [source], out, options=options, workers=max(1, sizes.workers)
                )
                took_s.append(time.perf_counter() - begun_s)
            yield {
                "ensemble": ", ".join(path.stem for path in ensemble),
                "clips": many,
                "seconds": took_s[1],
                "clips_per_s_beyond_start": (many - few) / max(took_s[1] - took_s[0], 1e-9),
                "workers": max(1, sizes.workers),
            }


def folders(folder: Path, numbers: Sequence[int]) -> list[Clips]:
    """So many clips in a folder each, links to a few files."""
    from train import shards

    shards(folder)
    stored = sorted((folder / "wav").iterdir())
    for number in numbers:
        (folder / str(number)).mkdir()
        for i in range(number):
            (folder / str(number) / f"{i:05d}.wav").symlink_to(stored[i % len(stored)])
    return [open_clips(folder / str(number)) for number in numbers]


SECTIONS: dict[str, Callable[[Sizes], Iterator[Row]]] = {
    f.__name__: f
    for f in (
        card,
        tests,
        eager_networks,
        attention,
        frontends,
        training_steps,
        pseudo_labels,
        compiled_networks,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("--dry", action="store_true", help="tiny, on the CPU")
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--workers", type=int, default=min(8, max(1, (os.cpu_count() or 1) - 1)))
    args = parser.parse_args()
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print is no row
    sizes = Sizes(torch.device("cuda"), tuple(args.models), args.workers)
    if args.dry:
        tiny = {"windows": 1, "batch": 2, "clips": (2, 4), "matrix": 256}
        sizes = Sizes(torch.device("cpu"), sizes.models, 0, **tiny, call_s=0.0, steps_s=0.0)
    for row in SECTIONS[args.section](sizes):
        print(json.dumps(null_for_nan(row)), file=rows, flush=True)


if __name__ == "__main__":
    main()
