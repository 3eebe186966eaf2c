"""`python -m training demo`: the whole pipeline on a small corpus of real sounds.

Renders the corpus, packs it, trains on clip labels (weak), then two teachers with BiGRU, computes
their pseudo labels, trains a student with and without them, and scores every stage.
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from eval_tasks.small import soundscapes
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.files import atomic
from hear_ptsed.registry import build
from training.data.coverage import Coverage
from training.data.pack import COVERAGE
from training.evaluate import Scoring, evaluate
from training.recipe import Source

RECIPES = Path(__file__).with_name("recipes") / "demo"
TEACHERS = ("teacher_a", "teacher_b")
STAGES = {  # row of the table: what was trained
    "scratch": "random weights",
    "weak": "clip labels (weak head on every frame)",
    "teacher_a": "strong labels after weak, BiGRU",
    "teacher_b": "the same with another seed",
    "strong": "strong labels after weak, without distillation",
    "strong_kd": "strong labels after weak, distilled from both teachers",
}
SIZES = {  # training clips, evaluation clips, shorter training
    False: (800, 240, ()),
    True: (240, 80, ("optim.epochs=4", "optim.warmup_steps=20")),
}


def demo(out: Path, *, quick: bool = False, seed: int = 0, corpus: Path | None = None) -> dict:
    """Run what is not done yet; everything stays in `out`.

    Args:
        quick: a third of the clips and fewer epochs: shows that all works, not how well.
        seed: of the training; the corpus has its own.
        corpus: a folder of soundscapes to use, else they are rendered into `out`.
    Returns:
        The results by stage.
    """
    started = time.monotonic()
    out = Path(out).absolute()
    train, evaluation, shorter = SIZES[quick]
    if corpus is None:
        folder = out / ("soundscapes_quick" if quick else "soundscapes")
        cores = os.cpu_count() or 1
        corpus = soundscapes.prepare(folder, train=train, evaluation=evaluation, workers=cores)
    work = out / ("quick" if quick else "full") / f"seed{seed}"
    work.mkdir(parents=True, exist_ok=True)
    for part in ("train", "eval"):
        _run(
            work,
            f"pack {part}",
            ["pack", "--audio", f"{corpus}/{part}_mp3.hdf"]
            + ["--events", f"{corpus}/{part}.tsv", "--out", part],
            done=f"{part}/index.npz",
        )
    _write_classes(corpus, work / "classes.txt")
    _scratch(work / "scratch" / "model.pt", work / "classes.txt", seed)

    fit = [f"run.seed={seed}", *shorter]
    _fit(work, "weak", "weak", fit)
    _together(
        lambda: _fit(work, "teacher_a", "teacher", fit),
        lambda: _fit(work, "teacher_b", "teacher", [*fit, f"run.seed={seed + 1000}"]),
    )
    _run(
        work,
        "pseudo-label",
        ["pseudo-label", *(f"{name}/model.pt" for name in TEACHERS), "--audio", "train"]
        + ["--out", "ensemble.h5"],
        done="ensemble.h5",
    )
    _together(
        lambda: _fit(work, "strong", "strong", fit),
        lambda: _fit(work, "strong_kd", "student", fit),
    )
    for name in ("training", "hear_ptsed"):  # one coverage report, not six
        logging.getLogger(name).setLevel(logging.ERROR)
    print(Coverage.read(work / "eval" / COVERAGE).text())
    results = {name: _score(work, name, corpus) for name in STAGES}
    table = _table(results, corpus, quick, seed)
    with atomic(work / "stages.md") as temporary:
        temporary.write_text(table, encoding="utf-8")
    print(table)
    print(f"training demo: {time.monotonic() - started:.0f} s; everything is in {work}")
    return results


def _fit(work: Path, name: str, recipe: str, settings: Sequence[str]) -> None:
    options = [f"--set={setting}" for setting in (*settings, f"run.out={name}")]
    command = ["fit", str(RECIPES / f"{recipe}.yaml"), "--data", ".", "--resume", *options]
    _run(work, f"train {name}", command, done=f"{name}/model.safetensors")


def _score(work: Path, name: str, corpus: Path) -> dict:
    """The result of `evaluate`, with means over classes that do or do not share their sources."""
    done = work / name / "scores.json"
    if not done.exists():
        evaluate(
            work / name / "model.pt",
            [Source(audio=str(work / "eval"))],
            Scoring(per_frame_of_weak=name == "weak", bootstrap=200, workers=0, progress=False),
            out=done,
        )
    result = json.loads(done.read_text(encoding="utf-8"))
    classes = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))["classes"]
    groups: dict[str, list[float]] = {"new sources": [], "shared sources": []}
    for label, scores in result["per_class"].items():
        shared = classes[label]["shared_sources"] > 0
        groups["shared sources" if shared else "new sources"].append(scores["psds1"])
    means = {k: {"psds1_macro": sum(v) / len(v), "classes": len(v)} for k, v in groups.items() if v}
    return result | {"groups": means}


def _scratch(path: Path, classes: Path, seed: int) -> None:
    """The network of all stages with random weights."""
    names = classes.read_text(encoding="utf-8").splitlines()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build("frame_mn02", len(names))
    path.parent.mkdir(exist_ok=True)
    save_checkpoint(model, path, names)


def _write_classes(corpus: Path, path: Path) -> None:
    manifest = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))
    with atomic(path) as temporary:
        temporary.write_text("\n".join(manifest["classes"]) + "\n", encoding="utf-8")


def _together(*jobs) -> None:
    """Run jobs side by side, each on its share of the cores."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()


