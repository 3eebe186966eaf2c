"""`office`: sounds over a noise bed in long scenes, shaped like DCASE 2016 task 2.

Scenes come with and without overlap, at three event-to-background ratios (EBR). Each is cut into
clips, so that a few minutes of audio are clips enough for an interval.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator

from eval_tasks.sounds import speech
from eval_tasks.sounds.signal import coloured_noise, decibels, room
from eval_tasks.sounds.sources import (
    CLAPPING,
    KNOCKING,
    SPLITS,
    Bank,
    Calls,
    Keys,
    Lister,
    Voices,
    doorbells,
    foxdot,
    laughs,
    make_bank,
    variation,
)
from eval_tasks.sounds.synthetic import synthetic_bank
from eval_tasks.tasks import rendered
from eval_tasks.tasks.base import Task
from eval_tasks.tasks.hear_folder import describe_folder
from eval_tasks.tasks.rendered import FolderOptions, RenderedClip, Rendering, RenderOptions
from hear_ptsed.grid import SAMPLE_RATE
from hear_ptsed.metrics.decoding import Decoding

HEAR_METRICS = ("event_onset_200ms_fms", "segment_1s_er")
BACKGROUND_DB = -45.0  # dBFS, pink noise
EBR_DB = (-6, 0, 6)
OFFICE_CLASSES: Mapping[str, Lister] = {
    "camera": foxdot(
        "_/semicolon/ikea_6 k/lower/keys_3 _/semicolon/ikea_18 _/semicolon/ikea_9 "
        "_/semicolon/ikea_5",
        (1, 3),
        (0.4, 1.0),
    ),
    "clapping": CLAPPING,
    "dog": Calls("dog", 3),
    "doorbell": doorbells,
    "duck": Calls("duck", 3),
    "gunshot": Keys("Merlin", 127, range(40, 62), (0.9, 1.4), (0.0, 0.5)),
    "horn": foxdot(
        "w/lower/w3 f/upper/z_airhorn f/upper/horn*swipe w/lower/w4 e/lower/cb0",
        (1, 2),
        (1.0, 2.0),
    ),
    "knock": KNOCKING,
    "laughter": laughs,
    "phone": Keys("Merlin", 124, range(42, 68), (1.0, 2.0), (0.4, 1.0)),
    "speech": Voices("office", speech.OFFICE),
}


@dataclass(frozen=True)
class Scenes:
    """Size of `office`."""

    scenes: tuple[int, int, int]  # train, valid, test
    seconds: float  # of a scene
    pieces: int  # clips of a scene
    rounds: tuple[int, ...]  # times each class is tried in a scene; with overlap `more_rounds`
    more_rounds: tuple[int, ...]
    gap_s: tuple[float, float]  # rest between events


OFFICE = {
    "tiny": Scenes((8, 4, 4), 6.0, 2, (1,), (2,), (0.1, 0.4)),
    "demo": Scenes((6, 3, 3), 120.0, 4, (1, 2, 3), (3, 4, 5), (0.3, 3.0)),
    "full": Scenes((44, 14, 14), 120.0, 4, (1, 2, 3), (3, 4, 5), (0.3, 3.0)),
}
# heareval's own grids are made for hours of audio; here an epoch has some 20 steps. A first
# validation without any predicted event ends a run (its F-score is not a number), so it comes at
# every 10th epoch, as for DCASE 2016 task 2, and the grid's two slow learning rates are left out.
# 30 epochs keep a grid point to a minute or two on two cores; one post-processing saves scoring.
OFFICE_EVALUATION = {
    "task_specific_param_grid": {
        "max_epochs": [30],
        "check_val_every_n_epoch": [10],
        "lr": [3.2e-3, 1e-3],
    },
    "event_postprocessing_grid": {"median_filter_ms": [250], "min_duration": [125]},
}
OFFICE_NOTES = [
    "The recordings of camera, horn and knock and the keys of gunshot were chosen among those that "
    "YAMNet names well, which favours YAMNet as a reference a little.",
]
SCENE_NOTE = (
    "Clips are cut from longer scenes (`_piece_0` and so on), and events with them: what is left "
    "of an event begins the next clip. Clips of a scene share room and loudness, so intervals over "
    "clips are a little too narrow."
)


def office_bank(synthetic: bool) -> Bank:
    """The eleven classes, as far as their packages can be fetched, or the computed ones."""
    return synthetic_bank() if synthetic else make_bank(OFFICE_CLASSES)


def render_office(options: RenderOptions, folder: str) -> Rendering:
    """Scenes of the bank's classes, cut into clips.

    Each class is in every scene unless it drowns in the noise.
    """
    plan, bank = OFFICE[options.mode], office_bank(options.synthetic)

    def clips() -> Iterator[RenderedClip]:
        for split, count in zip(SPLITS, plan.scenes, strict=True):
            for i in range(count):
                # 18 scenes run through all combinations of EBR, overlap and number of rounds
                ebr, overlap = EBR_DB[i % 3], i % 2 == 1
                choices = plan.more_rounds if overlap else plan.rounds
                rounds = choices[(i // 2 + i // 6) % len(choices)]
                file = f"{split}_{i:02d}_ebr_{ebr}_nec_{rounds}_poly_{overlap:d}.wav"
                rng = rendered.clip_generator(options.seed, folder, file)
                audio, events = scene(bank.sources[split], plan, ebr, overlap, rounds, rng)
                yield from rendered.cut_clip(RenderedClip(split, file, audio, events), plan.pieces)

    metadata = describe_folder(
        folder,
        SPLITS,
        plan.seconds / plan.pieces,
        HEAR_METRICS,
        split_percentage=percentages(plan.scenes),
        max_task_duration_by_split=dict.fromkeys(SPLITS),
        evaluation_params=OFFICE_EVALUATION,
    )
    provenance = rendered.describe_bank(bank, [*OFFICE_NOTES, SCENE_NOTE])
    count = plan.pieces * sum(plan.scenes)
    return Rendering(metadata, bank.classes, clips(), count, provenance)


def scene(
    sources: dict, plan: Scenes, ebr_db: float, overlap: bool, rounds: int, rng: Generator
) -> tuple[np.ndarray, list[dict]]:
    """One scene and its events in milliseconds, by onset."""
    bed = background(plan.seconds, BACKGROUND_DB, rng)
    level = decibels(BACKGROUND_DB)
    response = room(rng) if rng.random() < 0.5 else None
    order = [label for _ in range(rounds) for label in rng.permutation(sorted(sources))]
    sounds = [variation(sources[label], response, level * decibels(ebr_db), rng) for label in order]
    starts = place([len(sound) / SAMPLE_RATE for sound in sounds], plan, overlap, rng)
    events = []
    # sounds beyond the last start found no room: only repeats, since the first round always fits
    for label, sound, start_s in zip(order, sounds, starts, strict=False):
        labels = rendered.list_events(sound, start_s, level * decibels(-9), str(label))
        if labels:
            start = round(start_s * SAMPLE_RATE)
            bed[start : start + len(sound)] += sound
            events += labels
    return bed, sorted(events, key=lambda event: (event["start"], event["label"]))


def place(lengths: list[float], plan: Scenes, overlap: bool, rng: Generator) -> list[float]:
    """Start times in seconds, on the 5-ms grid, of as many sounds as fit one after another.

    With overlap, 40% of the sounds start before the one before them ends.
    """
    gaps = rng.uniform(*plan.gap_s, len(lengths))
    if overlap:
        early = rng.random(len(lengths)) < 0.4
        early[0] = False
        before = np.array([0.0, *lengths[:-1]])
        gaps = np.where(early, -before * rng.uniform(0.2, 0.9, len(lengths)), gaps)
    ends = np.cumsum(gaps + lengths)
    fitting = int(np.sum(np.maximum.accumulate(ends) <= plan.seconds - plan.gap_s[0]))
    gaps, lengths = gaps[:fitting], np.array(lengths[:fitting])
    # what is left of the scene widens the rests, so that sparse scenes are sparse throughout
    left = plan.seconds - plan.gap_s[0] - np.cumsum(gaps + lengths).max(initial=0)
    gaps = gaps + np.where(gaps > 0, left * gaps / gaps[gaps > 0].sum(), 0)
    return list(np.round(200 * (np.cumsum(gaps + lengths) - lengths)) / 200)


def background(seconds: float, level_db: float, rng: Generator) -> np.ndarray:
    """Pink noise and, 10 dB below it, the brown hum of a room."""
    samples = int(seconds * SAMPLE_RATE)
    pink, brown = (coloured_noise(samples, slope, rng) for slope in (1, 2))
    return decibels(level_db) * pink + decibels(level_db - 10) * brown


def percentages(counts: tuple[int, int, int]) -> dict[str, int]:
    """Shares of the splits in all clips, in HEAR's order."""
    shares = dict(zip(SPLITS, counts, strict=True))
    return {split: round(100 * shares[split] / sum(counts)) for split in ("valid", "test", "train")}


TASK = Task(
    name="office",
    title="Office (small)",
    folder="office-v1-demo",
    about="sound events in 30-s clips of scenes, 11 classes, DCASE-2016-task-2-like",
    metrics=("event_onset_200ms_fms", "event_onset_50ms_fms", "segment_1s_er"),
    decoding=Decoding(250, 125),
    clip_s=30.0,
    # Minutes of audio instead of hours: small batches, two minutes for a narrow network on a core
    recipes={
        "finetuned": {
            "optim": {"batch": 8, "epochs": 20.0, "warmup_steps": 20},
            "fit": {"check_every_epochs": 4.0},
        }
    },
    prepare=partial(rendered.prepare_rendered, render_office),
    options=FolderOptions,
)
