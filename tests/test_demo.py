"""The demo: its steps are done once, its parts come in order, its recipes exist."""

import json
from pathlib import Path

import pytest

from eval_tasks import tasks
from eval_tasks.__main__ import main
from eval_tasks.demo import evaluation, stages, steps
from eval_tasks.sweep import PlannedRun
from training.data.coverage import Coverage
from training.recipe import list_kinds

COPY = ["json.tool", "in.json", "out.json"]


def test_a_step_leaves_its_log_and_is_not_run_again_where_its_result_is(tmp_path, capsys):
    (tmp_path / "in.json").write_text('{"a": 1}')
    steps.run_step(tmp_path, "copy a file", COPY, done="out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == {"a": 1}
    assert (tmp_path / "logs" / "copy-a-file.txt").exists()
    assert capsys.readouterr().out.startswith("copy a file: ")
    (tmp_path / "in.json").unlink()
    steps.run_step(tmp_path, "copy a file", COPY, done="out.json")
    assert capsys.readouterr().out == ""


def test_a_step_that_fails_tells_its_last_line_and_where_all_of_it_is(tmp_path):
    with pytest.raises(RuntimeError) as error:
        steps.run_step(tmp_path, "copy a file", COPY, done="out.json")
    assert "copy a file failed: " in str(error.value) and "in.json" in str(error.value)
    assert f"(all output: {tmp_path / 'logs' / 'copy-a-file.txt'})" in str(error.value)


def test_steps_side_by_side_end_together_and_one_failure_is_raised(tmp_path):
    (tmp_path / "in.json").write_text("{}")
    with pytest.raises(RuntimeError, match="second failed"):
        steps.side_by_side(
            lambda: steps.run_step(tmp_path, "first", COPY, done="out.json"),
            lambda: steps.run_step(tmp_path, "second", ["json.tool", "nothing.json"]),
        )
    assert (tmp_path / "out.json").exists()


@pytest.fixture
def commands(monkeypatch, tmp_path) -> list[list[str]]:
    """The commands that the training of the demo starts; each only leaves its result."""
    started = []

    def run_step(
        folder: Path, title: str, command: list[str], done: str = "", at_once: int = 1
    ) -> None:
        if (folder / done).exists():
            return
        started.append([*command, at_once])
        result = folder / done
        result.parent.mkdir(exist_ok=True)
        result.write_text("")
        if command[1] == "pack":
            Coverage([title], 0, 0, 0).write(result.parent / stages.COVERAGE)
        if result.name == "scores.json":
            score = {"scores": {"psds1_macro": 0.5, "pauroc": 0.5}, "clips": 2}
            score["ci95"] = {"psds1_macro": [0.4, 0.6], "pauroc": [0.4, 0.6]}
            score["per_class"] = {"Sine wave": {"psds1": 0.6}, "Static": {"psds1": 0.4}}
            result.write_text(json.dumps(score))

    def corpus(_name: str, tasks_dir: Path, size: str) -> Path:
        folder = tasks_dir / size
        folder.mkdir(parents=True, exist_ok=True)
        shared = {"Sine wave": {"shared_sources": 0}, "Static": {"shared_sources": 1}}
        (folder / "manifest.json").write_text(json.dumps({"classes": shared}))
        return folder

    monkeypatch.setattr(steps, "run_step", run_step)
    monkeypatch.setattr(tasks, "prepare", corpus)
    return started


def test_the_stages_are_trained_in_order_and_only_once(commands, tmp_path, capsys):
    scores = stages.run_stages(tmp_path / "out", tmp_path / "tasks", seed=3)
    work = stages.trained_folder(tmp_path / "out", True, 3)
    assert work == tmp_path / "out" / "quick" / "seed3"
    words = [command[1] for command in commands]
    assert words == ["pack"] * 2 + ["fit"] * 3 + ["pseudo-label"] + ["fit"] * 2 + ["evaluate"] * 6
    fits = [command for command in commands if command[1] == "fit"]
    assert [command[2] for command in fits][:2] == ["demo_weak", "demo_teacher"]
    assert [command[-1] for command in fits] == [1, 2, 2, 2, 2]  # at once
    assert sorted(command[-3] for command in fits) == ["--run.seed=1003"] + ["--run.seed=3"] * 4
    assert all("--optim.epochs=4" in command for command in fits)
    assert {command[2] for command in fits} <= set(list_kinds())
    assert set(scores) == set(stages.STAGES)
    assert scores["weak"]["groups"] == {
        "new sources": {"psds1_macro": 0.6, "classes": 1},
        "shared sources": {"psds1_macro": 0.4, "classes": 1},
    }
    said = capsys.readouterr().out
    assert all(
        f"{name} ({text}): PSDS1 50.0 % (40.0 to 60.0)" in said
        for name, text in stages.STAGES.items()
    )
    commands.clear()
    stages.run_stages(tmp_path / "out", tmp_path / "tasks", seed=3)
    assert commands == []
    stages.run_stages(tmp_path / "out", tmp_path / "tasks", quick=False, seed=3)
    assert not any("--optim.epochs=4" in command for command in commands)
    assert stages.trained_folder(tmp_path / "out", False, 3).is_dir()


def test_the_command_evaluates_trains_evaluates_what_was_trained_and_ends_with_the_page(
    tmp_path, monkeypatch, capsys
):
    done = []
    monkeypatch.setattr(tasks, "prepare", lambda name, folder: folder / name)
    monkeypatch.setattr(evaluation, "evaluate_modules", lambda *args: done.append(args))
    monkeypatch.setattr(evaluation, "evaluate_stages", lambda *args: done.append(args))
    monkeypatch.setattr(
        stages, "run_stages", lambda *args, **options: done.append((*args, options))
    )
    monkeypatch.setattr(steps, "run_step", lambda *args: done.append(args))
    assert main(["demo", "--out", str(tmp_path), "--full", "--seed", "2"]) == 0
    assert done == [
        (tmp_path, tmp_path / "tasks" / "office"),
        (tmp_path / "training", tmp_path / "tasks", {"quick": False, "seed": 2}),
        (tmp_path, tmp_path / "training" / "full" / "seed2", 2),
        (tmp_path, "leaderboard", ["leaderboards", "build", "results", "--out", "site"]),
    ]
    assert capsys.readouterr().out.splitlines()[-1] == f"file://{tmp_path}/site/index.html"


def test_a_failed_evaluation_ends_the_demo(tmp_path, monkeypatch):
    entry = PlannedRun("office checkpoint", None, "failed", "disk full")
    monkeypatch.setattr(evaluation.sweep, "plan_sweep", lambda *_, **__: [entry])
    with pytest.raises(RuntimeError, match="office checkpoint failed: disk full"):
        evaluation.evaluate_stages(tmp_path, tmp_path / "trained", 0)
