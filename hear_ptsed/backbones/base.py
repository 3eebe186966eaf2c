"""The contract of every backbone."""

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor, nn


class Backbone(nn.Module):
    """Maps the spectrogram of 10 s windows, spec (B, 1, F, T), to frames (B, T', D).

    T' = window_frames and D = embed_dim. Only windows of 10 s need to work: SEDModel pads.
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
    last_norm: ClassVar[str] = "norm"  # name of the final norm behind the blocks; "": none
    no_choice: ClassVar[str] = ""  # why `take` has nothing to choose from; "": it has

    blocks: nn.ModuleList  # of transformers
    mean = False  # of all blocks' outputs, see take
    embed_dim: int
    window_frames: int

    @classmethod
    def is_folded(cls, tensors: Iterable[str]) -> bool:
        """Whether names of tensors are those of a backbone whose weights `fold` has rewritten."""
        return False

    @classmethod
    def from_released(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors (name: tensor) in released spelling without prefix -> our state dict."""
        return state

    @classmethod
    def to_released(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our state dict -> tensors (name: tensor) in released spelling without prefix."""
        return state

    @property
    def depth(self) -> int:
        """Number of depths at which parameters lie, for layer-wise learning rates."""
        return len(self.blocks)

    def depth_of(self, name: str) -> int:
        """The block that a parameter trains with: 0 for the stem, the last for the last norm."""
        top, *rest = name.split(".")
        if top == "blocks":
            return int(rest[0])
        return self.depth - 1 if top == self.last_norm else 0

    def run_blocks(self, x: Tensor, *shared: Any) -> Tensor:
        """The normed output of the last block, or after take(layers="mean") the mean of all.

        Args:
            x: tokens (B, L, D).
            shared: what every block gets beside its input.
        Returns:
            (B, L, D)
        """
        total = 0.0
        for block in self.blocks:
            x = block(x, *shared)
            if self.mean:
                total = total + self._normed(x)
        return total / self.depth if self.mean else self._normed(x)

    def _normed(self, x: Tensor) -> Tensor:
        return getattr(self, self.last_norm)(x) if self.last_norm else x

    def take(
        self,
        layer: int | None = None,
        layers: str | None = None,
        drop_layers: int = 0,
        final_norm: bool = True,
    ) -> None:
        """Give the output of an earlier block or the mean over all, by default the last block's.

        To be called after loading a checkpoint: blocks that are not needed are removed for good.

        Args:
            layer: 1 to depth, the block to stop behind.
            layers: "mean", over the outputs of all blocks, each normed by itself before, so that
                blocks of different scale count alike.
            drop_layers: 0 to depth - 1, how many blocks to remove from the end.
            final_norm: False removes the norm behind the blocks; BEATs, whose blocks end in norms
                of their own, has none to remove and refuses.
        """
        choices = {"layer": layer, "layers": layers, "drop_layers": drop_layers or None}
        chosen = [name for name, value in choices.items() if value is not None]
        if self.no_choice:
            if chosen or not final_norm:
                raise ValueError(
                    f"{self.no_choice}: leave out layer, layers, drop_layers and final_norm"
                )
            return
        self._check_choice(chosen, layer, layers, drop_layers, final_norm)
        if chosen:
            self.mean = layers is not None
        del self.blocks[self.depth - drop_layers if layer is None else layer :]
        if not final_norm:
            setattr(self, self.last_norm, nn.Identity())

    def _check_choice(
        self, chosen: list[str], layer: Any, layers: Any, drop_layers: Any, final_norm: Any
    ) -> None:
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} exclude each other: give one of them")
        if layers not in (None, "mean"):
            raise ValueError(f"layers {layers!r}; allowed is 'mean'")
        if layer is not None and (type(layer) is not int or not 1 <= layer <= self.depth):
            raise ValueError(f"layer {layer!r}; allowed is 1 to {self.depth}")
        if type(drop_layers) is not int or not 0 <= drop_layers < self.depth:
            raise ValueError(f"drop_layers {drop_layers!r}; allowed is 0 to {self.depth - 1}")
        if not isinstance(final_norm, bool):
            raise ValueError(f"final_norm {final_norm!r}; allowed are True, False")
        if not final_norm and not self.last_norm:
            raise ValueError(
                f"{type(self).__name__} has no norm behind its blocks: leave out final_norm"
            )

    def fold(self) -> None:
        """Bake into the weights what is constant at inference; no training or saving afterwards."""
