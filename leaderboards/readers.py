"""What one result file says: records of this suite, folders of heareval, AudioSet evaluations.

An `Entry` is made only of what `checks` has let through; everything else is a ValueError.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hear_ptsed.labels import load_labels
from hear_ptsed.metrics.records import Scores, convention, draws, plain
from hear_ptsed.schema import Name, check, check_json
from leaderboards import checks, names

SCORES, METADATA = "test.predicted-scores.json", "task_metadata.json"  # of heareval
PART_OF_FOLDS = "the first "  # how a convention begins if not all folds were tested
OPTION = r"[^\W\d][\w-]*"  # a name in heareval's folders
# What an option untrained of heareval's folders can have been: False, or a text that is true.
UNSURE = ("", "0", "0-0", "false", "none")


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
    text, values = checks.load_json(file)
    if isinstance(values, dict) and "schema" in values:
        return _record(text, values, file, source)
    if isinstance(values, dict) and {"checkpoint", "psds1_macro", "convention"} <= values.keys():
        return _audioset(text, values, file, source)
    if isinstance(values, dict) and "checkpoint" not in values:
        if any(keys <= values.keys() for keys in BESIDE):
            return None
    raise ValueError("no result: neither a record of this suite nor an evaluation of training")


def _record(text: str, values: dict[str, Any], file: Path, source: str) -> Entry:
    made = checks.record(text, values)
    settings = {k: v for k, v in made.hyperparameters.items() if k != "model_options"}
    only_some = any(one.startswith(PART_OF_FOLDS) for one in made.conventions.values())
    same = ("task", "task_version", "mode", "protocol", "module", "model", "stage", "seed")
    same += ("untrained", "cost", "identity", "scores", "per_class", "ci95", "clips")
    return Entry(
        kind="measured",
        data=made.task_sha256[:12],
        variant=_variant(made.checkpoint["sha256"], made.hyperparameters),
        settings=_digest(settings)[:6],
        runs=1,
        small_data=not made.published_task or made.coverage is not None or only_some,
        replicates={metric: np.array(own) for metric, own in made.replicates.items()},
        curves={
            metric: {key: np.array(own) for key, own in columns.items()}
            for metric, columns in made.curves.items()
        },
        conventions={metric: convention(one) for metric, one in made.conventions.items()},
        draws={metric: draws(one) for metric, one in made.conventions.items()},
        coverage=made.coverage or "",
        machine=_machine(made.hardware),
        source=source,
        path=file,
        record={key: value for key, value in values.items() if key != "replicates"},
        **{key: getattr(made, key) for key in same},
    )


def _machine(hardware: dict[str, Any]) -> str:
    """Name of the GPU, or else of the CPU."""
    name = hardware.get("gpu") or hardware.get("cpu")
    return name[:60] if isinstance(name, str) else ""


def _variant(sha256: str | None, hyperparameters: dict[str, Any]) -> str:
    """Start of the checkpoint's hash, and the options of the plug-in: block to embed by, …"""
    options = {
        k: v for k, v in hyperparameters.get("model_options", {}).items() if k != "untrained"
    }
    texts = [f"{key}={json.dumps(value)}" for key, value in sorted(options.items())]
    text = " ".join(filter(None, [(sha256 or "")[:8], *texts]))
    return text if len(text) <= 80 else f"{text[:60]}… {_digest(text)[:8]}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _heareval(file: Path, source: str) -> Entry:
    values = check(dict[str, Any], _plain(checks.load_json(file, undefined=True)[1]), SCORES)
    about = check_json(checks.Metadata, checks.load_json(file.with_name(METADATA))[0], METADATA)
    version = "-".join((about.task_name, about.version, about.mode))
    task = names.task_of(version)
    if task is None:
        raise ValueError(f"unknown task {version!r}; known: {', '.join(names.TASKS)}")
    module = file.parent.parent.name
    plugin = checks.plugin(module)
    folds = "aggregated_scores" in values
    scores = _heareval_scores(values, about.evaluation, folds)
    # Both hold what differs between two runs of the same: a place in memory, one on disk.
    check(dict[str, Any], values.get("hparams", {}), "hparams")
    values.get("hparams", {}).pop("initialization", None)
    values.pop("embedding_path", None)
    plain(values)
    model, stage = names.model_and_stage(plugin)
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
        untrained=_untrained(module),
        small_data=names.TASKS[task].small,
        scores=scores,
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
        record={"task_metadata": about.__dict__, **values},
    )


def _heareval_scores(values: dict[str, Any], metrics: list[str], folds: bool) -> dict[str, float]:
    part = values.get("aggregated_scores" if folds else "test")
    part = check(dict[str, Any], part, f"the test scores of {SCORES}")
    ending = "_mean" if folds else ""
    for metric in metrics:
        if f"test_{metric}{ending}" not in part:
            raise ValueError(f"{SCORES} lacks test_{metric}{ending}")
    scores = {metric: part[f"test_{metric}{ending}"] for metric in metrics}
    scores = check(Scores, scores, SCORES)
    _refuse(["has no score"] if not scores else checks.of_scores(scores, SCORES))
    return scores


