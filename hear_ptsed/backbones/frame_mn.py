"""frame_mn: MobileNetV3-Large that keeps 25 frames per second and folds frequency to one row.

Papers: Howard et al., "Searching for MobileNetV3", ICCV 2019; Morocutti et al., "Exploring
Performance-Complexity Trade-Offs in Sound Event Detection Models", EUSIPCO 2025, arXiv 2503.11373.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hear_ptsed.backbones.base import Backbone
from hear_ptsed.grid import WINDOW_FRAMES

N_MELS = 128
EPS = 0.001  # of the batch norms
# Kernel; channels inside; channels out; gate or not; activation; stride over frequency and time.
BLOCKS = (
    (3, 16, 16, False, nn.ReLU, (1, 1)),
    (3, 64, 24, False, nn.ReLU, (2, 2)),
    (3, 72, 24, False, nn.ReLU, (2, 1)),
    (5, 72, 40, True, nn.ReLU, (1, 1)),
    (5, 120, 40, True, nn.ReLU, (1, 1)),
    (5, 120, 40, True, nn.ReLU, (2, 1)),
    (3, 240, 80, False, nn.Hardswish, (1, 1)),
    (3, 200, 80, False, nn.Hardswish, (2, 1)),
    (3, 184, 80, False, nn.Hardswish, (1, 1)),
    (3, 184, 80, False, nn.Hardswish, (1, 1)),
    (3, 480, 112, True, nn.Hardswish, (2, 1)),
    (3, 672, 112, True, nn.Hardswish, (1, 1)),
    (5, 672, 160, True, nn.Hardswish, (1, 1)),
    (5, 960, 160, True, nn.Hardswish, (1, 1)),
    (5, 960, 160, True, nn.Hardswish, (2, 1)),
)


class FrameMN(Backbone):
    """Convolutions and clip-wide gates; 4 spectrogram frames give one embedding.

    Args:
        width: scales every channel count.
    """

    prefixes = ("model.frame_mn.", "frame_mn.", "fmn.")
    bfloat16 = False
    no_choice = "frame_mn, whose blocks differ in width and rate, gives the last one's output only"

    def __init__(self, width: float = 1.0):
        super().__init__()
        self.window_frames = WINDOW_FRAMES
        channels = round_channels(16 * width)
        layers: list[nn.Module] = [ConvNormAct(1, channels, 3, nn.Hardswish, stride=(2, 2))]
        for kernel, expanded, out, gated, act, stride in BLOCKS:
            n_in, n_mid = channels, round_channels(expanded * width)
            channels = round_channels(out * width)
            layers.append(InvertedResidual(n_in, n_mid, channels, kernel, gated, act, stride))
        self.embed_dim = 6 * channels
        layers.append(ConvNormAct(channels, self.embed_dim, 1, nn.Hardswish))
        self.features = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    @classmethod
    def is_folded(cls, tensors: Iterable[str]) -> bool:
        names = {*tensors}
        biases = (name for name in names if "features." in name and name.endswith(".0.bias"))
        return any(f"{name.removesuffix('0.bias')}1.weight" not in names for name in biases)

    @classmethod
    def from_released(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors (name: tensor) in released spelling -> state; to convolutions with batch norms
        folded into them come batch norms that change nothing.
        """
        state = dict(state)
        for name in [name for name in state if name.endswith(".0.bias")]:
            norm = name.removesuffix("0.bias") + "1."
            if norm + "weight" not in state:
                bias = state.pop(name)
                unit = torch.ones_like(bias)
                state |= {norm + "weight": unit, norm + "bias": bias}
                state |= {norm + "running_mean": 0 * unit, norm + "running_var": unit - EPS}
                state[norm + "num_batches_tracked"] = torch.tensor(0)
        return state

    def forward(self, spec: Tensor) -> Tensor:
        """Spec (B, 1, 128, 1000) -> frames (B, 250, D)."""
        if spec.shape[2] != N_MELS:
            raise ValueError(f"{spec.shape[2]} mel bands; frame_mn takes {N_MELS}")
        return self.features(spec).squeeze(2).transpose(1, 2)  # from (B, D, 1, T')

    @property
    def depth(self) -> int:
        return len(self.features)

    def depth_of(self, name: str) -> int:
        return int(name.split(".")[1])  # of features

    def fold(self) -> None:
        for module in self.modules():
            if isinstance(module, ConvNormAct):
                module.fold()
        self.to(memory_format=torch.channels_last)


class ConvNormAct(nn.Sequential):
    """Convolution, batch norm and activation (None: none)."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int,
        act: type[nn.Module] | None,
        stride: tuple[int, int] = (1, 1),
        groups: int = 1,
    ):
        layers: list[nn.Module] = [
            nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(n_out, eps=EPS, momentum=0.01),
        ]
        super().__init__(*layers, *([act()] if act else []))

    def fold(self) -> None:
        if isinstance(self[1], nn.Identity):
            return
        self[0] = fuse_conv_bn_eval(self[0], self[1])
        self[1] = nn.Identity()


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, gate, projection; residual where the shapes allow it."""

    def __init__(
        self,
        n_in: int,
        n_mid: int,
        n_out: int,
        kernel: int,
        gated: bool,
        act: type[nn.Module],
        stride: tuple[int, int],
    ):
        super().__init__()
        self.residual = stride == (1, 1) and n_in == n_out
        layers = [ConvNormAct(n_in, n_mid, 1, act)] if n_mid != n_in else []
        layers.append(ConvNormAct(n_mid, n_mid, kernel, act, stride, groups=n_mid))
        layers += [Gate(n_mid)] if gated else []
        layers.append(ConvNormAct(n_mid, n_out, 1, None))
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, F, T) -> (B, n_out, F', T'), F and T divided by the strides."""
        return x + self.block(x) if self.residual else self.block(x)


class Gate(nn.Module):
    """Scales every channel by a factor computed from its mean over frequency and the whole clip.

    The released key names come from a model that could combine several gates; here is one.
    """

    def __init__(self, channels: int):
        super().__init__()
        squeeze = round_channels(channels // 4)
        layers = {"fc1": nn.Linear(channels, squeeze), "fc2": nn.Linear(squeeze, channels)}
        self.conc_se_layers = nn.ModuleList([nn.ModuleDict(layers)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, T) -> (B, C, F, T)."""
        fc1, fc2 = self.conc_se_layers[0].values()
        gate = torch.sigmoid(fc2(torch.relu(fc1(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


def round_channels(value: float) -> int:
    """Nearest multiple of 8, at least 8 and at least 90 % of `value`."""
    rounded = max(8, 8 * int((value + 4) // 8))
    return rounded + 8 if rounded < 0.9 * value else rounded
