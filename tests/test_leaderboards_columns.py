"""Leaderboards: what shares a column, and what may stand beside the paper's table."""

import csv
import json
import re
from pathlib import Path

import leaderboard_parts as parts
import numpy as np
import pytest
from scoring_parts import psds_scores

from hear_ptsed.labels import load_labels
from hear_ptsed.metrics import bootstrap, events, provenance, records
from leaderboards.__main__ import main
from leaderboards.submit import problems_of_file

F, ER = "event_onset_200ms_fms", "segment_1s_er"


def build(folder: Path, out: Path) -> list[dict[str, str]]:
    """Rows of the CSV of a site, those that were measured."""
    assert main(["build", str(folder), "--out", str(out)]) == 0
    with (out / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["kind"] == "measured"]


RELEASES = ("sed_eval 0.2.1", "sed_eval 0.2.2.dev1+g12", "sed_eval")


def test_releases_of_sed_eval_share_a_column_and_its_ranks(tmp_path):
    models = {"beats": 0.8, "m2d": 0.3, "asit": 0.5}
    for release, (model, f) in zip(RELEASES, models.items(), strict=True):
        parts.write_schema1(tmp_path / "r" / f"{model}.json", parts.record(model, f=f), release)
    rows = [row for row in build(tmp_path / "r", tmp_path / "site") if row["metric"] == F]
    assert {row["model"]: row["rank"] for row in rows} == {"beats": "1", "asit": "2", "m2d": "3"}
    assert len({row["convention"] for row in rows}) == 1
    assert not re.search(r"\d\.\d+\.\d+ Event", rows[0]["convention"])


def test_conventions_are_for_people_and_part_no_columns(tmp_path):
    for k, model in enumerate(("beats", "m2d", "asit")):
        told = {F: f"in words {k}", ER: "in others"}
        parts.write(tmp_path / "r", parts.record(model, f=0.3 + 0.1 * k, conventions=told))
    rows = [row for row in build(tmp_path / "r", tmp_path / "site") if row["metric"] == F]
    assert {row["model"]: row["rank"] for row in rows} == {"asit": "1", "m2d": "2", "beats": "3"}


def test_records_of_two_releases_are_compared_and_accepted(tmp_path, capsys):
    made = [parts.record(model, f=f) for model, f in (("beats", 0.8), ("m2d", 0.7))]
    paths = [str(parts.write_schema1(tmp_path / f"{k}.json", one)) for k, one in enumerate(made)]
    paths.append(str(parts.write(tmp_path / "new", made[1])))
    assert main(["compare", *paths[:2]]) == 0
    said = capsys.readouterr().out
    assert "BEATs strong is better than M2D strong" in said
    assert main(["compare", paths[0], paths[2]]) == 0
    assert capsys.readouterr().out == said
    assert main(["submit", *paths]) == 0
    assert bootstrap.paired(*map(records.read_record, paths[1:]), F) == (0, 0, 0)


def test_the_versions_of_what_scores_are_told_as_software_and_nowhere_else():
    clips = {f"{k}.wav": [{"label": "a", "start": 100.0, "end": 900.0}] for k in range(2)}
    draws = bootstrap.Bootstrap(2)
    scored = events.event_scores(clips, clips, ["a"], [F, ER], draws)
    frames = {file: np.full((100, 1), 0.5) for file in clips}
    areas = psds_scores(frames, clips, dict.fromkeys(clips, 4.0), ["a"], ["psds1"])
    software = provenance.software()
    for text in (*scored.conventions.values(), *areas.conventions.values()):
        assert "sed_eval" in text or "sed_scores_eval" in text
        assert software["sed_eval"] not in text and software["sed_scores_eval"] not in text


# Additive fields


