"""A HEAR task folder of two tones in noise, for the tests of frozen evaluation."""

import json
from pathlib import Path

import numpy as np
import soundfile

from eval_tasks.tasks.base import Task, TaskData, open_task
from hear_ptsed.metrics.decoding import Decoding

PITCHES_HZ = {"high": 2000.0, "low": 500.0}
SPLITS = {"train": 4, "valid": 2, "test": 2}
HEAD = {"hidden_layers": 1, "hidden_dim": 64, "lr": 0.01}  # one for heareval, for very few clips
HEAD |= {"max_epochs": 20, "patience": 5, "check_val_every_n_epoch": 5}
TASK = Task(
    name="tones",
    title="Tones",
    folder="tones-v1-tiny",
    about="",
    metrics=("event_onset_200ms_fms", "segment_1s_er"),
    decoding=Decoding(0, 125),
    labels=("strong", "weak"),
)


def tones(
    root: Path,
    splits: dict[str, int] = SPLITS,
    seconds: float = 24.0,
    rates: tuple[int, ...] = (16_000,),
    weak: int = 0,
) -> TaskData:
    """Clips with a tone every 2 s; every second part of a pair of clips has only one class."""
    folder = root / TASK.folder
    parts = splits | ({"weak": weak} if weak else {})
    for p, (part, count) in enumerate(parts.items()):
        labels = {}
        for i in range(count):
            name, rng = f"{part}_{i}.wav", np.random.default_rng([p, i])
            labels[name] = events = _events(seconds, rng)
            for rate in rates:
                path = folder / str(rate) / part / name
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, _audio(events, seconds, rate, rng), rate)
        if part == "weak":
            labels = {n: sorted({e["label"] for e in found}) for n, found in labels.items()}
        (folder / f"{part}.json").write_text(json.dumps(labels))
    folds = "train" not in splits
    metadata = {
        "task_name": "tones",
        "version": "v1",
        "mode": "tiny",
        "splits": list(splits),
        "split_mode": "new_split_kfold" if folds else "trainvaltest",
        "embedding_type": "event",
        "prediction_type": "multilabel",
        "sample_duration": seconds,
        "evaluation": list(TASK.metrics),
        "use_scoring_for_early_stopping": not folds,
        "evaluation_params": {
            "task_specific_param_grid": {key: [value] for key, value in HEAD.items()},
            "event_postprocessing_grid": {"median_filter_ms": [0], "min_duration": [125]},
        },
    }
    (folder / "task_metadata.json").write_text(json.dumps(metadata))
    rows = [f"{i},{name}" for i, name in enumerate(PITCHES_HZ)]
    (folder / "labelvocabulary.csv").write_text("\n".join(["idx,label", *rows]) + "\n")
    return open_task(TASK, folder)


def _events(seconds: float, rng: np.random.Generator) -> list[dict]:
    names = list(PITCHES_HZ)
    events = []
    for start in np.arange(0.5, seconds - 1.5, 2.0):
        label, length = names[rng.integers(2)], rng.uniform(0.5, 1.0)
        events.append({"label": label, "start": 1000 * start, "end": 1000 * (start + length)})
    return events


def _audio(events: list[dict], seconds: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    audio = 0.01 * rng.standard_normal(round(seconds * rate))
    t = np.arange(len(audio)) / rate
    for event in events:
        sounding = (t >= event["start"] / 1000) & (t < event["end"] / 1000)
        audio += 0.2 * sounding * np.sin(2 * np.pi * PITCHES_HZ[event["label"]] * t)
    return audio.astype(np.float32)
