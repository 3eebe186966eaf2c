"""`piano`: composed music played by a soundfont piano, five folds, shaped like MAESTRO.

A clip is a small recital: pieces of its fold one after another, cut at the clip's end.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.random import Generator

from eval_tasks.sounds import sheet_music
from eval_tasks.sounds.catalogue import describe_packages
from eval_tasks.sounds.sheet_music import Score
from eval_tasks.sounds.soundfont import FONTS, Note, play
from eval_tasks.sounds.sources import describe_origins
from eval_tasks.sounds.synthetic import play_strings
from eval_tasks.tasks import rendered
from eval_tasks.tasks.base import Task
from eval_tasks.tasks.hear_folder import describe_folder
from eval_tasks.tasks.rendered import FolderOptions, RenderedClip, Rendering, RenderOptions
from hear_ptsed.files import sha256
from hear_ptsed.grid import SAMPLE_RATE
from hear_ptsed.metrics.decoding import Decoding

FOLDS = [f"fold{i:02d}" for i in range(5)]
LOWEST, HIGHEST = 21, 108  # the keys of a piano
SHORTEST_S = 0.03
REST_S = 1.5  # between pieces
IN_FOLDS = 3  # folds that must play a pitch


@dataclass(frozen=True)
class Recital:
    """Size of `piano`."""

    clips: int  # per fold
    seconds: float


PIANO = {
    "tiny": Recital(4, 2.0),
    "demo": Recital(8, 30.0),
    "full": Recital(48, 30.0),
}
# As MAESTRO's, but for the training: an epoch of the demo has some 20 steps, so fewer epochs at the
# two faster learning rates of heareval's grid keep the five trainings short.
EVALUATION = {
    "event_postprocessing_grid": {"median_filter_ms": [150], "min_duration": [50]},
    "task_specific_param_grid": {
        "max_epochs": [20],
        "check_val_every_n_epoch": [5],
        "lr": [3.2e-3, 1e-3],
    },
}
NOTES = [
    "A piece belongs to one fold. Composed music from scores, performed by a program.",
    "A pitch is a class if three of the five folds play it: then every training set (three folds) "
    "has it. Notes of other pitches were left out of the performance (`notes_left_out`).",
    "A note lasts from key press to release, the pedal applied: the sound may ring on a little.",
]


@dataclass(frozen=True)
class Music:
    """Where pieces come from and what plays them."""

    pieces: Callable[[], list[str]]
    score: Callable[[str], Score]
    instrument: Callable[[list[Note]], np.ndarray]


REAL = Music(sheet_music.pieces, sheet_music.read_piece, partial(play, "TimGM6mb", 0))


def render_piano(options: RenderOptions, folder: str) -> Rendering:
    """Recitals of five folds.

    A pitch is in the vocabulary if three of the five folds play it: then every training set, which
    is three folds, has it. Notes of other pitches are left out of the performance, so that no
    sounding note is unlabelled.
    """
    plan, music = PIANO[options.mode], SYNTHETIC if options.synthetic else REAL
    names, recitals, played = music.pieces(), {}, {}
    for turn, fold in enumerate(FOLDS):
        mine = iter(names[turn :: len(FOLDS)])  # a piece belongs to one fold
        for i in range(plan.clips):
            file = f"{fold}_{i:02d}.wav"
            rng = rendered.clip_generator(options.seed, folder, file)
            notes, titles = recital(music, mine, plan.seconds, rng)
            recitals[fold, file] = notes
            played.setdefault(fold, []).extend(titles)
    vocabulary, left_out = choose_pitches(recitals)
    provenance = {
        "notes": NOTES,
        "sources": {"pieces": played},
        "notes_left_out": left_out,
        **({} if options.synthetic else _describe_pieces(played)),
    }

    def clips() -> Iterator[RenderedClip]:
        for (fold, file), notes in recitals.items():
            kept = [note for note in notes if note[2] in vocabulary]
            audio = music.instrument(kept)[: int(plan.seconds * SAMPLE_RATE)]
            audio = np.pad(audio, (0, int(plan.seconds * SAMPLE_RATE) - len(audio)))
            labels = [
                {"label": str(key), "start": round(1000 * start, 1), "end": round(1000 * end, 1)}
                for start, end, key, _ in kept
            ]
            yield RenderedClip(fold, file, 0.6 * audio / np.abs(audio).max(), labels)

    metadata = describe_folder(
        folder,
        FOLDS,
        plan.seconds,
        TASK.metrics,
        nfolds=len(FOLDS),
        max_task_duration_by_fold=None,
        use_scoring_for_early_stopping=False,
        evaluation_params=EVALUATION,
    )
    labels = [str(pitch) for pitch in vocabulary]
    return Rendering(metadata, labels, clips(), len(recitals), provenance, complete_splits=False)


def choose_pitches(recitals: dict[tuple[str, str], list[Note]]) -> tuple[list[int], dict]:
    """Pitches of the vocabulary, and what the manifest says of those left out.

    Args:
        recitals: (fold, file) -> notes.
    """
    folds_with = Counter()
    for fold in FOLDS:
        folds_with.update(
            {key for (of, _), notes in recitals.items() if of == fold for _, _, key, _ in notes}
        )
    vocabulary = sorted(key for key, folds in folds_with.items() if folds >= IN_FOLDS)
    every = [key for notes in recitals.values() for _, _, key, _ in notes]
    share = round(float(np.mean(np.isin(every, vocabulary, invert=True))), 4)
    return vocabulary, {"pitches": sorted(set(every) - set(vocabulary)), "share": share}


def _describe_pieces(pieces: dict[str, list[str]]) -> dict:
    font = FONTS["TimGM6mb"]
    names = sorted({piece for titles in pieces.values() for piece in titles})
    return {
        "independent_sources": {fold: len(titles) for fold, titles in pieces.items()},
        "dropped_classes": {},
        "packages": describe_packages({font[0], "music21"}),
        "members": describe_origins({font})["members"]
        | {f"music21: {name}": sha256(sheet_music.source_file(name)) for name in names},
    }


def recital(
    music: Music, names: Iterator[str], seconds: float, rng: Generator
) -> tuple[list[Note], list[str]]:
    """Play pieces until the clip is full; times in seconds, within the clip."""
    notes: list[Note] = []
    titles: list[str] = []
    now = rng.uniform(0.2, 1.0)
    while now < seconds - SHORTEST_S:
        title = next(names, None)
        if title is None:
            raise RuntimeError("the pieces do not fill the clips; render a smaller size")
        performance = perform(music.score(title), rng)
        notes += [(now + a, now + b, key, velocity) for a, b, key, velocity in performance]
        titles.append(title)
        now = max(end for _, end, _, _ in notes) + REST_S
    inside = [(a, min(b, seconds), key, v) for a, b, key, v in notes if a < seconds - SHORTEST_S]
    return [note for note in inside if note[1] - note[0] >= SHORTEST_S], titles


def perform(score: Score, rng: Generator) -> list[Note]:
    """A human-like performance of a score, from time 0, transposed by up to a fourth.

    Tempo 65-120 with slow waves, onsets off by some 10 ms, phrases, accents on melody and downbeat,
    and in half of the pieces a pedal that holds notes to the bar line, at most 4 s.
    """
    beat_s, depth = 60 / rng.uniform(65, 120), rng.uniform(0.04, 0.06)
    period, phase, phrase = rng.uniform(16, 32), rng.uniform(0, 2 * np.pi), rng.uniform(12, 24)
    pedal, transposition = rng.random() < 0.5, int(rng.integers(-5, 6))

    def seconds(quarters: float) -> float:
        angle = 2 * np.pi / period
        wave = (np.cos(phase) - np.cos(angle * quarters + phase)) * depth / angle
        return beat_s * (quarters + wave)

    melody: dict[float, int] = {}
    for onset, _, pitch in score.notes:
        melody[onset] = max(pitch, melody.get(onset, 0))
    first = score.notes[0][0]
    notes = []
    for onset, length, pitch in score.notes:
        start = seconds(onset) - seconds(first) + float(np.clip(rng.normal(0, 0.01), -0.02, 0.02))
        end = start + (seconds(onset + length) - seconds(onset)) * rng.uniform(0.85, 1)
        bar_start, bar_end = score.bar(onset)
        if pedal:
            end = max(end, min(seconds(bar_end) - seconds(first), start + 4))
        velocity = 62 + 16 * np.sin(np.pi * (onset % phrase) / phrase) + rng.normal(0, 5)
        velocity += 14 * (pitch == melody[onset]) + 8 * (onset == bar_start)
        key = pitch + transposition
        if LOWEST <= key <= HIGHEST:
            notes.append((max(start, 0.0), end, key, int(np.clip(velocity, 22, 118))))
    return _restruck(notes)


def _restruck(notes: list[Note]) -> list[Note]:
    """End a note 5 ms before its key is struck again: a key sounds once at a time."""
    kept = []
    for key in {note[2] for note in notes}:
        of_key = sorted(note for note in notes if note[2] == key)
        for (start, end, _, velocity), following in pairwise([*of_key, (np.inf, 0, 0, 0)]):
            end = min(end, following[0] - 0.005)
            if end - start >= SHORTEST_S:
                kept.append((float(start), float(end), key, velocity))
    return sorted(kept)


def _tune(title: str) -> Score:
    """A computed melody: one octave up and down in eighths, different for each title."""
    rng = np.random.default_rng(zlib.crc32(title.encode()))
    steps = rng.permutation(np.arange(60, 72))
    notes = [(i / 2, 0.5, int(pitch)) for i, pitch in enumerate(steps)]
    return Score(notes, [0.0, 2.0, 4.0, 6.0])


SYNTHETIC = Music(lambda: [f"tune {i}" for i in range(40)], _tune, play_strings)


TASK = Task(
    name="piano",
    title="Piano (small)",
    folder="piano-v1-demo",
    about="notes of composed music in 30-s clips, five folds, MAESTRO-like",
    metrics=("event_onset_50ms_fms", "event_onset_offset_50ms_20perc_fms"),
    decoding=Decoding(150, 50),
    select="loss",
    clip_s=30.0,
    # minutes of audio, as of `office`
    recipes={
        "finetuned": {
            "optim": {"batch": 8, "epochs": 20.0, "warmup_steps": 20},
            "fit": {"check_every_epochs": 4.0},
        }
    },
    prepare=partial(rendered.prepare_rendered, render_piano),
    options=FolderOptions,
)
