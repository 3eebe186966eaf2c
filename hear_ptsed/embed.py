"""Embeddings of many files, in Parquet; for tensors see hear_ptsed.hear."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from hear_ptsed import corpus, crew, hear, registry
from hear_ptsed.checkpoints import download
from hear_ptsed.checkpoints.repository import locate
from hear_ptsed.detect import NOT_OF_ROWS, DetectorOptions
from hear_ptsed.files import sha256
from hear_ptsed.rows import LARGEST


@dataclass(frozen=True)
class EmbeddingAnalysis:
    """A model that embeds files frame by frame, or as a whole (`scene`)."""

    model: hear.HearModel
    scene: bool

    def each(self, clips: Iterable[Tensor]) -> Iterator[Tensor]:
        """Clips (S,) at 16 kHz -> (T, D) float32 of each."""
        return self.model.each(clips)

    def content(self, heard: Tensor, duration_s: float) -> np.ndarray:
        """What a row holds of (T, D): all of it, or the mean (D,)."""
        values = heard.mean(0) if self.scene else heard
        if values.numel() > LARGEST:
            text = f"{values.numel()} numbers, a row holds {LARGEST}; cut the file, or take scene"
            raise ValueError(text)
        return hear.refuse_infinite(values).numpy()


def embed_corpus(
    files: Sequence[Path],
    out: Path,
    model: str,
    stage: str | None = None,
    checkpoint: Path | None = None,
    *,
    scene: bool = False,
    device: str | None = None,
    how: crew.Crew = crew.ALONE,
    advance: crew.Advance = lambda files, seconds: None,
    **options: Any,
) -> corpus.Totals:
    """Embed files into Parquet parts; see corpus.make_corpus.

    Args:
        model, stage, checkpoint: as hear.load_model has them; without a stage the strong one.
        scene: one embedding for a file instead of one every 40 ms (or `hop`).
        device: cpu, cuda, ...; None: a GPU if there is one.
        options: see hear.Options; a wrong one is a ValueError.
    """
    chosen, path = hear.Options(**options), checkpoint and locate(checkpoint)
    if checkpoint is None and not chosen.untrained:
        has_stages = isinstance(registry.find_row(model), registry.Row)
        stage = stage or ("strong" if has_stages else None)
        path = download.find(model, stage)
    path = path and path.absolute()  # which workers open elsewhere
    load = partial(_load, model, stage, path, chosen, scene, device)
    embedding = load()  # before a folder is begun: what is wrong with the choice is told here
    settings = {
        "made": "scene embeddings" if scene else "embeddings",
        "model": model,
        "stage": stage,
        "checkpoint": path and path.name,
        "checkpoint_sha256": path and sha256(path),
    }
    settings |= {key: value for key, value in asdict(chosen).items() if key not in NOT_OF_ROWS}
    loaded = (lambda: embedding) if how == crew.ALONE else load
    work = corpus.Work(loaded, "scene" if scene else "embeddings", settings)
    return corpus.make_corpus(files, out, work, how, advance)


def _load(
    name: str,
    stage: str | None,
    path: Path | None,
    options: hear.Options,
    scene: bool,
    device: str | None,
) -> EmbeddingAnalysis:
    model = hear.load_model(name, stage, str(path or ""), **asdict(options))
    where = DetectorOptions(device=device, runtime=options.runtime).usable_device()
    return EmbeddingAnalysis(model.to(where), scene)
