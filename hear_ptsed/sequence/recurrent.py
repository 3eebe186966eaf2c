"""Recurrent sequence models: GRU and LSTM of two directions."""

from torch import Tensor, nn


class BiGRU(nn.Module):
    """Bidirectional GRU with `dim` units per direction; out_dim is 2 * dim."""

    kind: type[nn.RNNBase] = nn.GRU

    def __init__(self, in_dim: int, dim: int = 2048, layers: int = 2, dropout: float = 0.0):
        super().__init__()
        self.out_dim = 2 * dim
        self.rnn = self.kind(
            in_dim, dim, layers, batch_first=True, dropout=dropout, bidirectional=True
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, T, E) -> (B, T, 2 dim)."""
        return self.rnn(frames)[0]


class BiLSTM(BiGRU):
    """The same with an LSTM, then a linear layer on every frame."""

    kind = nn.LSTM

    def __init__(self, in_dim: int, dim: int = 2048, layers: int = 2, dropout: float = 0.0):
        super().__init__(in_dim, dim, layers, dropout)
        self.embedding = nn.Linear(self.out_dim, self.out_dim)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, T, E) -> (B, T, 2 dim)."""
        return self.embedding(super().forward(frames))
