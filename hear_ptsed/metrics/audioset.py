"""What is known here of the official evaluation set of AudioSet Strong."""

from collections.abc import Collection

from hear_ptsed.errors import shown
from hear_ptsed.labels import load_labels

TASK = "audioset_strong"
CLIPS = 16_996  # annotated


def missing_of_evaluation(classes: Collection[str], clips: int) -> str:
    """What a scored set lacks of it, in words; "" if nothing. A ValueError if it is another set."""
    known = load_labels(evaluated=True)
    if strange := sorted({*classes} - {*known}):
        raise ValueError(
            "says it is AudioSet Strong, whose evaluation set has no class "
            f"{shown(strange[0])[1:-1]}"
        )
    if len(classes) < len(known) or clips < 0.99 * CLIPS:
        return f"{len(classes)} of {len(known)} classes, {clips} of {CLIPS} clips"
    return ""
