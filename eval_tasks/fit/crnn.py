"""The network of the DCASE 2023 Task 4 baseline, and the mels that it hears beside embeddings."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.transforms import MelSpectrogram

from hear_ptsed.grid import SAMPLE_RATE
from hear_ptsed.heads import AttentionHead
from hear_ptsed.sequence import BiGRU

FRAMES, FRAME_MS = 156, 64  # of the output, for 10 s
FILTERS = (16, 32, 64, 128, 128, 128, 128)
POOLS = ((2, 2), (2, 2), *[(2, 1)] * 5)  # frequency x time: 128 x 626 -> 1 x 156


class Mel(nn.Module):
    """128 mel magnitudes every 16 ms: audio (B, 160000) -> (B, 1, 128, 626)."""

    def __init__(self):
        super().__init__()
        self.mel = MelSpectrogram(
            SAMPLE_RATE,
            n_fft=2048,
            hop_length=256,
            f_min=0.0,
            f_max=8000.0,
            n_mels=128,
            window_fn=torch.hamming_window,
            wkwargs={"periodic": False},
            power=1.0,
        )

    def forward(self, audio: Tensor) -> Tensor:
        """(B, S) -> (B, 1, 128, T)."""
        with torch.autocast(audio.device.type, enabled=False):
            return self.mel(audio)[:, None]


def scaled(mel: Tensor) -> Tensor:
    """Decibels (B, 1, F, T), of each clip from 0 (its least) to 1 (its greatest); 0 in silence."""
    decibel = (20 * mel.clamp(min=1e-5).log10()).clamp(-50.0, 80.0)
    low, high = decibel.amin((1, 2, 3), keepdim=True), decibel.amax((1, 2, 3), keepdim=True)
    return (decibel - low) / (high - low + 1e-8)


class ConvBlock(nn.Module):
    """Convolution, a linear map of the channels gated by their sigmoid, pooling."""

    def __init__(self, n_in: int, n_out: int, pool: tuple[int, int], dropout: float):
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 3, padding=1)
        # A momentum of 0.99 as torch counts it: the statistics are nearly those of the last batch.
        self.norm = nn.BatchNorm2d(n_out, eps=0.001, momentum=0.99)
        self.linear = nn.Linear(n_out, n_out)
        self.dropout = nn.Dropout(dropout)
        self.pool = nn.AvgPool2d(pool)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, T) -> (B, C', F', T')."""
        x = self.norm(self.conv(x))
        linear = self.linear(x.transpose(1, -1)).transpose(1, -1)
        return self.pool(self.dropout(linear * x.sigmoid()))


class CRNN(nn.Module):
    """Convolutions over the mels, joined with embeddings of the same clip, BiGRU, attention."""

    def __init__(
        self,
        n_classes: int,
        embed_dim: int,
        filters: Sequence[int] = FILTERS,
        units: int = 128,
        dropout: float = 0.5,
    ):
        super().__init__()
        sizes = zip((1, *filters), filters, POOLS, strict=False)
        self.cnn = nn.Sequential(*(ConvBlock(*size, dropout) for size in sizes))
        self.fusion = nn.Linear(filters[-1] + embed_dim, filters[-1])
        self.rnn = BiGRU(filters[-1], units)
        self.head = AttentionHead(self.rnn.out_dim, n_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, spec: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """spec (B, 1, 128, 626), embeddings (B, T, D) -> logits (B, C, 156), (B, C) of the clip."""
        x = self.cnn(spec).squeeze(2)  # (B, F, 156)
        beside = F.adaptive_avg_pool1d(embeddings.transpose(1, 2), x.shape[-1])
        x = torch.cat([x, beside.to(x.dtype)], 1).transpose(1, 2)
        x = self.fusion(self.dropout(x))
        return self.head(self.dropout(self.rnn(x)))
