"""MTEB: an encoder of clips for `mteb.evaluate`, which reads by soundfile (extra `mteb`).

from hear_ptsed.clients.mteb import Encoder
mteb.evaluate(Encoder("beats_strong"), mteb.get_tasks(tasks=["ESC50"]))
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hear_ptsed.audio import AudioFile, resampled
from hear_ptsed.clients.chosen import Chosen
from hear_ptsed.errors import require_package
from hear_ptsed.hear import get_scene_embeddings

if TYPE_CHECKING:
    from mteb.models.model_meta import ModelMeta
    from torch.utils.data import DataLoader

# Released weights but fpasst_ssl (ImageNet) have seen AudioSet; MTEB marks results on its tasks.
SEEN = ("AudioSet", "AudioSetMini", "AudioSetStrongA2TRetrieval", "AudioSetStrongT2ARetrieval")
SEEN += tuple(f"{name}.v2" for name in SEEN[2:])


class Encoder:
    """A model that embeds a clip by the mean over its frames.

    MTEB keeps results by name, revision and options of a model. They are those of the plug-in, its
    file and its options, so that no two models share results.
    """

    def __init__(
        self,
        plugin: str,
        checkpoint: Path | str = "",
        *,
        device: str | None = None,
        **options: Any,
    ):
        """Load a model.

        Args:
            plugin: such as beats_strong, or "checkpoint" with a file.
            device: None for a GPU if there is one.
            options: of the plug-in's load_model.
        """
        chosen = Chosen(plugin, checkpoint, options)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = chosen.load().to(self.device)
        self.mteb_model_meta = _meta_of(chosen, self.model)

    def encode(self, inputs: "DataLoader", *, hf_split: str, **_: Any) -> np.ndarray:
        """Embeddings (N, D) float32 of the column `audio` of a data set, in its order."""
        dataset = inputs.dataset
        if "audio" not in dataset.features:
            columns = ", ".join(dataset.features)
            raise ValueError(f"{hf_split} has the columns {columns}; only audio can be embedded")
        datasets = require_package("datasets", "mteb")
        if isinstance(dataset.features["audio"], datasets.Audio):  # decoding needs FFmpeg
            dataset = dataset.cast_column("audio", datasets.Audio(decode=False))
        batches = []
        for first in range(0, len(dataset), inputs.batch_size):
            rows = dataset[first : first + inputs.batch_size]["audio"]
            places = (f"clip {first + i} of {hf_split}" for i in range(len(rows)))
            clips = [read_clip(row, place) for row, place in zip(rows, places, strict=True)]
            batches.append(self._embed(clips).cpu().numpy())
        return np.concatenate(batches)

    def _embed(self, clips: list[Tensor]) -> Tensor:
        """Clips (S,) of several lengths -> (B, D); those of one length go together, unpadded."""
        out = torch.empty(len(clips), self.model.scene_embedding_size, device=self.device)
        lengths = torch.tensor([len(clip) for clip in clips])
        for length in lengths.unique():
            same = (lengths == length).nonzero()[:, 0]
            audio = torch.stack([clips[i] for i in same.tolist()])
            out[same.to(self.device)] = get_scene_embeddings(audio.to(self.device), self.model)
        return out

    def similarity(self, a: Any, b: Any) -> Tensor:
        """Cosines (N, M) between embeddings (N, D) and (M, D)."""
        return require_package("mteb.similarity_functions", "mteb").cos_sim(a, b)

    def similarity_pairwise(self, a: Any, b: Any) -> Tensor:
        """Cosines (N,) between embeddings (N, D) and (N, D), pair by pair."""
        return require_package("mteb.similarity_functions", "mteb").pairwise_cos_sim(a, b)


def read_clip(row: Mapping[str, Any], place: str) -> Tensor:
    """Mono audio (S,) at 16 kHz of a row: `bytes` of a file, its `path`, or an `array` of samples.

    Args:
        place: which clip it is, for the message.
    """
    path = row.get("path") or ""
    try:
        if "array" in row:
            samples, rate = (
                np.atleast_2d(np.asarray(row["array"], np.float32)),
                row["sampling_rate"],
            )
            return _to_tensor([samples.mean(0)], rate)
        with AudioFile(row["bytes"] or Path(path), path) as file:
            return _to_tensor(file.blocks(), file.rate)
    except (OSError, ValueError) as error:
        raise ValueError(f"{place}{path and f' ({path})'}: {error}") from error


def _to_tensor(blocks: Iterable[np.ndarray], rate: float) -> Tensor:
    """Blocks (S,) of one clip -> (S',) at 16 kHz."""
    return torch.from_numpy(resampled(blocks, rate))


def _meta_of(chosen: Chosen, model: torch.nn.Module) -> "ModelMeta":
    parameters = list(model.parameters())
    n_bytes = sum(value.nbytes for value in parameters)
    return require_package("mteb.models.model_meta", "mteb").ModelMeta(
        loader=None,
        name=f"hear_ptsed/{chosen.plugin}",
        revision=chosen.sha256 or "untrained",
        experiment_kwargs=chosen.options or None,
        modalities=["audio"],
        n_parameters=sum(value.numel() for value in parameters) or None,
        memory_usage_mb=n_bytes / 2**20,
        embed_dim=model.scene_embedding_size,
        similarity_fn_name="cosine",
        framework=["PyTorch"],
        use_instructions=False,
        training_datasets=set(SEEN) if chosen.sha256 else set(),
        max_tokens=None,
        languages=None,
        release_date=None,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
    )
