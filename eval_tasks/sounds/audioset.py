"""54 classes of AudioSet Strong that packages, synthetic speech and formulas can sound like.

Sources were chosen among those that YAMNet hears as the class; what a General MIDI table calls a
preset is often not what one hears. "Whack, thwack" would need a platform wheel for one stroke.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator

from eval_tasks.sounds import speech, tones
from eval_tasks.sounds.catalogue import find_wheel
from eval_tasks.sounds.signal import cut, decibels, repitch
from eval_tasks.sounds.soundfont import FONTS, play
from eval_tasks.sounds.sources import (
    CLAPPING,
    KNOCKING,
    Bank,
    Calls,
    Counts,
    Draw,
    Keys,
    Lister,
    Shots,
    Source,
    Span,
    Voices,
    Water,
    doorbells,
    foxdot,
    laughs,
    make_bank,
)
from hear_ptsed import wheels

PARTS = ("train", "eval")
DEAL = ("train", "eval", "train", "train")  # every fourth source is for evaluation only
TIM, MERLIN = FONTS


def audioset_bank(labels: Iterable[str] = ()) -> Bank:
    """Sources of the two parts; `labels` limits the classes to these."""
    chosen = set(labels) or set(AUDIOSET_CLASSES)
    classes = {label: row for label, row in AUDIOSET_CLASSES.items() if label in chosen}
    return make_bank(classes, DEAL, share_single=True)


@dataclass(frozen=True)
class Computed:
    """A formula, which is one source."""

    formula: Draw

    def __call__(self) -> list[Source]:
        return [Source(self.formula.__name__, "computed", "tones", self.formula)]


@dataclass(frozen=True)
class Drum:
    """One drum, struck `counts` times; several keys are variants of the same drum."""

    keys: tuple[int, ...]
    counts: Counts
    gap_s: Span

    def __call__(self) -> list[Source]:
        return [Source(f"{TIM} drum keys {self.keys}", *FONTS[TIM], self.draw)]

    def draw(self, rng: Generator) -> np.ndarray:
        key, gap_s = int(rng.choice(self.keys)), rng.uniform(*self.gap_s)
        count = rng.integers(self.counts[0], self.counts[1] + 1)
        starts_s = np.cumsum(gap_s * rng.uniform(0.9, 1.1, count))
        notes = [
            (start_s, start_s + 0.8 * gap_s, key, int(rng.integers(75, 126)))
            for start_s in starts_s - starts_s[0]
        ]
        return repitch(play(TIM, 0, notes, drums=True), rng.uniform(-0.5, 0.5))


def _choir() -> list[Source]:
    def draw(font: str, root: int, rng: Generator) -> np.ndarray:
        third, held_s = int(rng.integers(3, 5)), rng.uniform(1, 4)
        chord = [root, root + third, root + 7, root + 12][: rng.integers(3, 5)]
        velocity = int(rng.integers(75, 126))
        return play(font, 52, [(0.0, held_s, key, velocity) for key in chord])

    return [
        Source(f"{font} 52 chord on {root}", *FONTS[font], partial(draw, font, root))
        for root in range(46, 64, 2)
        for font in FONTS
    ]


def _music() -> list[Source]:
    """Random melodies and chords in one key; a source is an instrument."""

    def draw(program: int, rng: Generator) -> np.ndarray:
        beat_s, length_s = rng.uniform(0.2, 0.5), rng.uniform(2, 5)
        scale = rng.integers(45, 57) + np.array([0, 2, 4, 5, 7, 9, 11, 12, 14, 16, 17, 19])
        notes, now_s, degree = [], 0.0, int(rng.integers(len(scale)))
        while now_s < length_s:
            held_s = beat_s * rng.choice([1, 1, 2])
            chord = (0, 2, 4) if rng.random() < 0.3 else (0,)
            keys = {int(scale[(degree + step) % len(scale)]) for step in chord}
            velocity = int(rng.integers(75, 126))
            # released a little early, else a repeated key would cut its own new note
            end_s = now_s + held_s - 0.005
            notes += [(now_s, end_s, key, velocity) for key in sorted(keys)]
            degree = int(np.clip(degree + rng.integers(-2, 3), 0, len(scale) - 1))
            now_s += held_s
        melody = play(TIM, program, notes)
        return melody if rng.random() < 0.5 else _mixed([melody, beats(beat_s, length_s, rng)])

    def beats(beat_s: float, length_s: float, rng: Generator) -> np.ndarray:
        bar = [(36, 0.0), (42, 0.0), (42, 1.0), (38, 2.0), (42, 2.0), (42, 3.0)]  # drum, beat
        starts_s = np.arange(0, length_s, 4 * beat_s)
        notes = [
            (start_s + n * beat_s, start_s + n * beat_s + 0.1, drum, int(rng.integers(60, 110)))
            for start_s in starts_s
            for drum, n in bar
        ]
        return play(TIM, 0, notes, drums=True)

    programs = [program for program in range(88) if program not in (52, 53, 54, 78)]
    return [Source(f"{TIM} {program}", *FONTS[TIM], partial(draw, program)) for program in programs]


def _mixed(parts: list[np.ndarray]) -> np.ndarray:
    audio = np.zeros(max(map(len, parts)))
    for part in parts:
        audio[: len(part)] += part
    return audio


def _babble() -> list[Source]:
    """Nine or more voices at once; the second group holds the voices of the evaluation part."""
    groups = [speech.MALE[i::4] + speech.FEMALE[i::4] for i in range(4)]
    speech.bank_file("soundscapes")

    def draw(group: list[str], rng: Generator) -> np.ndarray:
        seconds, parts = rng.uniform(2, 4), []
        for _ in range(rng.integers(9, 15)):
            voice = speech.bank("soundscapes")[group[rng.integers(len(group))]]
            said = np.concatenate([voice[i] for i in rng.integers(len(voice), size=4)])
            start = rng.integers(len(said) // 2)
            parts.append(said[start:] * decibels(-rng.uniform(0, 8)))
        return cut(_mixed(parts), 0, seconds)

    return [
        Source(" ".join(group), "espeakng-loader", "soundscapes", partial(draw, group))
        for group in groups
    ]


def _children() -> list[Source]:
    def raised(draw: Draw, rng: Generator) -> np.ndarray:
        return repitch(draw(rng), rng.uniform(2.5, 5))

    return [
        Source(f"{s.name} raised", s.package, s.member, partial(raised, s.draw))
        for s in Voices("soundscapes", speech.CHILDREN)()
    ]


def _farts() -> list[Source]:
    package = "ovos-skill-fart"
    members = sorted(name for name in wheels.members(find_wheel(package)) if name.endswith(".mp3"))
    return Shots(package, members, (1, 2), (1.0, 2.0))()


AUDIOSET_CLASSES: Mapping[str, Lister] = {
    "Applause": Keys(TIM, 126, range(46, 60), (1.5, 5), (0.5, 1), (1, 1)),
    "Gunshot, gunfire": Keys(MERLIN, 127, range(36, 66), (0.9, 1.4), (0, 0.5), (1, 4)),
    "Explosion": Keys(TIM, 127, range(44, 66), (1, 2.5), (0.5, 1), (1, 1)),
    "Waves, surf": Keys(TIM, 122, range(50, 77), (2, 5), (0.5, 1), (1, 1)),
    "Chirp, tweet": Keys(MERLIN, 123, range(36, 68), (0.3, 1.2), (0.05, 0.4), (1, 4)),
    "Telephone bell ringing": Keys(MERLIN, 124, range(42, 68), (1, 3), (0.4, 1), (1, 3)),
    "Bell": Keys(MERLIN, 14, range(66, 84), (1, 2.5), (0.1, 0.8), (1, 3)),
    "Ding-dong": doorbells,
    "Choir": _choir,
    "Music": _music,
    "Rattle": Drum((58,), (1, 3), (0.5, 1.2)),
    "Jingle bell": Drum((83,), (2, 8), (0.15, 0.4)),
    "Ding": Drum((34, 81), (1, 4), (0.4, 1)),
    "Slap, smack": Drum((28,), (1, 4), (0.25, 0.8)),
    "Whistle": Drum((71, 72), (1, 4), (0.3, 0.9)),
    "Knock": KNOCKING,
    "Laughter": laughs,
    "Fart": _farts,
    "Moo": Calls("cow", 1, 20, 0.2),
    "Dog": Calls("dog", 4),
    "Quack": Calls("duck", 4),
    "Croak": Calls("frog", 3),
    "Neigh, whinny": Calls("horse", 1, 25, 0.2),
    "Crowing, cock-a-doodle-doo": Calls("rooster", 2, 30, 0.3),
    "Bleat": Calls("sheep", 3, 30, 0.3),
    "Oink": Calls("pig", 5),
    "Hoot": Calls("owl", 2, 25, 0.3),
    "Vehicle horn, car horn, honking, toot": foxdot(
        "w/lower/w3 j/lower/0 r/lower/0_metal", (1, 3), (0.7, 1.5)
    ),
    "Air horn, truck horn": foxdot("f/upper/horn*swipe f/upper/z_airhorn", (1, 2), (1, 2)),
    "Single-lens reflex camera": foxdot(
        "_/semicolon/ikea_6 _/semicolon/ikea_18 _/semicolon/ikea_3 _/semicolon/ikea_9",
        (1, 4),
        (0.4, 1),
    ),
    "Clapping": CLAPPING,
    "Bicycle bell": Shots("onsen", ["onsen/assets/bell.wav"], (1, 3), (0.4, 1.5)),
    "Water": Water(length_s=(1, 5), used_s=8, semitones=2),
    "Plop": foxdot("f/lower/Perc00 f/lower/Perc01 f/lower/Perc02", (1, 4), (0.2, 0.8)),
    "Male speech, man speaking": Voices("soundscapes", speech.MALE),
    "Female speech, woman speaking": Voices("soundscapes", speech.FEMALE),
    "Child speech, kid speaking": _children,
    "Whispering": Voices("soundscapes", speech.WHISPERERS),
    "Speech synthesizer": Voices("soundscapes", speech.MACHINES),
    "Hubbub, speech noise, speech babble": _babble,
    "Sine wave": Computed(tones.sine_wave),
    "Dial tone": Computed(tones.dial_tone),
    "Busy signal": Computed(tones.busy_signal),
    "Smoke detector, smoke alarm": Computed(tones.smoke_detector),
    "Telephone dialing, DTMF": Computed(tones.dtmf),
    "Ringing tone, ringback tone": Computed(tones.ringing_tone),
    "White noise, pink noise": Computed(tones.noise),
    "Static": Computed(tones.static),
    "Mains hum": Computed(tones.mains_hum),
    "Chirp tone": Computed(tones.chirp_tone),
    "Reversing beeps": Computed(tones.reversing_beeps),
    "Alarm clock": Computed(tones.alarm_clock),
    "Civil defense siren": Computed(tones.civil_defense_siren),
    "Police car (siren)": Computed(tones.police_siren),
}
