"""Evaluations of the demo on the small task `office`: of several plug-ins, and of trained stages.

Models whose checkpoint is not on this machine run with random weights and are called untrained
everywhere.
"""

import math
import random
from collections.abc import Sequence
from pathlib import Path

from eval_tasks import sweep
from eval_tasks.demo import steps
from eval_tasks.tasks.base import read_json
from hear_ptsed import list_models
from hear_ptsed.files import atomic, write_json
from hear_ptsed.metrics import records
from hear_ptsed.metrics.events import event_scores

PLUGINS = "hear_ptsed.plugins."
MODULES = ("atst_frame_strong", "beats_strong", "frame_mn10_strong")
BASELINES = (PLUGINS + "yamnet", "eval_tasks.logmel")
STAGES = ("scratch", "weak", "strong", "strong_kd")
ONSET = "event_onset_200ms_fms"
NOTE = "untrained: random weights, because the released checkpoint is not on this machine"


def evaluate_modules(out: Path, task: Path) -> None:
    """Put plug-ins through hear-validator and heareval, print scores, draw what YAMNet hears.

    Args:
        task: folder of `office`, in `out`/tasks.
    """
    cached = {row.module: row.cached for row in list_models()}
    modules = [{"module": name} for name in BASELINES]
    modules += [{"module": PLUGINS + name} for name in MODULES]
    for row in modules:
        row["untrained"] = not cached.get(row["module"], True)
    planned = _plan(out, "modules", modules, protocol="hear", grid="faster", grid_points=2)
    for entry in planned:
        if entry.state == "planned":
            module, flag = entry.request.module, ["--untrained"] * entry.request.untrained
            steps.run(out, f"validate {module}", ["eval_tasks", "validate", module, *flag])
    _evaluate(planned)
    _write_table(out / "scores.md", task, out / "results")
    print((out / "scores.md").read_text(encoding="utf-8"))

    scene = sorted((task / "16000" / "test").glob("*.wav"))[-1]
    command = ["hear_ptsed.cli", "detect", str(scene), "--model", "yamnet", "--plot"]
    command += ["--threshold", "0.3", "--out", "detections"]
    steps.run(out, "detect", command, done=f"detections/{scene.stem}.png")
    print(f"detections: {out / 'detections' / scene.stem}.png and .tsv")


def evaluate_stages(out: Path, trained: Path, seed: int) -> None:
    """Score the stages that were trained, in a folder each, with a linear layer on `office`."""
    modules = [
        {"module": "checkpoint", "checkpoint": str(trained / stage / "model.pt"), "stage": stage}
        for stage in STAGES
    ]
    _evaluate(_plan(out, "stages", modules, protocol="linear", seeds=[seed]))


def _plan(
    out: Path, name: str, modules: list[dict], seeds: Sequence[int] = (0,), **protocol: str | int
) -> list[sweep.Entry]:
    """Write a sweep of modules on `office` into OUT/NAME.yaml; its evaluations."""
    path = out / f"{name}.yaml"  # of which JSON is a part
    wanted = {
        "tasks": ["office"],
        "modules": modules,
        "protocols": [protocol],
        "seeds": list(seeds),
    }
    write_json(path, wanted)
    return sweep.plan(path, tasks_dir=out / "tasks", results=out / "results", work=out / "work")


def _evaluate(planned: list[sweep.Entry]) -> None:
    for entry in sweep.here(planned):
        if entry.state == "failed":
            raise RuntimeError(f"{entry.title} failed: {entry.message}")
        print(f"{entry.state}: {entry.title}", flush=True)


def chance_level(task: Path, rounds: int = 20) -> float:
    """Mean onset F of guessing, for each test scene, the events of another one."""
    events = read_json(task / "test.json")
    classes = sorted({event["label"] for clip in events.values() for event in clip})
    generator, scores = random.Random(0), []
    for _ in range(rounds):
        shift = generator.randrange(1, len(events))
        order = generator.sample(list(events), len(events))
        guess = {file: events[order[(i + shift) % len(order)]] for i, file in enumerate(order)}
        scores.append(event_scores(events, guess, classes, [ONSET]).scores[ONSET])
    return sum(scores) / len(scores)


def _percent(score: float) -> str:
    return "no events detected" if math.isnan(score) else f"{100 * score:.1f}"


def _write_table(path: Path, task: Path, folder: Path) -> None:
    records = [records.read_record(file) for file in sorted(folder.rglob("*hear*/*.json"))]
    rows = [
        (record.module, "untrained" * record.untrained, next(iter(record.scores.values())))
        for record in records
    ]
    rows.append(("chance (events of another scene)", "", chance_level(task)))
    lines = [
        f"# heareval on {task.name}: onset F (200 ms), %",
        "",
        "| module | | F |",
        "|---|---|---|",
        *(f"| {name} | {remark} | {_percent(score)} |" for name, remark, score in rows),
        "",
        "heareval with `--grid faster --grid-points 2`: a quick look, not a benchmark. The task is "
        "rendered from real sounds and is not DCASE 2016 task 2.",
    ]
    if any(remark for _, remark, _ in rows):
        lines.append(NOTE + ".")
    with atomic(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
