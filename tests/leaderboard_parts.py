"""Result files for tests of the leaderboards, as the suite, heareval and training write them."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from hear_ptsed.metrics import records
from hear_ptsed.metrics.records import Record
from leaderboards.collect import collect

DRAWN = {"seed": 0, "clips": 40, "names": "0123456789ab"}
F200 = (
    "sed_eval EventBasedMetrics(evaluate_offset=False, t_collar=0.2) as in heareval 2021.1.3:"
    " F-score over all events (micro average), optimal matching, 11 classes; NaN where undefined"
)
ER = (
    "sed_eval SegmentBasedMetrics(time_resolution=1.0) as in heareval 2021.1.3: error rate, "
    "lower is better; over all segments and classes (micro average), 11 classes; NaN where "
    "undefined"
)
VERSIONS = {
    "dcase2016_task2": "dcase2016_task2-hear2021-full",
    "maestro": "maestro-v3.0.0-5h",
    "office": "office-v1-demo",
    "home": "home-v1-demo",
}
TITLES = {"dcase2016_task2": "DCASE 2016 task 2", "maestro": "MAESTRO 5h"}
TITLES |= {"office": "Office (small)", "home": "Home (small)"}


def digest(*what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()


def record(
    model: str = "beats",
    stage: str = "strong",
    seed: int = 0,
    f: float = 0.8,
    er: float = 0.4,
    task: str = "dcase2016_task2",
    resamples: int = 100,
    classes: int = 11,
    **changes: object,
) -> Record:
    """A record with replicates around its scores: equal noise in all, plus noise of its own."""
    shared = np.random.default_rng(5).normal(0, 0.02, resamples)
    own = np.random.default_rng(int(digest(model, stage, seed)[:8], 16)).normal(0, 0.005, resamples)
    noise = shared + own
    if resamples:
        noise -= noise.mean()
    scores = {"event_onset_200ms_fms": f, "segment_1s_er": er}
    replicates = {
        "event_onset_200ms_fms": np.clip(f + noise, 0, 1).tolist(),
        "segment_1s_er": np.clip(er - noise, 0, None).tolist(),
    }
    draws = [{"resamples": resamples, **DRAWN}] if resamples else []
    ends = {m: np.percentile(v, (2.5, 97.5)).tolist() for m, v in replicates.items() if v}
    places = [k / 10 for k in range(1, 10)]
    half = [1 - abs(place - 0.5) for place in places]  # 1 at 0.5
    curve = {"threshold": places, "f_measure": [f * h for h in half]}
    curve |= {"precision": [0.9 * p for p in places], "recall": [1 - p for p in places]}
    made = Record(
        task=task,
        title=TITLES.get(task, task),
        primary="event_onset_200ms_fms",
        task_version=VERSIONS.get(task, f"{task}-v1"),
        task_sha256=digest(task),
        protocol="linear",
        module=f"hear_ptsed.plugins.{model}_{stage}",
        model=model,
        stage=stage,
        name="",
        checkpoint={"file": f"{model}_{stage}.pt", "sha256": digest(model, stage)},
        untrained=False,
        seed=seed,
        scores=scores,
        per_class={
            f"class {k}": {"event_onset_200ms_fms": f, "segment_1s_er": er, "events": 10.0 + k}
            for k in range(classes)
        },
        ci95={metric: (low, high) for metric, (low, high) in ends.items()},
        replicates={metric: values for metric, values in replicates.items() if values},
        draws={metric: draws for metric in scores if draws},
        conventions={"event_onset_200ms_fms": F200, "segment_1s_er": ER},
        settings={},
        hyperparameters={"optim": {"name": "adam", "lr": 0.2, "epochs": 500.0}},
        cost={"parameters": 9e7, "seconds_per_minute": 1.5},
        clips=40,
        published_task=task not in ("office", "home"),
        coverage=None,
        folds=[],
        folds_of=0,
        seconds=123.4,
        software={"python": "3.11.9", "torch": "2.11.0"},
        hardware={"device": "cpu", "cores": 2},
        commit="0123456789abcdef0123456789abcdef01234567",
        command=f"python -m eval_tasks run --task {task} --module {model}_{stage}",
        started="2026-05-04T03:02:01+00:00",
        identity=digest(model, stage, seed, task, sorted(changes)),
        curves={"event_onset_200ms_fms": curve},
    )
    return replace(made, **changes)


def write(folder: Path, made: Record) -> Path:
    """Where `python -m eval_tasks run` would write it."""
    path = records.record_path(folder, made)
    records.write_record(made, path)
    return path


def write_raw(path: Path, made: Record, **changes: object) -> Path:
    """A record's file with values that `Record` would not have."""
    records.write_record(made, path)
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def write_schema1(path: Path, made: Record, scorer: str = "sed_eval 0.2.1") -> Path:
    """The same as it was written before December 2026, with a release of what scored it."""
    values = json.loads(write_raw(path, made).read_text(encoding="utf-8"))
    for key in ("title", "primary", "name", "settings", "folds_of"):
        del values[key]
    for metric, draws in values.pop("draws").items():
        drawn = "{resamples} resamples of {clips} clips (names {names}), seed {seed}"
        texts = " and ".join(drawn.format(**part) for part in draws)
        text = values["conventions"][metric].replace("sed_eval", scorer)
        values["conventions"][metric] = f"{text}; bootstrap: {texts}"
    how = {"weak-linear": "frozen desed-simple", "finetuned": "finetuned finetuned"}
    how = how.get(made.protocol, f"frozen {made.protocol}").split()
    values |= {"schema": 1, "mode": how[0], "protocol": how[1]}
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def evaluation(classes: list[str], clips: int | None = None, **changes: object) -> dict:
    """What `python -m training evaluate --out` wrote before it wrote records."""
    row = {"psds1": 0.4, "pauroc": 0.5, "ap": 0.6, "events": 1}
    scores = {"psds1": 0.3, "psds1_macro": 0.4, "pauroc": 0.5, "map": 0.6}
    values = {
        "checkpoint": {"file": "BEATs_strong_1.pt", "sha256": digest(1)},
        "device": "cpu",
        **scores,
        "per_class": {name: row for name in classes},
        "ci95": {metric: [score - 0.1, score + 0.1] for metric, score in scores.items()},
        "clips": clips or len(classes),
        "clips_without_events": 0,
        "classes": len(classes),
        "events": len(classes),
        "convention": {metric: f"in words {metric}" for metric in scores} | {"median_frames": 9},
        "coverage": [],
    }
    return values | changes


