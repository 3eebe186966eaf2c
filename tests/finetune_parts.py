"""Parts shared by the tests of fine-tuning: a task folder of tones, and small networks to train."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from conftest import small

from eval_tasks.fit.recipe import Recipe, recipe
from eval_tasks.plugin import Plugin
from eval_tasks.tasks.base import Task, TaskData, open_task
from hear_ptsed.heads import HEADS
from hear_ptsed.metrics.decoding import Decoding
from hear_ptsed.model import SEDModel

CLASSES = ("high", "low", "middle")
HZ = {"low": 400, "middle": 1300, "high": 4000}
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


def tones_folder(folder: Path, clips: dict[str, list[float]], seed: int = 0) -> TaskData:
    """A task of tones that last 0.3 to 1 s.

    Args:
        clips: split, or "weak" -> seconds of its clips.
    """
    rng = np.random.default_rng(seed)
    for split, lengths in clips.items():
        audio = folder / "16000" / split
        audio.mkdir(parents=True)
        labels = {}
        for i, seconds in enumerate(lengths):
            n = round(seconds * 16000)
            samples, events = 0.01 * rng.standard_normal(n), []
            for start in np.arange(0.2, seconds - 1.1, 1.3):
                name = str(rng.choice(CLASSES))
                first = round((start + rng.uniform(0, 0.2)) * 16000)
                last = first + round(rng.uniform(0.3, 0.9) * 16000)
                wave = np.sin(2 * np.pi * HZ[name] / 16000 * np.arange(last - first))
                samples[first:last] += 0.2 * wave
                events.append({"label": name, "start": first / 16, "end": last / 16})
            soundfile.write(audio / f"{i}.wav", samples, 16000, subtype="FLOAT")
            labels[f"{i}.wav"] = (
                sorted({event["label"] for event in events}) if split == "weak" else events
            )
        (folder / f"{split}.json").write_text(json.dumps(labels))
    metadata = {"task_name": "tones", "version": "v1", "mode": "tiny", "split_mode": "trainvaltest"}
    metadata |= {"embedding_type": "event", "splits": [s for s in clips if s != "weak"]}
    (folder / "task_metadata.json").write_text(json.dumps(metadata))
    with (folder / "labelvocabulary.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("idx", "label"), *enumerate(CLASSES)])
    return open_task(TASK, folder)


def numbers(*settings: str, protocol: str = "finetuned") -> Recipe:
    """A recipe for a few steps."""
    quick = ["optim.batch=4", "optim.epochs=4", "optim.warmup_steps=0", "fit.check_every_epochs=1"]
    quick += ["fit.weak_batch=3"] if protocol == "weak-finetuned" else []
    return recipe(TASK, protocol, [*quick, *settings])
