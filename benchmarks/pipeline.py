"""Stages of the small training pipeline over several seeds: `python benchmarks/pipeline.py`.

Runs `training.demo` once per seed on one corpus (what is done already is kept) and prints PSDS1 of
each stage as mean and 95 % t-interval over the seeds, and the differences between stages, paired by
seed.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
from scipy import stats

from training.demo import STAGES, demo

DIFFERENCES = (
    ("weak", "scratch"),
    ("strong", "weak"),
    ("strong_kd", "strong"),
    ("strong_kd", "teacher_a"),
)


def interval(values: list[float]) -> str:
    """Mean and 95 % t-interval."""
    mean = statistics.mean(values)
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.1f} ({mean - half:.1f} to {mean + half:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("work/pipeline"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    runs = [demo(args.out, quick=args.quick, seed=seed) for seed in range(args.seeds)]

    def score(run: dict, stage: str, group: str | None) -> float:
        if group is None:
            return 100 * run[stage]["psds1_macro"]
        return 100 * run[stage]["groups"][group]["psds1_macro"]

    groups = [None, *runs[0]["scratch"]["groups"]]
    print("| stage | " + " | ".join(group or "all classes" for group in groups) + " | seeds |")
    print("|---" * (len(groups) + 2) + "|")
    for stage in STAGES:
        columns = [interval([score(run, stage, g) for run in runs]) for g in groups]
        seeds = ", ".join(f"{score(run, stage, None):.1f}" for run in runs)
        print(f"| {stage} | {' | '.join(columns)} | {seeds} |")
    for better, worse in DIFFERENCES:
        columns = [
            interval([score(run, better, g) - score(run, worse, g) for run in runs]) for g in groups
        ]
        seeds = ", ".join(
            f"{score(run, better, None) - score(run, worse, None):+.1f}" for run in runs
        )
        print(f"| {better} - {worse} | {' | '.join(columns)} | {seeds} |")
    counts = {np.shape(list(run["scratch"]["per_class"]))[0] for run in runs}
    print(f"{runs[0]['scratch']['clips']} clips, {counts.pop()} classes scored")


if __name__ == "__main__":
    main()
