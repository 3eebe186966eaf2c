"""All metrics by id: how a score is called, what it can be, what better means, and its function.

A new metric is an entry of METRICS and its function.
"""

import math
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

# MODULE:FUNCTION, which score.py imports when it is asked for. A function that several entries have
# is called once, with predictions, the ids of all that are asked for, how clips are resampled, and
# the ids of those whose curve is asked for; it returns their `Scored`.
BY_EVENTS = "hear_ptsed.metrics.events:event_metrics"
BY_AREAS = "hear_ptsed.metrics.areas:area_scores"


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
    function: str = ""  # see BY_EVENTS; empty: it is read from heareval's folders
    of_frames: bool = False  # computed from scores of frames, not from events
    options: dict[str, Any] = field(default_factory=dict)  # of this metric, for its function

    @property
    def unit(self) -> str:
        """% where the greatest score is 1; else none."""
        return "%" if self.high == 1 else ""

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title}, %" if self.unit else self.title

    def printed(self, score: float, signed: bool = False) -> str:
        """A score, or a difference of two, in the unit, rounded once from all its digits."""
        if math.isnan(score):
            return "undefined"
        places, decimals = (2, 1) if self.unit else (0, 2)
        text = f"{Decimal(score).scaleb(places):{'+' * signed}.{decimals}f}"
        return text if float(text) else text.lstrip("+-")  # neither +0.0 nor -0.0


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
# Of sed_eval: class, value and average over classes, then its arguments. Those of heareval are as
# heareval 2021.1.3 has them; in others a class that is never predicted has F 0.
EVENTS, SEGMENTS = "EventBasedMetrics", "SegmentBasedMetrics"
ONSET_F1 = {"scorer": EVENTS, "value": "f_measure", "evaluate_offset": False}
SEGMENT_F1 = {
    "scorer": SEGMENTS,
    "value": "f_measure",
    "time_resolution": 1.0,
    "empty_system_output_handling": "zero_score",
}
COLLAR_F1 = {
    "scorer": EVENTS,
    "value": "f_measure",
    "t_collar": 0.2,
    "percentage_of_length": 0.2,
    "empty_system_output_handling": "zero_score",
}
METRICS = {
    "event_onset_200ms_fms": Metric(
        "onset F1, 200 ms",
        curve=F_CURVE,
        function=BY_EVENTS,
        options=ONSET_F1 | {"t_collar": 0.2},
    ),
    "event_onset_50ms_fms": Metric(
        "onset F1, 50 ms",
        curve=F_CURVE,
        function=BY_EVENTS,
        options=ONSET_F1 | {"t_collar": 0.05},
    ),
    "event_onset_offset_50ms_20perc_fms": Metric(
        "onset and offset F1, 50 ms, 20 %",
        curve=F_CURVE,
        function=BY_EVENTS,
        options={
            "scorer": EVENTS,
            "value": "f_measure",
            "t_collar": 0.05,
            "percentage_of_length": 0.2,
        },
    ),
    "segment_1s_er": Metric(
        "error rate, 1 s",
        high=math.inf,
        lower_is_better=True,
        function=BY_EVENTS,
        options={"scorer": SEGMENTS, "value": "error_rate", "time_resolution": 1.0},
    ),
    "event_onset_offset_200ms_20perc_fms": Metric(
        "onset and offset F1, 200 ms, 20 %", curve=F_CURVE, function=BY_EVENTS, options=COLLAR_F1
    ),
    "event_onset_offset_200ms_20perc_fms_macro": Metric(
        "onset and offset F1, 200 ms, 20 %, mean over classes",
        curve=F_CURVE,
        of_classes="event_onset_offset_200ms_20perc_fms",
        function=BY_EVENTS,
        options=COLLAR_F1 | {"average": "macro"},
    ),
    "segment_1s_f1_micro": Metric(
        "segment F1, 1 s", curve=F_CURVE, function=BY_EVENTS, options=SEGMENT_F1
    ),
    "segment_1s_f1_macro": Metric(
        "segment F1, 1 s, mean over classes",
        curve=F_CURVE,
        of_classes="segment_1s_f1_micro",
        function=BY_EVENTS,
        options=SEGMENT_F1 | {"average": "macro"},
    ),
    "psds1": Metric(
        "PSDS1",
        curve=PSD_ROC,
        function=BY_AREAS,
        of_frames=True,
        options={"dtc": 0.7, "gtc": 0.7, "alpha_st": 1.0},
    ),
    "psds2": Metric(
        "PSDS2",
        curve=PSD_ROC,
        function=BY_AREAS,
        of_frames=True,
        options={"dtc": 0.1, "gtc": 0.1, "cttc": 0.3, "alpha_ct": 0.5, "alpha_st": 1.0},
    ),
    # RealDESED's PSDS2, unlike DCASE's: no cross triggers.
    "psds2_nocross": Metric(
        "PSDS2 without cross triggers",
        curve=PSD_ROC,
        function=BY_AREAS,
        of_frames=True,
        options={"dtc": 0.1, "gtc": 0.1, "alpha_st": 1.0},
    ),
    "psds2_nocross_macro": Metric(
        "PSDS2 without cross triggers, mean over classes",
        of_classes="psds2_nocross",
        function=BY_AREAS,
        of_frames=True,
        options={"dtc": 0.1, "gtc": 0.1, "alpha_st": 0.0},
    ),
    "psds1_macro": Metric(
        "PSDS1, mean over classes",
        of_classes="psds1",
        function=BY_AREAS,
        of_frames=True,
        options={"dtc": 0.7, "gtc": 0.7, "alpha_st": 0.0},
    ),
    "pauroc": Metric("segment pAUROC", function=BY_AREAS, of_frames=True),
    "mpauc": Metric("mpAUC of seconds", function=BY_AREAS, of_frames=True),
    "f1_mo": Metric("segment F1, 1 s, at the best thresholds", function=BY_AREAS, of_frames=True),
    "map": Metric("mAP of clips", function=BY_AREAS, of_frames=True),
    # Of heareval's folders only.
    "top1_acc": Metric("accuracy"),
    "pitch_acc": Metric("pitch accuracy"),
    "chroma_acc": Metric("chroma accuracy"),
    "mAP": Metric("mAP (macro)"),
    "aucroc": Metric("ROC AUC"),
    "d_prime": Metric("d′", low=-math.inf, high=math.inf),  # below 0: worse than chance
}
