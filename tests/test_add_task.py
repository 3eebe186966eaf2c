"""A stranger's task: one file, taken by its path or from a package, from `prepare` to the board."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tones import write_tones

from eval_tasks.__main__ import main
from eval_tasks.tasks import all_tasks, find_task
from eval_tasks.tasks.base import Task, open_task
from hear_ptsed.metrics.decoding import Decoding
from leaderboards.__main__ import main as leaderboards

TASK_FILE = '''"""Two tones in noise."""

import numpy as np
import soundfile

from eval_tasks.tasks.base import Task
from eval_tasks.tasks.hear_folder import audio_folder, build_folder, describe_folder, write_labels
from hear_ptsed.metrics.decoding import Decoding
from hear_ptsed.schema import setting, settings

HZ = {"high": 3000.0, "low": 300.0}


@settings
class Options:
    """How many clips there are."""

    clips: int = setting(4, "The number of clips of a split.", ge=2, le=100)


def prepare(task, tasks_dir, options, force):
    made_with = {"task": task.name, "clips": options.clips}

    def fill(folder):
        parts = {}
        for split in ("train", "valid", "test"):
            parts[split] = {}
            for i in range(options.clips):
                label, time = ("high", "low")[i % 2], np.arange(64000) / 16000
                tone = 0.3 * np.sin(2 * np.pi * HZ[label] * time) * ((1 <= time) & (time < 2))
                noise = 0.01 * np.random.default_rng(i).normal(size=len(time))
                soundfile.write(audio_folder(folder, split) / f"{i}.wav", tone + noise, 16000)
                parts[split][f"{i}.wav"] = [{"label": label, "start": 1000.0, "end": 2000.0}]
        described = describe_folder(folder.name, [*parts], task.clip_s, task.metrics)
        write_labels(folder, described, [*HZ], parts, {"settings": made_with})

    return build_folder(tasks_dir / task.folder, made_with, fill, force=force)


TASK = Task(
    name="two_tones",
    title="Two tones",
    folder="two_tones-v1-small",
    about="two tones in noise, clips of 4 s",
    metrics=("event_onset_200ms_fms", "segment_1s_er"),
    decoding=Decoding(0, 120),
    clip_s=4.0,
    recipes={"linear": {"optim": {"batch": 4, "epochs": 40.0, "warmup_steps": 1}}},
    prepare=prepare,
    options=Options,
)
'''


RUN = ["--module", "eval_tasks.logmel", "--protocol", "linear", "--quiet"]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Of the file, prepared and run."""
    folder = tmp_path_factory.mktemp("stranger")
    path, tasks_dir = folder / "two_tones.py", ["--tasks-dir", str(folder / "tasks")]
    path.write_text(TASK_FILE)
    assert main(["prepare", str(path), "--clips", "6", *tasks_dir]) == 0
    places = [f"--{name}={folder / name}" for name in ("results", "work")]
    assert main(["run", "--task", str(path), *RUN, *tasks_dir, *places]) == 0
    return folder / "results"


def test_a_task_in_a_file_is_prepared_and_run(results):
    (path,) = results.rglob("*.json")
    record = json.loads(path.read_text())
    assert (record["task"], record["title"]) == ("two_tones", "Two tones")
    assert record["task_version"] == "two_tones-v1-small" and record["clips"] == 6
    assert record["primary"] == "event_onset_200ms_fms"
    assert record["scores"]["event_onset_200ms_fms"] > 0.9
    assert record["hyperparameters"]["optim"]["batch"] == 4


def test_the_board_shows_it(results, tmp_path, capsys):
    """Needs a board without a table of tasks."""
    assert leaderboards(["build", str(results), "--out", str(tmp_path / "site")]) == 0
    assert "1 results, 0 files rejected" in capsys.readouterr().out
    assert "Two tones" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")


def test_a_sweep_takes_the_path_and_finds_the_same_record(results, tmp_path, capsys):
    path = results.parent / "two_tones.py"
    module = {"tasks": [str(path)], "modules": ["eval_tasks.logmel"], "protocols": ["linear"]}
    (tmp_path / "sweep.yaml").write_text(json.dumps(module))
    places = [f"--{n}={results.parent / n.replace('_dir', '')}" for n in ("results", "work")]
    places += ["--tasks-dir", str(results.parent / "tasks"), "--dry-run"]
    assert main(["sweep", str(tmp_path / "sweep.yaml"), *places]) == 0
    assert "finished" in capsys.readouterr().out


