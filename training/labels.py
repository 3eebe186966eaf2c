"""What a model learns from and is scored by: labels of every frame, or of whole clips.

Both classes have one contract; what FrameLabels says of a method holds for both, with C logits per
clip, (B, C), instead of (B, C, 250).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from hear_ptsed.model import Output, SEDModel
from training.data.annotations import Events, merged
from training.data.batch import Batch
from training.targets import Targets, clip_targets, frame_targets, soft_targets

KNOWN = 0.999  # share of a label that must be annotated for it to teach


class FrameLabels:
    """Events with onset and offset, answered by the strong head."""

    head = "strong"
    of_clips = False  # stored labels of whole clips do not teach it, and are not scored
    scores = "float16 logits"  # that are rated

    def prepare(self, events: Events) -> Events:
        """An annotation as it is taught: overlapping events of one class are one."""
        return merged(events)

    def targets(self, batch: Batch, annotated: Tensor, pseudo_column: Tensor) -> Targets:
        """Of a batch of R rows and C classes, see `Targets`.

        Args:
            annotated: (R, C) bool, labels that somebody has looked for.
            pseudo_column: (C,) see `soft_targets`.
        """
        strong, soft = frame_targets(batch["events"], *annotated.shape), None
        if "pseudo" in batch:
            soft = soft_targets(strong, batch["pseudo"], batch["has_pseudo"], pseudo_column)
        return Targets(strong, None, soft, annotated.float())

    def answer(self, output: Output) -> Tensor:
        """The logits (B, C, 250) that the loss reads."""
        return output.strong

    def loss(self, output: Output, targets: Targets, soft_share: float) -> Tensor:
        """Mean binary cross-entropy against (1 - share) * label + share * pseudo label, a scalar.

        Which equals the mix of two cross-entropies, because each is linear in its target. Logits
        and targets are (B, C, 250).
        """
        target = targets.strong
        if targets.soft is not None:
            target = target.lerp(targets.soft, soft_share)
        return _cross_entropy(output.strong, target, targets.known[..., None])

    def scored_logits(self, model: SEDModel, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Of audio (B, 160000): logits per frame (B, C, 250) and per clip (B, C), float32.

        Those of clips are NaN without a weak head.
        """
        strong, weak, _ = model(audio)
        weak = torch.full_like(strong[..., 0], math.nan) if weak is None else weak
        return strong.float(), weak.float()

    def clip_losses(self, strong: Tensor, _weak: Tensor, events: Tensor) -> Tensor:
        """(B,) mean cross-entropy of each clip, from `scored_logits` and the batch's events."""
        target = frame_targets(events, *strong.shape[:2])
        losses = F.binary_cross_entropy_with_logits(strong, target, reduction="none")
        return losses.flatten(1).mean(1)


class ClipLabels:
    """Classes that occur in a clip, wherever, answered by the weak head; events as they stand."""

    head = "weak"
    of_clips = True
    scores = "float16 logits of the weak head, applied to every frame; mAP of those of clips"

    def prepare(self, events: Events) -> Events:
        return events

    def targets(self, batch: Batch, annotated: Tensor, _pseudo_column: Tensor) -> Targets:
        """`weak` (R, C)."""
        weak = clip_targets(batch["events"], *annotated.shape)
        return Targets(None, weak, None, annotated.float())

    def answer(self, output: Output) -> Tensor:
        """The logits (B, C) that the loss reads."""
        return output.weak

    def loss(self, output: Output, targets: Targets, _soft_share: float) -> Tensor:
        """Mean binary cross-entropy of (B, C), a scalar."""
        return _cross_entropy(output.weak, targets.weak, targets.known)

    def scored_logits(self, model: SEDModel, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Of audio (B, 160000): logits per frame (B, C, 250) and per clip (B, C), float32.

        There is no trained strong head: the weak one, for the mean frame, reads each frame.
        """
        output = model(audio)
        strong = model.head.weak_head(output.frames).transpose(1, 2)
        return strong.float(), output.weak.float()

    def clip_losses(self, _strong: Tensor, weak: Tensor, events: Tensor) -> Tensor:
        """(B,) mean cross-entropy of each clip, from logits (B, C) and the batch's events."""
        target = clip_targets(events, *weak.shape)
        return F.binary_cross_entropy_with_logits(weak, target, reduction="none").mean(1)


Labels = FrameLabels | ClipLabels
LABELS: dict[str, Labels] = {"strong": FrameLabels(), "weak": ClipLabels()}  # by Data.labels


def _cross_entropy(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Mean over all elements; those that nobody annotated count as 0.

    Mixed with a clip that is not annotated for a class, none of its labels is sure.
    """
    weight = (known > KNOWN).float()
    return F.binary_cross_entropy_with_logits(logits.float(), target, weight=weight)
