"""Leaderboards: results and published figures, collected, averaged and ranked."""

import json
import math
from pathlib import Path

import leaderboard_parts as parts
import numpy as np
import pytest

from hear_ptsed.facts import bibliography
from hear_ptsed.metrics.bootstrap import paired
from hear_ptsed.metrics.records import Record
from leaderboards import export, stats
from leaderboards.collect import collect, published_entries
from leaderboards.models import facts
from leaderboards.stats import cells, gains
from leaderboards.titles import labels, notes

F, ER = "event_onset_200ms_fms", "segment_1s_er"
GOLDEN = Path(__file__).parent / "golden"
# The paper's Table II: SSL / weak / strong for DESED, DC16-T2, MAESTRO, frozen and fine-tuned.
DOWNSTREAM = {
    "atst_frame": "27.0 31.8 47.7 75.7 65.3 77.3 4.6 7.6 21.9 "
    "41.4 42.8 48.2 91.0 92.5 92.9 50.0 52.9 55.0",
    "beats": "14.0 36.0 48.1 48.3 51.5 58.3 24.4 12.6 0.3 "
    "35.0 37.3 49.2 76.5 77.4 84.7 26.1 38.5 51.2",
    "fpasst": "0.0 40.1 45.4 0.0 58.0 72.0 0.0 43.5 28.7 "
    "0.0 39.1 48.2 82.9 88.3 88.8 41.9 41.9 38.5",
    "m2d": "27.7 39.9 49.2 69.3 67.4 70.1 30.3 25.1 22.3 "
    "38.2 40.6 48.7 81.9 84.4 84.8 35.9 36.6 34.9",
    "asit": "9.5 31.2 48.1 23.7 42.6 62.9 4.6 5.8 4.2 17.4 29.8 47.6 82.4 83.6 84.1 41.6 46.5 47.2",
}


MODES = {"linear": "frozen", "weak-linear": "frozen"}
MODES |= {"finetuned": "finetuned", "weak-finetuned": "finetuned"}


def measured(folder: Path, *records: Record, metric: str = F) -> list[stats.Cell]:
    """Cells of records that were written and read again."""
    for one in records:
        parts.write(folder, one)
    collected = collect([folder], figures=False)
    assert not collected.rejected
    return [cell for cell in cells(collected.entries) if cell.column.metric == metric]


def of(all_cells: list[stats.Cell], title: str) -> stats.Cell:
    return next(cell for cell in all_cells if cell.row.title == title)


# Published figures.


def test_the_published_downstream_figures_are_those_of_the_paper():
    entries = [e for e in published_entries() if e.record["table"] == "downstream"]
    figures = {(e.model, MODES[e.protocol], e.task, e.stage): e.scores[e.primary] for e in entries}
    keys = [
        (mode, task, stage)
        for mode in ("frozen", "finetuned")
        for task in ("desed", "dcase2016_task2", "maestro")
        for stage in ("ssl", "weak", "strong")
    ]
    expected = {
        (model, *key): pytest.approx(float(number) / 100, abs=1e-12)
        for model, numbers in DOWNSTREAM.items()
        for key, number in zip(keys, numbers.split(), strict=True)
    }
    assert figures == expected


def test_the_published_audioset_tables_are_complete():
    golden = json.loads((GOLDEN / "published_rows.json").read_text(encoding="utf-8"))
    tables_of = {"sequence_models": "sequence models", "low_complexity": "small models"}
    expected = {
        (tables_of.get(row["table"], row["table"]), row["model"], row["setting"]): row["value"]
        for row in golden
    }
    own = [e.record for e in published_entries() if e.task == "audioset_strong"]
    figures = {
        (
            row["table"],
            row["model"] + ", advanced" * (row["stage"] == "advanced"),
            "full" if row["table"] == "small models" else row["setting"],
        ): (float(row["printed"]))
        for row in own
    }
    assert len(figures) == len(own)
    assert {key: figures.get(key) for key in expected} == expected


