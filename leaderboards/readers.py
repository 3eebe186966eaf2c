"""What one result file says: records of this suite, folders of heareval, AudioSet evaluations.

An `Entry` is made only of what `checks` has let through; everything else is a ValueError.
"""

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from leaderboards import checks, names

SCORES, METADATA = "test.predicted-scores.json", "task_metadata.json"  # of heareval
DRAWN = "; bootstrap: "  # what follows in a convention says which clips were drawn how
PART_OF_FOLDS = "the first "  # how a convention begins if not all folds were tested


@dataclass(frozen=True, eq=False)
class Entry:
    """One run of one module on one task, or one published figure. Scores are 0 to 1, not percent.

    Text comes from files of others: it was checked for length, control characters and markup, but
    is to be escaped all the same.
    """

    kind: Literal["measured", "published"]
    task: str  # a key of names.TASKS
    task_version: str  # folder of the task; for published figures the task again
    data: str  # fingerprint of the test data, 12 digits; "" if it is not known
    mode: str  # frozen, finetuned, or names.AUDIOSET
    protocol: str  # of names.PROTOCOLS, or names.AUDIOSET
    module: str  # HEAR plug-in; "" for published figures; file name of a checkpoint of training
    model: str  # a key of names.MODELS where it is one of these, else as the file says
    stage: str  # see names.STAGES; "" if not known
    variant: str  # what else tells two modules apart: checkpoint and options, published setting
    settings: str  # digest of the hyperparameters; "" if not known
    seed: int | None
    runs: int  # behind the value: 1, or of a published mean; 0 if not said
    untrained: bool
    small_data: bool  # not a published data set, or only a part of one
    scores: dict[str, float]  # the primary metric first; NaN where undefined
    per_class: dict[str, dict[str, float]]  # class -> metric -> value, and "events"
    ci95: dict[str, tuple[float, float]]  # over clips; NaN where undefined
    replicates: dict[str, np.ndarray]  # (R,) scores on resampled clips; NaN where undefined
    conventions: dict[str, str]  # metric -> what was computed; without the bootstrap
    draws: dict[str, str]  # metric -> which clips were drawn how: equal ones can be paired
    cost: dict[str, float]  # parameters, seconds_per_minute; {} if not known
    coverage: str  # what of the data set is missing; "" if nothing is
    source: str  # file, from the given folder on; for published figures the citation
    identity: str  # unique among all entries; safe in file names and addresses
    clips: int | None = None  # tested; None if not known
    machine: str = ""  # that the cost was measured on; "" if not known
    path: Path | None = None  # the file; None for published figures. Not for display
    # metric -> column -> (P,), see names.CURVES; NaN where undefined
    curves: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, repr=False)
    # All that the file says, less the replicates.
    record: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def primary(self) -> str:
        """The metric to report: that of the task, or what a result has instead."""
        primary = names.TASKS[self.task].primary
        return primary if primary in self.scores else next(iter(self.scores))


# What training writes beside its evaluations: coverage, packed clips, scores while it trains.
BESIDE = (
    {"expected", "found", "unreadable", "labels_outside"},
    {"format", "clips_per_shard", "shards"},
    {"plan", "number", "lengths"},
    {"psds1_macro", "loss", "step"},
)


def read(file: Path, source: str) -> Entry | None:
    """The entry of a file; for a task folder of heareval the file is its scores.

    None for a file that training writes beside its results.
    """
    if file.name == SCORES:
        return _heareval(file, source)
    values = checks.load_json(file)
    if isinstance(values, dict) and "schema" in values:
        return _record(values, file, source)
    if isinstance(values, dict) and {"checkpoint", "psds1_macro", "convention"} <= values.keys():
        return _audioset(values, file, source)
    if isinstance(values, dict) and "checkpoint" not in values:
        if any(keys <= values.keys() for keys in BESIDE):
            return None
    raise ValueError("no result: neither a record of this suite nor an evaluation of training")


