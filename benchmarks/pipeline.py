"""Stages of the small training pipeline over several seeds: `python benchmarks/pipeline.py`.

Runs the training of `python -m eval_tasks demo` once per seed on one corpus (what is done is
kept) and prints scores of each stage as mean and 95 % t-interval over the seeds, and differences
between stages, paired by seed. Scores in %; the last column lists the seeds' own PSDS1 of all
classes.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

from scipy import stats

from eval_tasks.demo.stages import STAGES, run_stages

DIFFERENCES = (
    ("weak", "scratch"),
    ("strong", "weak"),
    ("strong_kd", "strong"),
    ("teacher_a", "strong"),
)
COLUMNS: dict[str, Callable[[dict], float]] = {
    "PSDS1 macro": lambda r: r["psds1_macro"],
    "of classes with new sources": lambda r: r["groups"]["new sources"]["psds1_macro"],
    "of classes with shared sources": lambda r: r["groups"]["shared sources"]["psds1_macro"],
    "segment pAUROC": lambda r: r["pauroc"],
    "clip mAP": lambda r: r["map"],
}


def interval(values: list[float]) -> str:
    """Mean and 95 % t-interval, in %."""
    mean = 100 * statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.1f}"
    spread = 100 * statistics.stdev(values) / len(values) ** 0.5
    half = stats.t.ppf(0.975, len(values) - 1) * spread
    return f"{mean:.1f} ({mean - half:.1f} to {mean + half:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("work/pipeline"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    tasks = args.out / "tasks"
    runs = [run_stages(args.out, tasks, quick=args.quick, seed=seed) for seed in args.seeds]

    print(f"| stage | {' | '.join(COLUMNS)} | seeds |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    rows = [(name, name, None) for name in STAGES]
    rows += [(f"{better} - {worse}", better, worse) for better, worse in DIFFERENCES]
    for title, stage, less in rows:
        cells = []
        for score in COLUMNS.values():
            values = [score(run[stage]) - (score(run[less]) if less else 0) for run in runs]
            cells.append((interval(values), ", ".join(f"{100 * value:.1f}" for value in values)))
        print(f"| {title} | {' | '.join(text for text, _ in cells)} | {cells[0][1]} |")
    first = runs[0]["scratch"]
    print(f"\n{first['clips']} clips and {first['classes']} classes scored")


if __name__ == "__main__":
    main()
