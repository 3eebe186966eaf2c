"""What one result file says: records, and folders of heareval; and what a published figure says.

An `Entry` is made only of what `checks` has let through; everything else is a ValueError.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hear_ptsed.files import null_for_nan
from hear_ptsed.metrics import audioset, schema1
from hear_ptsed.metrics.protocols import AS_TRAINED
from hear_ptsed.metrics.records import Record, Scores, plain
from hear_ptsed.schema import Line, Name, check, check_json
from leaderboards import checks, names

SCORES, METADATA = "test.predicted-scores.json", "task_metadata.json"  # of heareval
COVERAGE = "coverage.json"
OPTION = r"[^\W\d][\w-]*"  # a name in heareval's folders
# What an option untrained of heareval's folders can have been: False, or a text that is true.
UNSURE = ("", "0", "0-0", "false", "none")


@dataclass(frozen=True, eq=False, kw_only=True)
class Entry:
    """One run of one module on one task, or one published figure. Scores are 0 to 1, not percent.

    Text comes from files of others: it was checked for length, control characters and markup, but
    is to be escaped all the same.
    """

    kind: Literal["measured", "published"]
    task: str
    task_title: str
    published_task: bool  # not one of the small tasks of this suite
    task_version: str  # folder of the task; for published figures the task again
    data: str = ""  # fingerprint of the test data, 12 digits; "" if it is not known
    protocol: str  # of records.PROTOCOLS
    folds: str = ""  # "2 of 5" where only some were scored
    module: str = (
        ""  # HEAR plug-in, file name of a checkpoint of training; "" for published figures
    )
    model: str  # a key of names.MODELS where it is one of these, else as the file says
    stage: str  # see names.KNOWN_STAGES; "" if not known
    name: str = ""  # what its user calls the model; "" if nothing
    checkpoint: str = ""  # its SHA-256; "" without one
    variant: str = ""  # start of the checkpoint's hash and options; published setting
    hyperparameters: str = ""  # their digest; "" if they are not known
    seed: int | None = None
    runs: int = 1  # behind the value: of a published mean some; 0 if not said
    untrained: bool = False
    small_data: bool  # not a published data set, or only a part of one
    primary: str  # the metric to report: that of the task, or what a result has instead
    scores: dict[str, float]  # NaN where undefined
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)  # see Record
    groups: dict[str, dict[str, float]] = field(default_factory=dict)  # see Record
    ci95: dict[str, tuple[float, float]] = field(default_factory=dict)  # over clips
    # (R,) scores on resampled clips; NaN where undefined
    replicates: dict[str, np.ndarray] = field(default_factory=dict)
    # metric -> which clips were drawn how: equal ones can be paired
    draws: dict[str, tuple] = field(default_factory=dict)
    conventions: dict[str, str]  # metric -> what was computed
    settings: dict[str, str] = field(default_factory=dict)  # metric -> what else decides its value
    cost: dict[str, float] = field(default_factory=dict)  # parameters, seconds_per_minute
    coverage: str = ""  # what of the data set is missing; "" if nothing is
    source: str  # file, from the given folder on; for published figures the citation
    identity: str  # unique among all entries; safe in file names and addresses
    clips: int | None = None  # tested; None if not known
    machine: str = ""  # that the cost was measured on; "" if not known
    path: Path | None = None  # the file; None for published figures. Not for display
    # metric -> column -> (P,), see catalogue.Curve; NaN where undefined
    curves: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, repr=False)
    # All that the file says, less the replicates and the predicted events.
    record: dict[str, Any] = field(default_factory=dict, repr=False)


def read_entry(file: Path, source: str) -> Entry | None:
    """The entry of a file; for a task folder of heareval the file is its scores.

    None for a file without schema and checkpoint, as training writes some beside its results.
    """
    if file.name == SCORES:
        return _of_heareval(file, source)
    text, values = checks.load_json(file)
    if not isinstance(values, dict):
        raise ValueError("no result: neither a record nor an evaluation of training")
    if not {"schema", "checkpoint"} & values.keys():
        return None
    if schema1.is_evaluation(values):
        plain({key: value for key, value in values.items() if key != "coverage"}, 100_000)
    return _of_record(checks.accepted_record(text, values), values, file, source)


def _of_record(record: Record, values: dict[str, Any], file: Path, source: str) -> Entry:
    coverage = record.coverage or ""
    if record.task == audioset.TASK:
        missing = audioset.missing_of_evaluation(record.per_class, record.clips)
        coverage = "; ".join(filter(None, (coverage, missing)))
    partial = len(record.folds) < record.folds_of
    model, stage = _model_and_stage(record, file)
    same = ("task", "task_version", "published_task", "protocol", "module", "name", "seed")
    same += ("untrained", "scores", "per_class", "groups", "ci95", "conventions", "cost")
    same += ("identity", "clips")
    training = {k: v for k, v in record.hyperparameters.items() if k != "model_options"}
    return Entry(
        kind="measured",
        task_title=record.title,
        data=record.task_sha256[:12],
        folds=f"{len(record.folds)} of {record.folds_of}" if partial else "",
        model=model,
        stage=stage,
        checkpoint=record.checkpoint["sha256"] or "",
        variant=_variant(record),
        hyperparameters=_digest(training)[:6],
        small_data=not record.published_task or bool(coverage) or partial,
        primary=record.primary if record.primary in record.scores else next(iter(record.scores)),
        replicates={metric: np.array(values) for metric, values in record.replicates.items()},
        draws={
            metric: tuple((d["resamples"], d["clips"], d["names"], d["seed"]) for d in draws)
            for metric, draws in record.draws.items()
        },
        settings={metric: _options(chosen) for metric, chosen in record.settings.items()},
        curves={
            metric: {key: np.array(column) for key, column in curve.items()}
            for metric, curve in record.curves.items()
        },
        coverage=coverage,
        machine=_machine(record.hardware),
        source=source,
        path=file,
        record={k: v for k, v in values.items() if k not in ("replicates", "predicted")},
        **{key: getattr(record, key) for key in same},
    )


def _model_and_stage(record: Record, file: Path) -> tuple[str, str]:
    """As the record says; where training does not know the stage, as the file is called."""
    if record.protocol != AS_TRAINED or record.stage:
        return record.model, record.stage
    stem = Path(record.module).stem
    # Training calls all it writes "model": then the folder of the result says more.
    title = file.parent.name if stem == "model" else stem
    model, stage = names.model_and_stage(title)
    if not stage and record.model != stem:
        return record.model, ""
    return check(Name, model, "the folder's name"), stage


def _machine(hardware: dict[str, Any]) -> str:
    """Name of the GPU, or else of the CPU."""
    name = hardware.get("gpu") or hardware.get("cpu")
    return name[:60] if isinstance(name, str) else ""


def _variant(record: Record) -> str:
    """Start of the checkpoint's hash, and the options of the plug-in: block to embed by, …

    Records that have a name belong together whatever their checkpoints are.
    """
    options = record.hyperparameters.get("model_options", {})
    text = _options({key: value for key, value in options.items() if key != "untrained"})
    checkpoint = "" if record.name else (record.checkpoint["sha256"] or "")[:8]
    return f"{checkpoint} {text}".strip()


def _options(values: dict[str, Any]) -> str:
    """Names and values on a short line; different ones are different lines."""
    text = " ".join(f"{key}={json.dumps(value)}" for key, value in sorted(values.items()))
    return text if len(text) <= 70 else f"{text[:60]}… {_digest(text)[:8]}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _of_heareval(file: Path, source: str) -> Entry:
    values = check(dict[str, Any], null_for_nan(checks.load_json(file, undefined=True)[1]), SCORES)
    about = check_json(checks.Metadata, checks.load_json(file.with_name(METADATA))[0], METADATA)
    version = "-".join((about.task_name, about.version, about.mode))
    task = names.task_of_folder(version)
    if task is None:
        raise ValueError(f"unknown task {version!r}; known: {', '.join(names.KNOWN_TASKS)}")
    module = file.parent.parent.name
    model, stage = names.model_and_stage(checks.plugin(module))
    of_folds = "aggregated_scores" in values
    coverage = _coverage_beside(file)
    scores = _heareval_scores(values, about.evaluation, of_folds)
    # Both hold what differs between two runs of the same: a place in memory, one on disk.
    check(dict[str, Any], values.get("hparams", {}), "hparams")
    values.get("hparams", {}).pop("initialization", None)
    values.pop("embedding_path", None)
    plain(values)
    return Entry(
        kind="measured",
        task=task,
        task_title=names.KNOWN_TASKS[task].title,
        published_task=names.KNOWN_TASKS[task].published,
        task_version=version,
        protocol="hear",
        module=module,
        model=model,
        stage=stage,
        untrained=_is_untrained(module),
        small_data=not names.KNOWN_TASKS[task].published or bool(coverage),
        data=_digest(coverage)[:12] if coverage else "",  # no column beside scores of all clips
        coverage=coverage,
        primary=next(iter(scores)),
        scores=scores,
        conventions=dict.fromkeys(scores, "mean of folds, " * of_folds + "as heareval wrote it"),
        source=source,
        identity=_digest([version, module, values]),
        path=file,
        record={"task_metadata": about.__dict__, **values},
    )


def _coverage_beside(file: Path) -> str:
    """What of the data set was missing, where `hear-all` says so beside heareval's scores."""
    path = file.with_name(COVERAGE)
    if not path.exists():
        return ""
    about = check(dict[str, Any], checks.load_json(path)[1], COVERAGE)
    return check(Line, about.get("summary"), f"summary of {COVERAGE}")


