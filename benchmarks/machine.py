"""What benchmarks share: seconds, matrix products, memory and the name of a machine."""

import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

PRODUCT = {"cuda": 8192, "cpu": 2048}  # rows of the matrices whose product is the rate of a device


def now_s(device: torch.device) -> float:
    """Seconds of a clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(run: Callable[[], object], device: torch.device) -> float:
    start_s = now_s(device)
    run()
    return now_s(device) - start_s


def least_seconds(run: Callable[[], object], device: torch.device, budget_s: float) -> float:
    """Of one call, after a first one: the least of calls that fill a time, at least two."""
    run()
    best, until_s = seconds(run, device), time.perf_counter() + budget_s
    while True:
        best = min(best, seconds(run, device))
        if time.perf_counter() > until_s:
            return best


def product_flops(n: int) -> int:
    """Floating-point operations of a product of matrices (N, N)."""
    return 2 * n**3


def matrix_product(dtype: torch.dtype, device: torch.device, n: int) -> Callable[[], torch.Tensor]:
    """What multiplies two matrices (N, N)."""
    a = torch.randn(n, n, device=device, dtype=dtype)
    return lambda: a @ a


def product_rate(dtype: torch.dtype, device: torch.device, n: int | None = None) -> float:
    """FLOP per second of a large matrix product, the best of a few."""
    n = n or PRODUCT[device.type]
    return product_flops(n) / least_seconds(matrix_product(dtype, device, n), device, 0.3)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Products and convolutions of float32 on a GPU in TF32, or not; what was set is set again."""
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = allowed
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gb(device: torch.device) -> float:
    """Most memory since `reset_peak` on a GPU, else of the process since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def machine_facts(device: torch.device) -> dict[str, str | int | float]:
    """What a figure needs to be compared with another: the machine, its load and the software."""
    facts = {
        "device": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count() or 1,
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
        facts |= {
            "device": card.name,
            "memory_gb": round(card.total_memory / 1e9),
            "cuda": torch.version.cuda,
            "driver": answer[0] if answer else "unknown",
        }
    return facts