def test_what_a_later_version_adds_is_kept_and_ignored_everywhere(tmp_path, capsys):
    more = {"energy_wh": 12.5, "grid": {"n": [1, 2]}}
    path = parts.write_raw(tmp_path / "r" / "later.json", parts.record(), **more)
    assert (
        records.read_record(path).scores
        == records.read_record(parts.write(tmp_path, parts.record())).scores
    )
    assert main(["submit", str(path)]) == 0
    (row, _) = build(tmp_path / "r", tmp_path / "site")
    assert float(row["mean"]) == 0.8
    (page,) = (tmp_path / "site" / "runs").glob("[0-9a-f]*.html")
    assert page.with_suffix(".json").read_bytes() == path.read_bytes()
    records.write_record(records.read_record(path), tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    assert again == json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("deep", [False, True])
def test_a_key_that_comes_twice_is_refused_by_all_readers(tmp_path, capsys, deep):
    path = parts.write(tmp_path / "r", parts.record())
    text = path.read_text(encoding="utf-8")
    old, new = (
        ('"lr": 0.2', '"lr": 0.2, "lr": 0.3') if deep else ('"seed": 0', '"seed": 0, "seed": 1')
    )
    path.write_text(text.replace(old, new), encoding="utf-8")
    twice = "the key 'lr' comes twice" if deep else "the key 'seed' comes twice"
    with pytest.raises(ValueError, match=twice):
        records.read_record(path)
    assert any(twice in line for line in problems_of_file(path))
    build(tmp_path / "r", tmp_path / "site")
    assert twice in capsys.readouterr().err


# AudioSet Strong

SAID = {"task": "audioset_strong", "data": {"sha256": parts.digest(2), "clips": 16_996}}
OFFICIAL = {"task": "audioset_strong", "task_version": "audioset_strong", "published_task": True}
FORMS = pytest.mark.parametrize("form", ["record", "evaluation"])


def write(folder: Path, form: str, classes: list[str], official: bool, clips: int) -> None:
    """An evaluation, as it is written or as it was."""
    folder.mkdir(exist_ok=True)
    if form == "record":
        changes = {"clips": clips, "title": "AudioSet Strong"} | OFFICIAL if official else {}
        parts.write_raw(folder / "scores.json", parts.as_trained(classes, **changes))
    else:
        values = parts.evaluation(classes, clips) | (SAID if official else {})
        (folder / "scores.json").write_text(json.dumps(values), encoding="utf-8")


def beside_the_paper(folder: Path, capsys) -> tuple[bool, str]:
    """Whether it stands in the published table of students, and what was said on stderr."""
    assert main(["build", str(folder), "--out", str(folder.parent / "site")]) == 0
    page = (folder.parent / "site" / "audioset.html").read_text(encoding="utf-8")
    students = re.search(r'id="published-1">Students.*?</section>', page, re.S)[0]
    return "measured here" in students, capsys.readouterr().err


@FORMS
def test_own_data_of_many_classes_never_stand_beside_the_paper(tmp_path, capsys, form):
    classes = [f"class {k:03d}" for k in range(310)]
    write(tmp_path / "r", form, classes, False, 310)
    assert beside_the_paper(tmp_path / "r", capsys) == (False, "")
    table = (tmp_path / "site" / "task-strong_labels.html").read_text(encoding="utf-8")
    assert ">40.0<" in table
    write(tmp_path / "r", form, classes, True, 16_996)
    stands, told = beside_the_paper(tmp_path / "r", capsys)
    assert not stands and "class 000" in told and told.count("\n") == 1


@FORMS
def test_the_classes_of_audioset_alone_do_not_make_it_the_evaluation_set(tmp_path, capsys, form):
    classes = load_labels(evaluated=True)
    assert len(classes) == 407
    write(tmp_path / "r", form, classes, False, 407)
    assert not beside_the_paper(tmp_path / "r", capsys)[0]
    write(tmp_path / "r", form, classes, True, 16_990)
    assert beside_the_paper(tmp_path / "r", capsys) == (True, "")
    page = (tmp_path / "site" / "audioset.html").read_text(encoding="utf-8")
    assert "small data" not in re.search(r'<span class="line">.*?</small></span>', page, re.S)[0]
    about = (tmp_path / "site" / "about.html").read_text(encoding="utf-8")
    assert "--task audioset_strong" in about and "16,996" in about


@FORMS
def test_a_part_of_the_evaluation_set_is_marked(tmp_path, capsys, form):
    write(tmp_path / "r", form, load_labels(evaluated=True)[:300], True, 9000)
    assert beside_the_paper(tmp_path / "r", capsys)[0]
    page = (tmp_path / "site" / "audioset.html").read_text(encoding="utf-8")
    (cell,) = re.findall(r'<span class="line">.*?</small></span>', page, re.S)
    assert "small data" in cell
    (run_page,) = (tmp_path / "site" / "runs").glob("[0-9a-f]*.html")
    assert "300 of 407 classes, 9000 of 16996 clips" in run_page.read_text(encoding="utf-8")


def test_evaluations_of_other_clips_do_not_share_a_column(tmp_path):
    for k in range(2):
        values = parts.evaluation(["a", "b"], task="strong_labels")
        values |= {"data": {"sha256": parts.digest(k), "clips": 2}}
        (tmp_path / f"{k}.json").write_text(json.dumps(values), encoding="utf-8")
    rows = [row for row in build(tmp_path, tmp_path / "site") if row["metric"] == "psds1_macro"]
    assert len({row["data"] for row in rows}) == len(rows) == 2