def _run(work: Path, title: str, arguments: Sequence[str], done: str) -> None:
    """`python -m training …` in the work folder unless its result is there; output to a log."""
    if (work / done).exists():
        return
    log = work / "logs" / f"{title.replace(' ', '-')}.txt"
    log.parent.mkdir(exist_ok=True)
    started = time.monotonic()
    pairs = title.startswith(("train teacher", "train strong"))
    threads = max(1, (os.cpu_count() or 1) // (2 if pairs else 1))
    # Threads that wait without spinning: on a busy machine spinning ones slow down all others.
    settings = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    with log.open("w", encoding="utf-8") as file:
        result = subprocess.run(
            [sys.executable, "-m", "training", *arguments],
            stdout=file,
            stderr=file,
            cwd=work,
            env=os.environ | settings,
        )
    if result.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"{title} failed: {' '.join(last)} (all output: {log})")
    print(f"{title}: {time.monotonic() - started:.0f} s", flush=True)


def _table(results: dict[str, dict], corpus: Path, quick: bool, seed: int) -> str:
    def percent(result: dict, metric: str) -> str:
        low, high = (100 * bound for bound in result["ci95"][metric])
        return f"{100 * result[metric]:.1f} ({low:.1f} to {high:.1f})"

    first = results["scratch"]
    rows = [
        f"| {name} | {STAGES[name]} | {percent(r, 'psds1_macro')} | "
        + " | ".join(f"{100 * group['psds1_macro']:.1f}" for group in r["groups"].values())
        + f" | {percent(r, 'pauroc')} |"
        for name, r in results.items()
    ]
    lines = [
        f"# Stages of training on soundscapes, seed {seed}" + (" (quick)" if quick else ""),
        "",
        "| stage | trained on | PSDS1 macro, % | "
        + " | ".join(f"{group['classes']} classes of {g}" for g, group in first["groups"].items())
        + " | segment pAUROC, % |",
        "|---|---|---|" + "---|" * (len(first["groups"]) + 1),
        *rows,
        "",
        f"{first['clips']} evaluation clips, {first['classes']} classes; 95 % bootstrap intervals "
        "over clips, one training run each. New sources: recordings, keys or voices that training "
        "never heard; shared: classes of one recording or a computed tone, in other mixtures.",
        "The corpus is rendered from real sounds and is not AudioSet; nothing here compares with "
        "published figures.",
    ]
    if quick:
        lines.append("Quick: a third of the clips and four epochs; without --quick it learns more.")
    return "\n".join(lines) + "\n"
