"""Whatever a run may be called, its record is read by the board, or refused before it begins."""

import os
from dataclasses import replace
from pathlib import Path

import leaderboard_parts as parts
import pytest
import torch
from eval_parts import OFFICE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval_tasks import tasks
from eval_tasks.__main__ import main
from eval_tasks.plan import Run, plan_run
from eval_tasks.request import Request
from eval_tasks.tasks.base import TaskData, open_task
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.registry import build
from leaderboards import site
from leaderboards.__main__ import main as board
from leaderboards.collect import collect

FOLDER = "office_synthetic-v1-tiny"
GOOD = ["model#1.pt", "it's.pt", ".hidden.pt", "модель.pt", "模型 (2).pt", "a..b.pt", "50%.pt"]
GOOD += ['"quoted" & co.pt', "a:b|c?.pt", "🎵.pt", "=SUM(A1).pt", "$x_1$.pt", "x" * 200 + ".pt"]
BAD = ["a\\b.pt", "a\nb.pt", "a\x1b[2J.pt", "a\u202eb.pt", "<script>.pt", os.fsdecode(b"\xff.pt")]
NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)


@pytest.fixture(scope="module")
def parts_of(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    tasks.prepare("office", folder / "tasks", synthetic=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_checkpoint(build("frame_mn02", n_classes=None).eval(), folder / "mn02.pt")
    return folder


@pytest.fixture(scope="module")
def data(parts_of) -> TaskData:
    return open_task(tasks.find_task("office"), parts_of / "tasks" / FOLDER)


def planned(parts_of: Path, data: TaskData, folder: Path, file: str, stage: str = "") -> Run:
    """A run of a file of that name."""
    if not (folder / file).exists():
        os.link(parts_of / "mn02.pt", folder / file)
    request = Request(
        task="office",
        module="checkpoint",
        protocol="linear",
        checkpoint=folder / file,
        stage=stage,
    )
    return plan_run(request, data)


def record(run: Run):
    """As the run would write it, with scores made up."""
    return replace(parts.record(), **vars(run.asked))


@pytest.mark.parametrize("name", GOOD)
def test_a_record_of_a_file_of_any_common_name_is_read(parts_of, data, tmp_path, name):
    run = planned(parts_of, data, tmp_path, name, "fine-tuned, 2nd!")
    path = parts.write(tmp_path / "results", record(run))
    assert path == tmp_path / run.path
    collected = collect([tmp_path / "results"], figures=False)
    assert not collected.rejected
    (entry,) = collected.entries
    assert (entry.model, entry.stage) == (run.plugin.model, "fine-tuned, 2nd!")
    assert entry.record["checkpoint"]["file"] == name
    assert board(["submit", str(path)]) == 0


def test_a_site_of_such_names_holds_no_markup_of_theirs(tmp_path, recwarn):
    for k, name in enumerate(GOOD):
        checkpoint = {"file": name, "sha256": parts.digest(name)}
        own = {"module": "hear_ptsed.plugins.checkpoint", "checkpoint": checkpoint}
        made = parts.record(f"m{k}", f=0.5 + k / 100, **own)
        parts.write_raw(tmp_path / "r" / f"{k}.json", made, model=name, stage="it's <3")
    collected = collect([tmp_path / "r"], figures=False)
    assert len(collected.entries) == len(GOOD)
    out = site.build_site(collected, tmp_path / "site").parent
    for path in out.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "it's" not in text and " & co" not in text and '="quoted"' not in text, path
    assert not [str(one.message) for one in recwarn]


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_no_record_may_hold_is_refused_before_the_run(
    parts_of, tmp_path, monkeypatch, capsys, name
):
    os.link(parts_of / "mn02.pt", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    command = ["run", *OFFICE, "--tasks-dir", str(parts_of / "tasks"), "--protocol", "linear"]
    assert main([*command, "--module", "checkpoint", "--checkpoint", name]) == 1
    told = capsys.readouterr().err.strip()
    assert len(told.splitlines()) == 1 and "checkpoint" in told and told.isprintable()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("stage", ["a/b", "..\\x", "two\nlines", "<b>", "x" * 300])
def test_a_stage_that_no_record_may_hold_is_refused_before_the_run(
    parts_of, tmp_path, monkeypatch, capsys, stage
):
    monkeypatch.chdir(tmp_path)
    command = ["run", *OFFICE, "--tasks-dir", str(parts_of / "tasks"), "--protocol", "linear"]
    command += ["--module", "checkpoint", "--checkpoint", str(parts_of / "mn02.pt")]
    assert main([*command, "--stage", stage]) == 1
    told = capsys.readouterr().err.strip()
    assert len(told.splitlines()) == 1 and "stage" in told and not any(tmp_path.iterdir())


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(NAMES.map(lambda name: name[:40] + ".pt"), NAMES)
def test_what_is_run_is_read(parts_of, data, tmp_path_factory, name, stage):
    folder = tmp_path_factory.mktemp("one")
    try:
        run = planned(parts_of, data, folder, name, stage)
    except ValueError as error:
        assert str(error).isprintable()
        return
    path = parts.write(folder / "results", record(run))
    collected = collect([folder / "results"], figures=False)
    assert not collected.rejected, path
    (entry,) = collected.entries
    same = entry.model, entry.stage, entry.record["checkpoint"]["file"]
    assert same == (run.plugin.model, stage, name)
