"""HEAR plug-in of the simplest baseline: 128 log-mel energies every 40 ms, nothing learned."""

from torch import Tensor, nn

from hear_ptsed.frontends.kaldi import PaSSTMel
from hear_ptsed.grid import SAMPLE_RATE
from hear_ptsed.hear import get_scene_embeddings, get_timestamp_embeddings  # noqa: F401
from hear_ptsed.model import float32
from hear_ptsed.windows import over_windows


class LogMel(nn.Module):
    """The mean of the four spectrogram frames (10 ms each) of every 40 ms."""

    sample_rate = SAMPLE_RATE
    timestamp_embedding_size = scene_embedding_size = 128

    def __init__(self):
        super().__init__()
        self.frontend = PaSSTMel(periodic=True)

    def forward(self, audio: Tensor) -> Tensor:
        """audio (B, S) at 16 kHz -> (B, n_frames(S), 128)."""
        return over_windows(audio, self._window)

    def _window(self, audio: Tensor) -> Tensor:
        spec = self.frontend(audio)[:, 0]  # (B, 128, 1000)
        return spec.unflatten(-1, (-1, 4)).mean(-1).transpose(1, 2)


def load_model(model_file_path: str = "") -> nn.Module:
    """There is nothing to load; a path is refused."""
    if model_file_path:
        raise ValueError(f"the log-mel baseline has no weights; got {model_file_path}")
    with float32():
        return LogMel().eval()
