"""`home`: sounds of a household in 10-s clips with strong, weak or no labels, shaped like DESED.

The parts of the folder share no source, so the weak and the unlabelled clips hold sounds that the
strongly labelled ones lack. A few clips hold no event, and some were shorter and are padded.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator

from eval_tasks.sounds import tones
from eval_tasks.sounds.audioset import AUDIOSET_CLASSES
from eval_tasks.sounds.signal import cut, decibels, repitch, room
from eval_tasks.sounds.sources import (
    SPLITS,
    Bank,
    Draw,
    Lister,
    Source,
    Water,
    make_bank,
    variation,
)
from eval_tasks.sounds.synthetic import synthetic_bank
from eval_tasks.tasks import rendered
from eval_tasks.tasks.base import MORE_PARTS, Task
from eval_tasks.tasks.hear_folder import describe_folder
from eval_tasks.tasks.office import OFFICE_CLASSES, background
from eval_tasks.tasks.rendered import FolderOptions, RenderedClip, Rendering, RenderOptions
from hear_ptsed.grid import SAMPLE_RATE
from hear_ptsed.metrics.decoding import Decoding

HEAR_METRICS = ("event_onset_200ms_fms", "segment_1s_er")
PARTS = (*SPLITS, *MORE_PARTS)
TURNS = (  # of eleven sources; an odd number, as some classes list two kinds alternately
    *("train", "valid", "test", "weak", "unlabelled"),
    *("train", "test", "weak", "unlabelled", "train", "train"),
)
LOUDNESS_DB = (-38.0, -18.0)  # dBFS, RMS over the active part of a sound
BACKGROUND_DB = (-60.0, -45.0)
REST_S = 0.4  # between two sounds of a class: closer ones would be one event
REVERBERANT = 0.4  # share of the clips
EVENT_FREE = 25  # one clip of so many
PADDED = 0.09  # share of the clips
PADDED_S = 1.0  # at most
BELLS = [f"TimGM6mb {program}" for program in range(8, 16)]  # would ring as phones and doorbells do


def _alarms() -> list[Source]:
    """Computed smoke detectors and alarm clocks: a source is a device with its pitch and rhythm."""

    def draw(formula: Draw, device: int, rng: Generator) -> np.ndarray:
        return repitch(formula(np.random.default_rng(device)), rng.uniform(-0.5, 0.5))

    return [
        Source(f"{formula.__name__} {device}", "computed", "tones", partial(draw, formula, device))
        for formula in (tones.smoke_detector, tones.alarm_clock)
        for device in range(10)
    ]


def _music() -> list[Source]:
    return [source for source in AUDIOSET_CLASSES["Music"]() if source.name not in BELLS]


HOME_CLASSES: Mapping[str, Lister] = {
    "alarm": _alarms,
    "applause": AUDIOSET_CLASSES["Applause"],  # of a television, as music is
    "dog": OFFICE_CLASSES["dog"],
    "doorbell": OFFICE_CLASSES["doorbell"],
    "knock": OFFICE_CLASSES["knock"],
    "laughter": OFFICE_CLASSES["laughter"],
    "music": _music,
    "phone": OFFICE_CLASSES["phone"],
    "speech": OFFICE_CLASSES["speech"],
    "water": Water(length_s=(3, 7.8), used_s=7.8, semitones=1),
}
MOST_SOUNDS = {"dog": 3, "speech": 3, "knock": 2, "laughter": 2}  # of a class in a clip; else 1
NOTES = [
    "Of eleven sources in turn four are of train, two each of test, weak and unlabelled, one of "
    "valid; so the weak and unlabelled clips hold sounds that the strongly labelled ones lack.",
    "Independent recordings: knock 5, laughter 16; dog and water have one each, cut into calls and "
    "stretches of 8 s. Alarms are computed, speech is synthetic (24 voices); applause, doorbell, "
    "music and phone are keys or programs of soundfonts.",
    "One clip of 25 holds no event (not among the weak ones); 9% are 9-10 s long and padded, their "
    "lengths are in `durations.json`.",
]
# As DESED's, but for the training, which is small here.
EVALUATION = {
    "event_postprocessing_grid": {"median_filter_ms": [280], "min_duration": [120]},
    "task_specific_param_grid": {
        "max_epochs": [30],
        "check_val_every_n_epoch": [5],
        "lr": [3.2e-3, 1e-3],
    },
}


@dataclass(frozen=True)
class HomePlan:
    """Size of `home`."""

    counts: dict[str, int]
    seconds: float
    classes: int  # at most, in a clip


def _counts(*counts: int) -> dict[str, int]:
    return dict(zip(PARTS, counts, strict=True))


HOME = {
    "tiny": HomePlan(_counts(26, 12, 26, 12, 12), 4.0, 2),
    "demo": HomePlan(_counts(160, 60, 120, 120, 120), 10.0, 3),
    "full": HomePlan(_counts(1000, 250, 500, 600, 1200), 10.0, 3),
}


def home_bank(synthetic: bool) -> Bank:
    """The ten classes, as far as their packages can be fetched, or the computed ones."""
    if not synthetic:
        return make_bank(HOME_CLASSES, TURNS)
    dealt = synthetic_bank()
    every = {
        label: [source for split in SPLITS for source in dealt.sources[split][label]]
        for label in dealt.classes
    }
    return make_bank({label: partial(list, sources) for label, sources in every.items()}, TURNS)


def render_home(options: RenderOptions, folder: str) -> Rendering:
    """Clips of the bank's classes; each class is the first of as many clips of a part."""
    plan, bank = HOME[options.mode], home_bank(options.synthetic)

    def clips() -> Iterator[RenderedClip]:
        for part, count in plan.counts.items():
            for i in range(count):
                file = f"{part}_{i:04d}.wav"
                rng = rendered.clip_generator(options.seed, folder, file)
                silent = i % EVENT_FREE == EVENT_FREE - 1 and part != "weak"
                first = None if silent else bank.classes[i % len(bank.classes)]
                audio, events, seconds = clip(bank.sources[part], plan, first, rng)
                tags = sorted({event["label"] for event in events})
                labels = {"weak": tags, "unlabelled": []}.get(part, events)
                yield RenderedClip(part, file, audio, labels, seconds)

    metadata = describe_folder(
        folder,
        SPLITS,
        plan.seconds,
        HEAR_METRICS,
        max_task_duration_by_split=dict.fromkeys(SPLITS),
        use_scoring_for_early_stopping=False,
        evaluation_params=EVALUATION,
    )
    count, provenance = sum(plan.counts.values()), rendered.describe_bank(bank, NOTES)
    return Rendering(metadata, bank.classes, clips(), count, provenance, more_parts=MORE_PARTS)


