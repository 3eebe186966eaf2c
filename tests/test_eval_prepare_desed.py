"""Preparing DESED from a folder of its real form, of which clips are missing; the command line."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from eval_tasks import tasks
from eval_tasks.__main__ import main
from eval_tasks.tasks import desed
from eval_tasks.tasks.base import open_task
from eval_tasks.tasks.hear_folder import subsample, summarise

TASK = tasks.find_task("desed")
SYNTHETIC = "synthetic21_{}/soundscapes"


def clip(path: Path, seconds: float = 10.0, rate: int = 16000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = np.linspace(-0.3, 0.3, round(seconds * rate))
    soundfile.write(path, np.tile(audio[:, None], channels), rate, subtype="PCM_16")


def table(path: Path, header: str, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [" ".join(line.split()).replace(" ", "\t") for line in (header, *rows)]
    path.write_text("\n".join(lines) + "\n")


STRONG = "filename onset offset event_label"


@pytest.fixture
def source(tmp_path) -> Path:
    """Four synthetic, three validation, four real, two weak and three unlabelled clips."""
    root = tmp_path / "dataset"
    names, audio = root / "metadata", root / "audio"
    table(
        names / "train/synthetic21_train/soundscapes.tsv",
        STRONG,
        *("1.wav 0.5 1.25 Dog", "1.wav 0.0 10.0 Frying_nOn_nOff", "2.wav 9.5 12.0 Speech"),
        *("2.wav 10.5 11.0 Cat", "3.wav 1.0 1.0 Cat", "3.wav 0.0 3.0 Vacuum_cleaner_nOff"),
        "10.wav 1 2 Dishes",
    )
    for name, form in {"1": {}, "2": {"rate": 44100}, "3": {"seconds": 11.5}, "10": {}}.items():
        clip(audio / f"train/synthetic21_train/soundscapes/{name}.wav", **form)
    table(names / "validation/synthetic21_validation/soundscapes.tsv", STRONG, "7.wav 1 2 Cat")
    table(
        names / "validation/synthetic21_validation/durations.tsv",
        *("filename duration", "7.wav 10.0", "8.wav 10.0"),
    )
    for name in ("7", "8"):
        clip(audio / f"validation/synthetic21_validation/soundscapes/{name}.wav")
    table(
        names / "validation/validation.tsv",
        STRONG,
        *("Y-a.b_30.000_40.000.wav 0.2 0.6 Dishes", "Yb_0_10.wav", "Yc_0_10.wav 1 9 Blender"),
        "Ygone_0_10.wav 1 2 Cat",
    )
    clip(audio / "validation/validation/Y-a.b_30.000_40.000.wav", 9.3, 44100, 2)
    clip(audio / "validation/validation/Yb_0_10.wav")
    clip(audio / "validation/validation_16k/Yc_0_10.wav")
    table(
        names / "train/weak.tsv",
        *("filename event_labels", "Yw_0_10.wav Speech,Dog", "Yv_0_10.wav Cat"),
    )
    clip(audio / "train/weak/Yw_0_10.wav")
    (audio / "train/weak/Yv_0_10.wav").write_bytes(b"<html>gone</html>")
    for name in "xyz":
        clip(audio / f"train/unlabel_in_domain/Y{name}_0_10.wav")
    return root


def prepare(tmp_path: Path, source: Path, **options) -> Path:
    return tasks.prepare("desed", tmp_path / "tasks", source=(source,), **options)


def test_desed_becomes_a_hear_folder_with_weak_and_unlabelled_parts(source, tmp_path):
    folder = prepare(tmp_path, source.parent)  # found inside
    data = open_task(TASK, folder)
    assert folder.name == data.version == "desed-dcase2023-full"
    assert data.classes == desed.CLASSES and data.metadata["splits"] == ["train", "valid", "test"]
    assert data.parts["train"].events == {
        "1.wav": [
            {"label": "Frying", "start": 0.0, "end": 10000.0},
            {"label": "Dog", "start": 500.0, "end": 1250.0},
        ],
        "10.wav": [{"label": "Dishes", "start": 1000.0, "end": 2000.0}],
        "2.wav": [{"label": "Speech", "start": 9500.0, "end": 10000.0}],
        "3.wav": [{"label": "Vacuum_cleaner", "start": 0.0, "end": 3000.0}],
    }
    assert data.parts["valid"].events["8.wav"] == []  # only in the table of durations
    assert data.parts["test"].events["Yb_0_10.wav"] == []
    assert data.parts["weak"].tags == {"Yw_0_10.wav": ["Dog", "Speech"]}
    assert len(data.parts["unlabelled"]) == 3
    for part in data.parts.values():
        assert set(part.samples.values()) == {160000}
    short = "Y-a.b_30.000_40.000.wav"
    assert data.parts["test"].durations_s[short] == pytest.approx(9.3)
    assert not data.parts["test"].read(short)[150000:].any()
    assert data.parts["train"].durations_s["3.wav"] == 10.0


def test_what_is_missing_is_counted_and_named(source, tmp_path, capsys):
    arguments = ["prepare", "desed", "--tasks-dir", str(tmp_path / "tasks")]
    more = ["--jobs", "2", "--sample-rate", "32000"]
    assert main([*arguments, "--source", str(source), *more]) == 0
    line = (
        "test: 3 of 4 clips (missing 1, 25.0 %); weak: 1 of 2 clips (missing 1, 50.0 %); "
        "unlabelled: 3 of 14412 clips (missing 14409, 100.0 %)"
    )
    folder = tmp_path / "tasks" / "desed-dcase2023-full"
    assert capsys.readouterr().out == f"{folder}\n{line}\n"
    assert open_task(TASK, folder).coverage == line
    parts = json.loads((folder / "coverage.json").read_text())["parts"]
    assert parts["test"]["missing"] == ["Ygone_0_10.wav"] and parts["test"]["listed"] == 4
    assert "Yv_0_10.wav" in parts["weak"]["unreadable"][0] and parts["weak"]["missing"] == []
    assert parts["train"]["events_left_out"] == 2
    clips = [{*(folder / rate).rglob("*.wav")} for rate in ("16000", "32000")]
    assert len(clips[0]) == len(clips[1]) > 0
    assert {soundfile.info(clip).frames for clip in clips[1]} == {320_000}
    assert summarise({p: {"listed": 2, "there": 2} for p in parts}, desed.PARTS) is None


def test_optional_parts_may_be_absent_and_splits_may_not(source, tmp_path):
    (source / "metadata/train/weak.tsv").unlink()
    for path in (source / "audio/train/unlabel_in_domain").iterdir():
        path.unlink()
    data = open_task(TASK, prepare(tmp_path, source))
    assert list(data.parts) == ["train", "valid", "test"]
    assert "weak: none; unlabelled: none" in data.coverage
    for path in (source / "audio/validation/synthetic21_validation/soundscapes").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="none of the 2 listed clips of valid can be read"):
        prepare(tmp_path, source, force=True)
    (source / "metadata/validation/validation.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks metadata/validation/validation.tsv"):
        prepare(tmp_path, source, force=True)
    assert len(open_task(TASK, tmp_path / "tasks/desed-dcase2023-full").parts) == 3


def test_weak_labels_without_their_audio_make_no_part(source, tmp_path):
    (source / "audio/train/weak/Yw_0_10.wav").unlink()
    folder = prepare(tmp_path, source)
    data = open_task(TASK, folder)
    assert "weak" not in data.parts and "weak: 0 of 2 clips" in data.coverage
    assert not (folder / "16000/weak").exists()


def test_real_strong_clips_are_added_on_request_under_names_of_their_own(source, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks metadata/train/audioset_strong.tsv"):
        prepare(tmp_path, source, strong_real=True)
    table(source / "metadata/train/audioset_strong.tsv", STRONG, "1.wav 1 2 Speech")
    clip(source / "audio/train/strong_label_real/1.wav")
    folder = prepare(tmp_path, source, strong_real=True)
    train = open_task(TASK, folder).parts["train"]
    assert train.files == ["1.wav", "10.wav", "2.wav", "3.wav", "real_1.wav"]
    with pytest.raises(FileExistsError, match=r"strong_real True \(asked: False\).*--force"):
        prepare(tmp_path, source)


def test_the_smaller_size_takes_hear_s_choice_of_the_listed_clips(source, tmp_path, monkeypatch):
    monkeypatch.setitem(desed.SIZES, "5h", {"train": 2, "valid": 2, "unlabelled": 2})
    folder = prepare(tmp_path, source, size="5h")
    data = open_task(TASK, folder)
    assert folder.name == data.version == "desed-dcase2023-5h"
    assert data.parts["train"].files == sorted(
        subsample(["1.wav", "2.wav", "3.wav", "10.wav"], "train", 2)
    )
    assert [len(data.parts[p]) for p in ("valid", "test", "weak", "unlabelled")] == [2, 3, 1, 2]
    assert data.metadata["max_task_duration_by_split"]["test"] is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1.wav 1 2 Cow", r"soundscapes.tsv, line 2: unknown label 'Cow'; known: Alarm"),
        ("1.wav one 2 Cat", r"line 2: times 'one' and '2'; expected seconds"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(source, tmp_path, row, message):
    table(source / "metadata/train/synthetic21_train/soundscapes.tsv", STRONG, row)
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path, source)
    assert list((tmp_path / "tasks").iterdir()) == []


def test_a_table_without_its_columns_and_a_folder_without_tables_are_refused(source, tmp_path):
    table(source / "metadata/validation/validation.tsv", "filename onset offset", "a.wav 1 2")
    with pytest.raises(ValueError, match=r"validation.tsv has no column event_label"):
        prepare(tmp_path, source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="has no folder metadata or audio"):
        prepare(tmp_path, tmp_path / "empty")


def test_parts_may_lie_in_several_folders(source, tmp_path):
    other = tmp_path / "elsewhere"
    (other / "audio/validation").mkdir(parents=True)
    (source / "audio/validation/validation").rename(other / "audio/validation/validation")
    folder = tasks.prepare("desed", tmp_path / "tasks", source=(source, other))
    assert len(open_task(TASK, folder).parts["test"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["desed"], "desed is made from a download; name its folder or archive: --source"),
        (["desed", "--source", "nowhere"], "nowhere is no folder; unpack DESED"),
        (["maestro", "--source", "nowhere"], "no folder or archive nowhere; correct --source"),
        (["maestro", "--source", ".", "--strong-real"], "maestro does not take --strong-real"),
        (
            ["dcase2016_task2", "--seed", "1"],
            "does not take --seed; it takes --jobs, --",
        ),
        (["home", "--source", "."], "home does not take --source; it takes --sample-rate, --seed"),
        (["desed", "--mode", "5h"], "desed does not take --mode; --mode is called --size now"),
    ],
)
def test_options_that_are_missing_or_of_another_task_are_named(
    source, arguments, message, capsys, monkeypatch
):
    monkeypatch.chdir(source)
    assert main(["prepare", *arguments]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("eval_tasks prepare: ") and message in error


def test_the_task_comes_first(capsys):
    assert main(["prepare", "--force", "home"]) == 2
    assert "'--force' stands where the task must" in capsys.readouterr().err


def test_every_task_is_known_with_its_folder_and_metrics():
    known = tasks.all_tasks()
    assert {task.name: (task.folder, task.published) for task in known.values()} == {
        "dcase2016_task2": ("dcase2016_task2-hear2021-full", True),
        "maestro": ("maestro-v3.0.0-5h", True),
        "hear": ("hear", True),
        "desed": ("desed-dcase2023-full", True),
        "urbansed": ("urbansed-v2.0.0-full", True),
        "maestro_real": ("maestro_real-dcase2023-full", True),
        "realdesed": ("realdesed-2026-weighted_reviewed", True),
        "office": ("office-v1-demo", False),
        "piano": ("piano-v1-demo", False),
        "home": ("home-v1-demo", False),
        "scenes": ("officeclips-v1-demo", False),
        "soundscapes": ("soundscapes-v1-demo", False),
    }
    unscored = [name for name, task in known.items() if not task.protocols]
    assert unscored == ["hear", "scenes", "soundscapes"]
    for small, like in (("office", "dcase2016_task2"), ("piano", "maestro"), ("home", "desed")):
        a, b = known[small], known[like]
        assert (a.metrics, a.decoding, a.select) == (b.metrics, b.decoding, b.select)
        assert (a.labels, a.psds_median) == (b.labels, b.psds_median)
    assert {"linear", "finetuned"} < set(known["home"].protocols)
    with pytest.raises(ValueError, match="unknown task 'audioset'; known: dcase2016_task2"):
        tasks.prepare("audioset", Path())


@pytest.mark.parametrize("name", tasks.all_tasks())
def test_every_task_says_what_it_takes(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["prepare", name, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for option in dataclasses.fields(tasks.find_task(name).options):
        assert f"--{option.name.replace('_', '-')} " in said


def test_prepare_lists_the_tasks(capsys):
    assert main(["prepare", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in tasks.all_tasks())


def test_the_list_names_tasks_metrics_protocols_and_what_is_prepared(tmp_path, capsys):
    tasks.prepare("home", tmp_path, synthetic=True)
    assert main(["list", "--tasks-dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = lines.index(next(line for line in lines if line.startswith("  home: Home (small)")))
    assert lines[first + 1].split()[:2] == ["metrics", "psds1,"]
    assert lines[first + 2].split()[:2] == ["protocols", "hear,"]
    assert lines[first + 3].split() == ["prepared", str(tmp_path / "home_synthetic-v1-tiny")]
    assert any(line.split()[:2] == ["psds1", "PSDS1"] for line in lines)
    assert any(line.split()[:2] == ["mean-teacher", "the"] for line in lines)


@pytest.mark.parametrize("name", ["scenes", "soundscapes"])
def test_what_can_only_be_prepared_is_not_run(name, capsys, tmp_path):
    words = ["run", "--task", name, "--module", "eval_tasks.logmel", "--protocol", "linear"]
    assert main([*words, "--tasks-dir", str(tmp_path)]) == 1
    said = f"eval_tasks run: {name} can be prepared, not run: it has no metric"
    assert capsys.readouterr().err.splitlines() == [said]