def test_the_hear_leaderboard_has_34_models_and_marks_zeros_of_a_wrong_unit():
    figures = [e.record for e in published_entries() if e.record["table"] == "HEAR leaderboard"]
    assert len(figures) == 616 and len({figure["model"] for figure in figures}) == 34
    assert len({figure["task"] for figure in figures}) == 19
    best = {
        f["task"]: max(float(g["printed"]) for g in figures if g["task"] == f["task"])
        for f in figures
    }
    assert best["dcase2016_task2"] == 0.925373137 and best["maestro"] == 0.469076937
    of_events = [f for f in figures if f["task"] in ("dcase2016_task2", "maestro")]
    zeros = [f for f in of_events if float(f["printed"]) == 0]
    assert len(zeros) == 5 and all("wrong unit" in figure["note"] for figure in zeros)


def test_the_whole_table_of_efficientsed_has_facts_and_citations():
    figures = [e for e in published_entries() if e.record["cite"] == "morocutti2025exploring"]
    assert len(figures) == 42
    for entry in figures:
        known = facts(entry.model, entry.stage)
        assert known.parameters >= 516_128 and known.gflop_per_10s > 0.4
    assert {e.record["cite"] for e in published_entries()} <= bibliography().keys()


def test_every_published_figure_names_its_source_and_a_suspected_misprint_is_told():
    assert all(entry.source for entry in published_entries())
    suspects = [e.record for e in published_entries() if "misprint" in e.record["note"]]
    assert [(row["model"], row["printed"]) for row in suspects] == [
        ("mean_of_single_models", "44.9")
    ]


def test_published_and_measured_scores_never_share_a_column(tmp_path):
    parts.write(tmp_path, parts.record())
    all_cells = cells(collect([tmp_path]).entries)
    kinds = {}
    for cell in all_cells:
        kinds.setdefault(cell.column, set()).add(cell.row.kind)
    assert all(len(own) == 1 for own in kinds.values())
    own = [c for c in all_cells if c.column.title == "DCASE 2016 task 2, onset F1, 200 ms (linear)"]
    assert {c.row.kind for c in own} == {"measured", "published"}
    assert next(c for c in own if c.row.kind == "measured").rank == 1


# Cells.


def test_a_cell_is_mean_and_deviation_over_seeds_with_the_interval_of_averaged_replicates(tmp_path):
    records = [parts.record(seed=s, f=f) for s, f in enumerate((0.80, 0.83, 0.84))]
    (cell,) = measured(tmp_path, *records)
    assert cell.seeds == 3
    assert cell.mean == pytest.approx(0.8233333333333333, abs=1e-12)
    assert cell.std == pytest.approx(0.020816659994661282, abs=1e-12)
    averaged = np.mean([one.replicates[F] for one in records], axis=0)
    assert (cell.low, cell.high) == pytest.approx(np.percentile(averaged, (2.5, 97.5)), abs=1e-12)


def test_without_replicates_one_seed_keeps_its_own_interval_and_several_have_none(tmp_path):
    made = parts.record(resamples=0, ci95={F: (0.7, 0.9)})
    (cell,) = measured(tmp_path, made)
    assert (cell.low, cell.high) == (0.7, 0.9)
    (cell,) = measured(tmp_path, parts.record(seed=1, resamples=0, ci95={F: (0.7, 0.9)}))
    assert math.isnan(cell.low) and math.isnan(cell.high)
    assert cell.seeds == 2


def test_seeds_on_different_resamples_are_averaged_without_an_interval(tmp_path):
    (cell,) = measured(tmp_path, parts.record(), parts.record(seed=1, resamples=90))
    assert cell.seeds == 2
    assert cell.replicates is None and math.isnan(cell.low)


def test_an_undefined_score_is_left_out_of_the_mean_and_counted(tmp_path):
    none = {F: math.nan, ER: 1.0}
    undefined = parts.record(seed=1, resamples=0, scores=none, per_class={})
    (cell,) = measured(tmp_path, parts.record(f=0.5, resamples=0), undefined)
    assert (cell.mean, cell.seeds, cell.undefined) == (0.5, 2, 1)
    assert "1 of 2 undefined" in cell.flags
    alone = measured(tmp_path / "alone", undefined)
    assert alone[0].text == "undefined" and alone[0].rank is None


def test_different_hyperparameters_are_never_averaged(tmp_path):
    other = parts.record(seed=1, hyperparameters={"optim": {"lr": 0.1}})
    measured_cells = measured(tmp_path, parts.record(), other)
    assert [cell.seeds for cell in measured_cells] == [1, 1]
    texts = labels(cell.row for cell in measured_cells)
    assert len(set(texts.values())) == 2