def _untrained(folder: str) -> bool:
    """Whether heareval's folder MODULE-option=value-option=value is of random weights.

    heareval writes names and values in lower case, with hyphens for all that is no letter or
    digit: what was passed is not always known.
    """
    _, some, options = folder.partition("-")
    options = options.lower().replace("_", "-")
    if some and not re.fullmatch(rf"{OPTION}(=[\w.-]*-{OPTION})*=[\w.-]*", options):
        raise ValueError(f"the options of the folder {folder} are no name=value-name=value")
    told = re.search(r"(?:^|-)untrained=([^=]*)(=?)", options)
    if told is None:
        return False
    words = re.split("[-.]", told[1])
    if told[2]:  # the last words are the name of the next option, which begins with a letter
        values = ["-".join(words[:k]) for k in range(1, len(words)) if words[k][:1].isalpha()]
    else:
        values = ["-".join(words)]
    if set(values) & {*UNSURE}:
        raise ValueError(
            f"the options of the folder {folder} leave open whether the weights are random: "
            "embed again without untrained, or with untrained=true"
        )
    return True


def _refuse(problems: Iterable[str]) -> None:
    for problem in problems:
        raise ValueError(problem)


def _plain(value: Any) -> Any:
    """NaN and infinities, which heareval writes for scores that are not defined, as null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _audioset(text: str, values: dict[str, Any], file: Path, source: str) -> Entry:
    made = check_json(checks.Evaluation, text, "")
    kept = {key: value for key, value in values.items() if key != "coverage"}
    plain(kept, 100_000)
    of = made.checkpoint
    if of["file"] is None:
        raise ValueError("the evaluation names no checkpoint")
    scores = {key: getattr(made, key) for key in ("psds1_macro", "psds1", "pauroc", "map")}
    scores = check(Scores, {k: v for k, v in scores.items() if k in values}, "the evaluation")
    classes = {
        name: {("map" if key == "ap" else key): value for key, value in own.items()}
        for name, own in made.per_class.items()
    }
    _refuse(checks.of_scores(scores, "the evaluation"))
    _refuse(checks.of_classes(classes))
    _refuse(checks.of_intervals(made.ci95, scores))
    conventions = _audioset_conventions(made.convention, scores)
    # Training calls all it writes "model": then the folder of the result says more.
    stem = Path(of["file"]).stem
    title = check(Name, file.parent.name if stem == "model" else stem, "the evaluation's folder")
    model, stage = names.model_and_stage(title)
    coverage = _coverage(made)
    counts = {"clips": made.clips, "classes": made.classes, "events": made.events}
    return Entry(
        kind="measured",
        task=made.task,
        task_version=made.task,
        data=(made.data["sha256"] if made.data else _digest(counts))[:12],
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
        small_data=bool(coverage) or names.TASKS[made.task].small,
        scores=scores,
        per_class=classes,
        ci95=made.ci95,
        replicates={},
        conventions=conventions,
        draws=dict.fromkeys(scores, ""),
        cost={},
        coverage=coverage,
        clips=made.clips,
        source=source,
        identity=_digest([of, conventions, counts, values["psds1_macro"], made.data]),
        path=file,
        record=kept,
    )


def _audioset_conventions(told: dict[str, Any], scores: Iterable[str]) -> dict[str, str]:
    """Metric -> its own text, and what is said of all; not of the release of the scorer."""
    own = {"psds1_macro", "psds1", "pauroc", "map", "bootstrap", "sed_scores_eval"}
    rest = "; ".join(f"{key}: {told[key]}" for key in sorted(told.keys() - own))
    texts = {key: check(str, told.get(key), f"convention of {key}") for key in scores}
    return {key: f"{text}; {rest}" for key, text in texts.items()}


def _coverage(made: checks.Evaluation) -> str:
    """What was missing; of AudioSet Strong also of its classes and clips, which are known."""
    texts = []
    for report in made.coverage:
        if report["found"] < report["expected"] or report["unreadable"]:
            texts.append(
                f"{report['found']} of {report['expected']} clips there, "
                f"{len(report['unreadable'])} of them unreadable"
            )
    if made.task != "audioset_strong":
        return "; ".join(texts)
    known = load_labels(evaluated=True)
    if strange := sorted(made.per_class.keys() - {*known}):
        raise ValueError(
            f"says it is AudioSet Strong, whose evaluation set has no class {strange[0]}"
        )
    clips = made.data["clips"] if made.data else 0
    if made.classes < len(known) or clips < names.AUDIOSET_CLIPS * 0.99:
        all_clips = names.AUDIOSET_CLIPS
        texts.append(f"{made.classes} of {len(known)} classes, {clips} of {all_clips} clips")
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
