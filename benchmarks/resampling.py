"""The kernel that files are read with (soxr HQ) beside the one of training (torchaudio, Kaiser).

    python benchmarks/resampling.py --corpus SOUNDSCAPES --checkpoint MODEL.pt

Prints Markdown: CPU time, how far noise comes out apart, and what that does to embeddings, YAMNet's
scores and PSDS1 on the evaluation clips of the soundscapes. "kaiser_best" is what `hear-ptsed
detect` read files with before.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.functional import resample

import hear_ptsed
from hear_ptsed.audio import resampled, to_16k
from training.data.clips import open_clips
from training.evaluate import Scoring, evaluate
from training.recipe import Source

BEST = {"lowpass_filter_width": 64, "rolloff": 0.9475937167399596, "beta": 14.769656459379492}
SECONDS, ROUNDS = 10, 7


def files(audio: np.ndarray, rate: int) -> Tensor:
    """(S,) as `hear_ptsed.audio.read_audio` gives it."""
    return torch.from_numpy(resampled([audio], rate))


def training(audio: np.ndarray, rate: int) -> Tensor:
    """(S,) at 16 kHz as training resamples its clips."""
    return to_16k(torch.from_numpy(audio), rate)


def best(audio: np.ndarray, rate: int) -> Tensor:
    """(S,) at 16 kHz by torchaudio's "kaiser_best"."""
    method = "sinc_interp_kaiser"
    return resample(torch.from_numpy(audio), rate, 16000, resampling_method=method, **BEST)


KERNELS = {"soxr HQ": files, "torchaudio": training, "torchaudio kaiser_best": best}


def noise(rate: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(SECONDS * rate).astype(np.float32)


def apart(a: Tensor, b: Tensor, low_hz: int = 0, high_hz: int = 8000) -> float:
    """RMS of the difference of a and b, (S,) each, over that of `a`, within a band."""
    n = min(len(a), len(b))
    band = slice(low_hz * n // 16000, high_hz * n // 16000)
    spectra = [torch.fft.rfft(x[:n] * torch.hann_window(n))[band] for x in (a, b)]
    return float((spectra[0] - spectra[1]).norm() / spectra[0].norm())


def signals() -> None:
    print(f"| {SECONDS} s of white noise at | " + " | ".join(f"{k}, ms" for k in KERNELS), end=" ")
    print("| soxr - torchaudio | below 6 kHz | 6-7 kHz | 7-8 kHz | soxr - kaiser_best |")
    print("|---" * (len(KERNELS) + 6) + "|")
    for rate in (32000, 44100, 48000):
        audio, ms = noise(rate), dict.fromkeys(KERNELS, np.inf)
        for _ in range(ROUNDS):
            for name, kernel in KERNELS.items():
                start = time.process_time()
                kernel(audio, rate)
                ms[name] = min(ms[name], 1000 * (time.process_time() - start))
        a, b, c = (kernel(audio, rate) for kernel in KERNELS.values())
        bands = ((0, 8000), (0, 6000), (6000, 7000), (7000, 8000))
        differences = *(apart(a, b, *band) for band in bands), apart(a, c)
        cells = [*(f"{t:.1f}" for t in ms.values()), *(f"{100 * d:.2f} %" for d in differences)]
        print(f"| {rate} Hz | {' | '.join(cells)} |")


def compare(name: str, embed: Callable[[Tensor], Tensor], clips: list[tuple]) -> None:
    """A row: how far embeddings, of audio (1, S), are from those of audio that soxr resampled."""
    differences = []
    with torch.inference_mode():
        for audio, rate in clips:
            a, *others = (embed(kernel(audio, rate)[None]) for kernel in KERNELS.values())
            differences.append([float((a - b).norm() / a.norm()) for b in others])
    columns = zip(np.mean(differences, axis=0), np.max(differences, axis=0), strict=True)
    cells = [f"{100 * mean:.2f} % | {100 * largest:.2f} %" for mean, largest in columns]
    print(f"| {name} | {len(clips)} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, metavar="DIR")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE")
    parser.add_argument("--clips", type=int, default=40, help="to embed; default: 40")
    args = parser.parse_args()
    torch.set_num_threads(1)
    signals()

    source = open_clips(args.corpus / "eval_mp3.hdf")
    read = [source.read(i) for i in range(len(source))]
    clips = [(samples / np.float32(32768), rate) for samples, rate in read]
    noises = [(noise(rate), rate) for rate in (32000, 44100, 48000)]
    model, ear = hear_ptsed.load(checkpoint=args.checkpoint), hear_ptsed.load("yamnet")
    embeddings = {
        "frame_mn02": lambda audio: model(audio[:, : 16000 * SECONDS]).frames,
        "YAMNet": ear.embed,
        "YAMNet's scores": lambda audio: ear(audio).strong.sigmoid().mT,
    }
    print("\n| soxr - … | clips | torchaudio, mean | largest | kaiser_best, mean | largest |")
    print("|---|---|---|---|---|---|")
    for name, embed in embeddings.items():
        compare(f"{name}, soundscapes", embed, clips[: args.clips])
        compare(f"{name}, white noise", embed, noises)

    print("\n| resampled by | PSDS1 macro | segment pAUROC | mAP |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for way, kernel in KERNELS.items():
            folder = args.corpus / "eval_mp3.hdf"  # resampled on the device, as in training
            if kernel is not training:
                folder = Path(scratch, way)
                folder.mkdir()
                for name, (audio, rate) in zip(source.names, clips, strict=True):
                    path = (folder / name).with_suffix(".wav")
                    soundfile.write(path, kernel(audio, rate).numpy(), 16000, subtype="PCM_16")
            source = Source(audio=str(folder), events=str(args.corpus / "eval.tsv"))
            how = Scoring(workers=0, device="cpu", progress=False)
            result = evaluate(args.checkpoint, [source], how)
            scores = (result[metric] for metric in ("psds1_macro", "pauroc", "map"))
            print(f"| {way} | " + " | ".join(f"{100 * score:.2f}" for score in scores) + " |")


if __name__ == "__main__":
    main()
