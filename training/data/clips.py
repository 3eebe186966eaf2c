"""Audio clips as they are stored: HDF5 of mp3, Hugging Face folder, audio files, packed shards."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from hear_ptsed.audio import AudioFile, reason
from hear_ptsed.errors import one_line
from training.data.annotations import AUDIO_SUFFIXES, Events, check_times, clip_key

MANIFEST, INDEX = "shards.json", "index.npz"  # of a folder of shards, see pack.py
EVENT_FIELDS = ("event_label", "onset", "offset")  # of Hugging Face data sets
EVENT_ARRAYS = ("first", "label", "onset_s", "offset_s")  # of Events, in that index
WEAK_CLASSES = 527  # bits of `target` that count; the rest of the last byte is padding


class Unreadable(ValueError):
    """A clip that cannot be decoded to the end."""

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Place(NamedTuple):
    """Where a clip lies."""

    key: str
    source: int
    index: int  # in the source


class Reader:
    """Reads files that each process opens for itself, at its first read; picklable."""

    _opened: tuple[int, Any] = (0, None)  # process, what it opened

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": (0, None)}

    def _file(self) -> Any:
        # An HDF5 file opened before a fork must not be read after it.
        if self._opened[0] != os.getpid():
            self._opened = (os.getpid(), self._open())
        return self._opened[1]

    def _open(self) -> Any:
        return None


class Clips(Reader, ABC):
    """Clips of one source."""

    rate: int | None = None  # Hz, where it is known to be the same for all
    channels: str = "mean"  # what is read of several: their mean, or the first

    def __init__(self, path: Path, names: Sequence[str]):
        self.path, self.names = path, list(names)
        refuse_twice(path, self.keys, self.names)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def keys(self) -> list[str]:
        return [clip_key(name) for name in self.names]

    @abstractmethod
    def read(self, i: int) -> tuple[np.ndarray, int]:
        """Whole clip: int16 (S,), of `channels`, and its rate in Hz; or raises Unreadable."""

    def events(self) -> Events | None:
        """The events that the source itself holds."""
        return None

    def clip_labels(self) -> np.ndarray | None:
        """(N, n) uint8, 0 or 1, where the source holds labels of whole clips."""
        return None

    def seconds(self) -> np.ndarray | None:
        """(N,) durations, where they are known without decoding."""
        return None


def refuse_twice(path: Path, keys: Sequence[str], names: Sequence[str]) -> None:
    """A ValueError if two names in a file are of one clip."""
    name_of: dict[str, str] = {}
    for key, name in zip(keys, names, strict=True):
        if key in name_of:
            raise ValueError(f"{path}: {name_of[key]} and {name} are both clip {key}")
        name_of[key] = name


def open_clips(path: Path | str) -> Clips:
    """HDF5 file, Hugging Face folder (or one split of it), folder of audio or folder of shards."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_file():
        return Hdf5Clips(path)
    if (path / MANIFEST).exists():
        return ShardClips(path)
    if any((path / name).exists() for name in ("dataset_dict.json", "dataset_info.json")):
        return HuggingFaceClips(path)
    return FolderClips(path)


