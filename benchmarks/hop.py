"""Embeddings every 40, 20 and 10 ms on `piano` and `office`: `python benchmarks/hop.py`.

Log-mel spectrograms, and the strong stages of the demo if --trained names their folder, as
`benchmarks/results.py` leaves it (WORK/trained/quick): seed s of an evaluation starts from seed s
of the training. All differ by nothing but the hop. An interval is over test clips, of the
difference to 40 ms in the same clips, mean over the seeds. What is done is not done again.
"""

import argparse
from pathlib import Path

import numpy as np

from eval_tasks import tasks
from eval_tasks.plan import plan_run
from eval_tasks.request import Request
from eval_tasks.run import execute
from hear_ptsed.metrics.catalogue import METRICS
from hear_ptsed.metrics.records import Record

HOPS = [40, 20, 10]  # the first one is what the others are compared with
TASKS = ["piano", "office"]


def measured(task: str, module: str, seed: int, hop: int, args: argparse.Namespace) -> Record:
    checkpoint = args.trained and args.trained / f"seed{seed}" / "strong" / "model.pt"
    request = Request(
        task=task,
        module=module,
        checkpoint=checkpoint if module == "checkpoint" else None,
        stage="strong" if module == "checkpoint" else "",
        protocol=args.protocol,
        hop=hop,
        set=() if args.protocol == "hear" else tuple(args.set),
        folds=None if args.protocol == "hear" else args.folds,
        seed=None if args.protocol == "hear" else seed,
        tasks_dir=args.work / "tasks",
        results=args.work / "results",
        work=args.work,
    )
    return execute(plan_run(request), progress=False)


def difference(records: list[Record], plain: list[Record], metric: str) -> str:
    """To other records of the same seeds, in points of 100, with the 95 % interval."""
    pairs = list(zip(records, plain, strict=True))
    points = 100 * np.mean([a.scores[metric] - b.scores[metric] for a, b in pairs])
    resampled = [np.subtract(a.replicates[metric], b.replicates[metric]) for a, b in pairs]
    low, high = np.percentile(100 * np.mean(resampled, 0), [2.5, 97.5])
    return f"{points:+.1f} ({low:+.1f} to {high:+.1f})"


def table(task: str, modules: list[str], args: argparse.Namespace) -> None:
    metrics = [m for m in tasks.find_task(task).metrics if METRICS[m].curve]
    names = [METRICS[metric].title for metric in metrics]
    heads = [text for name in names for text in (f"{name}, %", "to 40 ms")]
    print(f"| {task}: module | hop, ms | {' | '.join(heads)} | s per minute of audio |")
    print("|---" * (len(heads) + 3) + "|")
    seeds = args.seeds[:1] if args.protocol == "hear" else args.seeds
    for module in modules:
        plain: list[Record] = []
        for hop in args.hops:
            records = [measured(task, module, seed, hop, args) for seed in seeds]
            plain = plain or records
            cells = []
            for metric in metrics:
                cells.append(f"{100 * np.mean([r.scores[metric] for r in records]):.1f}")
                cells.append(difference(records, plain, metric) if records is not plain else "")
            speed = np.median([r.cost["seconds_per_minute"] for r in records])
            print(f"| {module} | {hop} | {' | '.join(cells)} | {speed:.2f} |", flush=True)
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--trained", type=Path)
    parser.add_argument("--protocol", choices=["linear", "hear"], default="linear")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--hops", type=int, nargs="+", default=HOPS)
    parser.add_argument("--folds", type=int, help="of piano, to test on")
    parser.add_argument("--set", nargs="+", default=[], help="numbers of the recipe")
    args = parser.parse_args()
    modules = ["eval_tasks.logmel", *(["checkpoint"] if args.trained else [])]
    for task in args.tasks:
        tasks.prepare(task, args.work / "tasks")
        table(task, modules, args)


if __name__ == "__main__":
    main()
