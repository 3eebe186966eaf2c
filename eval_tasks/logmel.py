"""HEAR plug-in of the simplest baseline: 128 log-mel energies every 40 ms, nothing learned."""

from functools import partial

from torch import Tensor, nn

from hear_ptsed.frontends.kaldi import PaSSTMel
from hear_ptsed.grid import FRAME_MS, SAMPLE_RATE, Hop
from hear_ptsed.hear import get_scene_embeddings, get_timestamp_embeddings  # noqa: F401
from hear_ptsed.model import float32
from hear_ptsed.schema import check
from hear_ptsed.windows import over_windows, with_hop


class LogMel(nn.Module):
    """The mean of the four spectrogram frames (10 ms each) of every 40 ms."""

    sample_rate = SAMPLE_RATE
    timestamp_embedding_size = scene_embedding_size = 128

    def __init__(self, hop_ms: int = FRAME_MS):
        super().__init__()
        self.hop_ms = hop_ms
        self.frontend = PaSSTMel(periodic=True)

    def forward(self, audio: Tensor) -> Tensor:
        """audio (B, S) at 16 kHz -> (B, n_frames(S, hop_ms), 128)."""
        return with_hop(audio, partial(over_windows, model=self._window), self.hop_ms)

    def _window(self, audio: Tensor) -> Tensor:
        spec = self.frontend(audio)[:, 0]  # (B, 128, 1000)
        return spec.unflatten(-1, (-1, 4)).mean(-1).transpose(1, 2)


def load_model(model_file_path: str = "", hop: Hop = FRAME_MS) -> nn.Module:
    """There is nothing to load; a path is refused.

    Args:
        hop: ms from frame to frame, see hear_ptsed.hear.Options.
    """
    if model_file_path:
        raise ValueError(f"the log-mel baseline has no weights; got {model_file_path}")
    with float32():
        return LogMel(check(Hop, hop, "hop")).eval()
