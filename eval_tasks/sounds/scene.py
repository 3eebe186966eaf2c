"""One soundscape: sounds of distinct classes over a background, labelled by their own energy."""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from eval_tasks.sounds.signal import (
    WINDOW,
    coloured_noise,
    cut,
    decibels,
    find_audible,
    room,
    to_pcm,
)
from eval_tasks.sounds.sources import Source, recording, variation
from hear_ptsed.grid import SAMPLE_RATE

SECONDS = 10.0
SOUNDS = (2, 6)  # per clip, each of another class
LOUDNESS_DB = (-38.0, -16.0)  # dBFS, RMS over the active part of a sound
BACKGROUND_DB = (-60.0, -34.0)  # dBFS, RMS
LONGEST_S = 6.6  # what sounds longer is cut
REVERBERANT = 0.4  # share of the sounds; half of them in real rooms
DIRECT_S = 0.0025  # of a real impulse response
BACKGROUNDS = tuple(
    ("ambience", f"sounds/{name}.ogg")
    for name in (
        "drone/binaural-low-complex",
        "machine-planet/serenity",
        "nature/amazon-rainforest",
        "town/train",
    )
)
ROOMS = tuple(
    ("jupylet", f"jupylet/assets/sounds/impulses/{name}.flac")
    for name in ("InsidePiano", "MaesHowe", "StAndrewsChurch")
)
Event = tuple[float, float, str]  # onset and offset in seconds, class


@dataclass(frozen=True)
class Surroundings:
    """Recorded backgrounds of one part and impulse responses, each (S,) at 16 kHz; may be empty."""

    backgrounds: list[np.ndarray]
    rooms: list[np.ndarray]


def surroundings(part: str) -> Surroundings:
    """Recorded ones as far as they can be had; evaluation hears the last quarter of backgrounds.

    What is missing is replaced by computed noise and rooms, with a warning.
    """
    backgrounds = []
    for audio in _recordings(BACKGROUNDS):
        border = len(audio) * 3 // 4
        backgrounds.append(audio[border:] if part == "eval" else audio[:border])
    return Surroundings(backgrounds, _recordings(ROOMS))


def _recordings(members: tuple[tuple[str, str], ...]) -> list[np.ndarray]:
    try:
        return [recording(*member) for member in members]
    except (RuntimeError, OSError) as error:
        logging.getLogger(__name__).warning("computed ones replace %s: %s", members[0][0], error)
        return []


def soundscape(
    sources: dict[str, list[Source]], first: str, around: Surroundings, rng: Generator
) -> tuple[np.ndarray, list[Event]]:
    """A clip with a sound of class `first` and others: int16 (S,) at 16 kHz, events by onset."""
    count = min(int(rng.integers(SOUNDS[0], SOUNDS[1] + 1)), len(sources))
    others = rng.choice([label for label in sources if label != first], count - 1, replace=False)
    level = decibels(rng.uniform(*BACKGROUND_DB))
    mix = level * _background(around.backgrounds, rng)
    events: list[Event] = []
    for label in [first, *map(str, others)]:
        response = _response(around.rooms, rng) if rng.random() < REVERBERANT else None
        sound = variation(sources[label], response, decibels(rng.uniform(*LOUDNESS_DB)), rng)
        sound = cut(sound, 0, LONGEST_S) if len(sound) > LONGEST_S * SAMPLE_RATE else sound
        # starts lie on the grid of the energy windows, so labels are exact to one window
        start = WINDOW * int(rng.integers((len(mix) - len(sound)) // WINDOW + 1))
        heard = find_audible(sound, level * decibels(-9))
        if heard:
            mix[start : start + len(sound)] += sound
            start_s = start / SAMPLE_RATE
            events += [(start_s + onset, start_s + offset, label) for onset, offset in heard]
    return to_pcm(mix), sorted((a, min(b, SECONDS), label) for a, b, label in events)


def _background(recorded: list[np.ndarray], rng: Generator) -> np.ndarray:
    """RMS 1: half of the time noise from white to brown, else an excerpt of a recording."""
    samples = int(SECONDS * SAMPLE_RATE)
    noise = coloured_noise(samples, rng.uniform(0, 2), rng)
    if not recorded or rng.random() < 0.5:
        return noise
    audio = recorded[rng.integers(len(recorded))]
    start = rng.integers(len(audio) - samples)
    audio = audio[start : start + samples]
    # the noise keeps recordings that fade from ending in digital silence
    audio = audio / max(np.sqrt(np.mean(audio**2)), 1e-6) + decibels(-20) * noise
    return audio / np.sqrt(np.mean(audio**2))


def _response(rooms: list[np.ndarray], rng: Generator) -> np.ndarray:
    """Impulse response that begins with the direct sound, 3-15 dB above what follows."""
    if not rooms or rng.random() < 0.5:
        return room(rng)
    response = rooms[rng.integers(len(rooms))]
    response = response[np.abs(response).argmax() :].copy()
    direct, tail = np.split(response, [int(DIRECT_S * SAMPLE_RATE)])
    ratio = np.sum(direct**2) / np.sum(tail**2)
    tail *= np.sqrt(ratio) * decibels(-rng.uniform(3, 15))
    return response
