"""Leaderboards: files that are broken, hostile or cannot be true are told, and stop nothing."""

import json
import os
import re
from dataclasses import asdict
from pathlib import Path

import leaderboard_parts as parts
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaderboards import checks, site
from leaderboards.collect import Collected, collect
from leaderboards.hear import hear_rows, ranking
from leaderboards.stats import cells, gains
from leaderboards.submit import problems_of_file
from leaderboards.titles import notes

F, ER = "event_onset_200ms_fms", "segment_1s_er"
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Results with one good record."""
    parts.write(tmp_path / "results", parts.record())
    return tmp_path / "results"


def nested(levels: int) -> dict:
    value: dict = {}
    for _ in range(levels):
        value = {"a": value}
    return value


CURVE = {"threshold": [0.1, 0.5], "f_measure": [0.3, 0.7], "precision": [0.2, None]}
CURVE["recall"] = [0.9, 0.5]
BAD = {
    "script in a module": (
        {"module": f"x.{SCRIPT}"},
        "must be a line without control characters and markup",
    ),
    "script in a model": ({"model": SCRIPT}, "model is"),
    "script in a class": ({"per_class": {SCRIPT: {}}}, "a key of per_class is '<script>"),
    "path in a module": ({"module": "../../etc/passwd"}, "must be a name, without /"),
    "path in a task": ({"task_version": "../office-v1-demo"}, "must be a name, without /"),
    "dots in a task": ({"task_version": "office-v1..demo"}, "must be a name without .."),
    "path in a model": ({"model": "a/b"}, "must be a name, without /"),
    "backslash in a stage": ({"stage": "a\\b"}, "must be a name, without /"),
    "path of a checkpoint": (
        {"checkpoint": {"file": "/x/y.pt", "sha256": "0" * 64}},
        "must be a name, without /",
    ),
    "hash of a checkpoint": ({"checkpoint": {"file": "y.pt", "sha256": "0"}}, "SHA-256"),
    "identity": (
        {"identity": "../../x"},
        "identity is '../../x'; it must be the 64 digits of a SHA-256",
    ),
    "task of another name": ({"task": "maestro"}, "is none of task maestro"),
    "unknown protocol": ({"protocol": "best"}, "protocol is 'best'; it must be 'hear', 'linear'"),
    "unknown metric": ({"scores": {"wow": 1.0}}, "unknown metric 'wow'"),
    "score above 1": ({"scores": {F: 1.2, ER: 0.4}}, "1.2; allowed are 0 to 1"),
    "score below 0": ({"scores": {F: 0.8, ER: -0.1}}, "-0.1; allowed are 0 and above"),
    "huge score": ({"scores": {F: 0.8, ER: 10**400}}, "numbers below 1e+15"),
    "no score": ({"scores": {}, "conventions": {}}, "scores has no score"),
    "scores as a list": ({"scores": [0.8]}, "scores is a list of 1; it must be an object"),
    "score as text": ({"scores": {F: "0.8", ER: 0.4}}, "is '0.8'; it must be a valid number"),
    "score as bool": ({"scores": {F: True, ER: 0.4}}, "is True; it must be a valid number"),
    "interval reversed": ({"ci95": {F: [0.9, 0.7]}}, "must be an interval, not 0.9 to 0.7"),
    "interval elsewhere": ({"ci95": {F: [0.1, 0.2]}}, "0.8, far outside its interval 0.1 to 0.2"),
    "interval of three": ({"ci95": {F: [0.1, 0.8, 0.9]}}, "is a list of 3"),
    "interval of one": ({"ci95": {F: [0.8]}}, "lacks ci95.event_onset_200ms_fms[1]"),
    "interval of nothing": ({"ci95": {"psds1": [0.1, 0.2]}}, "not among the scores"),
    "replicates out of range": ({"replicates": {F: [0.8, 1.7]}}, "each 0 to 1"),
    "replicates of texts": ({"replicates": {F: ["0.8"]}}, "is '0.8'; it must be a valid number"),
    "replicates of bools": ({"replicates": {F: [True]}}, "is True; it must be a valid number"),
    "huge replicate": ({"replicates": {ER: [10**400]}}, "numbers below 1e+15"),
    "too many replicates": ({"replicates": {F: [0.8] * 20_001}}, "at most 20000"),
    "seed as text": ({"seed": "0"}, "seed is '0'; it must be a valid integer"),
    "seed below 0": ({"seed": -1}, "seed is -1"),
    "seed as bool": ({"seed": True}, "seed is True"),
    "clips of none": ({"clips": 0}, "clips is 0"),
    "untrained as text": ({"untrained": "no"}, "must be a valid boolean"),
    "long text": ({"command": "x" * 1_000_000}, "at most 10000 characters"),
    "long name": ({"model": "x" * 1_000_000}, "at most 255 characters"),
    "long class": ({"per_class": {"x" * 1_000_000: {}}}, "at most 255 characters"),
    "many classes": ({"per_class": {str(k): {} for k in range(2001)}}, "at most 2000"),
    "deep": ({"hyperparameters": nested(50)}, "at most 5000 items on 10 levels"),
    "wide": ({"hardware": {str(k): k for k in range(5001)}}, "at most 5000 items"),
    "control characters": ({"command": "a\x1b[2Jb"}, "control characters"),
    "turned text": ({"coverage": "a\u202eb"}, "control characters"),
    "half a character": ({"commit": "\ud800"}, "Invalid JSON"),
    "no date": ({"started": "yesterday"}, "must be a date and time"),
    "other schema": ({"schema": 3}, "schema 3; this version reads 1 and 2"),
    "schema as bool": ({"schema": True}, "schema True"),
    "no conventions": ({"conventions": {}}, "conventions must say of each score"),
    "draws of nothing": ({"draws": {"psds1": []}}, "draws has 'psds1', which is not among"),
    "settings of nothing": ({"settings": {"psds1": {}}}, "settings has 'psds1', which is not"),
    "more folds than there are": ({"folds": [{F: 0.8}]}, "folds has 1 folds of 0"),
    "curve of nothing": ({"curves": {"psds1": {}}}, "not among the scores"),
    "curve of other columns": ({"curves": {F: {"x": [0]}}}, "has 'x'; expected threshold, f_meas"),
    "curve of an error rate": ({"curves": {ER: {"x": [0]}}}, "expected no curve at all"),
    "curve out of range": ({"curves": {F: CURVE | {"recall": [0.1, 1.1]}}}, "each 0 to 1"),
    "curve of texts": (
        {"curves": {F: CURVE | {"recall": ["0", "1"]}}},
        "is '0'; it must be a valid number",
    ),
    "curve of two lengths": ({"curves": {F: CURVE | {"recall": [0.1]}}}, "columns of one length"),
    "curve that turns": ({"curves": {F: CURVE | {"threshold": [0.2, 0.1]}}}, "of them rising"),
    "endless curve": ({"curves": {F: CURVE | {"recall": [0.1] * 1002}}}, "at most 1001"),
    "huge replicates": ({"replicates": {ER: [1.7e308]}}, "numbers below 1e+15"),
    "huge cost": ({"cost": {"parameters": 1e20}}, "below 1e+15"),
    "tiny cost": ({"cost": {"parameters": 5e-324}}, "it must be 0, or 1e-09 and above"),
    "cost below 0": ({"cost": {"parameters": -1}}, "cost.parameters is -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_is_told_by_file_and_reason_and_the_rest_goes_on(folder, case):
    changes, reason = BAD[case]
    parts.write_raw(folder / "bad.json", parts.record("m2d"), **changes)
    file, told = parts.rejected(folder)
    assert file == "results/bad.json"
    assert reason in told


def test_a_missing_key_is_named(folder):
    values = json.loads(parts.write_raw(folder / "bad.json", parts.record("m2d")).read_text())
    del values["seed"], values["ci95"]
    (folder / "bad.json").write_text(json.dumps(values))
    assert parts.rejected(folder)[1] == "lacks ci95, seed"


RAW = {
    "empty": (b"", "not valid JSON"),
    "truncated": (b'{"schema": 1, "scores": {"psds', "truncated?"),
    "NaN": (b'{"schema": 1, "scores": {"psds1": NaN}}', "NaN is not valid JSON"),
    "Infinity": (b'{"schema": 1, "seconds": Infinity}', "Infinity is not valid JSON"),
    "not UTF-8": (b'{"schema": 1, "model": "\xff"}', "not UTF-8 text (byte 24)"),
    "UTF-16": ('{"schema": 1}'.encode("utf-16"), "not UTF-8"),
    "a key twice": (b'{"schema": 1, "a": {"b": 1, "b": 2}}', "the key 'b' comes twice"),
    "a list": (b"[1, 2]", "no result"),
    "a number": (b"1", "no result"),
    "deep": (b'{"schema":' + b"[" * 200_000, "nested too deeply"),
    "a number of many digits": (b'{"schema": ' + b"1" * 5000 + b"}", "digits"),
    "a pickle": (b"\x80\x04c__builtin__\nexec\n", "not UTF-8"),
}


@pytest.mark.parametrize("case", RAW)
def test_a_file_that_is_no_json_of_ours_is_told(folder, case):
    content, reason = RAW[case]
    (folder / "bad.json").write_bytes(content)
    assert reason in parts.rejected(folder)[1]


def test_a_file_without_schema_is_left_alone_in_a_folder_and_told_by_name(folder):
    (folder / "other.json").write_text('{"name": "x"}')
    collected = collect([folder], figures=False)
    assert len(collected.entries) == 1 and not collected.rejected
    (one,) = collect([folder / "other.json"], figures=False).rejected
    assert "no result: it has no schema" in one.reason


def test_a_huge_file_is_not_even_read(folder):
    with (folder / "bad.json").open("wb") as file:
        file.truncate(checks.BYTES + (1 << 20))
    assert "9 MiB; a result has at most 8" in parts.rejected(folder)[1]


def test_links_and_pipes_are_told_and_not_followed(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    parts.write(tmp_path / "elsewhere", parts.record("m2d"))
    (folder / "loop").symlink_to(folder)
    (folder / "out").symlink_to(tmp_path / "elsewhere")
    (folder / "link.json").symlink_to(next((tmp_path / "elsewhere").rglob("*.json")))
    (folder / "dangling.json").symlink_to(tmp_path / "nothing")
    (folder / "round.json").symlink_to(folder / "round.json")
    os.mkfifo(folder / "pipe.json")
    collected = collect([folder], figures=False)
    assert [entry.model for entry in collected.entries] == ["beats"]
    assert {one.file.removeprefix("results/"): one.reason for one in collected.rejected} == {
        "dangling.json": "a link; give the file itself",
        "link.json": "a link; give the file itself",
        "loop": "a link to a folder; not followed",
        "out": "a link to a folder; not followed",
        "pipe.json": "no regular file",
        "round.json": "a link; give the file itself",
    }


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<img src=x onerror=alert(1)>.json", "results/<img src=x onerror=alert(1)>.json"),
        ("two\nlines.json", "results/two\\nlines.json"),
        ("\x1b[31m.json", "results/\\x1b[31m.json"),
        (os.fsdecode(b"\xff.json"), "results/\\udcff.json"),
    ],
)
def test_a_hostile_file_name_is_rejected_and_printed_harmlessly(folder, name, shown):
    parts.write_raw(folder / name, parts.record("m2d"))
    assert parts.rejected(folder)[0] == shown


def test_a_file_of_an_interrupted_write_is_told(folder):
    parts.write_raw(folder / ".123-run.json", parts.record("m2d"))
    assert "interrupted" in parts.rejected(folder)[1]


def test_of_a_result_that_comes_twice_the_first_name_counts(folder):
    parts.write_raw(folder / "z.json", parts.record(), command="another")
    parts.write_raw(folder / "y.json", parts.record("m2d"))
    parts.write_raw(folder / "x.json", parts.record("m2d"), seconds=5)
    collected = collect([folder], figures=False)
    assert [(one.file, one.reason) for one in collected.rejected] == [
        ("results/y.json", "the same result as results/x.json"),
        ("results/z.json", f"the same result as {collected.entries[0].source}"),
    ]


def test_a_folder_given_twice_is_read_once(folder):
    collected = collect([folder, folder, folder / ".."], figures=False)
    assert len(collected.entries) == 1 and not collected.rejected


def test_a_site_among_the_results_is_no_result(folder):
    parts.write(folder / "site", parts.record("m2d"))
    collected = collect([folder], figures=False, leave_out=folder / "site")
    assert [entry.model for entry in collected.entries] == ["beats"] and not collected.rejected


def test_a_site_in_a_folder_of_results_is_named_and_its_downloads_are_not_read(folder):
    site.build_site(collect([folder], figures=False), folder / "old site")
    file, reason = parts.rejected(folder)
    assert file == "results/old site" and "a site built before" in reason


def test_two_files_of_one_name_are_both_told(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name / "results").mkdir(parents=True)
        (tmp_path / name / "results" / "scores.json").write_text("{")
    files = [tmp_path / name / "results" / "scores.json" for name in ("x", "y")]
    assert len(collect(files, figures=False).rejected) == 2
    collected = collect([file.parent for file in files], figures=False)
    assert [one.file for one in collected.rejected] == [
        "x/results/scores.json",
        "y/results/scores.json",
    ]


def test_a_record_that_takes_the_identity_of_another_displaces_none(folder):
    forged = parts.record("m2d", identity=parts.record().identity)
    parts.write_raw(folder / "a.json", forged)
    collected = collect([folder], figures=False)
    assert not collected.entries and len(collected.rejected) == 2
    assert all("is of something else: remove one" in one.reason for one in collected.rejected)


def test_the_same_run_with_other_scores_is_told(folder):
    parts.write_raw(folder / "z.json", parts.record(f=0.81), identity=parts.record().identity)
    assert "the same run as results/dcase" in parts.rejected(folder)[1]
    assert "with other scores" in parts.rejected(folder)[1]


def test_one_seed_twice_in_a_row_is_flagged(folder):
    parts.write_raw(folder / "copy.json", parts.record(), identity=parts.digest("another"))
    all_cells = cells(collect([folder], figures=False).entries)
    assert all("a seed twice" in cell.flags for cell in all_cells)


def test_the_metric_to_report_is_that_of_the_task(tmp_path):
    parts.write(tmp_path, parts.record())
    turned = {"scores": {ER: 0.4, F: 0.8}, "conventions": {ER: parts.ER, F: parts.F200}}
    parts.write_raw(tmp_path / "turned.json", parts.record(seed=1), **turned)
    only = {"scores": {ER: 0.4}, "conventions": {ER: parts.ER}}
    only |= dict.fromkeys(("ci95", "replicates", "draws", "curves", "per_class"), {})
    parts.write_raw(tmp_path / "only.json", parts.record(seed=2), **only)
    collected = collect([tmp_path], figures=False)
    assert not collected.rejected
    assert sorted(entry.primary for entry in collected.entries) == [F, F, ER]
    assert site.build_site(collected, tmp_path / "site").is_file()


def test_long_options_of_a_module_are_shortened(tmp_path):
    options = {"hyperparameters": {"model_options": {"x": "y" * 9000}}}
    parts.write(tmp_path, parts.record(**options))
    (entry,) = collect([tmp_path], figures=False).entries
    assert len(entry.variant) < 80


EXTREMES = {
    "no score defined": {"scores": {F: None, ER: None}, "ci95": {}, "replicates": {}, "curves": {}},
    "tiny scores": {
        "scores": {F: 5e-324, ER: 1e-200},
        "ci95": {},
        "curves": {F: {key: [5e-324, 1.0] for key in CURVE}},
    },
    "large costs": {"cost": {"parameters": 9e14, "seconds_per_minute": 1e-9}},
    "large error rates": {
        "scores": {F: 0.8, ER: 9e14},
        "replicates": {ER: [0.0, 9e14] * 50},
        "ci95": {},
    },
    "an empty curve": {"curves": {F: {key: [None] for key in CURVE} | {"threshold": [0.3]}}},
    "no precision": {"curves": {F: CURVE | {"precision": [None, None]}}},
    "no class": {"per_class": {}},
    "classes without a score": {"per_class": {"a": {F: None}, "$b{}": {F: 0.0, "events": 0}}},
}


@pytest.mark.parametrize("case", EXTREMES)
def test_a_site_is_built_of_extreme_but_allowed_values(tmp_path, case):
    for seed in range(2):
        changed = parts.record("m2d", seed=seed)
        parts.write_raw(tmp_path / f"{seed}.json", changed, **EXTREMES[case])
    collected = collect([tmp_path], figures=False)
    assert not collected.rejected
    out = site.build_site(collected, tmp_path / "site").parent
    for name in ("index.html", "task-dcase2016_task2.html"):
        values = re.findall(r'(?:data-v|[xy][12]?|d)="([^"]*)"', (out / name).read_text())
        assert not any("nan" in value or "inf" in value for value in values)


def everything(collected: Collected) -> None:
    own = cells(collected.entries)
    gains(own), ranking(hear_rows(own)), notes(cell.column for cell in own)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_a_record_holds_it_is_an_entry_or_told(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "one.json"
    values = json.loads(json.dumps(asdict(parts.record(resamples=3, classes=2))))
    at = values
    while True:
        key = data.draw(st.sampled_from(sorted(at)))
        if not isinstance(at[key], dict) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(VALUES)
    path.write_text(json.dumps(values), encoding="utf-8")
    collected = collect([path], figures=False)
    assert len(collected.entries) + len(collected.rejected) == 1
    everything(collected)
    problems_of_file(path)
