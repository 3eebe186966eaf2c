"""Evaluations of the demo on the small task `office`: of several plug-ins, and of trained stages.

Models whose checkpoint is not on this machine run with random weights and are called untrained
everywhere.
"""

from collections.abc import Sequence
from pathlib import Path

from eval_tasks import sweep
from eval_tasks.demo import steps
from eval_tasks.request import Place
from hear_ptsed import list_models
from hear_ptsed.files import write_json

MODULES = (
    "hear_ptsed.plugins.yamnet",
    "eval_tasks.logmel",
    "hear_ptsed.plugins.atst_frame_strong",
    "hear_ptsed.plugins.beats_strong",
    "hear_ptsed.plugins.frame_mn10_strong",
)
SCORED_STAGES = ("scratch", "weak", "strong", "strong_kd")


def evaluate_modules(out: Path, task: Path) -> None:
    """Put plug-ins through hear-validator and heareval, and draw what YAMNet hears.

    Args:
        task: folder of `office`, in `out`/tasks.
    """
    cached = {row.module: row.cached for row in list_models()}
    modules = [{"module": name, "untrained": not cached.get(name, True)} for name in MODULES]
    planned = _plan(out, "modules", modules, protocol="hear", grid="faster", grid_points=2)
    for entry in planned:
        if entry.state == "planned":
            module, flag = entry.request.module, ["--untrained"] * entry.request.untrained
            steps.run_step(out, f"validate {module}", ["eval_tasks", "validate", module, *flag])
    _evaluate(planned)
    scene = sorted((task / "16000" / "test").glob("*.wav"))[-1]
    command = ["hear_ptsed.cli", "detect", str(scene), "--model", "yamnet", "--plot"]
    command += ["--threshold", "0.3", "--out", "detections"]
    steps.run_step(out, "detect", command, done=f"detections/{scene.stem}.png")
    print(f"detections: {out / 'detections' / scene.stem}.png and .tsv")


def evaluate_stages(out: Path, trained: Path, seed: int) -> None:
    """Score the stages that were trained, in a folder each, with a linear layer on `office`."""
    modules = [
        {"module": "checkpoint", "checkpoint": str(trained / stage / "model.pt"), "stage": stage}
        for stage in SCORED_STAGES
    ]
    _evaluate(_plan(out, "stages", modules, protocol="linear", seeds=[seed]))


def _plan(
    out: Path, name: str, modules: list[dict], seeds: Sequence[int] = (0,), **protocol: str | int
) -> list[sweep.PlannedRun]:
    """Write a sweep of modules on `office` into OUT/NAME.yaml; its evaluations."""
    path = out / f"{name}.yaml"  # of which JSON is a part
    wanted = {
        "tasks": ["office"],
        "modules": modules,
        "protocols": [protocol],
        "seeds": list(seeds),
    }
    write_json(path, wanted)
    place = Place(tasks_dir=out / "tasks", results=out / "results", work=out / "work")
    return sweep.plan_sweep(path, place)


def _evaluate(planned: list[sweep.PlannedRun]) -> None:
    for entry in sweep.run_here(planned):
        if entry.state == "failed":
            raise RuntimeError(f"{entry.title} failed: {entry.message}")
        print(f"{entry.state}: {entry.title}", flush=True)
