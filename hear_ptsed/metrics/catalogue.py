"""All metrics by id: how a score is called, what it can be, and what better means."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """What a record keeps of how a score changes with a setting."""

    columns: dict[str, str]  # name -> title; the abscissa first
    high: float  # of the abscissa, which begins at 0; the other columns end at 1
    pairs: tuple[tuple[str, str], ...]  # what is drawn over what, the abscissa first
    places: tuple[float, ...]  # on the abscissa, that are printed
    stairs: bool = False  # its values hold until the next point


@dataclass(frozen=True)
class Metric:
    """How a score is called, what it can be, and what better means."""

    title: str
    low: float = 0.0
    high: float = 1.0
    lower_is_better: bool = False
    curve: Curve | None = None
    of_classes: str = ""  # metric that a class has instead of a mean over classes


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
METRICS = {
    "event_onset_200ms_fms": Metric("onset F1, 200 ms", curve=F_CURVE),
    "event_onset_50ms_fms": Metric("onset F1, 50 ms", curve=F_CURVE),
    "event_onset_offset_50ms_20perc_fms": Metric("onset and offset F1, 50 ms, 20 %", curve=F_CURVE),
    "segment_1s_er": Metric("error rate, 1 s", high=math.inf, lower_is_better=True),
    "psds1": Metric("PSDS1", curve=PSD_ROC),
    "psds2": Metric("PSDS2", curve=PSD_ROC),
    "psds1_macro": Metric("PSDS1, mean over classes", of_classes="psds1"),
    "pauroc": Metric("segment pAUROC"),
    "map": Metric("mAP of clips"),
    # Of heareval's folders only.
    "top1_acc": Metric("accuracy"),
    "pitch_acc": Metric("pitch accuracy"),
    "chroma_acc": Metric("chroma accuracy"),
    "mAP": Metric("mAP (macro)"),
    "aucroc": Metric("ROC AUC"),
    "d_prime": Metric("d′", low=-math.inf, high=math.inf),  # below 0: worse than chance
}