def test_different_checkpoints_and_options_of_a_module_are_rows_of_their_own(tmp_path):
    sha = {"file": "mine.pt", "sha256": parts.digest("mine")}
    layer = {"model_options": {"layer": 6}, **parts.record().hyperparameters}
    measured_cells = measured(
        tmp_path, parts.record(), parts.record(checkpoint=sha), parts.record(hyperparameters=layer)
    )
    texts = sorted(labels(cell.row for cell in measured_cells).values())
    assert len(texts) == 3 and any("layer=6" in text for text in texts)


@pytest.mark.parametrize(
    "changes",
    [
        {"task_sha256": parts.digest("other clips")},
        {"task_version": "dcase2016_task2-hear2021-small"},
        {"settings": {F: {"median_frames": 7}}},
        {"folds": [{F: 0.8}], "folds_of": 5},
        {"task": "office", "task_version": "made-v1"},
        {"protocol": "finetuned"},
    ],
)
def test_what_differs_in_data_settings_folds_or_protocol_never_shares_a_column(tmp_path, changes):
    measured_cells = measured(tmp_path, parts.record(), parts.record(seed=1, **changes))
    assert len({cell.column for cell in measured_cells}) == 2
    told = notes(cell.column for cell in measured_cells)
    assert len({(column.title, note) for column, note in told.items()}) == 2


def test_a_note_says_in_what_two_settings_differ(tmp_path):
    made = [parts.record(seed=k, settings={F: {"median_frames": k}}) for k in (1, 7)]
    told = notes(cell.column for cell in measured(tmp_path, *made))
    assert sorted(told.values()) == ["median_frames=1", "median_frames=7"]


# Ranks.


def test_rows_whose_paired_difference_holds_0_tie_and_others_do_not(tmp_path):
    measured_cells = measured(
        tmp_path,
        parts.record("beats", f=0.80),
        parts.record("m2d", f=0.79),
        parts.record("asit", f=0.60),
        parts.record("fpasst", f=0.40),
    )
    ranks = {c.row.model: (c.rank, c.tied) for c in measured_cells}
    assert ranks == {"beats": (1, True), "m2d": (1, True), "asit": (3, False), "fpasst": (4, False)}
    assert [c.row.model for c in measured_cells if c.best] == ["beats"]


def test_a_row_between_two_others_ties_with_both(tmp_path):
    levels = {"beats": 0.80, "m2d": 0.79, "asit": 0.78}  # paired, intervals of about 0.014
    measured_cells = measured(tmp_path, *(parts.record(model, f=f) for model, f in levels.items()))
    by = {c.row.model: c for c in measured_cells}
    assert stats.difference(by["beats"], by["asit"]).improves is False
    for one, other in (("beats", "m2d"), ("m2d", "asit")):
        assert stats.difference(by[one], by[other]).improves is None
    assert {m: (c.rank, c.tied) for m, c in by.items()} == {
        "beats": (1, True),
        "m2d": (1, True),
        "asit": (2, True),
    }


def test_lower_error_rates_rank_first(tmp_path):
    measured_cells = measured(
        tmp_path, parts.record("beats", er=0.9), parts.record("m2d", er=0.3), metric=ER
    )
    assert {c.row.model: (c.rank, c.best) for c in measured_cells} == {
        "m2d": (1, True),
        "beats": (2, False),
    }


def test_means_that_look_equal_are_best_together_and_rounded_as_python_rounds(tmp_path):
    measured_cells = measured(
        tmp_path,
        parts.record("beats", f=0.80049, resamples=0),
        parts.record("m2d", f=0.79951, resamples=0),
        parts.record("asit", f=0.79949, resamples=0),
    )
    assert {c.row.model: (c.text, c.best) for c in measured_cells} == {
        "beats": ("80.0", True),
        "m2d": ("80.0", True),
        "asit": ("79.9", False),
    }


def test_published_figures_without_intervals_tie_only_where_they_are_equal():
    published_cells = [c for c in cells(published_entries()) if c.column.task == "audioset_strong"]
    best = [c for c in published_cells if c.best]
    assert [c.text for c in best] == ["47.1"]
    equal = [c for c in published_cells if c.text == "41.8"]
    assert len(equal) > 1 and len({c.rank for c in equal}) == 1 and all(c.tied for c in equal)


