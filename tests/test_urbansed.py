"""URBAN-SED from an archive of its real layout to records and the board; what can be wrong."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("sed_eval")

from eval_parts import LOGMEL, tiny_network, tuned  # noqa: E402

from eval_tasks import tasks  # noqa: E402
from eval_tasks.__main__ import main  # noqa: E402
from eval_tasks.tasks import urbansed  # noqa: E402
from eval_tasks.tasks.base import open_task  # noqa: E402
from hear_ptsed.metrics.records import read_record  # noqa: E402
from leaderboards.__main__ import main as board  # noqa: E402

TASK = tasks.find_task("urbansed")
ROWS = ["0.5\t3.5\tdog_bark", "3.0\t4.0\tdog_bark", "4.0\t5.5\tdog_bark", "2.0 9.0 siren"]


@pytest.fixture
def source(tmp_path) -> Path:
    """Two scenes of each split, in one of which events of a class overlap and touch."""
    root = tmp_path / "URBAN-SED_v2.0.0"
    for name in ("train", "validate", "test"):
        (root / "annotations" / name).mkdir(parents=True)
        (root / "audio" / name).mkdir(parents=True)
        for i in range(2):
            stem, rng = f"soundscape_{name}_bimodal{i}", np.random.default_rng(i)
            rows = ROWS if i == 0 else ["6.0\t10.2\tjackhammer"]
            text = "\n".join(rows) + "\n"
            (root / "annotations" / name / f"{stem}.txt").write_text(text)
            (root / "annotations" / name / f"{stem}.jams").write_text("{}")
            noise = 0.05 * rng.standard_normal(441_000)
            noise[22050:154_350] += 0.3 * np.sin(0.2 * np.arange(132_300)) * (i == 0)
            soundfile.write(root / "audio" / name / f"{stem}.wav", noise, 44100)
    return root


def packed(source: Path, name: str = "scenes.tar.gz") -> Path:
    path = source.parent / name
    with tarfile.open(path, "w:gz") as archive:
        archive.add(source, source.name)
    return path


def prepare(tmp_path: Path, source: Path, *more: str) -> int:
    options = ["--tasks-dir", str(tmp_path / "tasks"), "--source", str(source)]
    return main(["prepare", "urbansed", *options, *more])


def test_the_archive_becomes_a_hear_folder_whose_events_of_a_class_are_apart(
    source, tmp_path, capsys
):
    assert prepare(tmp_path, packed(source)) == 0
    folder = tmp_path / "tasks/urbansed-v2.0.0-full"
    line = (
        "train: 2 of 6000 clips (missing 5998, 100.0 %); valid: 2 of 2000 clips (missing 1998, "
        "99.9 %); test: 2 of 2000 clips (missing 1998, 99.9 %)"
    )
    assert capsys.readouterr().out == f"{folder}\n{line}\n"
    data = open_task(TASK, folder)
    assert data.coverage == line and data.classes == urbansed.CLASSES
    assert data.metadata["sample_duration"] == 10.0
    assert data.metadata["evaluation"] == ["segment_1s_er", "event_onset_200ms_fms"]
    events = data.parts["valid"].events
    assert events["soundscape_validate_bimodal0.wav"] == [
        {"label": "dog_bark", "start": 500.0, "end": 5500.0},
        {"label": "siren", "start": 2000.0, "end": 9000.0},
    ]
    assert events["soundscape_validate_bimodal1.wav"] == [
        {"label": "jackhammer", "start": 6000.0, "end": 10000.0}
    ]
    assert json.loads((folder / "manifest.json").read_text())["joined_events"] == 6
    assert not list(folder.glob("**/*.jams")) and not (tmp_path / "tasks/unpacked").exists()


def test_audio_at_another_rate_is_that_of_the_download(source, tmp_path, capsys):
    assert prepare(tmp_path, source, "--sample-rate", "32000") == 0
    folder = tmp_path / "tasks/urbansed-v2.0.0-full"
    for part, name in (("train", "train"), ("valid", "validate"), ("test", "test")):
        clip = f"soundscape_{name}_bimodal1.wav"
        audio, rate = soundfile.read(folder / "32000" / part / clip)
        assert rate == 32000 and audio.shape == (320_000,)
        power = np.abs(np.fft.rfft(audio)) ** 2  # of white noise at 44.1 kHz
        assert power[90_000:140_000].mean() == pytest.approx(power[:70_000].mean(), rel=0.1)
        assert soundfile.info(folder / "16000" / part / clip).frames == 160_000
    assert prepare(tmp_path, source) == 1
    assert "was made with sample_rate [32000]" in capsys.readouterr().err


def test_frozen_and_fine_tuned_runs_end_on_the_board(source, tmp_path):
    assert prepare(tmp_path, source) == 0
    place = ["--tasks-dir", str(tmp_path / "tasks"), "--results", str(tmp_path / "results")]
    place += ["--work", str(tmp_path / "work"), "--quiet", "--device", "cpu"]
    tiny_network(tmp_path)
    for options in (LOGMEL, tuned(tmp_path)):
        assert main(["run", "--task", "urbansed", *options, *place, "--set", "optim.batch=1"]) == 0
    paths = sorted((tmp_path / "results").rglob("*.json"))
    records = [read_record(path) for path in paths]
    assert sorted(record.protocol for record in records) == ["finetuned", "linear"]
    for record in records:
        assert tuple(record.scores) == TASK.metrics and record.published_task
        assert record.primary == "event_onset_offset_200ms_20perc_fms_macro"
        assert record.coverage.startswith("train: 2 of 6000")
        assert record.per_class["siren"]["events"] == 1
        of_class = record.per_class["dog_bark"]
        assert {"event_onset_offset_200ms_20perc_fms", "segment_1s_f1_micro"} <= of_class.keys()
        tasks_dir = ["--tasks-dir", str(tmp_path / "tasks")]
        assert board(["submit", *map(str, paths), *tasks_dir]) == 0
    out = ["--out", str(tmp_path / "site")]
    assert board(["build", str(tmp_path / "results"), *out]) == 0
    page = (tmp_path / "site/task-urbansed.html").read_text(encoding="utf-8")
    for text in ("URBAN-SED", "log-mel", "SEDT", "onset and offset F1", "small data"):
        assert text in page


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"0.5 1.5 cow", "line 1: unknown label 'cow'; known: air_conditioner, car_horn"),
        (b"1.5 0.5 siren", "line 1: '1.5 0.5 siren'; expected start, end and label, 0 <= start"),
        (b"0.5 siren", "line 1: '0.5 siren'; expected start, end and label"),
        (b"nan inf siren", "line 1: 'nan inf siren'; expected start, end and label"),
        (b"0.5 1.5 s\xefren", "not UTF-8 behind line 0"),
    ],
)
def test_a_wrong_annotation_is_named_by_file_and_line(source, tmp_path, capsys, row, message):
    (source / "annotations/test/soundscape_test_bimodal1.txt").write_bytes(row + b"\n")
    assert prepare(tmp_path, source) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "soundscape_test_bimodal1.txt" in line and message in line
    assert not any((tmp_path / "tasks").glob("urbansed*"))


def test_clips_that_are_gone_are_counted_and_a_split_without_any_is_refused(
    source, tmp_path, capsys
):
    (source / "audio/train/soundscape_train_bimodal0.wav").unlink()
    (source / "audio/valid").mkdir()
    (source / "audio/validate/soundscape_validate_bimodal1.wav").write_bytes(b"gone")
    assert prepare(tmp_path, source, "--size", "5h") == 0
    folder = tmp_path / "tasks/urbansed-v2.0.0-5h"
    parts = json.loads((folder / "coverage.json").read_text())["parts"]
    assert parts["train"] == {
        "listed": 1080,
        "there": 1,
        "missing": ["soundscape_train_bimodal0.wav"],
        "unreadable": [],
    }
    assert "bimodal1.wav" in parts["valid"]["unreadable"][0]
    (source / "audio/validate/soundscape_validate_bimodal0.wav").unlink()
    assert prepare(tmp_path, source) == 1
    assert "none of the 2 annotated clips of validate can be read" in capsys.readouterr().err
    assert prepare(tmp_path, source / "audio") == 1
    assert "has no folder annotations/train; correct --source" in capsys.readouterr().err


def test_an_archive_that_is_torn_or_not_the_released_one_is_refused(source, tmp_path, capsys):
    path = packed(source)
    torn = tmp_path / "torn.tar.gz"
    torn.write_bytes(path.read_bytes()[:200_000])
    assert prepare(tmp_path, torn) == 1
    assert "torn.tar.gz is damaged" in capsys.readouterr().err
    assert prepare(tmp_path, path.rename(tmp_path / "URBAN-SED_v2.0.0.tar.gz")) == 1
    assert "expected a2d24a21; download it again" in capsys.readouterr().err
    assert not any((tmp_path / "tasks").glob("urbansed*"))
