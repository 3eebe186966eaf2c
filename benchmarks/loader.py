"""Loading speed: clips per second and core from each kind of source, beside a pandas loader.

    python benchmarks/loader.py [--clips 64] [--rounds 5]

Every loader runs once per round, in turn; its best round counts, in processor time of one thread,
so that a busy machine distorts little. An item of ours is 16-bit audio at its stored rate and the
labels of its 250 frames; resampling and mixing are left to the device. An item of "pandas" follows
the public reference: a row of a Hugging Face folder, mp3 to float, first channel, resampled to
16 kHz on the CPU, padded; overlapping events merged and encoded with pandas to float64 labels; in
its second line also mixed with another such item with probability 0.5 (the recipe of students).
Its labels are compared with ours before anything is timed.
"""

import argparse
import io
import math
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import h5py
import numpy as np
import pandas as pd
import soundfile
import torch
from torchaudio.transforms import Resample

from hear_ptsed.labels import load_labels
from training.data.annotations import Events, clip_key
from training.data.clips import Clips, open_clips
from training.data.pack import pack

RATE, SECONDS, FRAMES = 32_000, 10, 250
EVENTS_PER_CLIP = 9
CLASSES = load_labels()


def mp3(seed: int) -> bytes:
    """Noise that comes and goes and a tone, 10 s."""
    rng = np.random.default_rng(seed)
    t = np.arange(RATE * SECONDS) / RATE
    loudness = np.interp(t, np.linspace(0, SECONDS, 9), rng.uniform(0, 0.2, 9))
    audio = loudness * rng.standard_normal(len(t))
    audio += 0.2 * np.sin(2 * np.pi * rng.uniform(200, 4000) * t)
    file = io.BytesIO()
    # 60 kB, as much as AudioSet's files have at LAME's default of about 48 kb/s.
    options = {"bitrate_mode": "VARIABLE", "compression_level": 0.55}
    soundfile.write(file, audio.clip(-1, 1), RATE, format="MP3", **options)
    return file.getvalue()


def annotation(names: list[str]) -> Events:
    rng = np.random.default_rng(0)
    n = len(names) * EVENTS_PER_CLIP
    onset = rng.uniform(0, 9, n).round(3)
    offset = (onset + rng.uniform(0.1, 5, n)).clip(max=10).round(3)
    classes = rng.integers(0, len(CLASSES), (len(names), 4))  # few classes, so that events overlap
    label = [CLASSES[c] for row in classes for c in rng.choice(row, EVENTS_PER_CLIP)]
    return Events.from_columns(np.repeat(names, EVENTS_PER_CLIP).tolist(), label, onset, offset)


def sources(folder: Path, clips: dict[str, bytes], events: Events) -> dict[str, Clips]:
    """The same clips in every form."""
    with h5py.File(folder / "clips.hdf", "w") as file:
        file["audio_name"] = np.array(list(clips), dtype="S20")
        stored = file.create_dataset("mp3", len(clips), dtype=h5py.vlen_dtype(np.uint8))
        for i, data in enumerate(clips.values()):
            stored[i] = np.frombuffer(data, np.uint8)
    rows = [
        {
            "event_label": [events.labels[k] for k in events.label[span]],
            "onset": events.onset_s[span].tolist(),
            "offset": events.offset_s[span].tolist(),
        }
        for span in map(slice, events.first[:-1], events.first[1:])
    ]
    kinds = {"event_label": "string", "onset": "float32", "offset": "float32"}
    features = {
        "events": datasets.Sequence({name: datasets.Value(kind) for name, kind in kinds.items()}),
        "filename": datasets.Value("string"),
        "mp3_bytes": datasets.Value("binary"),
    }
    table = {"events": rows, "filename": list(clips), "mp3_bytes": list(clips.values())}
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(table, datasets.Features(features)).save_to_disk(folder / "hf")
    (folder / "wav").mkdir()
    for name, data in clips.items():
        audio, rate = soundfile.read(io.BytesIO(data))
        soundfile.write(folder / "wav" / f"{clip_key(name)}.wav", audio, rate)
    opened = {
        "HDF5 of mp3": open_clips(folder / "clips.hdf"),
        "Hugging Face folder": open_clips(folder / "hf"),
        "folder of wav": open_clips(folder / "wav"),
    }
    pack([opened["HDF5 of mp3"]], events, folder / "packed")
    return opened | {"packed shards": open_clips(folder / "packed")}


