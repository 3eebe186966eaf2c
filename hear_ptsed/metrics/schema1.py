"""Records of schema 1 (before December 2026) as records of schema 2.

Schema 1 told in sentences what are fields now: they are taken apart here and nowhere else.
"""

import re
from typing import Any

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
}
_SCORER = re.compile(r"\b(sed_eval|sed_scores_eval) \d[\w.+!-]*")  # with its version
_FOLDS = re.compile(r"the first \d+ of (\d+) folds only; ")
_MEAN = re.compile(r"mean of (\d+) folds, those without a value left out: ")
_DRAWS = re.compile(r"(\d+) resamples of (\d+) clips \(names (\w+)\), seed (\d+)")
_MEDIAN = re.compile(r"(?:median filter of (\d+) frames|not smoothed)")


def upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a record of schema 2; what is not as schema 1 had it is kept as it came."""
    values = dict(values)
    told = values.get("conventions")
    texts = {m: t for m, t in told.items() if isinstance(t, str)} if isinstance(told, dict) else {}
    how = values.pop("mode", None), values.get("protocol")
    scores = values.get("scores")
    folds = values.get("folds")
    return values | {
        "schema": 2,
        "title": TITLES.get(values.get("task"), values.get("task")),
        "primary": next(iter(scores), "") if isinstance(scores, dict) else "",
        "name": "",
        "protocol": PROTOCOLS.get(how, " ".join(map(str, how))),
        "conventions": told | {m: _text(t) for m, t in texts.items()} if texts else told,
        "settings": {metric: _settings(text) for metric, text in texts.items()},
        "draws": {metric: _draws(text) for metric, text in texts.items() if _draws(text)},
        "folds_of": _folds_of(texts, len(folds) if isinstance(folds, list) else 0),
    }


def _text(convention: str) -> str:
    """Without what is a field now."""
    text = _FOLDS.sub("", convention.partition("; bootstrap: ")[0])
    return _SCORER.sub(r"\1", _MEAN.sub("mean of folds, those without a value left out: ", text))


def _settings(convention: str) -> dict[str, Any]:
    """Of a metric: only PSDS had some."""
    if "sed_scores_eval" not in convention:
        return {}
    median = _MEDIAN.search(convention)
    return {"median_frames": int(median[1] or 1)} if median else {"convention": _text(convention)}


def _draws(convention: str) -> list[dict[str, Any]]:
    """Of each fold."""
    return [
        {"resamples": int(n), "clips": int(clips), "names": names, "seed": int(seed)}
        for n, clips, names, seed in _DRAWS.findall(convention.partition("; bootstrap: ")[2])
    ]


def _folds_of(texts: dict[str, str], scored: int) -> int:
    told = [match for text in texts.values() if (match := _FOLDS.search(text))]
    return int(told[0][1]) if told else scored
