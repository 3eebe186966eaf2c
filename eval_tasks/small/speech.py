"""A bank of synthetic speech (eSpeak NG through ctypes), rendered once and kept in the cache.

eSpeak's output depends on the calls before it, so sounds are drawn from the stored bank, never
rendered on demand.
"""

import ctypes
import logging
import os
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soxr
from tqdm import tqdm

from eval_tasks.small.sound import RATE, cut, stretches
from hear_ptsed.files import atomic, cache_dir, sha256

UTTERANCES = 10  # per voice
WORDS = {  # every-day words; a sentence is a random draw
    "en-us": "morning people window paper coffee meeting answer yesterday garden little seven",
    "en-gb-x-rp": "please remember tomorrow office letter quickly another number thank lovely nine",
    "de": "morgen Fenster Kaffee bitte schnell Zeitung gestern Garten arbeiten danke sieben",
    "fr": "bonjour fenêtre demain merci papier travail semaine toujours jardin petit sept",
    "es": "mañana ventana gracias trabajo papel siempre reunión número jardín pequeño siete",
    "it": "domani finestra grazie lavoro lettera sempre riunione numero giardino piccolo sette",
    "nl": "morgen venster dank werken brief altijd vergadering nummer tuin kleine zeven",
    "pl": "jutro okno dziękuję praca list zawsze spotkanie numer ogród mały siedem",
}
# Language + variant; each is one independent source. Variants f2, f3 and f5 are not used: they
# contain noise that differs from run to run.
VOICES = [
    *("en-us+m1", "en-us+Annie", "en-us+m3", "en-gb-x-rp+f1", "en-gb-x-rp+m4", "en-gb-x-rp+f4"),
    *("de+m2", "de+linda", "de+m7", "fr+f1", "fr+m5", "fr+f4"),
    *("es+m6", "es+f4", "es+m3", "it+f4", "it+m1", "it+steph"),
    *("nl+m4", "nl+f1", "nl+m8", "pl+f1", "pl+m2", "pl+belinda"),
]


def bank_file() -> Path:
    """The stored bank, rendered on first use (a few seconds)."""
    try:
        name = f"espeak-{version('espeakng-loader')}.npz"
    except ModuleNotFoundError:
        raise RuntimeError("speech needs eSpeak NG: pip install espeakng-loader") from None
    path = cache_dir("speech") / name
    recorded = path.with_suffix(".sha256")
    if not (path.exists() and recorded.exists()):
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **_render())
        with atomic(recorded) as temporary:
            temporary.write_text(sha256(path))
    elif sha256(path) != recorded.read_text():
        raise RuntimeError(f"{path} has changed since it was rendered; delete it and run again")
    return path


@cache
def bank() -> dict[str, list[np.ndarray]]:
    """Utterances (S,) at RATE of each voice."""
    with np.load(bank_file()) as stored:
        return {
            voice: [stored[f"{voice} {i}"] / 32768 for i in range(UTTERANCES)] for voice in VOICES
        }


def _render() -> dict[str, np.ndarray]:
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    blocks: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def collect(samples, count, _events):
        if samples and count:
            blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0  # go on

    synchronous, utf8, rate_parameter, pitch_parameter = 2, 1, 1, 3
    data = os.fsencode(espeakng_loader.get_data_path())
    rate = library.espeak_Initialize(synchronous, 0, data, 0)
    if rate <= 0:
        raise RuntimeError("eSpeak NG does not start; reinstall espeakng-loader")
    library.espeak_SetSynthCallback(collect)
    rng = np.random.default_rng(0)  # part of the bank's definition, not of a task's seed
    spoken = {}
    for voice in tqdm(VOICES, desc="speech bank", unit="voice"):
        if library.espeak_SetVoiceByName(voice.encode()):
            raise RuntimeError(f"eSpeak NG has no voice {voice}; reinstall espeakng-loader")
        for i in range(UTTERANCES):
            blocks.clear()
            words = rng.choice(WORDS[voice.split("+")[0]].split(), rng.integers(2, 7))
            library.espeak_SetParameter(rate_parameter, int(rng.integers(140, 200)), 0)
            library.espeak_SetParameter(pitch_parameter, int(rng.integers(35, 65)), 0)
            text = " ".join(words).encode()
            library.espeak_Synth(text, len(text) + 1, 0, 0, 0, utf8, None, None)
            audio = soxr.resample(np.concatenate(blocks) / 32768, rate, RATE)
            found = stretches(audio, below_peak=40)
            audio = cut(audio, found[0][0], found[-1][1])
            spoken[f"{voice} {i}"] = np.round(np.clip(audio, -1, 1) * 32767).astype(np.int16)
    library.espeak_Terminate()
    logging.getLogger(__name__).info("rendered %d utterances", len(spoken))
    return spoken