def test_untrained_modules_are_marked_and_have_no_rank(tmp_path):
    no = {"file": None, "sha256": None}
    measured_cells = measured(
        tmp_path, parts.record(f=0.5), parts.record("m2d", f=0.9, untrained=True, checkpoint=no)
    )
    random_one = of(measured_cells, "M2D strong (untrained)")
    assert (random_one.rank, random_one.best, random_one.flags) == (None, False, ("untrained",))
    alone = of(measured_cells, "BEATs strong")
    assert (alone.rank, alone.tied, alone.best) == (1, False, False)  # best of what?


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "office"},
        {"coverage": "3 of 40 clips are missing"},
        {"folds": [{F: 0.8}], "folds_of": 5},
    ],
)
def test_small_data_is_marked(tmp_path, changes):
    (cell,) = measured(tmp_path, parts.record(**changes))
    assert cell.flags == ("small data",)
    assert export.markdown([cell]).splitlines()[-1].endswith(" † |")


# Gains.


def test_the_gain_of_a_stage_is_what_pairing_two_records_says(tmp_path):
    ssl, strong = parts.record(stage="ssl", f=0.78), parts.record(stage="strong", f=0.80)
    (gain,) = gains(measured(tmp_path, ssl, strong))
    (step,) = gain.steps
    assert (step.value, step.low, step.high) == pytest.approx(paired(strong, ssl, F))
    assert step.improves is True
    assert step.before.high > step.after.low  # the intervals overlap, the paired one leaves 0 out


def test_a_few_clips_give_no_interval_and_no_verdict(tmp_path):
    records = [parts.record(stage=s, f=f, clips=9) for s, f in (("ssl", 0.1), ("strong", 0.9))]
    (gain,) = gains(measured(tmp_path, *records))
    (step,) = gain.steps
    assert step.value == pytest.approx(0.8) and math.isnan(step.low)
    assert step.improves is None and step.few


def test_gains_average_seeds_first_and_skip_undefined_resamples(tmp_path):
    stages = {
        s: [parts.record(stage=s, seed=k, f=f) for k in range(3)]
        for s, f in (("ssl", 0.7), ("weak", 0.72))
    }
    stages["ssl"][0].replicates[F][7] = math.nan
    for one in stages["weak"]:
        one.replicates[F][9] = math.nan
    (gain,) = gains(measured(tmp_path, *stages["ssl"], *stages["weak"]))
    table = {s: np.array([one.replicates[F] for one in own]) for s, own in stages.items()}
    own = np.delete(np.nanmean(table["weak"][:, :9], 0) - np.nanmean(table["ssl"][:, :9], 0), [])
    rest = table["weak"][:, 10:].mean(0) - table["ssl"][:, 10:].mean(0)
    expected = np.percentile(np.concatenate([own, rest]), (2.5, 97.5))
    assert (gain.steps[0].low, gain.steps[0].high) == pytest.approx(expected)


def test_stages_come_in_the_order_of_training_and_the_last_step_spans_them(tmp_path):
    scores = {"strong": 0.9, "ssl": 0.5, "weak": 0.4, "": 0.1}
    records = [parts.record(stage=s, f=f, module="mine.plugin") for s, f in scores.items()]
    no = {"file": None, "sha256": None}
    records.append(parts.record(stage="ssl", seed=5, f=0.01, untrained=True, checkpoint=no))
    (gain,) = gains(measured(tmp_path, *records))
    assert [cell.row.stage for cell in gain.cells] == ["ssl", "weak", "strong"]
    assert [step.value for step in gain.steps] == pytest.approx([-0.1, 0.5, 0.4])
    assert [step.improves for step in gain.steps] == [False, True, True]


def test_a_stage_is_the_suites_own_plug_in_where_there_are_several(tmp_path):
    mine = parts.record(stage="strong", f=0.1, module="hear_ptsed.plugins.checkpoint")
    (gain,) = gains(measured(tmp_path, parts.record(stage="ssl", f=0.5), mine, parts.record(f=0.8)))
    assert gain.steps[0].value == pytest.approx(0.3)
