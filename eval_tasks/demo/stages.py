"""The training of the demo: every stage of a narrow network, on soundscapes of real sounds.

Packs the corpus, trains on clip labels (weak), then two teachers with BiGRU, computes their pseudo
labels, trains a student with and without them, and scores every stage.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from eval_tasks import tasks
from eval_tasks.demo import steps
from eval_tasks.tasks.base import read_json
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.files import atomic
from hear_ptsed.registry import build
from training.data.coverage import Coverage
from training.data.pack import COVERAGE

TEACHERS = ("teacher_a", "teacher_b")
STAGES = {  # how it was trained
    "scratch": "random weights",
    "weak": "clip labels (weak head on every frame)",
    "teacher_a": "strong labels after weak, BiGRU",
    "teacher_b": "the same with another seed",
    "strong": "strong labels after weak, without distillation",
    "strong_kd": "strong labels after weak, distilled from both teachers",
}
SHORTER = ("optim.epochs=4", "optim.warmup_steps=20")  # of the quick training


def run_stages(out: Path, tasks_dir: Path, *, quick: bool = True, seed: int = 0) -> dict[str, dict]:
    """Train and score what is not done yet, in folders of `out`; print and return the scores.

    Args:
        tasks_dir: where the corpus is, or is rendered.
        quick: a third of the clips and fewer epochs: shows that all works, not how well.
        seed: of the training; the corpus has its own.
    """
    corpus = tasks.prepare("soundscapes", tasks_dir.absolute(), size="demo" if quick else "full")
    work = trained_folder(out, quick, seed)
    work.mkdir(parents=True, exist_ok=True)
    _train(work, corpus, seed, SHORTER if quick else ())
    print(Coverage.read(work / "eval" / COVERAGE).text())
    scores = {name: _score(work, name, corpus) for name in STAGES}
    for name, result in scores.items():
        low, high = result["ci95"]["psds1_macro"]
        text = f"{100 * result['psds1_macro']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        print(f"{name} ({STAGES[name]}): PSDS1 {text}")
    return scores


def trained_folder(out: Path, quick: bool, seed: int) -> Path:
    """Where `run_stages` leaves a folder for each stage, with its model.pt."""
    return Path(out).absolute() / ("quick" if quick else "full") / f"seed{seed}"


def _train(work: Path, corpus: Path, seed: int, settings: Sequence[str]) -> None:
    for part in ("train", "eval"):
        command = ["training", "pack", "--audio", f"{corpus}/{part}_mp3.hdf"]
        command += ["--events", f"{corpus}/{part}.tsv", "--out", part]
        steps.run_step(work, f"pack {part}", command, done=f"{part}/index.npz")
    classes = list(read_json(corpus / "manifest.json")["classes"])
    with atomic(work / "classes.txt") as temporary:
        temporary.write_text("\n".join(classes) + "\n", encoding="utf-8")
    if not (work / "scratch" / "model.pt").exists():
        _save_random(work / "scratch" / "model.pt", classes, seed)

    fit = partial(_fit, work, settings)
    fit("weak", "weak", seed)
    steps.side_by_side(
        lambda: fit("teacher_a", "teacher", seed, at_once=2),
        lambda: fit("teacher_b", "teacher", seed + 1000, at_once=2),
    )
    command = ["training", "pseudo-label", *(f"{name}/model.pt" for name in TEACHERS)]
    command += ["--audio", "train", "--out", "ensemble.h5"]
    steps.run_step(work, "pseudo-label", command, done="ensemble.h5")
    steps.side_by_side(
        lambda: fit("strong", "strong", seed, at_once=2),
        lambda: fit("strong_kd", "student", seed, at_once=2),
    )


def _fit(
    work: Path, settings: Sequence[str], name: str, recipe: str, seed: int, at_once: int = 1
) -> None:
    changes = [f"--{text}" for text in (*settings, f"run.seed={seed}", f"run.out={name}")]
    command = ["training", "fit", f"demo_{recipe}", "--data", ".", "--resume"]
    done = f"{name}/model.safetensors"
    steps.run_step(work, f"train {name}", [*command, *changes], done, at_once)


def _save_random(path: Path, classes: Sequence[str], seed: int) -> None:
    """Write the network of all stages with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build("frame_mn02", len(classes))
    path.parent.mkdir(exist_ok=True)
    save_checkpoint(model, path, classes)


def _score(work: Path, name: str, corpus: Path) -> dict:
    """What `evaluate` scored, with means over classes that do or do not share their sources."""
    command = ["training", "evaluate", f"{name}/model.pt", "--audio", "eval", "--workers", "0"]
    command += ["--bootstrap", "200", *["--weak"] * (name == "weak")]
    done = f"{name}/scores.json"
    steps.run_step(work, f"evaluate {name}", [*command, "--out", done], done)
    record = read_json(work / done)
    result = record["scores"] | {key: record[key] for key in ("ci95", "per_class", "clips")}
    result["classes"] = len(result["per_class"])
    classes = read_json(corpus / "manifest.json")["classes"]
    groups: dict[str, list[float]] = {"new sources": [], "shared sources": []}
    for label, scores in result["per_class"].items():
        shared = classes[label]["shared_sources"] > 0
        groups["shared sources" if shared else "new sources"].append(scores["psds1"])
    means = {k: {"psds1_macro": sum(v) / len(v), "classes": len(v)} for k, v in groups.items() if v}
    return result | {"groups": means}
