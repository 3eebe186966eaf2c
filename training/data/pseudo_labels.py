"""Files of pseudo labels: the mean logits of an ensemble (see ensemble.py) in the published layout.

An HDF5 file with `filenames` (N,) and `strong_logits` (N, C, 250) float16: 40 ms frames of the
first 10 s of each clip. Ours also have `classes` (C,) and `report` (JSON).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hear_ptsed.errors import few, one_line
from hear_ptsed.files import temporary_beside
from hear_ptsed.grid import WINDOW_FRAMES
from hear_ptsed.labels import load_labels
from hear_ptsed.parts import Parts, require_settings
from training.data.annotations import clip_key
from training.data.clips import Place, Reader, open_hdf5, refuse_twice, require

EXPONENT = 0x7C00  # bits of a float16 that are all set in NaN and infinity


def canonical(name: str) -> str:
    """A clip's name without folder, audio suffix and the Y that is put before YouTube ids."""
    key = clip_key(name)
    return key[1:] if len(key) == 12 and key.startswith("Y") else key


class PseudoLabels(Reader):
    """Logits of clips.

    Of several files the first that has a clip gives its logits; all have the same classes.
    """

    def __init__(self, *paths: Path | str):
        self.paths = [Path(path) for path in paths]
        if not paths:
            raise ValueError("no file of pseudo labels; give at least one")
        self.names: list[str] = []  # as stored, file after file
        self.classes: list[str] = []
        self._ends: list[int] = []
        self._place: dict[str, int] = {}
        for path in self.paths:
            names, classes = _read_tables(path)
            if self.names and classes != self.classes:
                raise ValueError(f"{path}: its {len(classes)} classes differ from {self.paths[0]}")
            keys = [canonical(name) for name in names]
            refuse_twice(path, keys, names)
            for i, key in enumerate(keys, len(self.names)):
                self._place.setdefault(key, i)
            self.classes = classes
            self.names += names
            self._ends.append(len(self.names))

    def __len__(self) -> int:
        return len(self.names)

    def find(self, key: str) -> int | None:
        """The row of a clip by its name in any form: with folder, suffix, leading Y or without."""
        return self._place.get(canonical(key))

    def read(self, i: int) -> np.ndarray:
        """Logits (C, 250) float16 of a row."""
        which = int(np.searchsorted(self._ends, i, side="right"))
        row = i - (self._ends[which - 1] if which else 0)
        try:
            logits = self._file()[which][row]
        except OSError as error:
            raise ValueError(
                f"{self.paths[which]}: damaged at {self.names[i]} ({one_line(error)})"
            ) from error
        if ((logits.view(np.uint16) & EXPONENT) == EXPONENT).any():
            raise ValueError(f"{self.paths[which]}: NaN or infinite logits of {self.names[i]}")
        return logits

    def _open(self) -> list[h5py.Dataset]:
        return [open_hdf5(path)["strong_logits"] for path in self.paths]