def _record(values: dict[str, Any], file: Path, source: str) -> Entry:
    if problems := checks.record_problems(values):
        raise ValueError(problems[0])
    scores = checks.some_scores(values["scores"], "scores")
    conventions = checks.conventions(values["conventions"], scores)
    parted = {metric: text.partition(DRAWN) for metric, text in conventions.items()}
    settings = {k: v for k, v in values["hyperparameters"].items() if k != "model_options"}
    only_some = any(text.startswith(PART_OF_FOLDS) for text in conventions.values())
    small = not values["published_task"] or values["coverage"] is not None or only_some
    same = ("task", "task_version", "mode", "protocol", "module", "model", "stage", "seed")
    same += ("untrained", "cost", "identity")
    return Entry(
        kind="measured",
        data=values["task_sha256"][:12],
        variant=_variant(values),
        settings=_digest(settings)[:6],
        runs=1,
        small_data=small,
        scores=scores,
        per_class=checks.per_class(values["per_class"]),
        ci95=checks.ci95(values["ci95"], scores),
        replicates=checks.replicates(values["replicates"], scores),
        curves=checks.curves(values.get("curves", {}), scores),
        conventions={metric: parts[0] for metric, parts in parted.items()},
        draws={metric: parts[2] for metric, parts in parted.items()},
        coverage=values["coverage"] or "",
        clips=values["clips"],
        machine=_machine(values["hardware"]),
        source=source,
        path=file,
        record={key: value for key, value in values.items() if key != "replicates"},
        **{key: values[key] for key in same},
    )


def _machine(hardware: dict[str, Any]) -> str:
    """Name of the GPU, or else of the CPU."""
    name = hardware.get("gpu") or hardware.get("cpu")
    return name[:60] if isinstance(name, str) else ""


def _variant(values: dict[str, Any]) -> str:
    """Start of the checkpoint's hash, and the options of the plug-in: block to embed by, …"""
    options = dict(checks.table(values["hyperparameters"].get("model_options", {}), "options"))
    options.pop("untrained", None)
    texts = [f"{key}={json.dumps(value)}" for key, value in sorted(options.items())]
    text = " ".join(filter(None, [(values["checkpoint"]["sha256"] or "")[:8], *texts]))
    return text if len(text) <= 80 else f"{text[:60]}… {_digest(text)[:8]}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _heareval(file: Path, source: str) -> Entry:
    values = _plain(checks.table(checks.load_json(file, undefined=True), SCORES))
    metadata = checks.table(checks.load_json(file.with_name(METADATA)), METADATA)
    about = {
        key: checks.name(metadata.get(key), f"{key} of {METADATA}")
        for key in ("task_name", "version", "mode")
    }
    version = checks.task_version("-".join(about.values()))
    module = checks.plugin_folder(file.parent.parent.name)
    folds = "aggregated_scores" in values
    part = checks.table(values.get("aggregated_scores" if folds else "test"), "the test scores")
    ending = "_mean" if folds else ""
    metrics = checks.row(metadata.get("evaluation"), f"evaluation of {METADATA}", checks.METRICS)
    for metric in metrics:
        if f"test_{checks.label(metric, 'a metric')}{ending}" not in part:
            raise ValueError(f"{SCORES} lacks test_{metric}{ending}")
    scores = {metric: part[f"test_{metric}{ending}"] for metric in metrics}
    # Both hold what differs between two runs of the same: a place in memory, one on disk.
    checks.table(values.get("hparams", {}), "hparams").pop("initialization", None)
    values.pop("embedding_path", None)
    checks.anything(values, SCORES)
    task = names.task_of(version)
    model, stage = names.model_and_stage(module.partition("-")[0])
    return Entry(
        kind="measured",
        task=task,
        task_version=version,
        data="",
        mode="frozen",
        protocol="hear",
        module=module,
        model=model,
        stage=stage,
        variant="",
        settings="",
        seed=None,
        runs=1,
        untrained="untrained=true" in module,
        small_data=names.TASKS[task].small,
        scores=checks.some_scores(scores, SCORES),
        per_class={},
        ci95={},
        replicates={},
        conventions=dict.fromkeys(scores, "mean of folds, " * folds + "as heareval wrote it"),
        draws=dict.fromkeys(scores, ""),
        cost={},
        coverage="",
        source=source,
        identity=_digest([version, module, values]),
        path=file,
        record={"task_metadata": about, **values},
    )


