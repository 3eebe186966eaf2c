"""Sounds that are computed: telephone tones, beeps, sirens, noises; (S,) at 16 kHz, peak near 1.

Frequencies and cadences of the telephone tones are the North American ones. A draw chooses all
parameters, so the sounds of one class differ only by these.
"""

import numpy as np
from numpy.random import Generator

from eval_tasks.sounds.signal import coloured_noise
from hear_ptsed.grid import SAMPLE_RATE

KEYPAD = [(low, high) for low in (697, 770, 852, 941) for high in (1209, 1336, 1477)]  # Hz


def sine_wave(rng: Generator) -> np.ndarray:
    return _faded(_oscillator(_constant(_log_uniform(200, 4000, rng), rng.uniform(0.5, 4))))


def dial_tone(rng: Generator) -> np.ndarray:
    return _pair(350, 440, rng.uniform(1.5, 4))


def busy_signal(rng: Generator) -> np.ndarray:
    on_s = 0.5 if rng.random() < 0.5 else 0.25  # 0.25: all trunks busy
    return _cadence([_pair(480, 620, on_s)] * rng.integers(3, 7), on_s)


def ringing_tone(rng: Generator) -> np.ndarray:
    ring = _pair(440, 480, rng.uniform(1.5, 2))
    return _cadence([ring] * rng.integers(1, 3), 4)


def dtmf(rng: Generator) -> np.ndarray:
    on_s, off_s = rng.uniform(0.08, 0.2), rng.uniform(0.05, 0.15)
    digits = rng.integers(len(KEYPAD), size=rng.integers(4, 11))
    return _cadence([_pair(*KEYPAD[digit], on_s) for digit in digits], off_s)


def smoke_detector(rng: Generator) -> np.ndarray:
    hz, on_s = rng.uniform(2900, 3400), rng.uniform(0.1, 0.5)
    beep = _faded(_oscillator(_constant(hz, on_s), (1, 0.3)))
    return _cadence([beep] * rng.integers(3, 7), rng.uniform(0.1, 0.5))


def reversing_beeps(rng: Generator) -> np.ndarray:
    hz, on_s = rng.uniform(1000, 1300), rng.uniform(0.3, 0.5)
    beep = _faded(_oscillator(_constant(hz, on_s), (1, 0, 0.3, 0, 0.15)))
    return _cadence([beep] * rng.integers(3, 7), on_s)


def alarm_clock(rng: Generator) -> np.ndarray:
    hz, on_s = rng.uniform(1800, 2300), rng.uniform(0.05, 0.08)
    beep = _faded(_oscillator(_constant(hz, on_s), (1, 0, 0.4)))
    group = _cadence([beep] * 4, on_s)
    return _cadence([group] * rng.integers(2, 6), rng.uniform(0.35, 0.6))


def chirp_tone(rng: Generator) -> np.ndarray:
    low, high, seconds = rng.uniform(100, 800), rng.uniform(2000, 7000), rng.uniform(0.2, 2)
    hz = low * (high / low) ** np.linspace(0, 1, int(seconds * SAMPLE_RATE))
    sweep = _faded(_oscillator(hz if rng.random() < 0.5 else hz[::-1]))
    return _cadence([sweep] * rng.integers(1, 4), rng.uniform(0.05, 0.3))


def civil_defense_siren(rng: Generator) -> np.ndarray:
    """A motor siren that winds up and down within 3-5 s."""
    top, period_s, seconds = rng.uniform(450, 900), rng.uniform(3, 5), rng.uniform(4, 6)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    hz = top * (0.65 - 0.35 * np.cos(2 * np.pi * (time / period_s + rng.uniform(0, 0.3))))
    return _faded(_oscillator(hz, (1, 0.6, 0.5, 0.3, 0.2)), 0.3)


def police_siren(rng: Generator) -> np.ndarray:
    """Wail, 0.2-0.5 sweeps a second, or yelp, 2-4."""
    rate = rng.uniform(0.2, 0.5) if rng.random() < 0.5 else rng.uniform(2, 4)
    low, high, seconds = rng.uniform(500, 700), rng.uniform(1200, 1600), rng.uniform(2, 5)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    hz = low * (high / low) ** (0.5 - 0.5 * np.cos(2 * np.pi * (rate * time + rng.random())))
    return _faded(_oscillator(hz, (1, 0.5, 0.6, 0.3, 0.3)), 0.1)


def mains_hum(rng: Generator) -> np.ndarray:
    hz = (50 if rng.random() < 0.5 else 60) * rng.uniform(0.998, 1.002)
    levels = rng.uniform(0.05, 1, 12) / np.arange(1, 13) ** 0.7
    return _faded(_oscillator(_constant(hz, rng.uniform(1.5, 5)), tuple(levels)), 0.1)


def noise(rng: Generator) -> np.ndarray:
    """White to pink."""
    return _faded(
        coloured_noise(int(rng.uniform(0.5, 4) * SAMPLE_RATE), rng.uniform(0, 1.2), rng), 0.02
    )


def static(rng: Generator) -> np.ndarray:
    """Crackle over hiss."""
    samples = int(rng.uniform(1, 4) * SAMPLE_RATE)
    crackle = rng.standard_normal(samples) * (
        rng.random(samples) < rng.uniform(20, 300) / SAMPLE_RATE
    )
    from scipy.signal import lfilter  # which a list of the tasks does not wait for

    crackle = lfilter([1], [1, -rng.uniform(0.2, 0.8)], crackle)
    return _faded(crackle + rng.uniform(0.15, 0.35) * coloured_noise(samples, 0.5, rng), 0.02)


def _log_uniform(low: float, high: float, rng: Generator) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _constant(hz: float, seconds: float) -> np.ndarray:
    return np.full(int(seconds * SAMPLE_RATE), hz)


def _oscillator(hz: np.ndarray, harmonics: tuple[float, ...] = (1,)) -> np.ndarray:
    """A tone whose frequency follows `hz`; harmonics above the band are left out."""
    phase = 2 * np.pi * np.cumsum(hz) / SAMPLE_RATE
    parts = [
        level * np.sin(k * phase) * (k * hz < 0.45 * SAMPLE_RATE)
        for k, level in enumerate(harmonics, start=1)
    ]
    return sum(parts) / sum(harmonics)


def _pair(low_hz: float, high_hz: float, seconds: float) -> np.ndarray:
    tones = _oscillator(_constant(low_hz, seconds)) + _oscillator(_constant(high_hz, seconds))
    return _faded(tones / 2)


def _faded(audio: np.ndarray, seconds: float = 0.005) -> np.ndarray:
    ramp = np.linspace(0, 1, min(len(audio), int(seconds * SAMPLE_RATE)))
    audio = audio.copy()
    audio[: len(ramp)] *= ramp
    audio[len(audio) - len(ramp) :] *= ramp[::-1]
    return audio


def _cadence(parts: list[np.ndarray], pause_s: float) -> np.ndarray:
    pause = np.zeros(int(pause_s * SAMPLE_RATE))
    return np.concatenate([piece for part in parts for piece in (part, pause)][:-1])
