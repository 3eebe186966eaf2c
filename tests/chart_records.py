"""Results for tests of charts: three seeds, an untrained model, one without curves, PSD-ROCs."""

from dataclasses import replace
from pathlib import Path

import leaderboard_parts as parts

from leaderboards.collect import Collected, collect

F = "event_onset_200ms_fms"
PSDS = "sed_scores_eval 0.0.4: dtc 0.7, gtc 0.7, no cross triggers, alpha_ct 0, alpha_st 1"


def psds_record(model: str, etpr: list[float | None], seed: int = 0):
    """A record of `home`; its stairs are at 0, 10, … false positives per hour."""
    own = {"task": "home", "protocol": "weak-linear"}
    curve = {"efpr_per_hour": [*range(0, 101, 10)], "etpr": etpr}
    own |= {
        "ci95": {},
        "replicates": {},
        "draws": {},
        "primary": "psds1",
        "conventions": {"psds1": PSDS},
    }
    made = parts.record(model, seed=seed, **own)
    return replace(made, scores={"psds1": 0.3}, curves={"psds1": curve}, per_class={})


def charted(folder: Path) -> Collected:
    """Three models with three seeds and costs, stages, models without a curve."""
    for model, f in (("beats", 0.8), ("m2d", 0.6), ("asit", 0.4)):
        for seed in range(3):  # three times 0.1 is not 0.3
            made = parts.record(model, seed=seed, f=f + 0.02 * seed)
            parts.write(folder, replace(made, cost={"parameters": 9e7}))
    parts.write(folder, parts.record("beats", "ssl", protocol="finetuned"))
    parts.write(folder, parts.record("beats", "strong", protocol="finetuned"))
    without = replace(parts.record("fpasst"), curves={})
    parts.write(folder, without)
    own = {"untrained": True, "checkpoint": {"file": None, "sha256": None}}
    parts.write(folder, parts.record("atst_frame", f=0.1, **own))
    parts.write(folder, psds_record("beats", [0.1 * k for k in range(11)]))
    parts.write(folder, psds_record("m2d", [0.5] * 11))
    return collect([folder], figures=False)


def by_class(folder: Path) -> Collected:
    """Two models that differ by class."""
    for model, scores in (("beats", (0.5, 0.9, 0.2, None)), ("m2d", (0.4, 0.1, 0.6, 0.3))):
        names = ("a little", "much", "worse", "open")
        own = {n: {F: value, "events": 7} for n, value in zip(names, scores, strict=True)}
        parts.write_raw(folder / f"{model}.json", parts.record(model), per_class=own)
    return collect([folder], figures=False)
