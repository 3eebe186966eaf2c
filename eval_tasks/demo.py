"""`python -m eval_tasks demo`: the whole chain on a small task of real sounds.

Renders `office`, puts plug-ins through hear-validator and heareval, prints a table of scores and
draws what YAMNet hears in one test scene. Models whose checkpoint is not on this machine run with
random weights and are called untrained everywhere.
"""

import json
import math
import random
import subprocess
import sys
import time
from pathlib import Path

from dcase_util.containers import MetaDataContainer
from sed_eval.sound_event import EventBasedMetrics

from eval_tasks import hear_tools, small
from hear_ptsed import list_models
from hear_ptsed.files import atomic

PLUGINS = "hear_ptsed.plugins."
MODULES = ("atst_frame_strong", "beats_strong", "frame_mn10_strong")
BASELINES = (PLUGINS + "yamnet", "eval_tasks.logmel")
NOTE = "untrained: random weights, because the released checkpoint is not on this machine"


def main(out: Path) -> None:
    """Run everything that is not done yet; results stay in `out`."""
    started = time.monotonic()
    out = Path(out).absolute()
    task = small.prepare("office", out / "tasks")
    print(f"{task.name}: {_task_line(task)}")

    cached = {row.module: row.cached for row in list_models()}
    modules = {name: True for name in BASELINES}
    modules |= {PLUGINS + name: cached[PLUGINS + name] for name in MODULES}
    for module, trained in modules.items():
        flag = [] if trained else ["--untrained"]
        _run(out, f"validate {module}", ["eval_tasks", "validate", module, *flag])
    rows = [_score(out, task, module, trained) for module, trained in modules.items()]
    chance = chance_level(task)
    rows.append(("chance (events of another scene)", "", chance))
    _write_table(out / "scores.md", task, rows)
    print((out / "scores.md").read_text(encoding="utf-8"))

    scene = sorted((task / "16000" / "test").glob("*.wav"))[-1]
    command = ["hear_ptsed.cli", "detect", str(scene), "--model", "yamnet", "--plot"]
    _run(out, "detect", [*command, "--threshold", "0.3", "--out", str(out / "detections")])
    print(f"detections: {out / 'detections' / scene.stem}.png and .tsv")
    print(f"done in {time.monotonic() - started:.0f} s; everything is in {out}")


def _task_line(task: Path) -> str:
    metadata = json.loads((task / "task_metadata.json").read_text(encoding="utf-8"))
    counts = {s: len(json.loads((task / f"{s}.json").read_text())) for s in metadata["splits"]}
    files = ", ".join(f"{count} {split}" for split, count in counts.items())
    classes = len((task / "labelvocabulary.csv").read_text().splitlines()) - 1
    return f"{files} scenes of {metadata['sample_duration']:g} s, {classes} classes (real sounds)"


def _score(out: Path, task: Path, module: str, trained: bool) -> tuple[str, str, float]:
    """Embed the task and train heareval's classifier: module, remark, score."""
    options = [] if trained else ["--model-options", '{"untrained": true}']
    folder = module + ("" if trained else "-untrained=true")
    embeddings = out / "embeddings"
    _run(
        out,
        f"embed {module}",
        ["eval_tasks", "heareval", "embeddings", module, "--tasks-dir", str(task.parent)]
        + ["--task", task.name, "--embeddings-dir", str(embeddings), *options],
    )
    results = embeddings / folder / task.name
    _run(
        out,
        f"train on {module}",
        ["eval_tasks", "heareval", "predictions", str(results), "--grid", "faster"]
        + ["--grid-points", "2"],
    )
    return module, "" if trained else "untrained", hear_tools.scores(results)["score"]


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


def _run(out: Path, title: str, arguments: list[str]) -> None:
    """Run `python -m …` with its output in a log file; print one line."""
    log = out / "logs" / (title.replace(" ", "-") + ".txt")
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    print(f"{title} … ", end="", flush=True)
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run([sys.executable, "-m", *arguments], stdout=file, stderr=file, cwd=out)
    if done.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"{title} failed: {' '.join(last)} (all output: {log})")
    print(f"{time.monotonic() - started:.0f} s", flush=True)


def _percent(score: float) -> str:
    return "no events detected" if math.isnan(score) else f"{100 * score:.1f}"


def _write_table(path: Path, task: Path, rows: list[tuple[str, str, float]]) -> None:
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
