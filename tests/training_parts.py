"""Parts shared by the tests of training: clips in memory, small networks, pseudo-label files."""

from pathlib import Path

import h5py
import numpy as np
import torch
import torchaudio
from conftest import small
from torch import Tensor

from hear_ptsed.heads import LinearHead
from hear_ptsed.model import SEDModel
from hear_ptsed.sequence import build_sequence_model
from training.data.annotations import Events
from training.data.batch import ClipSet
from training.data.clips import Clips, Unreadable
from training.data.pseudo_labels import PseudoLabels
from training.data.sampling import Picks
from training.data.sources import AnnotatedClips, OpenSources
from training.fit import make_module
from training.labels import LABELS
from training.module import Training
from training.recipe import from_dict
from training.targets import Targets

CLASSES = ["a", "b", "c", "d", "e"]
OFF = dict.fromkeys(("wavmix_p", "frame_shift", "mixup_p", "mixstyle_p", "filter_p", "warp_p"), 0)
ALIKE = 1e-3  # smallest probability of a Kolmogorov-Smirnov test; seeds are fixed
STEP = 3  # at which nothing is dropped in a whole layer


class Memory(Clips):
    """Clips in memory; None for one that cannot be read."""

    def __init__(self, audio: dict[str, np.ndarray | None], rate: int):
        super().__init__(Path("memory"), list(audio))
        self.audio, self.rate = list(audio.values()), rate

    def read(self, i: int) -> tuple[np.ndarray, int]:
        if self.audio[i] is None:
            raise Unreadable(self.names[i], "cut off")
        return self.audio[i], self.rate


def sound(seconds: float, rate: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    slow = np.repeat(rng.normal(size=int(seconds * 50) + 1), rate // 50)[: round(seconds * rate)]
    return (
        np.round(3000 * slow + 1000 * rng.normal(size=len(slow))).clip(-32768, 32767).astype("i2")
    )


def source(rate: int = 16000, n: int = 3, prefix: str = "x", seconds: float = 10.0) -> Memory:
    return Memory({f"{prefix}{i}": sound(seconds - i, rate, i) for i in range(n)}, rate)


def table(keys, seed: int = 0, classes=CLASSES) -> list[tuple[str, str, int, int]]:
    """Four random events for each clip: key, class, onset and offset in ms; some overlap."""
    rng = np.random.default_rng(seed)
    rows = []
    for key in keys:
        for _ in range(4):
            onset, offset = np.sort(rng.choice(9999, 2, replace=False))
            rows.append((key, str(rng.choice(classes)), int(onset), int(offset)))
    return rows


def clip_set(
    *sources: Clips, events, annotated=None, labels: str = "strong", pseudo=None
) -> ClipSet:
    columns = list(zip(*events, strict=True))
    read = Events.from_columns(*map(list, columns[:2]), *(np.array(c) / 1000 for c in columns[2:]))
    annotated = annotated or [None] * len(sources)
    opened = [
        AnnotatedClips(clips, 0, known) for clips, known in zip(sources, annotated, strict=True)
    ]
    return OpenSources([read], opened, LABELS[labels]).clip_set(CLASSES, pseudo)


def network(name: str, sequence: bool = False) -> SEDModel:
    model = small(name)
    if name.startswith(("frame_mn", "fmn")):  # batch norm magnifies the rounding of float32
        model.backbone.double().register_forward_pre_hook(lambda _, given: (given[0].double(),))
    if not sequence:
        return model
    torch.manual_seed(1)
    gru = build_sequence_model("bigru", model.backbone.embed_dim, dim=6, layers=2)
    return SEDModel(model.frontend, model.backbone, gru, LinearHead(gru.out_dim, len(CLASSES)))


def training(model: SEDModel, train: ClipSet, teachers=(), weight=0.0, **sections) -> Training:
    given = {"pseudo_labels": ["x.h5"]} if weight and not teachers else {}
    given |= {"teachers": ["x.pt"] * len(teachers)} if weight else {}
    given |= {"weight": weight} | sections.pop("distill", {})
    values = {"augment": OFF, "distill": given}
    values["optim"] = {"warmup_steps": 0, "batch": len(train)} | sections.pop("optim", {})
    values["augment"] = OFF | sections.pop("augment", {})
    return make_module(from_dict(values | sections), model, train, teachers=teachers).train()


def batch_of(clips: ClipSet, rows=None, partner=None, crops=None) -> dict:
    rows = np.arange(len(clips)) if rows is None else np.array(rows)
    partner = np.arange(len(rows)) if partner is None else np.array(partner)
    return clips[Picks(STEP, rows, np.zeros(len(rows)) if crops is None else crops, partner)]


def pseudo_file(path: Path, logits: dict[str, np.ndarray], classes=CLASSES) -> PseudoLabels:
    with h5py.File(path, "w") as file:
        file["filenames"] = np.array([key.encode() for key in logits])
        file["strong_logits"] = np.stack(list(logits.values())).astype(np.float16)
        file["classes"] = np.array([name.encode() for name in classes])
    return PseudoLabels(path)


def random_logits(keys, classes: int = 5, seed: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {key: rng.normal(-2, 3, (classes, 250)).astype(np.float16) for key in keys}


def audio_by_hand(memory: Memory) -> Tensor:
    audio = [torch.from_numpy(samples.astype(np.float32) / 32768) for samples in memory.audio]
    length = 10 * memory.rate
    audio = torch.stack([torch.cat([x, torch.zeros(length - len(x))]) for x in audio])
    resample = torchaudio.transforms.Resample(
        memory.rate, 16000, resampling_method="sinc_interp_kaiser"
    )
    return audio if memory.rate == 16000 else resample(audio)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_batch(n_frames: int = 1000, n: int = 4) -> tuple[torch.Tensor, Targets]:
    rng = np.random.default_rng(0)

    def draw(*shape):
        return torch.from_numpy(rng.random(shape, dtype=np.float32))

    hard = (draw(n, 5, 250) > 0.7).float()
    known = (draw(n, 5) > 0.3).float()
    return 4 * draw(n, 1, 64, n_frames) - 2, Targets(hard, hard.amax(-1), draw(n, 5, 250), known)
