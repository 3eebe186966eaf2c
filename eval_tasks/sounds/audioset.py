"""54 classes of AudioSet Strong that packages, synthetic speech and formulas can sound like.

Sources were chosen among those that YAMNet hears as the class; what a General MIDI table calls a
preset is often not what one hears. "Whack, thwack" would need a platform wheel for one stroke.
"""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
from numpy.random import Generator

from eval_tasks.sounds import speech, tones
from eval_tasks.sounds.sound import RATE, cut, decibels, repitch
from eval_tasks.sounds.soundfont import FONTS, play
from eval_tasks.sounds.sources import (
    CLAPS,
    KNOCKS,
    Bank,
    Draw,
    Source,
    animal,
    calls,
    doorbells,
    foxdot,
    keys,
    laughs,
    make_bank,
    one_shots,
    recording,
    voices,
)
from hear_ptsed import wheels

PARTS = ("train", "eval")
DEAL = ("train", "eval", "train", "train")  # every fourth source is for evaluation only
TIM, MERLIN = FONTS

CAMERA = "_/semicolon/ikea_6 _/semicolon/ikea_18 _/semicolon/ikea_3 _/semicolon/ikea_9"
HORNS = "w/lower/w3 j/lower/0 r/lower/0_metal"
AIR_HORNS = "f/upper/horn*swipe f/upper/z_airhorn"
PLOPS = "f/lower/Perc00 f/lower/Perc01 f/lower/Perc02"


def audioset_bank(labels: Iterable[str] = ()) -> Bank:
    """Sources of the two parts; `labels` limits the classes to these."""
    wanted = set(labels) or set(CLASSES)
    classes = {label: build for label, build in CLASSES.items() if label in wanted}
    return make_bank(classes, DEAL, share_single=True)


def _computed(draw: Draw) -> list[Source]:
    return [Source(draw.__name__, "computed", "tones", draw)]


def _drum(
    kit_keys: tuple[int, ...], counts: tuple[int, int], gap_s: tuple[float, float]
) -> list[Source]:
    """One drum, struck `counts` times; several keys are variants of the same drum."""

    def draw(rng: Generator) -> np.ndarray:
        key, gap = int(rng.choice(kit_keys)), rng.uniform(*gap_s)
        starts = np.cumsum(gap * rng.uniform(0.9, 1.1, rng.integers(counts[0], counts[1] + 1)))
        notes = [(t, t + 0.8 * gap, key, int(rng.integers(75, 126))) for t in starts - starts[0]]
        return repitch(play(TIM, 0, notes, drums=True), rng.uniform(-0.5, 0.5))

    return [Source(f"{TIM} drum keys {kit_keys}", *FONTS[TIM], draw)]


def _choir() -> list[Source]:
    def draw(font: str, root: int, rng: Generator) -> np.ndarray:
        third, held = int(rng.integers(3, 5)), rng.uniform(1, 4)
        chord = [root, root + third, root + 7, root + 12][: rng.integers(3, 5)]
        velocity = int(rng.integers(75, 126))
        return play(font, 52, [(0.0, held, key, velocity) for key in chord])

    return [
        Source(f"{font} 52 chord on {root}", *FONTS[font], partial(draw, font, root))
        for root in range(46, 64, 2)
        for font in FONTS
    ]


def _music() -> list[Source]:
    """Random melodies and chords in one key; a source is an instrument."""

    def draw(program: int, rng: Generator) -> np.ndarray:
        beat, seconds = rng.uniform(0.2, 0.5), rng.uniform(2, 5)
        scale = rng.integers(45, 57) + np.array([0, 2, 4, 5, 7, 9, 11, 12, 14, 16, 17, 19])
        notes, now, degree = [], 0.0, int(rng.integers(len(scale)))
        while now < seconds:
            length = beat * rng.choice([1, 1, 2])
            chord = (0, 2, 4) if rng.random() < 0.3 else (0,)
            keys = {int(scale[(degree + step) % len(scale)]) for step in chord}
            velocity = int(rng.integers(75, 126))
            # released a little early, else a repeated key would cut its own new note
            notes += [(now, now + length - 0.005, key, velocity) for key in sorted(keys)]
            degree = int(np.clip(degree + rng.integers(-2, 3), 0, len(scale) - 1))
            now += length
        melody = play(TIM, program, notes)
        return melody if rng.random() < 0.5 else _mixed([melody, beats(beat, seconds, rng)])

    def beats(beat: float, seconds: float, rng: Generator) -> np.ndarray:
        bar = [(36, 0.0), (42, 0.0), (42, 1.0), (38, 2.0), (42, 2.0), (42, 3.0)]
        starts = np.arange(0, seconds, 4 * beat)
        notes = [
            (start + at * beat, start + at * beat + 0.1, key, int(rng.integers(60, 110)))
            for start in starts
            for key, at in bar
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
        for s in voices("soundscapes", speech.CHILDREN)
    ]


