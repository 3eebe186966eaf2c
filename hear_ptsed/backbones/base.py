"""The contract of every backbone."""

from typing import ClassVar

from torch import Tensor, nn


class Backbone(nn.Module):
    """Maps a spectrogram (B, 1, F, T) to frames (B, T', embed_dim).

    Parameters carry the names of the released checkpoint behind its prefix; `to_released` and
    `from_released` bridge the few places where a tensor is stored differently here.
    """

    prefixes: ClassVar[tuple[str, ...]]  # of keys in files; the first is the one we write
    # Behind such a prefix: front-end constants and heads in released or upstream files.
    ignored: ClassVar[tuple[str, ...]] = ()
    # A key that only an upstream file has -> prefixes of our tensors that such a file lacks.
    absent: ClassVar[dict[str, tuple[str, ...]]] = {}
    cpu_batch: ClassVar[int] = 4  # windows at a time that suit the caches and allocator of a CPU
    bfloat16: ClassVar[bool] = True  # False: too inaccurate in bfloat16, stays in float32

    embed_dim: int
    window_frames: int  # T' of a 10 s window

    @classmethod
    def from_released(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Released tensors (prefix removed) -> our state dict."""
        return state

    @classmethod
    def to_released(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our state dict -> released tensors (without prefix)."""
        return state

    @property
    def depth(self) -> int:
        """Number of depths at which parameters lie, for layer-wise learning rates."""
        return len(self.blocks)

    def depth_of(self, name: str) -> int:
        """Block that a parameter trains with: what comes before the blocks -> 0, norm -> last."""
        top, *rest = name.split(".")
        if top == "blocks":
            return int(rest[0])
        return self.depth - 1 if top in ("norm", "norm_frame") else 0

    def fold(self) -> None:
        """Bake into the weights what is constant at inference; no training or saving afterwards."""
