"""What results can be about: tasks, metrics, stages, models, and how they are called in print."""

from typing import NamedTuple


class Metric(NamedTuple):
    """How a score is called, what it can be, and what better means."""

    title: str
    high: float | None = 1.0  # the greatest possible value; None: none
    lower_is_better: bool = False


class Task(NamedTuple):
    """How a task is called, and the names its task folder begins with."""

    title: str
    folders: tuple[str, ...]
    primary: str  # the metric to report
    hear_column: str | None = None  # of the public HEAR leaderboard
    small: bool = False  # rendered by this suite, no published data set


class Curve(NamedTuple):
    """What a record keeps of how a score changes with a setting."""

    columns: dict[str, str]  # name -> title; the abscissa first
    high: float  # of the abscissa, which begins at 0; the other columns end at 1
    pairs: tuple[tuple[str, str], ...]  # what is drawn over what, the abscissa first
    places: tuple[float, ...]  # on the abscissa, that are printed
    stairs: bool = False  # its values hold until the next point


METRICS = {
    "event_onset_200ms_fms": Metric("onset F1, 200 ms"),
    "event_onset_50ms_fms": Metric("onset F1, 50 ms"),
    "event_onset_offset_50ms_20perc_fms": Metric("onset and offset F1, 50 ms, 20 %"),
    "segment_1s_er": Metric("error rate, 1 s", None, True),
    "psds1": Metric("PSDS1"),
    "psds2": Metric("PSDS2"),
    "psds1_macro": Metric("PSDS1, mean over classes"),
    "pauroc": Metric("segment pAUROC"),
    "map": Metric("mAP of clips"),
    "top1_acc": Metric("accuracy"),
    "pitch_acc": Metric("pitch accuracy"),
    "chroma_acc": Metric("chroma accuracy"),
    "mAP": Metric("mAP (macro)"),
    "aucroc": Metric("ROC AUC"),
    "d_prime": Metric("d′", None),
}

F200, F50 = "event_onset_200ms_fms", "event_onset_50ms_fms"
# The first names are of `python -m eval_tasks run --task`, the others of the HEAR challenge.
TASKS = {
    "dcase2016_task2": Task("DCASE 2016 task 2", ("dcase2016_task2",), F200, "DCASE 2016"),
    "maestro": Task("MAESTRO 5h", ("maestro",), F50, "Maestro 5h"),
    "desed": Task("DESED", ("desed",), "psds1"),
    "office": Task("Office (small)", ("office", "office_synthetic"), F200, small=True),
    "piano": Task("Piano (small)", ("piano", "piano_synthetic"), F50, small=True),
    "home": Task("Home (small)", ("home", "home_synthetic"), "psds1", small=True),
    "scenes": Task(
        "Office clips (small)", ("officeclips", "officeclips_synthetic"), "top1_acc", small=True
    ),
    "audioset_strong": Task("AudioSet Strong", ("audioset_strong",), "psds1_macro"),
    "strong_labels": Task("Own strong labels", ("strong_labels",), "psds1_macro", small=True),
}

PER_CLASS = {"psds1_macro": "psds1"}  # what classes have instead of a mean over them
F_CURVE = Curve(
    {"threshold": "threshold", "f_measure": "F1", "precision": "precision", "recall": "recall"},
    1.0,
    (("f_measure", "threshold"), ("precision", "recall")),
    tuple(k / 20 for k in range(2, 20, 2)),
)
PSD_ROC = Curve(
    {"efpr_per_hour": "effective FP per hour", "etpr": "effective TP rate"},
    100.0,
    (("etpr", "efpr_per_hour"),),
    tuple(range(0, 101, 10)),
    stairs=True,
)
CURVES = {m: F_CURVE for m in METRICS if m.endswith("_fms")} | {"psds1": PSD_ROC, "psds2": PSD_ROC}

STAGES = ("scratch", "imagenet", "ssl", "weak", "strong", "strong_kd")  # in order of training
MODES = ("frozen", "finetuned")
PROTOCOLS = ("hear", "linear", "finetuned", "desed-simple", "desed-baseline")
AUDIOSET = "audioset-strong"  # mode and protocol of the evaluations of `python -m training`
AUDIOSET_CLIPS = 16_996  # annotated, of the official evaluation set

MODELS = {  # of this suite -> as printed in papers
    "atst_frame": "ATST-F",
    "beats": "BEATs",
    "fpasst": "fPaSST",
    "m2d": "M2D",
    "asit": "ASiT",
    "frame_mn06": "frame_mn06",
    "frame_mn10": "frame_mn10",
}


def task_of(version: str) -> str | None:
    """Name of the task whose folder is called so, None if no known one is."""
    folder = version.split("-", 1)[0]
    return next((name for name, task in TASKS.items() if folder in task.folders), None)


def stage_order(stage: str) -> tuple[int, str]:
    """To sort by: known stages as they are trained, then others by name."""
    return (STAGES.index(stage) if stage in STAGES else len(STAGES), stage)


def model_and_stage(name: str) -> tuple[str, str]:
    """Model and stage of a plug-in's name or of a released checkpoint's; else itself and ""."""
    name = name.rsplit(".", 1)[-1]
    for model, printed in MODELS.items():
        for start in (model, printed):
            rest = name.lower().removeprefix(start.lower())
            stage = rest.removeprefix("_").removesuffix("_1")
            if rest != name.lower() and stage in ("", *STAGES):
                return model, stage
    return name, ""
