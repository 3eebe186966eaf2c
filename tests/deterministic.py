"""Weights and clips that are a function of names, shapes and seeds, for comparisons without files.

The public models' outputs for them are kept in tests/golden.
"""

import math
import zlib

import numpy as np


def weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Value of the tensor that a released checkpoint stores under `key`."""
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("norm_stats"):
        return np.array([-7.1, 4.2], np.float32)
    if key.endswith("pos_encoding.freqs"):  # rotary frequencies, which are never trained
        return (10000.0 ** (-np.arange(shape[0]) / shape[0])).astype(np.float32)
    draw = np.random.default_rng([zlib.crc32(key.encode()), 0]).standard_normal(
        shape, dtype=np.float32
    )
    if key.endswith("running_var"):
        return 1.0 + 0.1 * np.abs(draw)
    if len(shape) < 2:
        return 1.0 + 0.1 * draw if key.endswith(("weight", "gamma")) else 0.02 * draw
    if shape[0] == 1:  # tokens, position tables, gates, gains
        return 0.5 * draw
    gain = 1.5 if len(shape) == 4 else 1.0
    return draw * np.float32(gain / math.sqrt(math.prod(shape[1:])))


def waveform(seconds: float, seed: int = 0) -> np.ndarray:
    """Three chirps, two silences, a click and noise at 16 kHz, float32."""
    n, rate = round(seconds * 16000), 16000
    rng = np.random.default_rng([seed, n])
    time = np.arange(n) / rate
    audio = 0.02 * rng.standard_normal(n)
    for amplitude in (0.3, 0.2, 0.1):
        start, end = rng.uniform(60.0, 7000.0, size=2)
        phase = start * time + (end - start) * time**2 / (2 * seconds)
        audio += amplitude * np.sin(2 * np.pi * phase)
    for _ in range(2):
        first = rng.integers(0, max(n - rate // 2, 1))
        audio[first : first + rate // 2] = 0.0
    audio[n // 3] = 0.9
    return np.clip(audio, -1.0, 1.0).astype(np.float32)