def clip(
    sources: dict[str, list[Source]], plan: HomePlan, first: str | None, rng: Generator
) -> tuple[np.ndarray, list[dict], float]:
    """Audio (S,), events in ms by onset, and the seconds without padding.

    A sound of class `first` always is in it, beside one or two of other classes; without `first`
    there is only the background.
    """
    seconds = plan.seconds
    if rng.random() < PADDED:
        seconds = round(seconds - rng.uniform(0, PADDED_S), 1)
    level_db = rng.uniform(*BACKGROUND_DB)
    mix = background(seconds, level_db, rng)
    response = room(rng) if rng.random() < REVERBERANT else None
    labels = []
    if first is not None:
        others = rng.permutation([label for label in sorted(sources) if label != first])
        labels = [first, *map(str, others[: rng.integers(plan.classes)])]
    events = []
    for label in labels:
        taken: list[tuple[float, float]] = []
        for _ in range(rng.integers(1, MOST_SOUNDS.get(label, 1) + 1)):
            sound = variation(sources[label], response, decibels(rng.uniform(*LOUDNESS_DB)), rng)
            sound = (
                cut(sound, 0, seconds - 0.5) if len(sound) / SAMPLE_RATE > seconds - 0.5 else sound
            )
            start_s = _place(len(sound) / SAMPLE_RATE, seconds, taken, rng)
            if start_s is None:
                continue
            heard = rendered.list_events(sound, start_s, decibels(level_db - 9), label)
            if not heard:
                continue
            taken.append((start_s, start_s + len(sound) / SAMPLE_RATE))
            start = round(start_s * SAMPLE_RATE)
            mix[start : start + len(sound)] += sound
            events += heard
    padded = np.pad(mix, (0, round(plan.seconds * SAMPLE_RATE) - len(mix)))
    return padded, sorted(events, key=lambda event: (event["start"], event["label"])), seconds


def _place(
    length_s: float, seconds: float, taken: list[tuple[float, float]], rng: Generator
) -> float | None:
    """A start on the 5-ms grid away from what is taken; None where ten tries find no room."""
    for _ in range(10):
        start = int(rng.integers(int(200 * (seconds - length_s)) + 1)) / 200
        end = start + length_s
        if all(end + REST_S <= a or start >= b + REST_S for a, b in taken):
            return start
    return None


TASK = Task(
    name="home",
    title="Home (small)",
    folder="home-v1-demo",
    about="sound events in 10-s clips, strong, weak and no labels, 10 classes, DESED-like",
    metrics=("psds1", "psds2", "event_onset_200ms_fms", "segment_1s_er"),
    decoding=Decoding(280, 120),
    psds_median=7,
    labels=("strong", "weak", "unlabelled"),
    recipes={
        "linear": {"optim": {"batch": 32, "epochs": 100.0, "warmup_steps": 20}},
        "finetuned": {
            "optim": {"batch": 8, "epochs": 12.0, "warmup_steps": 15},
            "fit": {"check_every_epochs": 2.0},
        },
        "weak-linear": {
            "optim": {"batch": 32, "epochs": 100.0, "warmup_steps": 20},
            "fit": {"weak_batch": 32},
        },
        "weak-finetuned": {
            "optim": {"batch": 8, "epochs": 12.0, "warmup_steps": 15},
            "fit": {"weak_batch": 8, "check_every_epochs": 2.0},
        },
        "mean-teacher": {
            "optim": {"batch": 8, "epochs": 40.0, "warmup_steps": 75},
            "fit": {"weak_batch": 8, "unlabelled_batch": 16},
        },
    },
    prepare=partial(rendered.prepare_rendered, render_home),
    options=FolderOptions,
)
