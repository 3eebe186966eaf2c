"""What each training stage brings downstream: `python benchmarks/stages.py`.

The stages that benchmarks/pipeline.py (or `python -m eval_tasks demo --full`) trained, for each
seed, on the small tasks `office`, `piano` and `home`, frozen (linear layer) and fine-tuned; seed s
of the evaluation starts from seed s of the pipeline. Prints the primary score of each as mean and
95 % t-interval over the seeds, and differences paired by seed, in %. A run that finds no event
counts as 0. Finished runs are kept.
"""

import argparse
import math
import statistics
import subprocess
import sys
from itertools import product
from pathlib import Path

import yaml
from pipeline import interval

from hear_ptsed.metrics import records

STAGES = ("scratch", "weak", "strong", "strong_kd")
PLAIN, WEAK = ("linear", "finetuned"), ("weak-linear", "weak-finetuned")
TASKS = (
    {"task": "office", "protocols": PLAIN},
    {"task": "piano", "folds": 1, "protocols": PLAIN},
    {"task": "home", "protocols": WEAK},
)
PROTOCOLS = (*PLAIN, *WEAK)
DIFFERENCES = (("weak", "scratch"), ("strong", "weak"), ("strong_kd", "strong"))


def sweep(pipeline: Path, seed: int, stages: list[str]) -> dict:
    """The sweep of one seed."""
    modules = [
        {
            "module": "checkpoint",
            "checkpoint": str(pipeline / f"seed{seed}" / stage / "model.pt"),
            "stage": stage,
        }
        for stage in stages
    ]
    return {"tasks": list(TASKS), "modules": modules, "protocols": list(PROTOCOLS), "seeds": [seed]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", type=Path, default=Path("work/pipeline/full"))
    parser.add_argument("--out", type=Path, default=Path("work/stages"))
    parser.add_argument("--tasks-dir", type=Path, default=Path("tasks"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--stages", nargs="+", default=list(STAGES))
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        path = args.out / f"seed{seed}.yaml"
        path.write_text(yaml.safe_dump(sweep(args.pipeline, seed, args.stages), sort_keys=False))
        command = ["-m", "eval_tasks", "sweep", str(path), "--jobs", str(args.jobs)]
        command += ["--tasks-dir", str(args.tasks_dir), "--results", str(args.out / "results")]
        subprocess.run([sys.executable, *command, "--work", str(args.out / "work")], check=False)
    report(args.out / "results")


def report(folder: Path) -> None:
    """The table of all finished records."""
    scores: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for path in sorted(folder.rglob("*.json")):
        record = records.read_record(path)
        value = next(iter(record.scores.values()))
        value = 0.0 if math.isnan(value) else value  # no event came out: F is not defined
        how = "fine-tuned" if record.protocol.endswith("finetuned") else "frozen"
        of_stage = scores.setdefault((record.task, how), {}).setdefault(record.stage, {})
        of_stage[record.seed] = value
    columns = sorted(scores)
    print("| | " + " | ".join(f"{task}, {how}" for task, how in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for stage in STAGES:
        cells = [_cell(list(scores[c].get(stage, {}).values())) for c in columns]
        print(f"| {stage} | {' | '.join(cells)} |")
    for better, worse in DIFFERENCES:
        cells = [_cell(_paired(scores[c], better, worse)) for c in columns]
        print(f"| {better} - {worse} | {' | '.join(cells)} |")
    tasks = sorted({task for task, _ in columns})
    print("\nFine-tuned less frozen, all stages and seeds:")
    for task in tasks:
        pairs = [
            scores[task, "fine-tuned"][stage][seed] - scores[task, "frozen"][stage][seed]
            for stage, seed in product(STAGES, range(100))
            if seed in scores.get((task, "fine-tuned"), {}).get(stage, {})
            and seed in scores.get((task, "frozen"), {}).get(stage, {})
        ]
        if pairs:
            print(f"- {task}: {100 * statistics.mean(pairs):+.1f} in {len(pairs)} pairs")


def _paired(of_stage: dict[str, dict[int, float]], better: str, worse: str) -> list[float]:
    a, b = of_stage.get(better, {}), of_stage.get(worse, {})
    return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


def _cell(values: list[float]) -> str:
    return interval(values) if values else ""


if __name__ == "__main__":
    main()