def ours(source: Clips, events: Events) -> Callable[[], object]:
    row = {key: i for i, key in enumerate(events.clips)}
    column = np.array([CLASSES.index(name) for name in events.labels])
    # Rounded first: 35 x 0.04 s lies a hair above frame 35 and would touch one frame more.
    start = np.floor(np.round(events.onset_s * 25, 6)).clip(0, FRAMES).astype(int)
    end = np.ceil(np.round(events.offset_s * 25, 6)).clip(0, FRAMES).astype(int)

    def item(i: int) -> tuple[np.ndarray, np.ndarray]:
        audio, _ = source.read(i)
        labels = np.zeros((len(CLASSES), FRAMES), np.uint8)
        clip = row[source.keys[i]]
        for e in range(events.first[clip], events.first[clip + 1]):
            labels[column[events.label[e]], start[e] : end[e]] = 1
        return audio, labels

    return lambda: [item(i) for i in range(len(source))]


def merge(events: pd.DataFrame) -> pd.DataFrame:
    """Overlapping and touching events of each class joined."""
    parts = []
    for label, group in events.groupby("event_label"):
        group = group.sort_values("onset")
        span = (group["onset"] > group["offset"].cummax().shift()).cumsum()
        part = group.groupby(span).agg({"onset": "min", "offset": "max"})
        parts.append(part.assign(event_label=label))
    return pd.concat(parts)


def with_pandas(folder: Path, mixed: float) -> Callable[[], object]:
    table = datasets.load_from_disk(folder)
    resample = Resample(RATE, 16_000, "sinc_interp_kaiser")
    column = {name: i for i, name in enumerate(CLASSES)}

    def item(i: int) -> dict:
        row = table[i]
        audio, _ = soundfile.read(io.BytesIO(row["mp3_bytes"]), dtype="float32", always_2d=True)
        audio = resample(torch.from_numpy(audio[: RATE * SECONDS, 0].copy()))
        audio = torch.nn.functional.pad(audio, (0, 16_000 * SECONDS - len(audio)))
        spans = merge(pd.DataFrame(row["events"]))
        labels = np.zeros((len(CLASSES), FRAMES))
        for _, event in spans.iterrows():
            start, end = (min(max(event[x] * 25, 0), FRAMES) for x in ("onset", "offset"))
            labels[column[event["event_label"]], int(start) : math.ceil(end)] = 1
        text = "++".join(
            f"{event.onset};;{event.offset};;{event.event_label}" for event in spans.itertuples()
        )
        return {
            "audio": audio,
            "labels": torch.from_numpy(labels),
            "event_count": labels.sum(1),
            "events": text,
            "filename": row["filename"],
        }

    def mixture(i: int, rng: np.random.Generator) -> dict:
        first = item(i)
        if rng.random() < mixed:
            second = item(int(rng.integers(len(table))))
            share = rng.beta(2, 2)
            share = max(share, 1 - share)
            audio = (x["audio"] - x["audio"].mean() for x in (first, second))
            audio = share * next(audio) + (1 - share) * next(audio)
            first["audio"] = audio - audio.mean()
            first["labels"] = share * first["labels"] + (1 - share) * second["labels"]
        return first

    def load() -> list[dict]:
        rng = np.random.default_rng(0)
        return [mixture(i, rng) for i in range(len(table))]

    return load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clips = {f"Y{i:011d}.mp3": mp3(i) for i in range(args.clips)}
        events = annotation([clip_key(name) for name in clips])
        opened = sources(folder, clips, events)
        loaders = {"pandas": with_pandas(folder / "hf", 0.0)}
        loaders["pandas, half mixed"] = with_pandas(folder / "hf", 0.5)
        loaders |= {name: ours(source, events) for name, source in opened.items()}
        for theirs, (_, labels) in zip(
            loaders["pandas"](), loaders["packed shards"](), strict=True
        ):
            # Not all bits: float32 times and unrounded products may touch a frame more.
            if np.abs(theirs["labels"].numpy() - labels).mean() > 1e-4:
                raise RuntimeError(f"the labels of {theirs['filename']} differ")
        seconds = dict.fromkeys(loaders, np.inf)
        for _ in range(args.rounds):
            for name, load in loaders.items():
                begin = time.process_time()
                load()
                seconds[name] = min(seconds[name], (time.process_time() - begin) / args.clips)
    size = sum(map(len, clips.values())) / len(clips) / 1e3
    print(f"{platform.processor() or platform.machine()}, {args.clips} clips of 10 s, ", end="")
    print(f"mp3 32 kHz mono {size:.0f} kB, {EVENTS_PER_CLIP} events each\n")
    print(f"| {'loader':20} | ms per clip | clips/s and core | x pandas | x half mixed |")
    print(f"|{'-' * 22}|{'-' * 12}:|{'-' * 17}:|{'-' * 9}:|{'-' * 13}:|")
    for name, each in seconds.items():
        plain, mixed = (seconds[other] / each for other in ("pandas", "pandas, half mixed"))
        row = (
            f"| {name:20} | {each * 1e3:11.3f} | {1 / each:16.0f} | {plain:8.1f} | {mixed:12.1f} |"
        )
        print(row)


if __name__ == "__main__":
    main()
