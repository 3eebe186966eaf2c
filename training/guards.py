"""What stops a run that has gone wrong: losses that are not finite, too many unreadable clips."""

import logging

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from training.data.batch import Batch

log = logging.getLogger(__name__)


class FiniteGuard:
    """Remembers the first micro step with a loss that is NaN or infinite; no wait for the GPU."""

    def __init__(self):
        self.first: Tensor | None = None  # on the device of the losses; -1 for none

    @torch.no_grad()
    def watch(self, loss: Tensor, step: int) -> None:
        """Note a loss, a scalar, of a micro step."""
        if self.first is None:
            self.first = torch.tensor(-1, device=loss.device)
        is_new = ~loss.isfinite() & (self.first < 0)
        self.first = torch.where(is_new, step, self.first)

    def first_bad(self, model: nn.Module, last_step: int) -> tuple[int, str] | None:
        """The first bad step, and what of it is not finite; None if nothing is.

        Args:
            last_step: what a weight that is not finite is ascribed to.
        """
        if self.first is not None and self.first >= 0:
            return int(self.first), "the loss of"
        if not get_total_norm(model.parameters()).isfinite():
            return last_step, "a weight after"
        return None


class UnreadableGuard:
    """Collects the training clips that could not be read, and stops the run at too many of them.

    Args:
        n_clips: of the training set.
        max_share: of them that may be unreadable.
    """

    def __init__(self, n_clips: int, max_share: float):
        self.n_clips, self.max_share = n_clips, max_share
        self.reasons: dict[str, str] = {}  # of each clip so far

    def watch(self, batch: Batch) -> None:
        """Note the `unreadable` clips of a batch, (key, reason) each."""
        for key, reason in batch["unreadable"]:
            if key not in self.reasons:
                log.warning("unreadable, left out: %s", reason)
            self.reasons[key] = reason
        if len(self.reasons) > self.max_share * self.n_clips:
            raise RuntimeError(
                f"{len(self.reasons)} of {self.n_clips} clips are unreadable, more than "
                f"data.max_unreadable = {self.max_share:g} allows; the first: "
                + next(iter(self.reasons.values()))
            )