def _heareval_scores(
    values: dict[str, Any], metrics: list[str], of_folds: bool
) -> dict[str, float]:
    part = values.get("aggregated_scores" if of_folds else "test")
    part = check(dict[str, Any], part, f"the test scores of {SCORES}")
    ending = "_mean" if of_folds else ""
    for metric in metrics:
        if f"test_{metric}{ending}" not in part:
            raise ValueError(f"{SCORES} lacks test_{metric}{ending}")
    scores = check(Scores, {m: part[f"test_{m}{ending}"] for m in metrics}, SCORES)
    for problem in checks.problems_of_scores(scores, SCORES) if scores else ["has no score"]:
        raise ValueError(problem)
    return scores


def _is_untrained(folder: str) -> bool:
    """Whether heareval's folder MODULE-option=value-option=value is of random weights.

    heareval writes names and values in lower case, with hyphens for all that is no letter or
    digit: what was passed is not always known.
    """
    _, hyphen, options = folder.partition("-")
    options = options.lower().replace("_", "-")
    if hyphen and not re.fullmatch(rf"{OPTION}(=[\w.-]*-{OPTION})*=[\w.-]*", options):
        raise ValueError(f"the options of the folder {folder} are no name=value-name=value")
    untrained = re.search(r"(?:^|-)untrained=([^=]*)(=?)", options)
    if untrained is None:
        return False
    words = re.split("[-.]", untrained[1])
    if untrained[2]:  # the last words name the next option, which begins with a letter
        values = ["-".join(words[:k]) for k in range(1, len(words)) if words[k][:1].isalpha()]
    else:
        values = ["-".join(words)]
    if set(values) & {*UNSURE}:
        raise ValueError(
            f"the options of the folder {folder} leave open whether the weights are random: "
            "embed again without untrained, or with untrained=true"
        )
    return True


def entry_of_figure(row: dict[str, str], number: int) -> Entry:
    """A published figure: a row of `published`, and its number among all."""
    printed = {name: model for model, name in names.MODELS.items()}
    metric, of_audioset = row["metric"], row["task"] == audioset.TASK
    return Entry(
        kind="published",
        task_title=names.KNOWN_TASKS[row["task"]].title,
        published_task=True,
        task_version=row["task"],
        model=printed.get(row["model"], row["model"]),
        variant=f"{row['table']}: {row['setting']}" if of_audioset else row["setting"],
        runs=int(row["runs"]),
        small_data=False,
        primary=metric,
        scores={metric: float(row["printed"]) / float(row["scale"])},
        conventions={metric: row["convention"]},
        identity=f"published-{Path(row['file']).stem}-{number:03d}",
        record=row,
        **{key: row[key] for key in ("task", "protocol", "stage", "source")},
    )
