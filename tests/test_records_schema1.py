"""Results of earlier versions are read as records of schema 2, and pair with these."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hear_ptsed.files import null_for_nan
from hear_ptsed.metrics import records
from hear_ptsed.metrics.bootstrap import paired
from leaderboards.__main__ import main
from leaderboards.collect import collect

GOLDEN = Path(__file__).parent / "golden" / "records"
F200, F50, F20 = (
    "event_onset_200ms_fms",
    "event_onset_50ms_fms",
    "event_onset_offset_50ms_20perc_fms",
)
MEDIAN = {metric: {"median_frames": 7} for metric in ("psds1", "psds2")}
HOME = [{"resamples": 500, "clips": 25, "names": "20dc74ba5516", "seed": 0}]
OFFICE = [{"resamples": 500, "clips": 4, "names": "e1533fdfffa0", "seed": 0}]
PIANO = [
    {"resamples": 500, "clips": 2, "names": names, "seed": 0}
    for names in ("188d1821cc48", "48a8f611862c", "784792240cf3", "bf95efa3a345", "c36e438e1c5a")
]
# file -> title, protocol, primary metric, its draws, settings, folds scored, of folds
SCHEMA1 = {
    "hear_home": ("Home (small)", "hear", "psds1", HOME, MEDIAN, 0, 0),
    "desed_baseline_home": ("Home (small)", "mean-teacher", "psds1", HOME, MEDIAN, 0, 0),
    "desed_simple_home": ("Home (small)", "weak-finetuned", "psds1", HOME, MEDIAN, 0, 0),
    "linear_office": ("Office (small)", "linear", F200, OFFICE, {}, 0, 0),
    "finetuned_piano": ("Piano (small)", "finetuned", F50, PIANO[:2], {}, 2, 5),
    "hear_piano": ("Piano (small)", "hear", F50, PIANO, {}, 5, 5),
}


def golden(name: str) -> tuple[records.Record, dict]:
    path = GOLDEN / f"{name}.json"
    return records.read_record(path), json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SCHEMA1)
def test_a_record_of_schema_1_has_its_facts_in_fields(name):
    record, values = golden(name)
    title, protocol, primary, draws, options, scored, of = SCHEMA1[name]
    assert (record.title, record.protocol, record.primary) == (title, protocol, primary)
    assert record.draws[primary] == draws and record.settings == options
    assert (len(record.folds), record.folds_of) == (scored, of)
    assert (record.schema, record.name) == (2, "")
    for key in ("task", "task_sha256", "module", "seed", "identity", "clips"):
        assert getattr(record, key) == values[key], key
    assert null_for_nan(record.replicates) == values["replicates"]
    assert record.scores.keys() == record.draws.keys() == record.conventions.keys()
    for text in record.conventions.values():
        assert "bootstrap" not in text and "folds only" not in text and "sed_" in text


@pytest.mark.parametrize("name", SCHEMA1)
def test_a_record_of_schema_1_is_written_and_read_again_as_one_of_schema_2(tmp_path, name):
    record, _ = golden(name)
    records.write_record(record, tmp_path / "new.json")
    assert json.loads((tmp_path / "new.json").read_text(encoding="utf-8"))["schema"] == 2
    assert repr(records.read_record(tmp_path / "new.json")) == repr(record)


@pytest.mark.parametrize(("name", "metric"), [("linear_office", F200), ("hear_piano", F20)])
def test_records_of_both_schemas_pair(tmp_path, capsys, name, metric):
    old, _ = golden(name)
    less = [value - 0.001 for value in old.replicates[metric]]
    new = replace(
        old,
        module="my.plugin",
        identity="0" * 64,
        scores=old.scores | {metric: old.scores[metric] - 0.001},
        replicates=old.replicates | {metric: less},
        conventions=dict.fromkeys(old.scores, "said in other words"),
    )
    records.write_record(new, tmp_path / "new.json")
    assert paired(old, records.read_record(tmp_path / "new.json"), metric) == pytest.approx(
        [0.001] * 3
    )
    files = [str(GOLDEN / f"{name}.json"), str(tmp_path / "new.json")]
    entries = collect(map(Path, files), figures=False).entries
    assert len({(entry.draws[metric], entry.folds, entry.data) for entry in entries}) == 1
    assert main(["compare", *files, "--metric", metric]) == 0
    assert "+0.1" in capsys.readouterr().out


def test_an_evaluation_that_had_no_schema_is_read():
    record, values = golden("training_evaluate")
    assert (record.protocol, record.task) == ("as-trained", "strong_labels")
    assert (record.title, record.primary) == ("Own strong labels", "psds1_macro")
    assert (record.module, record.model) == ("BEATs_strong_1.pt", "BEATs_strong_1")
    assert record.task_sha256 == values["data"]["sha256"] and not record.published_task
    assert {*record.scores} == {"psds1_macro", "psds1", "pauroc", "map"}
    assert all(record.scores[metric] == values[metric] for metric in record.scores)
    assert record.settings["psds1"]["median_frames"] == 9 and record.coverage is None
    assert record.per_class["Aircraft"]["map"] == values["per_class"]["Aircraft"]["ap"]
    (entry,) = collect([GOLDEN / "training_evaluate.json"], figures=False).entries
    assert (entry.model, entry.stage, entry.small_data) == ("beats", "strong", True)


DEEP = json.loads("[" * 900 + "]" * 900)
VALUES = st.sampled_from([None, True, 0, -1, 10**400, 0.5, "", "x", "\ud800", [], {}, [[]], DEEP])
VALUES |= st.sampled_from([{"a": []}, {"file": []}, [{"expected": [], "found": {}}], [1, "x"]])
KEYS = ("task", "mode", "protocol", "conventions", "scores", "folds", "coverage", "data", "ci95")
KEYS += ("checkpoint", "convention", "per_class", "psds1_macro", "clips", "software", "schema")


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.sampled_from(["finetuned_piano", "training_evaluate"]), st.data())
def test_whatever_an_old_file_holds_it_is_a_record_or_told_in_a_line(name, data):
    values = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    for key in data.draw(st.lists(st.sampled_from(KEYS), max_size=3)):
        inner = values.get(key)
        if isinstance(inner, dict) and inner and data.draw(st.booleans()):
            inner[data.draw(st.sampled_from(sorted(inner)))] = data.draw(VALUES)
        else:
            values[key] = data.draw(VALUES)
    for changed in (values, data.draw(VALUES)):
        text = json.dumps(changed)
        problems = records.problems_of_record(text, changed)
        assert all(problem and "\n" not in problem for problem in problems)
        if problems:
            with pytest.raises(ValueError):
                records.parse_record(text, changed)
        else:
            assert records.parse_record(text, changed).schema == 2


@pytest.mark.parametrize("name", ["records", "catalogue", "schema1"])
def test_records_and_metrics_are_known_without_loading_what_computes(name):
    heavy = "'torch', 'pandas', 'matplotlib', 'scipy', 'sed_eval', 'sed_scores_eval'"
    code = f"import hear_ptsed.metrics.{name}, sys; assert not {{{heavy}}} & sys.modules.keys()"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