def _plain(value: Any) -> Any:
    """NaN and infinities, which heareval writes for scores that are not defined, as null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _audioset(values: dict[str, Any], file: Path, source: str) -> Entry:
    coverage = _coverage(values.get("coverage"))
    kept = {key: value for key, value in values.items() if key != "coverage"}
    checks.anything(kept, "the evaluation")
    of = checks.checkpoint(values["checkpoint"])
    if of["file"] is None:
        raise ValueError("the evaluation names no checkpoint")
    metrics = [key for key in ("psds1_macro", "psds1", "pauroc", "map") if key in values]
    scores = checks.scores({key: values[key] for key in metrics}, "the evaluation")
    convention = checks.table(values["convention"], "convention")
    rest = {k: v for k, v in convention.items() if k not in (*metrics, "bootstrap")}
    rest = "; ".join(f"{key}: {value}" for key, value in sorted(rest.items()))
    counts = {key: checks.whole(values.get(key), key, 1) for key in ("clips", "classes", "events")}
    # Training calls all it writes "model": then the folder of the result says more.
    stem = Path(of["file"]).stem
    title = file.parent.name if stem == "model" else stem
    model, stage = names.model_and_stage(checks.name(title, "the folder of the evaluation"))
    # The file does not name its data, which may be anybody's.
    whole = counts["classes"] >= names.AUDIOSET_CLASSES
    task = "audioset_strong" if whole else "strong_labels"
    return Entry(
        kind="measured",
        task=task,
        task_version=task,
        data=_digest(counts)[:12],
        mode=names.AUDIOSET,
        protocol=names.AUDIOSET,
        module=of["file"],
        model=model,
        stage=stage,
        variant=of["sha256"][:8],
        settings="",
        seed=None,
        runs=1,
        untrained=False,
        small_data=bool(coverage) or not whole,
        scores=scores,
        per_class=_audioset_classes(values.get("per_class")),
        ci95=checks.ci95(values.get("ci95"), scores),
        replicates={},
        conventions={k: f"{checks.text(convention.get(k), k)}; {rest}" for k in scores},
        draws=dict.fromkeys(scores, ""),
        cost={},
        coverage=coverage,
        clips=counts["clips"],
        source=source,
        identity=_digest([of, convention, counts, values["psds1_macro"]]),
        path=file,
        record=kept,
    )


def _audioset_classes(values: Any) -> dict[str, dict[str, float]]:
    rows = {}
    for label, own in checks.table(values, "per_class", checks.CLASSES).items():
        own = checks.table(own, "a class", checks.METRICS)
        rows[label] = {("map" if key == "ap" else key): value for key, value in own.items()}
    return checks.per_class(rows)


def _coverage(values: Any) -> str:
    texts = []
    for report in checks.row(values, "coverage", 100):
        report = checks.table(report, "coverage")
        expected, found = (checks.whole(report.get(key), key) for key in ("expected", "found"))
        unreadable = len(checks.table(report.get("unreadable"), "unreadable", 10**6))
        if found < expected or unreadable:
            texts.append(f"{found} of {expected} clips there, {unreadable} of them unreadable")
    return "; ".join(texts)


def of_figure(row: dict[str, str], number: int) -> Entry:
    """A published figure: a row of `published`, and its number among all."""
    printed = {name: model for model, name in names.MODELS.items()}
    metric, audioset = row["metric"], row["task"] == "audioset_strong"
    same = ("task", "mode", "protocol", "stage", "source")
    return Entry(
        kind="published",
        task_version=row["task"],
        data="",
        module="",
        model=printed.get(row["model"], row["model"]),
        variant=f"{row['table']}: {row['setting']}" if audioset else row["setting"],
        settings="",
        seed=None,
        runs=int(row["runs"]),
        untrained=False,
        small_data=False,
        scores={metric: float(row["printed"]) / float(row["scale"])},
        per_class={},
        ci95={},
        replicates={},
        conventions={metric: row["convention"]},
        draws={metric: ""},
        cost={},
        coverage="",
        identity=f"published-{Path(row['file']).stem}-{number:03d}",
        record=row,
        **{key: row[key] for key in same},
    )
