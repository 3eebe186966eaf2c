"""A few short clips with events, and writers of the kinds of sources, for the tests of them."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

h5py = pytest.importorskip("h5py")
datasets = pytest.importorskip("datasets")

from hear_ptsed.files import sha256  # noqa: E402
from training.data.annotations import Events, clip_key, read_events  # noqa: E402
from training.data.clips import Clips, open_clips  # noqa: E402

RATE = 32_000
NAMES = ["07/Y-0abc_x.mp3", "00/Y_mp3.mp3", "31/Yb.1.mp3", "02/Yempty-ish3.mp3", "02/Yquiet.mp3"]
TIMES = {  # clip: events, not sorted
    "Y-0abc_x": [("Speech", 0.25, 0.999), ("Dog", 0.5, 0.75), ("Dog", 0.04, 0.6)],
    "Y_mp3": [("Accelerating, revving, vroom", 0.001, 1.1)],
    "Yb.1": [("Speech", 0.123, 0.456)],
    "Yempty-ish3": [("Dog", 0.0, 1.3)],
}
OFFICIAL = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
GENERIC = "filename\tonset\toffset\tevent_label\n"


def encoded(seconds: float, seed: int = 0, rate: int = RATE, kind: str = "MP3", channels: int = 1):
    audio = 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
    file = io.BytesIO()
    soundfile.write(file, audio, rate, format=kind)
    return file.getvalue()


def write_hdf5(path: Path, clips: dict[str, bytes], **extra: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file["audio_name"] = np.array(list(clips), dtype="S20")
        mp3 = file.create_dataset("mp3", len(clips), dtype=h5py.vlen_dtype(np.uint8))
        for i, data in enumerate(clips.values()):
            mp3[i] = np.frombuffer(data, np.uint8)
        for name, array in extra.items():
            file[name] = array
    return path


def write_hugging_face(path: Path, clips: dict[str, bytes], as_structs: bool = False) -> Path:
    fields = {"event_label": [], "onset": [], "offset": []}
    types = {"event_label": "string", "onset": "float32", "offset": "float32"}
    types = {name: datasets.Value(kind) for name, kind in types.items()}
    rows = []
    for name in clips:
        events = TIMES.get(clip_key(name), [])
        columns = zip(*events, strict=True) if events else ([], [], [])
        row = dict(zip(fields, map(list, columns), strict=True))
        if as_structs:
            row = [
                dict(zip(row, values, strict=True)) for values in zip(*row.values(), strict=True)
            ]
        rows.append(row)
    # `List` of a dict and `Sequence` of a dict are the two layouts that versions of datasets write
    kind = datasets.List(types) if as_structs else datasets.Sequence(types)
    schema = {"events": kind, "filename": "string", "mp3_bytes": "binary"}
    schema = {n: t if n == "events" else datasets.Value(t) for n, t in schema.items()}
    columns = [rows, [name.split("/")[-1] for name in clips], list(clips.values())]
    whole = datasets.Dataset.from_dict(
        dict(zip(schema, columns, strict=True)), features=datasets.Features(schema)
    )
    splits = {"balanced_train": whole.select(range(2)), "eval": whole.select(range(2, len(clips)))}
    datasets.DatasetDict(splits).save_to_disk(path)
    return path


def write_folder(path: Path, clips: dict[str, bytes]) -> Path:
    for name, data in clips.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    (path / "notes.txt").write_text("not audio")
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def as_set(events: Events) -> set[tuple]:
    clips, labels = (
        [names[i] for i in column]
        for names, column in ((events.clips, events.clip), (events.labels, events.label))
    )
    columns = (clips, labels, events.onset_s.tolist(), events.offset_s.tolist())
    return set(zip(*columns, strict=True))


def checksums(folder: Path) -> dict[str, str]:
    return {file.name: sha256(file) for file in folder.iterdir()}


def mp3_clips() -> dict[str, bytes]:
    return {name: encoded(1 + 0.1 * i, seed=i) for i, name in enumerate(NAMES)}


def random_target() -> np.ndarray:
    """Packed clip labels, as in the HDF5 files of AudioSet."""
    return np.random.default_rng(1).integers(0, 256, (len(NAMES), 66), dtype=np.uint8)


def open_sources(folder: Path) -> dict[str, Clips]:
    """The clips as every kind of source that is not packed."""
    clips = mp3_clips()
    return {
        "hdf5": open_clips(write_hdf5(folder / "a.hdf", clips, target=random_target())),
        "hugging face": open_clips(write_hugging_face(folder / "hf", clips)),
        "folder": open_clips(write_folder(folder / "audio", clips)),
    }


def read_times(folder: Path) -> Events:
    """The events of TIMES, by way of an annotation file."""
    rows = [f"{c}.mp3\t{a}\t{b}\t{label}" for c in TIMES for label, a, b in TIMES[c]]
    return read_events(write(folder / "events.tsv", GENERIC + "\n".join(rows) + "\n"))