def test_its_options_are_its_own(results, capsys):
    path = str(results.parent / "two_tones.py")
    with pytest.raises(SystemExit):
        main(["prepare", path, "--help"])
    assert "The number of clips of a split (2 <= N <= 100; default 4)." in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["prepare", path, "--clips", "1"])
    assert "'1'; give 2 <= N <= 100" in capsys.readouterr().err
    assert main(["prepare", path, "--tasks-dir", str(results.parent / "tasks")]) == 1
    assert "clips 6 (asked: 4); use --force to replace it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "task.py: no such file of a task"),
        ("x = 1", "task.py has no TASK = Task(…)"),
        ("TASK = 1", "task.py has no TASK = Task(…)"),
        ("def :", "SyntaxError: invalid syntax"),
        ("import no_such_module", "No module named 'no_such_module'"),
        (TASK_FILE.replace("segment_1s_er", "f1"), "task two_tones: unknown metric 'f1'; known: "),
        (TASK_FILE.replace('"linear"', '"svm"'), "task two_tones: unknown protocol 'svm'; known: "),
        (TASK_FILE.replace('name="two_tones"', 'name="a/b"'), "'a/b' cannot name a file"),
    ],
)
def test_a_file_that_holds_no_task_is_refused_in_a_line(tmp_path, capsys, text, said):
    if text is not None:
        (tmp_path / "task.py").write_text(text)
    for words in (["prepare", str(tmp_path / "task.py")], ["run", "--task", str(tmp_path), *RUN]):
        words = [word.replace(str(tmp_path), str(tmp_path / "task.py")) for word in words]
        words = [word.replace("task.py/task.py", "task.py") for word in words]
        assert main(words) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line and str(tmp_path / "task.py") in line


def test_a_file_may_have_the_name_of_a_task_that_is_known(tmp_path):
    path = tmp_path / "office.py"
    path.write_text(TASK_FILE.replace('name="two_tones"', 'name="office"'))
    assert find_task(str(path)).folder == "two_tones-v1-small"
    assert find_task("office").folder == "office-v1-demo"


@pytest.fixture
def packages(tmp_path, monkeypatch) -> Path:
    """Three that name a task in their entry points: one is broken, one takes a known name."""
    folder = tmp_path / "packages"
    for name, code in {
        "strange_sounds": TASK_FILE,
        "broken_sounds": "import no_such_module",
        "other_office": TASK_FILE.replace('name="two_tones"', 'name="office"'),
    }.items():
        described = folder / f"{name}-1.0.dist-info"
        described.mkdir(parents=True)
        (folder / f"{name}.py").write_text(code)
        (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (described / "entry_points.txt").write_text(f"[hear_ptsed.tasks]\n{name} = {name}\n")
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in ("strange_sounds", "other_office"):
        sys.modules.pop(name, None)


def test_a_task_of_another_package_is_known_by_name(packages, tmp_path, capsys, caplog):
    tasks_dir = ["--tasks-dir", str(tmp_path / "tasks")]
    assert main(["prepare", "two_tones", *tasks_dir]) == 0
    caplog.clear()
    capsys.readouterr()
    assert main(["list", *tasks_dir]) == 0
    said = capsys.readouterr().out.splitlines()
    first = said.index("  two_tones: Two tones; two tones in noise, clips of 4 s")
    assert said[first + 2].split() == ["protocols", "hear,", "linear,", "finetuned"]
    assert said[first + 3].split() == ["prepared", str(tmp_path / "tasks" / "two_tones-v1-small")]
    assert sorted(record.getMessage() for record in caplog.records) == [
        "the task broken_sounds (broken_sounds) is left out: No module named 'no_such_module'",
        "the task other_office (other_office) is left out: there is a task office already",
    ]
    assert all_tasks()["office"].folder == "office-v1-demo"


def test_a_broken_package_does_not_reach_the_tasks_of_this_one(packages, caplog):
    assert find_task("office").name == "office" and not caplog.records


SOFT = Task("soft", "Soft", "soft-v1-tiny", "", ("segment_1s_er",), labels=("soft",), clip_s=None)


def test_clips_may_have_any_length_and_events_a_value(tmp_path):
    events = [
        {"label": "low", "start": 0, "end": 300, "value": 0.25},
        {"label": "low", "start": 200, "end": 600, "value": 0.75},
    ]
    splits = ("train", "valid", "test")
    labels = {split: {"0.wav": events, "1.wav": []} for split in splits}
    clips = dict.fromkeys(splits, [1.0, 2.5])
    folder = write_tones(tmp_path / "soft-v1-tiny", clips, names="{i}.wav", labels=labels)
    part = open_task(SOFT, folder).parts["train"]
    targets = part.targets("0.wav")
    assert targets.dtype == np.float32 and part.targets("1.wav").shape == (63, 3)
    expected = [0.25] * 5 + [0.75] * 10 + [0.0] * 10
    assert np.array_equal(targets, np.outer(expected, [0, 1, 0]).astype(np.float32))
    hard = Task("hard", "Hard", "soft-v1-tiny", "", ("segment_1s_er",), Decoding(0, 0))
    with pytest.raises(ValueError, match="labels are not soft, no value"):
        open_task(hard, folder)
    for wrong in ({"value": 1.5}, {"value": None}, {}):
        labels["test"]["0.wav"] = [{"label": "low", "start": 0, "end": 300} | wrong]
        (folder / "test.json").write_text(json.dumps(labels["test"]))
        with pytest.raises(ValueError, match=r"test.json: 0.wav has .* and 0 <= value <= 1"):
            open_task(SOFT, folder)


def test_a_task_takes_the_protocols_that_its_labels_and_lengths_allow():
    assert SOFT.protocols == ()
    with pytest.raises(ValueError, match="soft is not made here; put its folder, soft-v1-tiny, in"):
        SOFT.make(Path("tasks"), None, False)
    any_length = Task("a", "A", "a-v1-x", "", ("segment_1s_er",), clip_s=None)
    assert any_length.protocols == ("linear", "finetuned")
    with pytest.raises(ValueError, match="soft can be prepared, not run: its labels are soft"):
        SOFT.require_protocols()
