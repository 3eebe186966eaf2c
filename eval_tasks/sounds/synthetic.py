"""The computed stand-in: four classes of tones and noises, a plucked string; needs no package."""

from functools import partial

import numpy as np
from numpy.random import Generator

from eval_tasks.sounds.audioset import AUDIOSET_CLASSES, DEAL
from eval_tasks.sounds.signal import coloured_noise, repeat
from eval_tasks.sounds.soundfont import Note
from eval_tasks.sounds.sources import Bank, Source, make_bank
from hear_ptsed.grid import SAMPLE_RATE


def synthetic_bank() -> Bank:
    """Beeps, chirps, hisses and plucks; a source is a frequency, six of them per class."""
    return make_bank(
        {
            make.__name__.strip("_"): partial(_sources, make)
            for make in (_beep, _chirp, _hiss, _pluck)
        }
    )


def _sources(make) -> list[Source]:
    return [
        Source(f"{hz} Hz", "computed", make.__name__.strip("_"), partial(make, hz))
        for hz in (330, 415, 523, 659, 830, 1046)
    ]


def _time(rng: Generator) -> np.ndarray:
    return np.arange(int(rng.uniform(0.25, 0.5) * SAMPLE_RATE)) / SAMPLE_RATE


def _beep(hz: float, rng: Generator) -> np.ndarray:
    return np.sin(2 * np.pi * hz * _time(rng))


def _chirp(hz: float, rng: Generator) -> np.ndarray:
    time = _time(rng)
    sweep = np.sin(2 * np.pi * hz * time * (1 + 3 * time))
    return repeat([sweep, sweep], [len(sweep) / SAMPLE_RATE], rng)


def _hiss(hz: float, rng: Generator) -> np.ndarray:
    time = _time(rng)
    return coloured_noise(len(time), 0, rng) * (1 + np.sin(2 * np.pi * hz / 40 * time))


def _pluck(hz: float, rng: Generator) -> np.ndarray:
    return pluck(hz, float(rng.uniform(0.25, 0.5)), rng)


def pluck(hz: float, seconds: float, rng: Generator) -> np.ndarray:
    """A plucked string: noise that runs round a delay line and loses its highs at every turn."""
    samples, period = int(seconds * SAMPLE_RATE), max(2, round(SAMPLE_RATE / hz - 0.5))
    burst = np.zeros(samples)
    turn = rng.uniform(-1, 1, min(period, samples))
    burst[: len(turn)] = turn - turn.mean()  # a constant would go round the loop for long
    loop = np.zeros(period + 2)
    loop[0], loop[period], loop[period + 1] = 1, -0.498, -0.498
    from scipy.signal import lfilter  # which a list of the tasks does not wait for

    string = lfilter([1], loop, burst)
    fade = min(samples, SAMPLE_RATE // 100)
    string[samples - fade :] *= np.linspace(1, 0, fade)
    return string


def play_strings(notes: list[Note]) -> np.ndarray:
    """Render notes as plucked strings, (S,) at 16 kHz."""
    audio = np.zeros(int((max(end for _, end, _, _ in notes) + 0.1) * SAMPLE_RATE))
    for start_s, end_s, key, velocity in notes:
        rng = np.random.default_rng(key)
        string = pluck(440 * 2 ** ((key - 69) / 12), end_s - start_s, rng) * velocity / 127
        start = round(start_s * SAMPLE_RATE)
        audio[start : start + len(string)] += string
    return audio


def synthetic_audioset_bank() -> Bank:
    """Seven AudioSet classes for the soundscapes where no package is at hand."""
    computed = ("Telephone dialing, DTMF", "Police car (siren)", "Mains hum", "Static")
    return make_bank(
        {
            "Sine wave": partial(_sources, _beep),
            "Chirp tone": partial(_sources, _chirp),
            "Hiss": partial(_sources, _hiss),
            **{label: AUDIOSET_CLASSES[label] for label in computed},
        },
        DEAL,
        share_single=True,
    )