def as_trained(classes: list[str], **changes: object) -> Record:
    """What `python -m training evaluate --out` writes."""
    made = record("BEATs_strong_1", "", None, resamples=0)
    scores = {"psds1": 0.3, "psds1_macro": 0.4}
    values = {
        **{"task": "strong_labels", "task_version": "strong_labels", "title": "Own strong labels"},
        **{"primary": "psds1_macro", "protocol": "as-trained", "module": "BEATs_strong_1.pt"},
        **{"scores": scores, "published_task": False, "hyperparameters": {}, "curves": {}},
        **{"per_class": {name: {"psds1": 0.4, "events": 1.0} for name in classes}},
        **{"conventions": dict.fromkeys(scores, "in words"), "clips": len(classes)},
        **{"settings": dict.fromkeys(scores, {"median_frames": 9, "head": "strong"})},
    }
    return replace(made, **values | changes)


def write_heareval(
    folder: Path, module: str = "hear_ptsed.plugins.m2d_weak", score: str = "0.71", folds: int = 0
) -> Path:
    """An embedding task folder as heareval 2021.1.3 leaves it; scores may be its NaN."""
    task = "maestro" if folds else "dcase2016_task2"
    metric = "event_onset_50ms_fms" if folds else "event_onset_200ms_fms"
    at = folder / module / VERSIONS[task]
    at.mkdir(parents=True)
    name, version, mode = VERSIONS[task].split("-")
    metadata = {"task_name": name, "version": version, "mode": mode, "evaluation": [metric]}
    (at / "task_metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    (at / "test.filename-timestamps.json").write_text("[]", encoding="utf-8")
    own = f'{{"test_loss": 0.5, "test_score": {score}, "test_{metric}": {score}}}'
    parts = {f"fold{i:02d}": own for i in range(folds)} or {"test": own}
    if folds:
        parts["aggregated_scores"] = f'{{"test_{metric}_mean": {score}, "test_{metric}_std": 0.01}}'
    body = ", ".join(f'"{key}": {value}' for key, value in parts.items())
    hparams = '{"lr": 0.001, "initialization": "<function xavier_uniform_ at 0x7f00>"}'
    (at / "test.predicted-scores.json").write_text(
        f'{{{body}, "hparams": {hparams}, "embedding_path": "/somewhere"}}', encoding="utf-8"
    )
    return at


def rejected(folder: Path) -> tuple[str, str]:
    """File and reason of the only bad file; the good record is there."""
    results = collect([folder], figures=False)
    assert [entry.model for entry in results.entries] == ["beats"]
    (bad,) = results.rejected
    assert len(bad.reason) <= 301 and "\n" not in bad.file + bad.reason
    assert (bad.file + bad.reason).isprintable()
    return bad.file, bad.reason
