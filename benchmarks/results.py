"""The records in results/: `python benchmarks/results.py`.

Trains the stages of the demo with three seeds, renders `office`, `piano` and `home`, and scores
YAMNet, log-mel spectrograms and the stages on them; seed s of an evaluation starts from seed s of
the training. What is done is not done again.
"""

import argparse
from pathlib import Path

from eval_tasks import sweep, tasks
from eval_tasks.demo.stages import run_stages, trained_folder
from eval_tasks.request import Place
from hear_ptsed.files import write_json

NAME = "frame_mn02, soundscapes"
TRAINED_STAGES = ("weak", "strong", "strong_kd")
TASKS = [
    {"task": "office", "protocols": ["linear"]},
    {"task": "piano", "protocols": ["linear"]},
    {"task": "home", "protocols": ["weak-linear"]},
]


def describe_sweep(trained: Path, seed: int) -> dict:
    """The sweep of one seed."""
    folder = trained_folder(trained, True, seed).relative_to(Path.cwd())
    stages = [
        {
            "module": "checkpoint",
            "checkpoint": f"{folder}/{stage}/model.pt",
            "name": NAME,
            "stage": stage,
        }
        for stage in TRAINED_STAGES
    ]
    modules = ["yamnet", "eval_tasks.logmel", *stages]
    return {
        "tasks": TASKS,
        "modules": modules,
        "protocols": ["linear", "weak-linear"],
        "seeds": [seed],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    place = Place(tasks_dir=args.work / "tasks", results=args.out, work=args.work)
    for task in TASKS:
        tasks.prepare(task["task"], place.tasks_dir)
    for seed in args.seeds:
        run_stages(args.work / "trained", place.tasks_dir, seed=seed)
        path = args.work / f"seed{seed}.yaml"
        write_json(path, describe_sweep(args.work / "trained", seed))
        for entry in sweep.run_here(sweep.plan_sweep(path, place), args.jobs):
            print(f"{entry.state}: {entry.title} {entry.message}".rstrip(), flush=True)


if __name__ == "__main__":
    main()
