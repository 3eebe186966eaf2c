"""`training evaluate` says what was scored, and takes nobody's data for AudioSet Strong."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.labels import load_labels
from hear_ptsed.metrics import records
from hear_ptsed.registry import build
from hear_ptsed.schema import check_json
from leaderboards.collect import collect
from training.__main__ import main

HEADER = "filename\tonset\toffset\tevent_label\n"


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A model of the 447 classes, and three clips of noise."""
    folder = tmp_path_factory.mktemp("evaluate")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_checkpoint(build("frame_mn02").eval(), folder / "model #1.pt")
    (folder / "clips").mkdir()
    for k in range(3):
        noise = 0.1 * np.random.default_rng(k).standard_normal(16_000)
        soundfile.write(folder / "clips" / f"c{k}.wav", noise, 16_000)
    return folder


def evaluated(work: Path, rows: list[tuple[str, float, float, str]], *more: str) -> dict:
    """The result of an annotation; {} if it is refused."""
    lines = ("\t".join(map(str, row)) for row in rows)
    (work / "events.tsv").write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    out = work / "out" / ".scores.json"
    out.unlink(missing_ok=True)
    command = ["evaluate", str(work / "model #1.pt"), "--audio", str(work / "clips"), *more]
    command += ["--events", str(work / "events.tsv"), "--workers", "0", "--device", "cpu"]
    code = main([*command, "--out", str(out)])
    assert code == (0 if out.exists() else 1)
    return json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}


def events(names: list[str]) -> list[tuple[str, float, float, str]]:
    return [(f"c{k % 3}.wav", 0.2, 0.7, name) for k, name in enumerate(names)]


def record_of(work: Path) -> records.Record:
    text = (work / "out" / ".scores.json").read_text(encoding="utf-8")
    return check_json(records.Record, text, "")


SOME = events(load_labels()[:6])


def test_a_result_names_its_task_its_data_and_its_software(work, capsys):
    result = evaluated(work, SOME, "--name", "mine", "--bootstrap", "20")
    assert (result["task"], result["clips"], result["name"]) == ("strong_labels", 3, "mine")
    assert "--name mine --bootstrap 20" in result["command"]
    version = result["software"]["sed_scores_eval"]
    assert version not in json.dumps(result["conventions"])
    made = record_of(work)
    assert made.primary == "psds1_macro" and not made.published_task
    assert made.checkpoint["file"] == "model #1.pt" and made.model == "model #1"
    assert len(made.per_class) == 6 and {"events", "map"} <= made.per_class[SOME[0][3]].keys()
    assert made.settings["pauroc"] == {"median_frames": 9, "durations": "heard", "head": "strong"}
    assert len(made.replicates["psds1_macro"]) == 20 and made.draws["map"][0]["clips"] == 3
    collected = collect([work / "out"], figures=False)
    (entry,) = collected.entries
    assert not collected.rejected and entry.task == "strong_labels" and entry.small_data
    assert entry.model == "model #1" and entry.data == result["task_sha256"][:12]


def test_the_fingerprint_is_that_of_what_is_scored(work):
    one = evaluated(work, SOME)["task_sha256"]
    assert evaluated(work, SOME[::-1])["task_sha256"] == one
    strange = ("c0.wav", 0.1, 0.9, "no class of the model")
    assert evaluated(work, [*SOME, strange])["task_sha256"] == one
    others = [SOME[:-1], [(*SOME[0][:2], 0.71, SOME[0][3]), *SOME[1:]]]
    assert len({one, *(evaluated(work, rows)["task_sha256"] for rows in others)}) == 3


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (load_labels()[:6], "lacks 'Air conditioning'"),
        (load_labels(), "has 'Air compressor' and 39 other differences"),
    ],
)
def test_data_of_other_classes_are_not_taken_for_audioset(work, capsys, names, told):
    assert evaluated(work, events(names), "--task", "audioset_strong") == {}
    error = capsys.readouterr().err
    assert "task audioset_strong" in error and "leave out --task" in error
    lines = [line for line in error.splitlines() if line.startswith("training evaluate:")]
    assert len(lines) == 1, error


def test_what_has_the_classes_of_audioset_is_what_it_is_said_to_be(work):
    every = load_labels(evaluated=True)
    assert evaluated(work, events(every))["task"] == "strong_labels"
    result = evaluated(work, events(every), "--task", "audioset_strong")
    assert result["task"] == "audioset_strong" and len(result["per_class"]) == 407
    (entry,) = collect([work / "out"], figures=False).entries
    assert entry.task == "audioset_strong" and entry.small_data  # of three clips


def test_a_name_that_no_result_may_hold_is_told_before_anything_is_computed(work, capsys):
    (work / "a<b.pt").write_bytes((work / "model #1.pt").read_bytes())
    command = ["evaluate", str(work / "a<b.pt"), "--audio", str(work / "clips")]
    assert main([*command, "--out", str(work / "x.json")]) == 1
    error = capsys.readouterr().err
    assert "must be a line without control characters and markup" in error