def _read_tables(path: Path) -> tuple[list[str], list[str]]:
    """Names and classes of a file whose layout is right."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a file of pseudo labels")
    with open_hdf5(path) as file:
        classes = file["classes"].asstr()[:].tolist() if "classes" in file else load_labels()
        shape = ("clips", len(classes), WINDOW_FRAMES)
        logits = require(file, "strong_logits", "float16", shape)
        names = require(file, "filenames", "text", (len(logits),))
        # One read of the whole table: one for each name takes two orders of magnitude longer.
        return [name.decode() for name in names[:].tolist()], classes


class Writer:
    """A file in the making: a folder beside it holds a part for each finished block of clips.

    Parts are small files that appear by renaming, because an HDF5 file whose writer is killed may
    be lost as a whole. Blocks are numbered through the list of clips: any process can go on.

    Args:
        missing: names of clips that are wanted and in no source.
        settings: what all parts must have in common, `block` (clips per part) among it.
    """

    def __init__(
        self,
        out: Path,
        places: Sequence[Place],
        missing: Sequence[str],
        settings: dict[str, Any],
    ):
        self.out, self.places, self.missing = out, places, list(missing)
        keys = "\n".join([*(place.key for place in places), "", *missing])
        self.settings = settings | {"clips": hashlib.sha256(keys.encode()).hexdigest()}
        size = settings["block"]
        self.blocks = [places[first : first + size] for first in range(0, len(places), size)]
        names = [f"{b:06d}.npy" for b in range(len(self.blocks))]
        self.parts = Parts(out.with_name(f".{out.name}.parts"), self.settings, names)

    def finished(self) -> dict[str, Any] | None:
        """The report if the file is there; refuses a file, or parts, of other settings."""
        if not self.out.exists():
            self.parts.claim()
            return None
        with open_hdf5(self.out) as file:
            stored = json.loads(file.attrs.get("settings", "null"))
            require_settings(self.out, stored, self.settings)
            report = json.loads(file["report"].asstr()[()])
        self.parts.remove()  # of a process killed in between
        return report | {"parts_left": 0}

    def write(
        self,
        b: int,
        keys: Sequence[str],
        logits: np.ndarray,
        classes: Sequence[str],
        unreadable: Mapping[str, str],
    ) -> None:
        """Write the part of a block.

        Args:
            keys, logits: of the readable clips; (N, C, 250) float16.
            unreadable: the reason by key.
        """
        finite = np.isfinite(logits).all((1, 2))
        if not finite.all():
            wrong = [key for key, fine in zip(keys, finite, strict=True) if not fine]
            raise RuntimeError(
                f"the logits of {few(wrong)} are NaN or beyond the range of float16; try precision "
                "float32"
            )
        facts = {"keys": list(keys), "classes": list(classes), "unreadable": dict(unreadable)}
        with self.parts.write(b, facts) as path, path.open("wb") as file:
            np.save(file, logits)

    def merge(self) -> dict[str, Any]:
        """Make the file if all parts are there; the report of what is."""
        try:
            left = self.parts.left()
            facts = [self.parts.facts(b) for b in range(len(self.blocks)) if b not in set(left)]
            report = {
                "expected": len(self.places) + len(self.missing),
                "found": len(self.places),
                "written": sum(len(fact["keys"]) for fact in facts),
                "missing": self.missing,
                "unreadable": {k: v for fact in facts for k, v in fact["unreadable"].items()},
            }
            if not left:
                # Two that finish at once make the same file twice.
                self.make_file(temporary_beside(self.parts.folder / "whole.h5"), facts, report)
        except FileNotFoundError:
            if not self.out.exists():  # else another process has just made the file
                raise
            return self.finished()
        return report | {"parts_left": len(left)}

    def make_file(self, path: Path, facts: Sequence[dict], report: dict[str, Any]) -> None:
        keys = [key for fact in facts for key in fact["keys"]]
        if not keys:
            first = next(iter(report["unreadable"].items()))
            raise RuntimeError(f"none of {len(self.places)} clips is readable; {': '.join(first)}")
        classes = facts[0]["classes"]
        shape = (len(keys), len(classes), WINDOW_FRAMES)
        with h5py.File(path, "w") as file:
            file["filenames"] = np.array([key.encode() for key in keys])
            file.create_dataset("classes", data=classes, dtype=h5py.string_dtype())
            # Not an attribute: those end at 64 KiB, and thousands of clips can be missing.
            file["report"] = json.dumps(report)
            file.attrs["settings"] = json.dumps(self.settings)
            data = file.create_dataset("strong_logits", shape, "f2", chunks=(1, *shape[1:]))
            row = 0
            for b, fact in enumerate(facts):
                end = row + len(fact["keys"])
                if end > row:
                    data[row:end] = self._load(b)
                row = end
        path.replace(self.out)
        self.parts.remove()

    def _load(self, b: int) -> np.ndarray:
        file = self.parts.files[b]
        if self.parts.check(b):
            return np.load(file)
        if not self.parts.folder.exists():
            raise FileNotFoundError(f"{file} is gone; run the same command again")
        raise RuntimeError(f"{file} was damaged and is deleted; run the same command to replace it")
