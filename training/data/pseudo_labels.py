"""Files of pseudo labels: the mean logits of an ensemble (see ensemble.py) in the published layout.

An HDF5 file with `filenames` (N,) and `strong_logits` (N, C, 250) float16: 40 ms frames of the
first 10 s of each clip. Ours also have `classes` (C,) and `report` (JSON).
"""

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from hear_ptsed.errors import few, one_line
from hear_ptsed.files import atomic, temporary_beside
from hear_ptsed.grid import WINDOW_FRAMES
from hear_ptsed.labels import load_labels
from training.data.annotations import clip_key
from training.data.clips import open_hdf5

EXPONENT = 0x7C00  # bits of a float16 that are all set in NaN and infinity


class Place(NamedTuple):
    """Where a clip is found."""

    key: str
    source: int
    index: int  # in the source


def canonical(name: str) -> str:
    """A clip's name without folder, audio suffix and the Y that is put before YouTube ids."""
    key = clip_key(name)
    return key[1:] if len(key) == 12 and key.startswith("Y") else key


class PseudoLabels:
    """Logits of clips; picklable, opens its files at the first read in each process.

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
        self._opened: tuple[int, list[h5py.Dataset]] = (0, [])
        for path in self.paths:
            names, classes = _read_tables(path)
            if self.names and classes != self.classes:
                raise ValueError(f"{path}: its {len(classes)} classes differ from {self.paths[0]}")
            own: dict[str, str] = {}
            for i, name in enumerate(names, len(self.names)):
                key = canonical(name)
                if key in own:
                    raise ValueError(f"{path}: {own[key]} and {name} are both clip {key}")
                own[key] = name
                self._place.setdefault(key, i)
            self.classes = classes
            self.names += names
            self._ends.append(len(self.names))

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": (0, [])}

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    def find(self, key: str) -> int | None:
        """The row of a clip by its name in any form: with folder, suffix, leading Y or without."""
        return self._place.get(canonical(key))

    def read(self, i: int) -> np.ndarray:
        """Logits (C, 250) float16 of a row."""
        # An HDF5 file opened before a fork must not be read after it.
        if self._opened[0] != os.getpid():
            self._opened = (os.getpid(), [open_hdf5(p)["strong_logits"] for p in self.paths])
        which = int(np.searchsorted(self._ends, i, side="right"))
        row = i - (self._ends[which - 1] if which else 0)
        try:
            logits = self._opened[1][which][row]
        except OSError as error:
            raise ValueError(
                f"{self.paths[which]}: damaged at {self.names[i]} ({one_line(error)})"
            ) from error
        if ((logits.view(np.uint16) & EXPONENT) == EXPONENT).any():
            raise ValueError(f"{self.paths[which]}: NaN or infinite logits of {self.names[i]}")
        return logits


def open_pseudo_labels(paths: Sequence[Path | str]) -> PseudoLabels:
    """One or several files as one."""
    return PseudoLabels(*paths)


def _read_tables(path: Path) -> tuple[list[str], list[str]]:
    """Names and classes of a file whose layout is right."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a file of pseudo labels")
    with open_hdf5(path) as file:
        for name in ("filenames", "strong_logits"):
            if not isinstance(file.get(name), h5py.Dataset):
                raise ValueError(f"{path}: no dataset {name}; it has {', '.join(file) or 'none'}")
        names, logits = file["filenames"], file["strong_logits"]
        classes = file["classes"].asstr()[:].tolist() if "classes" in file else load_labels()
        wanted = (len(logits) if logits.ndim else 0, len(classes), WINDOW_FRAMES)
        if logits.dtype != np.float16 or logits.shape != wanted:
            raise ValueError(
                f"{path}: strong_logits is {logits.dtype} {logits.shape}, expected float16 "
                f"(clips, {len(classes)}, {WINDOW_FRAMES})"
            )
        text = names.dtype.kind == "S" or h5py.check_string_dtype(names.dtype)
        if not text or names.shape != wanted[:1]:
            raise ValueError(
                f"{path}: filenames is {names.dtype} {names.shape}, expected text ({wanted[0]},), "
                "one name for each row of strong_logits"
            )
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
        self.out, self.places, self.missing = out, places, missing
        names = "\n".join([*(place.key for place in places), "", *missing])
        self.settings = settings | {"clips": hashlib.sha256(names.encode()).hexdigest()}
        self.n_blocks = -(-len(self.places) // settings["block"])
        self.folder = out.with_name(f".{out.name}.parts")

    def finished(self) -> dict[str, Any] | None:
        """The report if the file is there; a ValueError if it or its parts differ in settings."""
        if self.out.exists():
            with open_hdf5(self.out) as file:
                self._compare(self.out, json.loads(file.attrs.get("settings", "{}")))
                report = json.loads(file["report"].asstr()[()])
            shutil.rmtree(self.folder, ignore_errors=True)  # of a process killed in between
            return report | {"parts_left": 0}
        stored = self.folder / "settings.json"
        if stored.exists():
            self._compare(self.folder, json.loads(stored.read_text()))
        else:
            with atomic(stored) as temporary:
                temporary.write_text(json.dumps(self.settings))
        return None

    def _compare(self, path: Path, theirs: dict[str, Any]) -> None:
        if differing := [key for key in self.settings if self.settings[key] != theirs.get(key)]:
            raise ValueError(
                f"{path} was made with another setting of {', '.join(differing)}; delete it, or "
                "write to another file"
            )

    def block(self, b: int) -> Sequence[Place]:
        size = self.settings["block"]
        return self.places[b * size : (b + 1) * size]

    def part(self, b: int) -> Path:
        return self.folder / f"{b:06d}.npz"

    def write(
        self,
        b: int,
        keys: list[str],
        logits: np.ndarray,
        classes: list[str],
        unreadable: dict[str, str],
    ) -> None:
        if not (fine := np.isfinite(logits).all((1, 2))).all():
            raise RuntimeError(
                f"the logits of {few([k for k, ok in zip(keys, fine, strict=True) if not ok])} are "
                "NaN or beyond the range of float16; try precision float32"
            )
        facts = json.dumps({"keys": keys, "classes": classes, "unreadable": unreadable})
        with atomic(self.part(b)) as temporary:
            np.savez(temporary, logits=logits, facts=np.array(facts))

    def merge(self) -> dict[str, Any]:
        """Make the file if all parts are there; the report of what is."""
        try:
            there = [b for b in range(self.n_blocks) if self.part(b).exists()]
            facts = [json.loads(str(self._load(b, "facts"))) for b in there]
            report = {
                "expected": len(self.places) + len(self.missing),
                "found": len(self.places),
                "written": sum(len(fact["keys"]) for fact in facts),
                "missing": self.missing,
                "unreadable": {k: v for fact in facts for k, v in fact["unreadable"].items()},
            }
            if len(there) == self.n_blocks:
                # Two that finish at once make the same file twice.
                self._make(temporary_beside(self.folder / "whole.h5"), facts, report)
        except FileNotFoundError:
            if not self.out.exists():  # else another process has just made the file
                raise
            return self.finished()
        return report | {"parts_left": self.n_blocks - len(there)}

    def _make(self, path: Path, facts: list[dict], report: dict[str, Any]) -> None:
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
                    data[row:end] = self._load(b, "logits")
                row = end
        path.replace(self.out)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _load(self, b: int, name: str) -> np.ndarray:
        try:
            with np.load(self.part(b)) as part:
                return part[name]
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            self.part(b).unlink(missing_ok=True)
            raise RuntimeError(
                f"{self.part(b)} was damaged and is deleted; run the same command to replace it"
            ) from error