def _water() -> list[Source]:
    """A recording of 67 s in segments of 8 s."""
    package, member = "onsen", "onsen/assets/water.wav"

    def draw(start: int, rng: Generator) -> np.ndarray:
        length = rng.uniform(1, 5)
        begin = start + rng.uniform(0, 8 - length)
        audio = cut(recording(package, member), begin, begin + length)
        audio[: RATE // 50] *= np.linspace(0, 1, RATE // 50)
        return repitch(audio, rng.uniform(-2, 2))

    return [
        Source(f"water {start}-{start + 8} s", package, member, partial(draw, start))
        for start in range(0, 64, 8)
    ]


def _farts() -> list[Source]:
    package = "ovos-skill-fart"
    members = sorted(member for member in wheels.members(package) if member.endswith(".mp3"))
    return one_shots(package, members, (1, 2), (1.0, 2.0))


def _shots(names: str, counts: tuple[int, int], gap_s: tuple[float, float]) -> list[Source]:
    return one_shots("FoxDot", foxdot(names), counts, gap_s)


def _bicycle_bell() -> list[Source]:
    return one_shots("onsen", ["onsen/assets/bell.wav"], (1, 3), (0.4, 1.5))


CLASSES: dict[str, Callable[[], list[Source]]] = {
    "Applause": lambda: keys(TIM, 126, range(46, 60), (1.5, 5), (0.5, 1), (1, 1)),
    "Gunshot, gunfire": lambda: keys(MERLIN, 127, range(36, 66), (0.9, 1.4), (0, 0.5), (1, 4)),
    "Explosion": lambda: keys(TIM, 127, range(44, 66), (1, 2.5), (0.5, 1), (1, 1)),
    "Waves, surf": lambda: keys(TIM, 122, range(50, 77), (2, 5), (0.5, 1), (1, 1)),
    "Chirp, tweet": lambda: keys(MERLIN, 123, range(36, 68), (0.3, 1.2), (0.05, 0.4), (1, 4)),
    "Telephone bell ringing": lambda: keys(MERLIN, 124, range(42, 68), (1, 3), (0.4, 1), (1, 3)),
    "Bell": lambda: keys(MERLIN, 14, range(66, 84), (1, 2.5), (0.1, 0.8), (1, 3)),
    "Ding-dong": doorbells,
    "Choir": _choir,
    "Music": _music,
    "Rattle": lambda: _drum((58,), (1, 3), (0.5, 1.2)),
    "Jingle bell": lambda: _drum((83,), (2, 8), (0.15, 0.4)),
    "Ding": lambda: _drum((34, 81), (1, 4), (0.4, 1)),
    "Slap, smack": lambda: _drum((28,), (1, 4), (0.25, 0.8)),
    "Whistle": lambda: _drum((71, 72), (1, 4), (0.3, 0.9)),
    "Knock": lambda: _shots(KNOCKS, (2, 5), (0.15, 0.35)),
    "Laughter": laughs,
    "Fart": _farts,
    "Moo": lambda: calls(*animal("cow"), 1, 20, 0.2),
    "Dog": lambda: calls(*animal("dog"), 4),
    "Quack": lambda: calls(*animal("duck"), 4),
    "Croak": lambda: calls(*animal("frog"), 3),
    "Neigh, whinny": lambda: calls(*animal("horse"), 1, 25, 0.2),
    "Crowing, cock-a-doodle-doo": lambda: calls(*animal("rooster"), 2, 30, 0.3),
    "Bleat": lambda: calls(*animal("sheep"), 3, 30, 0.3),
    "Oink": lambda: calls(*animal("pig"), 5),
    "Hoot": lambda: calls(*animal("owl"), 2, 25, 0.3),
    "Vehicle horn, car horn, honking, toot": lambda: _shots(HORNS, (1, 3), (0.7, 1.5)),
    "Air horn, truck horn": lambda: _shots(AIR_HORNS, (1, 2), (1, 2)),
    "Single-lens reflex camera": lambda: _shots(CAMERA, (1, 4), (0.4, 1)),
    "Clapping": lambda: _shots(CLAPS, (2, 7), (0.15, 0.35)),
    "Bicycle bell": _bicycle_bell,
    "Water": _water,
    "Plop": lambda: _shots(PLOPS, (1, 4), (0.2, 0.8)),
    "Male speech, man speaking": lambda: voices("soundscapes", speech.MALE),
    "Female speech, woman speaking": lambda: voices("soundscapes", speech.FEMALE),
    "Child speech, kid speaking": _children,
    "Whispering": lambda: voices("soundscapes", speech.WHISPERERS),
    "Speech synthesizer": lambda: voices("soundscapes", speech.MACHINES),
    "Hubbub, speech noise, speech babble": _babble,
    "Sine wave": lambda: _computed(tones.sine_wave),
    "Dial tone": lambda: _computed(tones.dial_tone),
    "Busy signal": lambda: _computed(tones.busy_signal),
    "Smoke detector, smoke alarm": lambda: _computed(tones.smoke_detector),
    "Telephone dialing, DTMF": lambda: _computed(tones.dtmf),
    "Ringing tone, ringback tone": lambda: _computed(tones.ringing_tone),
    "White noise, pink noise": lambda: _computed(tones.noise),
    "Static": lambda: _computed(tones.static),
    "Mains hum": lambda: _computed(tones.mains_hum),
    "Chirp tone": lambda: _computed(tones.chirp_tone),
    "Reversing beeps": lambda: _computed(tones.reversing_beeps),
    "Alarm clock": lambda: _computed(tones.alarm_clock),
    "Civil defense siren": lambda: _computed(tones.civil_defense_siren),
    "Police car (siren)": lambda: _computed(tones.police_siren),
}
