"""Parts made of clips of other parts: folds whose validation clips are named one by one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval_tasks.tasks.base import Part


def training_part(fold: str) -> str:
    return f"{fold}_train"


def validation_part(fold: str) -> str:
    return f"{fold}_valid"


def gather(name: str, audio: Path, clips: Iterable[tuple["Part", str]]) -> "Part":
    """A part of clips of other parts, whose audio and embeddings stay where they are.

    Args:
        audio: the folder that the parts' folders of audio lie in.
        clips: part and file.
    """
    clips = sorted(clips, key=lambda clip: clip[1])
    return replace(
        clips[0][0],
        name=name,
        audio=audio,
        homes={file: part.name for part, file in clips},
        **{
            key: {file: getattr(part, key)[file] for part, file in clips}
            for key in ("events", "samples", "durations_s")
        },
    )


def split_folds(
    where: Path, folds: Sequence["Part"], named: Mapping[str, Sequence[str]]
) -> dict[str, "Part"]:
    """For each fold the part that it trains on and the one that it validates on.

    Args:
        where: the file that names the clips.
        named: fold -> files of other folds that validate; the rest of these train.
    """
    clips = {file: fold for fold in folds for file in fold.files}
    if len(clips) < sum(map(len, folds)):
        raise ValueError(f"{where}: a clip's name is in two folds; prepare the task again")
    parts = {}
    for fold in folds:
        others = {file: part for file, part in clips.items() if part is not fold}
        chosen = set(named.get(fold.name, ()))
        if not chosen or not chosen < others.keys():
            raise ValueError(
                f"{where}: {fold.name} must be validated on some, not all, clips of other folds, "
                f"got {sorted(chosen - others.keys()) or len(chosen)}; prepare the task again"
            )
        for name, files in (
            (training_part(fold.name), others.keys() - chosen),
            (validation_part(fold.name), chosen),
        ):
            audio = fold.audio.parent
            parts[name] = gather(name, audio, [(others[file], file) for file in files])
    return parts
