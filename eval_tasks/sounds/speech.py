"""Banks of synthetic speech (eSpeak NG through ctypes), rendered once and kept in the cache.

eSpeak's output depends on the calls before it, so sounds are drawn from the stored bank, never
rendered on demand.
"""

import ctypes
import os
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from eval_tasks.sounds.signal import cut, stretches
from hear_ptsed.audio import resampled
from hear_ptsed.files import atomic, cache_dir, locked, remove_stale, sha256

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
ADULT, CHILD = (35, 65), (75, 99)  # eSpeak's pitch, of 0-99
# Language + variant; each is one independent source. Variants f2, f3 and f5 are not used: they
# contain noise that differs from run to run. So do the whispers, but there noise is the voice.
OFFICE = [
    *("en-us+m1", "en-us+Annie", "en-us+m3", "en-gb-x-rp+f1", "en-gb-x-rp+m4", "en-gb-x-rp+f4"),
    *("de+m2", "de+linda", "de+m7", "fr+f1", "fr+m5", "fr+f4"),
    *("es+m6", "es+f4", "es+m3", "it+f4", "it+m1", "it+steph"),
    *("nl+m4", "nl+f1", "nl+m8", "pl+f1", "pl+m2", "pl+belinda"),
]
MALE = [  # no variant occurs twice
    *("en-us+m1", "en-gb-x-rp+m2", "de+m3", "fr+m4", "es+m5", "it+m6", "nl+m7", "pl+m8"),
    *("en-us+max", "en-gb-x-rp+adam", "de+Mario", "fr+michel", "es+pablo", "it+Marco"),
    *("nl+Lee", "pl+boris"),
]
FEMALE = [
    *("en-us+Annie", "en-gb-x-rp+f1", "de+linda", "fr+f4", "es+steph3", "it+steph", "nl+belinda"),
    *("pl+anika", "en-us+Andrea", "en-gb-x-rp+aunty", "de+steph2", "fr+grandma"),
]
CHILDREN = [
    *("en-us+f1", "en-gb-x-rp+f4", "de+Annie", "fr+linda", "es+steph", "it+belinda"),
    *("nl+anika", "pl+Andrea"),
]
WHISPERERS = [
    f"{language}+{variant}"
    for language in ("en-us", "de", "fr", "es")
    for variant in ("whisper", "whisperf")
]
MACHINES = [
    *("en-us+robosoft", "en-us+klatt", "en-us+croak", "en-us+robosoft3", "de+robosoft2"),
    *("de+klatt2", "de+robosoft5", "fr+klatt4"),
]
BANKS = {  # name: pitch range of each voice
    "office": dict.fromkeys(OFFICE, ADULT),
    "soundscapes": dict.fromkeys([*MALE, *FEMALE, *WHISPERERS, *MACHINES], ADULT)
    | dict.fromkeys(CHILDREN, CHILD),
}


def bank_file(name: str) -> Path:
    """The stored bank, rendered on first use (a few seconds)."""
    try:
        file = f"espeak-{version('espeakng-loader')}-{name}.npz"
    except ModuleNotFoundError:
        raise RuntimeError("speech needs eSpeak NG: pip install espeakng-loader") from None
    path = cache_dir("speech") / file
    recorded = path.with_suffix(".sha256")
    if not (path.exists() and recorded.exists()):
        with locked(path.parent, wait=True):
            _render_file(name, path, recorded)
    if sha256(path) != recorded.read_text():
        raise RuntimeError(f"{path} has changed since it was rendered; delete it and run again")
    return path


def _render_file(name: str, path: Path, recorded: Path) -> None:
    if path.exists() and recorded.exists():  # another process was faster
        return
    remove_stale(path.parent, alone=True)
    with atomic(path) as temporary:
        # A process of its own: eSpeak speaks otherwise after it has rendered another bank.
        root = Path(__file__).parents[2]
        command = [sys.executable, "-m", "eval_tasks.sounds.speech", name, str(temporary.resolve())]
        done = subprocess.run(command, cwd=root, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["killed"])[-1]
            raise RuntimeError(f"the speech bank {name} was not rendered: {reason}")
    with atomic(recorded) as temporary:
        temporary.write_text(sha256(path))


@cache
def bank(name: str) -> dict[str, list[np.ndarray]]:
    """Utterances (S,) at 16 kHz of each voice."""
    with np.load(bank_file(name)) as stored:
        return {
            voice: [stored[f"{voice} {i}"] / 32768 for i in range(UTTERANCES)]
            for voice in BANKS[name]
        }


def _render(voices: dict[str, tuple[int, int]]) -> dict[str, np.ndarray]:
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
    for voice, pitch in voices.items():
        if library.espeak_SetVoiceByName(voice.encode()):
            raise RuntimeError(f"eSpeak NG has no voice {voice}; reinstall espeakng-loader")
        for i in range(UTTERANCES):
            blocks.clear()
            words = rng.choice(WORDS[voice.split("+")[0]].split(), rng.integers(2, 7))
            library.espeak_SetParameter(rate_parameter, int(rng.integers(140, 200)), 0)
            library.espeak_SetParameter(pitch_parameter, int(rng.integers(*pitch)), 0)
            text = " ".join(words).encode()
            library.espeak_Synth(text, len(text) + 1, 0, 0, 0, utf8, None, None)
            audio = resampled([np.concatenate(blocks) / 32768], rate)
            audible = stretches(audio, below_peak_db=40)
            audio = cut(audio, audible[0][0], audible[-1][1])
            spoken[f"{voice} {i}"] = np.round(np.clip(audio, -1, 1) * 32767).astype(np.int16)
    library.espeak_Terminate()
    return spoken


if __name__ == "__main__":
    with Path(sys.argv[2]).open("wb") as file:
        np.savez_compressed(file, **_render(BANKS[sys.argv[1]]))
