"""Parts shared by the tests of fine-tuning: a task folder of tones, and small networks to train."""

from dataclasses import dataclass
from pathlib import Path

import torch
from conftest import small
from tones import write_tones

from eval_tasks.fit.recipe import Recipe, recipe
from eval_tasks.plugin import Plugin
from eval_tasks.tasks.base import Task, TaskData, open_task
from hear_ptsed.heads import HEADS
from hear_ptsed.metrics.decoding import Decoding
from hear_ptsed.model import SEDModel

CLASSES = ("high", "low", "middle")
TASK = Task(
    name="tones",
    title="Tones",
    folder="tones",
    about="tones in noise",
    metrics=("event_onset_200ms_fms",),
    decoding=Decoding(120, 80),
    labels=("strong", "weak"),
)
OFF = [f"augment.{name}=0" for name in ("wavmix_p", "mixup_p")]


@dataclass(frozen=True)
class Small(Plugin):
    """A registered model, far narrower and shallower, with random weights."""

    name: str = "frame_mn02"

    def network(self, n_classes: int, head: str = "linear") -> SEDModel:
        with torch.random.fork_rng():  # seeded inside
            net = small(self.name)
        net.head = HEADS[head](net.backbone.embed_dim, n_classes)
        return net.train()


def tones_folder(folder: Path, clips: dict[str, list[float]]) -> TaskData:
    """A task of tones that last 0.3 to 0.9 s.

    Args:
        clips: split, or "weak" -> seconds of its clips.
    """
    names = {"every_s": 1.3, "length_s": (0.3, 0.9), "first_s": (0.2, 0.4), "names": "{i}.wav"}
    return open_task(TASK, write_tones(folder, clips, **names))


def numbers(*settings: str, protocol: str = "finetuned") -> Recipe:
    """A recipe for a few steps."""
    quick = ["optim.batch=4", "optim.epochs=4", "optim.warmup_steps=0", "fit.check_every_epochs=1"]
    quick += ["fit.weak_batch=3"] if protocol == "weak-finetuned" else []
    return recipe(TASK, protocol, [*quick, *settings])
