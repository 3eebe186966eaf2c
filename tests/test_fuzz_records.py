"""Records damaged in any way give a right entry or one line, and a site is built of them."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import leaderboard_parts as parts
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hear_ptsed.metrics import records
from leaderboards.__main__ import main
from leaderboards.collect import collect
from leaderboards.submit import problems_of_file

GOOD = json.loads(json.dumps(asdict(parts.record(resamples=4, classes=2))))
NUMBERS = ("scores", "per_class", "ci95", "curves", "replicates", "clips", "seed", "untrained")
EXTREMES = [10**400, -(10**400), 2**63, 1e308, -1e308, 5e-324, 1e-300, -0.0, -1, 0, 1.5, 2]
EXTREMES += [None, True, False, "", "0", "NaN", "x" * 20_000, "\ud800", "\x00", "<b>", "../x"]
EXTREMES += [[], {}, [None], [[]], {"": {}}, {"file": None}, [0.5] * 3]
DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]
VALUES = st.sampled_from([*EXTREMES, DEEP]) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def damaged(draw) -> dict[str, Any]:
    """A good record with some of its values dropped, changed, or joined by others."""
    values = json.loads(json.dumps(GOOD))
    for _ in range(draw(st.integers(1, 2))):
        at: Any = values
        key = draw(st.sampled_from(sorted(values))) if values else ""
        while isinstance(at.get(key), dict) and at[key] and draw(st.booleans()):
            at = at[key]
            key = draw(st.sampled_from(sorted(at)))
        match draw(st.sampled_from(["drop", "change", "add", "add", "item"])):
            case "drop":
                at.pop(key, None)
            case "add":
                at[draw(st.text(max_size=8) | st.sampled_from(["energy_wh", "psds1"]))] = draw(
                    VALUES
                )
            case "item" if isinstance(at.get(key), list) and at[key]:
                at[key][draw(st.integers(0, len(at[key]) - 1))] = draw(VALUES)
            case _:
                at[key] = draw(VALUES)
    return values


def same(shown: Any, written: Any) -> bool:
    """Equal numbers; NaN for null."""
    if isinstance(written, dict):
        return shown.keys() == written.keys() and all(same(shown[k], written[k]) for k in written)
    if isinstance(written, list):
        return len(shown) == len(written) and all(map(same, shown, written))
    return math.isnan(shown) if written is None else shown == written


@settings(max_examples=300, deadline=None, derandomize=True)
@given(damaged())
def test_a_damaged_record_is_a_right_entry_or_told_in_a_line(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("fuzz") / "one.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    collected = collect([path], figures=False)
    told = problems_of_file(path)
    assert all(line.isprintable() for line in told)
    if collected.rejected:
        (one,) = collected.rejected
        assert not collected.entries and one.reason and one.reason.isprintable() and told
        assert "cannot be read" not in one.reason  # an error that nobody foresaw
        try:
            records.read_record(path)
        except ValueError as error:
            assert "\n" not in str(error)
        return
    (entry,) = collected.entries
    for key in NUMBERS:
        assert same(getattr(entry, key), values.get(key, {})), key
    read = records.read_record(path)
    for key in (*NUMBERS[:5], "folds"):
        assert same(getattr(read, key), values.get(key, {})), key


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Records damaged in ways that hypothesis thinks of, one file each."""
    folder = tmp_path_factory.mktemp("fuzzed") / "results"
    folder.mkdir()

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(damaged())
    def write(values):
        number = len([*folder.iterdir()])
        if values.get("identity") == GOOD["identity"]:  # else the first would hide the others
            values["identity"] = parts.digest(number)
        (folder / f"{number:03d}.json").write_text(json.dumps(values), encoding="utf-8")

    write()
    return folder


def test_a_site_is_built_of_damaged_records_and_names_each_that_it_leaves_out(folder, capsys):
    files = len([*folder.iterdir()])
    assert main(["build", str(folder), "--out", str(folder.parent / "site")]) == 0
    said = capsys.readouterr()
    measured, rejected = (int(text.split()[0]) for text in said.out.splitlines()[0].split(", "))
    assert measured + rejected == files and measured > 3 and rejected > 3
    assert len(said.err.splitlines()) == rejected and "Traceback" not in said.err