class Hdf5Clips(Clips):
    """`audio_name` (N,) text, `mp3` (N,) variable-length uint8, maybe `target` (N, 66) uint8."""

    def __init__(self, path: Path):
        with open_hdf5(path) as file:
            clips = len(require(file, "mp3", "variable-length uint8", ("clips",)))
            names = require(file, "audio_name", "text", (clips,))
            self.has_target = "target" in file
            if self.has_target:  # 8 labels per byte
                require(file, "target", "uint8", (clips, -(-WEAK_CLASSES // 8)))
            super().__init__(path, [os.fsdecode(name) for name in names[:].tolist()])

    def read(self, i: int) -> tuple[np.ndarray, int]:
        """int16 (S,) and its rate, see Clips."""
        try:
            data = self._file()["mp3"][i]
        except OSError as error:
            raise Unreadable(self.names[i], f"damaged in {self.path.name}: {error}") from error
        return decode_audio(data.tobytes(), self.names[i], self.channels)

    def clip_labels(self) -> np.ndarray | None:
        """(N, n) uint8, see Clips."""
        if not self.has_target:
            return None
        return np.unpackbits(self._file()["target"][:], axis=1, count=WEAK_CLASSES)

    def _open(self) -> h5py.File:
        return open_hdf5(self.path)


class HuggingFaceClips(Clips):
    """Columns filename, mp3_bytes and, for events(), events; splits one after the other."""

    def __init__(self, path: Path):
        self.path = path  # what is opened
        self.ends: list[int] = []
        names: list[str] = []
        for split in self._file():
            missing = {"filename", "mp3_bytes"} - set(split.column_names)
            if missing:
                raise ValueError(
                    f"{path}: no column {' and '.join(sorted(missing))}; it has "
                    f"{', '.join(split.column_names)}"
                )
            names += split.data.column("filename").to_pylist()
            self.ends.append(len(names))
        super().__init__(path, names)

    def read(self, i: int) -> tuple[np.ndarray, int]:
        """int16 (S,) and its rate, see Clips."""
        which = int(np.searchsorted(self.ends, i, side="right"))
        row = i - (self.ends[which - 1] if which else 0)
        data = self._file()[which].data.column("mp3_bytes")[row].as_py()
        return decode_audio(data or b"", self.names[i], self.channels)

    def events(self) -> Events | None:
        if any("events" not in split.column_names for split in self._file()):
            return None
        parts = [
            _event_columns(chunk, self.path)
            for split in self._file()
            for chunk in split.data.column("events").chunks
        ]
        counts, label, *times = map(np.concatenate, zip(*parts, strict=True))
        clip = np.repeat(np.asarray(self.keys, dtype=object), counts)
        # Stored as float32: five decimals bring the written times (milliseconds) back exactly.
        onset_s, offset_s = (seconds.astype(np.float64).round(5) for seconds in times)
        check_times(onset_s, offset_s, lambda event: f"{self.path}, clip {clip[event]}")
        lasting = offset_s > onset_s
        columns = clip, label, onset_s, offset_s
        return Events.from_columns(*(column[lasting] for column in columns))

    def _open(self) -> list[Any]:
        import datasets

        try:
            stored = datasets.load_from_disk(str(self.path))
        except Exception as error:  # pyarrow's and json's own errors among them
            raise ValueError(
                f"{self.path}: not a complete Hugging Face data set ({one_line(error)})"
            ) from error
        return list(stored.values()) if isinstance(stored, datasets.DatasetDict) else [stored]


class FolderClips(Clips):
    """Audio files in a folder and its subfolders, sorted; other files are passed over."""

    def __init__(self, path: Path):
        names = sorted(
            file.relative_to(path).as_posix()
            for file in path.rglob("*.*")
            if file.suffix[1:].lower() in AUDIO_SUFFIXES and not file.name.startswith(".")
        )
        if not names:
            raise ValueError(f"{path}: no audio files ({', '.join(sorted(AUDIO_SUFFIXES))}) in it")
        super().__init__(path, names)

    def read(self, i: int) -> tuple[np.ndarray, int]:
        """int16 (S,) and its rate, see Clips."""
        return decode_audio(self.path / self.names[i], self.names[i], self.channels)


class ShardClips(Clips):
    """What `pack` writes: int16 files without header, an index and a manifest."""

    def __init__(self, path: Path):
        manifest = json.loads((path / MANIFEST).read_text())
        if not (path / INDEX).exists() or "shards" not in manifest:
            raise ValueError(f"{path}: packing was not finished; run the same pack command again")
        self.rate = manifest["rate"]
        self.files = [shard["file"] for shard in manifest["shards"]]
        for shard in manifest["shards"]:
            file, size = path / shard["file"], 2 * shard["samples"]
            if not file.exists() or file.stat().st_size != size:
                raise ValueError(f"{file}: missing or not {size} bytes; run pack again")
        with np.load(path / INDEX) as index:
            self.index = {name: index[name] for name in ("shard", "start", "length")}
            names = index["names"].tolist()
        super().__init__(path, names)

    def read(self, i: int) -> tuple[np.ndarray, int]:
        """int16 (S,) and its rate, see Clips."""
        shard, start, length = (int(self.index[key][i]) for key in ("shard", "start", "length"))
        maps = self._file()
        if shard not in maps:
            maps[shard] = np.memmap(self.path / self.files[shard], dtype="<i2", mode="r")
        return np.array(maps[shard][start : start + length]), self.rate

    def events(self) -> Events | None:
        with np.load(self.path / INDEX) as index:
            if "event_clips" not in index:
                return None
            return Events(
                index["event_clips"].tolist(),
                index["event_labels"].tolist(),
                *(index[name] for name in EVENT_ARRAYS),
            )

    def clip_labels(self) -> np.ndarray | None:
        """(N, n) uint8, see Clips."""
        with np.load(self.path / INDEX) as index:
            return index["clip_labels"] if "clip_labels" in index else None

    def seconds(self) -> np.ndarray:
        """(N,) durations."""
        return self.index["length"] / self.rate

    def _open(self) -> dict[int, np.ndarray]:
        return {}


def decode_audio(source: bytes | Path, name: str, channels: str = "mean") -> tuple[np.ndarray, int]:
    """An audio file or its bytes to int16 (S,), see AudioFile.blocks, and its rate in Hz."""
    try:
        with AudioFile(source, name) as file:
            blocks = [to_int16(block) for block in file.blocks(channels=channels)]
            shortfall = file.shortfall()
        if not shortfall:
            return np.concatenate(blocks), file.rate
    except OSError as error:
        raise Unreadable(name, reason(error)) from error
    except (ValueError, MemoryError) as error:
        raise Unreadable(name, one_line(error)) from error
    raise Unreadable(name, shortfall)


def to_int16(audio: np.ndarray) -> np.ndarray:
    """(S,) in [-1, 1] to int16: rounded, clipped; 16-bit material comes back bit for bit."""
    scaled = audio * np.float32(32768)
    np.rint(scaled, out=scaled)
    return np.clip(scaled, -32768, 32767, out=scaled).astype(np.int16)


def _event_columns(chunk: Any, path: Path) -> list[np.ndarray]:
    """Events per row, then labels, onsets and offsets of all; lists in a struct, or structs."""
    import pyarrow
    from pyarrow import compute

    try:
        if pyarrow.types.is_struct(chunk.type):
            lists = [compute.struct_field(chunk, name) for name in EVENT_FIELDS]
            count = compute.list_value_length(lists[1])
            fields = [compute.list_flatten(values) for values in lists]
        else:
            count = compute.list_value_length(chunk)
            rows = compute.list_flatten(chunk)
            fields = [compute.struct_field(rows, name) for name in EVENT_FIELDS]
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, KeyError) as error:
        raise ValueError(
            f"{path}: column events is {chunk.type}, expected lists of {', '.join(EVENT_FIELDS)}"
        ) from error
    columns = [compute.fill_null(count, 0), *fields]
    return [column.to_numpy(zero_copy_only=False) for column in columns]


def require(file: h5py.File, name: str, kind: str, shape: tuple[int | str, ...]) -> h5py.Dataset:
    """A dataset of a file, or a ValueError if it is missing, or of another kind or shape.

    Args:
        kind: "text", "variable-length uint8", or a type of NumPy.
        shape: a word stands for any size, and says of what.
    """
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{file.filename}: no dataset {name}; it has {', '.join(file) or 'none'}")
    stored = dataset.dtype
    if kind == "text":
        right = stored.kind == "S" or h5py.check_string_dtype(stored) is not None
    elif kind == "variable-length uint8":
        right = h5py.check_vlen_dtype(stored) == np.uint8
    else:
        right = stored == kind
    fits = len(dataset.shape) == len(shape) and all(
        isinstance(n, str) or n == size for n, size in zip(shape, dataset.shape, strict=True)
    )
    if not (right and fits):
        wanted = f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
        raise ValueError(
            f"{file.filename}: {name} is {stored} {dataset.shape}, expected {kind} {wanted}"
        )
    return dataset


def open_hdf5(path: Path) -> h5py.File:
    """The file for reading, or a ValueError that says what to do."""
    try:
        return h5py.File(path)
    except OSError as error:
        raise ValueError(
            f"{path}: not a complete HDF5 file ({one_line(error)}); copy or download it again"
        ) from error
