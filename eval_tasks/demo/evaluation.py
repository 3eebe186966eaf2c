"""`python -m eval_tasks demo`: the whole chain on a small task of real sounds.

Renders `office`, puts plug-ins through hear-validator and heareval, prints a table of scores and
draws what YAMNet hears in one test scene. Models whose checkpoint is not on this machine run with
random weights and are called untrained everywhere. With --stages, what a training demo made is
scored on frozen embeddings, too. All records stay in OUT/results.
"""

import json
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from dcase_util.containers import MetaDataContainer
from sed_eval.sound_event import EventBasedMetrics

from eval_tasks import results, small
from hear_ptsed import list_models
from hear_ptsed.files import atomic

PLUGINS = "hear_ptsed.plugins."
MODULES = ("atst_frame_strong", "beats_strong", "frame_mn10_strong")
BASELINES = (PLUGINS + "yamnet", "eval_tasks.logmel")
STAGES = ("scratch", "weak", "strong", "strong_kd")
NOTE = "untrained: random weights, because the released checkpoint is not on this machine"


def main(out: Path) -> None:
    """Run everything that is not done yet; all of it stays in `out`."""
    started = time.monotonic()
    out = Path(out).absolute()
    task = small.prepare("office", out / "tasks")
    print(f"{task.name}: {_task_line(task)}")

    cached = {row.module: row.cached for row in list_models()}
    modules = {name: True for name in BASELINES}
    modules |= {PLUGINS + name: cached[PLUGINS + name] for name in MODULES}
    for module, trained in modules.items():
        flag = [] if trained else ["--untrained"]
        _run(out, f"validate {module}", ["validate", module, *flag])
    hear = ["--protocol", "hear", "--grid", "faster", "--grid-points", "2"]
    for module, trained in modules.items():
        flag = [] if trained else ["--untrained"]
        _evaluate(out, f"heareval on {module}", ["--module", module, *hear, *flag])
    _write_table(out / "scores.md", task, out / "results")
    print((out / "scores.md").read_text(encoding="utf-8"))

    scene = sorted((task / "16000" / "test").glob("*.wav"))[-1]
    command = [str(scene), "--model", "yamnet", "--plot", "--threshold", "0.3"]
    _run(out, "detect", ["detect", *command, "--out", str(out / "detections")], "hear_ptsed.cli")
    print(f"detections: {out / 'detections' / scene.stem}.png and .tsv")
    print(f"done in {time.monotonic() - started:.0f} s; everything is in {out}")


def stages(out: Path, trained: Path) -> None:
    """Score the stages that `python -m training demo` left in a folder, on frozen embeddings."""
    out, trained = Path(out).absolute(), Path(trained).absolute()
    small.prepare("office", out / "tasks")
    for stage in STAGES:
        file = ["--checkpoint", str(trained / stage / "model.pt"), "--stage", stage]
        _evaluate(out, f"linear layer on {stage}", ["--module", "checkpoint", *file])


def _evaluate(out: Path, title: str, options: list[str]) -> None:
    """One frozen evaluation on `office`; a finished record is kept."""
    _run(out, title, ["run", "--task", "office", "--mode", "frozen", "--quiet", *options])


def _task_line(task: Path) -> str:
    metadata = json.loads((task / "task_metadata.json").read_text(encoding="utf-8"))
    counts = {s: len(json.loads((task / f"{s}.json").read_text())) for s in metadata["splits"]}
    files = ", ".join(f"{count} {split}" for split, count in counts.items())
    classes = len((task / "labelvocabulary.csv").read_text().splitlines()) - 1
    return f"{files} scenes of {metadata['sample_duration']:g} s, {classes} classes (real sounds)"


def chance_level(task: Path, rounds: int = 20) -> float:
    """Mean onset F of guessing, for each test scene, the events of another one."""
    events = json.loads((task / "test.json").read_text(encoding="utf-8"))
    labels = sorted({event["label"] for clip in events.values() for event in clip})
    generator, files = random.Random(0), list(events)
    scores = []
    for _ in range(rounds):
        metric = EventBasedMetrics(labels, evaluate_offset=False, t_collar=0.2)
        shift = generator.randrange(1, len(files))
        guess = generator.sample(files, len(files))
        for i, name in enumerate(guess):
            other = guess[(i + shift) % len(guess)]
            metric.evaluate(_sed_eval(events[name], name), _sed_eval(events[other], name))
        scores.append(metric.results_overall_metrics()["f_measure"]["f_measure"])
    return sum(scores) / len(scores)


def _sed_eval(events: list[dict], file: str) -> MetaDataContainer:
    return MetaDataContainer(
        [
            {
                "event_label": event["label"],
                "onset": event["start"] / 1000,
                "offset": event["end"] / 1000,
                "file": file,
            }
            for event in events
        ]
    )


def _run(out: Path, title: str, arguments: list[str], program: str = "eval_tasks") -> None:
    """Run `python -m …` with its output in a log file; print one line."""
    log = out / "logs" / (title.replace(" ", "-") + ".txt")
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    print(f"{title} … ", end="", flush=True)
    with log.open("w", encoding="utf-8") as file:
        command = [sys.executable, "-m", program, *arguments]
        # Threads that wait without spinning: on a busy machine spinning ones slow down all others.
        settings = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
        done = subprocess.run(command, stdout=file, stderr=file, cwd=out, env=settings)
    if done.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"{title} failed: {' '.join(last)} (all output: {log})")
    print(f"{time.monotonic() - started:.0f} s", flush=True)


def _percent(score: float) -> str:
    return "no events detected" if math.isnan(score) else f"{100 * score:.1f}"


def _write_table(path: Path, task: Path, folder: Path) -> None:
    records = [results.read(file) for file in sorted(folder.rglob("*hear*/*.json"))]
    rows = [
        (one.module, "untrained" if one.untrained else "", next(iter(one.scores.values())))
        for one in records
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
