"""Levels, audible stretches, cuts, noise and rooms of mono audio (S,) at 16 kHz."""

import numpy as np
import soxr
from numpy.random import Generator

from hear_ptsed.grid import SAMPLE_RATE

WINDOW = 80  # samples: 5 ms, the resolution of every energy label


def decibels(level_db: float) -> float:
    """Amplitude factor of a level in dB."""
    return 10 ** (level_db / 20)


def window_rms(audio: np.ndarray) -> np.ndarray:
    """RMS (W,) of each 5-ms window of a sound (S,); the last one is padded with zeros."""
    padded = np.pad(audio, (0, -len(audio) % WINDOW))
    return np.sqrt(np.mean(padded.reshape(-1, WINDOW) ** 2, axis=1))


def active_rms(audio: np.ndarray) -> float:
    """RMS over the windows of a sound (S,) within 35 dB of the loudest; 0 for silence."""
    rms = window_rms(audio)
    active = rms[rms > rms.max(initial=0) * decibels(-35)]
    return float(np.sqrt(np.mean(active**2))) if len(active) else 0.0


def stretches(
    audio: np.ndarray, below_peak_db: float = 35, floor: float = 0, gap_s: float = 0.35
) -> list[tuple[float, float]]:
    """Audible stretches of a sound (S,) as (start, end) in seconds, exact to one window.

    A window is audible above both `below_peak_db` under the loudest window and the amplitude
    `floor`; a stretch ends where the sound stays inaudible for more than `gap_s` seconds.
    """
    rms = window_rms(audio)
    audible = np.flatnonzero(rms > max(rms.max(initial=0) * decibels(-below_peak_db), floor))
    if not len(audible):
        return []
    parts = np.split(
        audible, np.flatnonzero(np.diff(audible) > gap_s * SAMPLE_RATE / WINDOW + 1) + 1
    )
    return [
        (part[0] * WINDOW / SAMPLE_RATE, (part[-1] + 1) * WINDOW / SAMPLE_RATE) for part in parts
    ]


def find_audible(sound: np.ndarray, floor: float) -> list[tuple[float, float]]:
    """Onsets and offsets in seconds of what is heard of a sound (S,) above an amplitude.

    Stretches of less than 30 ms are single windows that passed the gate, and are no events.
    """
    return [(start, end) for start, end in stretches(sound, floor=floor) if end - start >= 0.03]


def cut(audio: np.ndarray, start_s: float, end_s: float) -> np.ndarray:
    """A copy (S,) of the part between two times with a 30-ms fade at its end."""
    part = audio[int(start_s * SAMPLE_RATE) : int(end_s * SAMPLE_RATE)].copy()
    fade = min(len(part), int(0.03 * SAMPLE_RATE))
    part[len(part) - fade :] *= np.linspace(1, 0, fade)
    return part


def repitch(audio: np.ndarray, semitones: float) -> np.ndarray:
    """Play a sound (S,) faster (up) or slower (down), as a tape would."""
    return soxr.resample(audio, SAMPLE_RATE * 2 ** (semitones / 12), SAMPLE_RATE)


def repeat(shots: list[np.ndarray], gaps_s: list[float], rng: Generator) -> np.ndarray:
    """Lay shots (S,) one after another, onset to onset by `gaps_s`, each up to 3 dB softer."""
    starts = np.concatenate([[0], np.cumsum(gaps_s)])[: len(shots)]
    starts = (starts * SAMPLE_RATE).astype(int)
    audio = np.zeros(max(s + len(shot) for s, shot in zip(starts, shots, strict=True)))
    for start, shot in zip(starts, shots, strict=True):
        audio[start : start + len(shot)] += shot * decibels(-rng.uniform(0, 3))
    return audio


def tilt(audio: np.ndarray, amount: float) -> np.ndarray:
    """First-order spectral tilt of a sound (S,): amount in -0.5 (brighter) to 0.5 (duller)."""
    delayed = np.concatenate([[0.0], audio[:-1]])
    return audio + amount * delayed


def coloured_noise(samples: int, slope: float, rng: Generator) -> np.ndarray:
    """Noise (S,) of RMS 1 whose power falls as 1 / f ** slope above 20 Hz: 1 is pink, 2 brown."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    spectrum *= np.where(frequency < 20, 0, np.maximum(frequency, 20) ** (-slope / 2))
    noise = np.fft.irfft(spectrum, samples)
    return noise / np.sqrt(np.mean(noise**2))


def room(rng: Generator) -> np.ndarray:
    """Impulse response (S,): the direct sound, then noise that decays 60 dB in 0.15-0.6 s."""
    decay_s, direct_db = rng.uniform(0.15, 0.6), rng.uniform(3, 15)
    time = np.arange(int(decay_s * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(time)) * decibels(-60 * time / decay_s)
    tail[: int(0.003 * SAMPLE_RATE)] = 0
    tail *= decibels(-direct_db) / np.sqrt(np.sum(tail**2))
    tail[0] = 1
    return tail


def to_pcm(audio: np.ndarray) -> np.ndarray:
    """16-bit samples (S,); the clip is scaled only if its peak passes 0.95."""
    peak = np.abs(audio).max(initial=0)
    return np.round(audio * (min(1, 0.95 / peak) if peak else 1) * 32767).astype(np.int16)
