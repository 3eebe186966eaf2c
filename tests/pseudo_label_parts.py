"""Files of pseudo labels in the published layout, for the tests of such files and their making."""

from pathlib import Path

import h5py
import numpy as np

ID = "-0abcDEF_12"  # as long as YouTube's
CLASSES = ["Speech", "Dog", "Bell"]


def logits(rows: int, classes: int = 447, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed).standard_normal((rows, classes, 250), dtype=np.float32)
    return (4 * draw).astype(np.float16)


def published(path: Path, names: list[str], values: np.ndarray | None = None, **more) -> Path:
    """A file as the public one, or spoiled by `more`; None leaves a dataset out."""
    datasets = {
        "filenames": np.array([name.encode() for name in names]),
        "strong_logits": logits(len(names)) if values is None else values,
    } | more
    with h5py.File(path, "w") as file:
        for key, value in datasets.items():
            if value is not None:
                file[key] = value
    return path
