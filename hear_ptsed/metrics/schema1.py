"""Records of schema 1 (before December 2026) as records of schema 2.

Schema 1 told in sentences what are fields now: they are taken apart here and nowhere else. What is
not as schema 1 had it is kept as it came, for the check of schema 2 to tell.
"""

import hashlib
import json
import re
from pathlib import PurePath
from typing import Any

from hear_ptsed.errors import shown

PROTOCOLS = {  # mode, protocol -> protocol
    ("frozen", "hear"): "hear",
    ("frozen", "linear"): "linear",
    ("finetuned", "finetuned"): "finetuned",
    ("frozen", "desed-simple"): "weak-linear",
    ("finetuned", "desed-simple"): "weak-finetuned",
    ("frozen", "desed-baseline"): "mean-teacher",
}
TITLES = {
    "dcase2016_task2": "DCASE 2016 task 2",
    "maestro": "MAESTRO 5h",
    "desed": "DESED",
    "office": "Office (small)",
    "piano": "Piano (small)",
    "home": "Home (small)",
    "audioset_strong": "AudioSet Strong",
    "strong_labels": "Own strong labels",
}
_SCORER = re.compile(r"\b(sed_eval|sed_scores_eval) \d[\w.+!-]*")  # with its version
_NUMBER = r"(\d{1,18})"
_FOLDS = re.compile(rf"the first \d+ of {_NUMBER} folds only; ")
_MEAN = re.compile(r"mean of (\d+) folds, those without a value left out: ")
_DRAWS = re.compile(rf"{_NUMBER} resamples of {_NUMBER} clips \(names (\w+)\), seed {_NUMBER}")
_MEDIAN = re.compile(rf"(?:median filter of {_NUMBER} frames|not smoothed)")


def upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a record of schema 2."""
    values = dict(values)
    conventions = values.get("conventions")
    texts = _texts(conventions)
    mode, protocol = values.pop("mode", "without mode"), values.get("protocol")
    if isinstance(protocol, str):
        mode = mode if isinstance(mode, str) else shown(mode)
        values["protocol"] = PROTOCOLS.get((mode, protocol), f"{mode} {protocol}")
    scores, folds = values.get("scores"), values.get("folds")
    draws = {metric: _draws(text) for metric, text in texts.items()}
    partial = [int(match[1]) for text in texts.values() if (match := _FOLDS.search(text))]
    return values | {
        "schema": 2,
        "title": _title(values.get("task")),
        "primary": next(iter(scores), "") if isinstance(scores, dict) else "",
        "name": "",
        "conventions": conventions | {metric: _plain(text) for metric, text in texts.items()}
        if texts
        else conventions,
        "settings": {m: s for m, text in texts.items() if (s := _settings(text))},
        "draws": {metric: of_folds for metric, of_folds in draws.items() if of_folds},
        "folds_of": partial[0] if partial else len(folds) if isinstance(folds, list) else 0,
    }


def _texts(values: Any) -> dict[str, str]:
    return {k: v for k, v in values.items() if isinstance(v, str)} if type(values) is dict else {}


def _title(task: Any) -> Any:
    return TITLES.get(task, task) if isinstance(task, str) else task


def _plain(convention: str) -> str:
    """Without what is a field now."""
    text = _FOLDS.sub("", convention.partition("; bootstrap: ")[0])
    return _SCORER.sub(r"\1", _MEAN.sub("mean of folds, those without a value left out: ", text))


def _settings(convention: str) -> dict[str, Any]:
    """Of a metric: only PSDS had some."""
    if "sed_scores_eval" not in convention:
        return {}
    median = _MEDIAN.search(convention)
    return {"median_frames": int(median[1] or 1)} if median else {"convention": _plain(convention)}


def _draws(convention: str) -> list[dict[str, Any]]:
    """Of each fold."""
    return [
        {"resamples": int(resamples), "clips": int(clips), "names": names, "seed": int(seed)}
        for resamples, clips, names, seed in _DRAWS.findall(
            convention.partition("; bootstrap: ")[2]
        )
    ]


# What `python -m training evaluate --out` wrote before it wrote records.

METRICS = ("psds1_macro", "psds1", "pauroc", "map")  # the primary one first


def is_evaluation(values: Any) -> bool:
    """Whether a file is one: it has no schema, and these."""
    keys = {"checkpoint", "psds1_macro", "convention"}
    return isinstance(values, dict) and "schema" not in values and keys <= values.keys()


def upgrade_evaluation(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a record of schema 2, of protocol as-trained.

    Before it named its data, these are told apart by the numbers of clips, classes and events. When
    it was made was not written.
    """
    checkpoint, convention = values["checkpoint"], values["convention"]
    file = checkpoint.get("file") if isinstance(checkpoint, dict) else None
    texts = _texts(convention)
    counts = {key: values.get(key) for key in ("clips", "classes", "events")}
    data = values.get("data") or {"sha256": _digest(counts)}
    task = values.get("task", "strong_labels")
    scores = {metric: values[metric] for metric in METRICS if metric in values}
    settings = {
        "median_frames": convention.get("median_frames") if isinstance(convention, dict) else None,
        "durations": "whole" if "of whole clips" in texts.get("pauroc", "") else "heard",
        "head": "weak" if "weak head" in texts.get("scores", "") else "strong",
    }
    return {
        "schema": 2,
        "task": task,
        "title": _title(task),
        "primary": METRICS[0],
        "task_version": task,
        "task_sha256": data.get("sha256") if isinstance(data, dict) else data,
        "protocol": "as-trained",
        "module": file,
        "model": PurePath(file).stem if isinstance(file, str) else file,
        "stage": "",
        "name": "",
        "checkpoint": checkpoint,
        "untrained": False,
        "seed": None,
        "hyperparameters": {},
        "published_task": task == "audioset_strong",
        "coverage": _coverage(values.get("coverage")),
        "command": "python -m training evaluate",
        "identity": _digest([checkpoint, convention, counts, values["psds1_macro"], data]),
        "scores": scores,
        "per_class": _classes(values.get("per_class")),
        "ci95": values.get("ci95"),
        "replicates": {},
        "draws": {},
        "conventions": {metric: texts.get(metric, "not told") for metric in scores},
        "settings": dict.fromkeys(scores, settings),
        "cost": {},
        "clips": values.get("clips"),
        "folds": [],
        "folds_of": 0,
        "seconds": 0,
        "software": values.get("software", {}),
        "hardware": {"device": values.get("device")},
        "commit": None,
        "started": "1970-01-01",
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _classes(rows: Any) -> Any:
    """Class -> metric -> value, where the average precision of a class was called ap."""
    if not isinstance(rows, dict):
        return rows
    return {
        name: {("map" if key == "ap" else key): value for key, value in row.items()}
        if isinstance(row, dict)
        else row
        for name, row in rows.items()
    }


def _coverage(reports: Any) -> Any:
    """The reports of the annotations in words; None if nothing is missing."""
    if not isinstance(reports, list):
        return f"unknown: {shown(reports)}"
    texts = []
    for report in reports:
        if not isinstance(report, dict) or not {"expected", "found"} <= report.keys():
            texts.append(f"unknown: {shown(report)}")
            continue
        unreadable = report.get("unreadable") or ()
        lost = len(unreadable) if isinstance(unreadable, dict | list) else 0
        if report["found"] != report["expected"] or lost:
            of = f"{shown(report['found'])} of {shown(report['expected'])} clips there"
            texts.append(f"{of}, {lost} of them unreadable")
    return "; ".join(texts)[:1000] or None
