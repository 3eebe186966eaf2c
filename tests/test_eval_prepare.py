"""Preparing DCASE 2016 task 2 from HEAR's archives and the original ones; resampling."""

import json
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from eval_tasks import tasks
from eval_tasks.tasks import dcase2016_task2, find_task
from eval_tasks.tasks.base import open_task
from eval_tasks.tasks.downloads import to_mono

VALID = """dev_1_ebr_0_nec_2_poly_0 dev_1_ebr_0_nec_3_poly_0 dev_1_ebr_6_nec_3_poly_1
dev_1_ebr_6_nec_4_poly_1 dev_1_ebr_6_nec_5_poly_1 test_1_ebr_-6_nec_1_poly_0
test_1_ebr_6_nec_5_poly_1 test_2_ebr_-6_nec_1_poly_0 test_2_ebr_-6_nec_2_poly_0
test_2_ebr_-6_nec_5_poly_1 test_2_ebr_6_nec_3_poly_1 test_3_ebr_-6_nec_2_poly_0
test_3_ebr_0_nec_2_poly_0 test_3_ebr_6_nec_4_poly_1""".split()
TEST = """dev_1_ebr_-6_nec_1_poly_0 dev_1_ebr_-6_nec_5_poly_1 dev_1_ebr_0_nec_1_poly_0
test_1_ebr_-6_nec_5_poly_1 test_1_ebr_6_nec_2_poly_0 test_1_ebr_6_nec_4_poly_1
test_2_ebr_0_nec_2_poly_0 test_2_ebr_0_nec_4_poly_1 test_2_ebr_6_nec_2_poly_0
test_3_ebr_-6_nec_3_poly_0 test_3_ebr_-6_nec_4_poly_1 test_3_ebr_0_nec_4_poly_1
test_3_ebr_0_nec_5_poly_1 test_3_ebr_6_nec_1_poly_0""".split()


def tone(path: Path, seconds: float, rate: int, channels: int = 1, hz: float = 440) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = 0.25 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, np.tile(audio[:, None], channels), rate, subtype="PCM_16")


def names_of(data) -> dict[str, list[str]]:
    return {name: [Path(file).stem for file in part.files] for name, part in data.parts.items()}


# Audio.


def test_resampling_keeps_a_tone_in_place_and_averages_channels(tmp_path):
    time = np.arange(48000) / 48000
    left = 0.5 * np.sin(2 * np.pi * 1000 * time)
    beyond = 0.5 * np.sin(2 * np.pi * 12000 * time)  # above the new band
    soundfile.write(tmp_path / "in.wav", np.stack([left + 2 * beyond, left], 1), 48000, "FLOAT")
    assert to_mono(tmp_path / "in.wav", tmp_path / "out.wav", 1.0) == 1.0
    audio, rate = soundfile.read(tmp_path / "out.wav")
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    assert rate == 16000 and audio.shape == (16000,)
    assert np.abs(audio - expected)[500:-500].max() < 1e-3


@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (16000, 1), (22050, 1)])
@pytest.mark.parametrize("seconds", [0.7, 3.0])
def test_clips_become_exactly_as_long_as_asked(tmp_path, rate, channels, seconds):
    tone(tmp_path / "in.wav", seconds, rate, channels)
    true_s = to_mono(tmp_path / "in.wav", tmp_path / "out.wav", 2.0)
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.frames, info.samplerate, info.channels) == (32000, 16000, 1)
    assert info.subtype == "PCM_16" and true_s == pytest.approx(min(seconds, 2.0))
    audio = soundfile.read(tmp_path / "out.wav")[0]
    assert (np.abs(audio[12000:]).max() < 1e-3) == (seconds < 1)


# DCASE 2016 task 2.


@pytest.fixture(scope="module")
def dcase_original(tmp_path_factory) -> Path:
    """The 72 original names with clips of 1 s; each annotates its 11 K events."""
    root = tmp_path_factory.mktemp("dcase")
    classes = dcase2016_task2.CLASSES
    for scene in ("dev_1", "test_1", "test_2", "test_3"):
        part = root / (
            "dcase2016_task2_train_dev/dcase2016_task2_dev"
            if scene == "dev_1"
            else "dcase2016_task2_test_public"
        )
        (part / "annotation").mkdir(parents=True, exist_ok=True)
        for ebr in (-6, 0, 6):
            for poly, counts in ((0, (1, 2, 3)), (1, (3, 4, 5))):
                for count in counts:
                    name = f"{scene}_ebr_{ebr}_nec_{count}_poly_{poly}"
                    tone(part / "sound" / f"{name}.wav", 1.0, 44100)
                    lines = [
                        f"0.{i:02d}\t0.{i + 9:02d}\t{classes[i % 11]}" for i in range(11 * count)
                    ]
                    (part / "annotation" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def short_scenes(monkeypatch):
    short = replace(dcase2016_task2.TASK, clip_s=1.0)
    monkeypatch.setattr(dcase2016_task2, "TASK", short)


@pytest.fixture
def dcase(dcase_original, tmp_path, short_scenes) -> Path:
    return tasks.prepare("dcase2016_task2", tmp_path / "tasks", source=(dcase_original,))


def test_the_original_dcase_clips_are_split_as_hear_splits_them(dcase):
    data = open_task(find_task("dcase2016_task2"), dcase)
    names = names_of(data)
    assert names["valid"] == sorted(VALID) and names["test"] == sorted(TEST)
    assert len(names["train"]) == 44 and not set(names["train"]) & {*VALID, *TEST}
    counts = [sum(map(len, data.parts[s].events.values())) for s in ("train", "valid", "test")]
    assert counts == [1441, 462, 473]
    assert dcase.name == data.version == "dcase2016_task2-hear2021-full"
    assert data.classes == dcase2016_task2.CLASSES
    assert data.metadata["evaluation"] == ["event_onset_200ms_fms", "segment_1s_er"]
    assert data.parts["train"].events["dev_1_ebr_-6_nec_2_poly_0.wav"][3] == {
        "label": "drawer",
        "start": 30.0,
        "end": 120.0,
    }


def test_the_original_dcase_archives_give_the_same_folder(dcase, dcase_original, tmp_path):
    archives = []
    for name in ("dcase2016_task2_train_dev", "dcase2016_task2_test_public"):
        archives.append(tmp_path / f"{name}.zip")
        with zipfile.ZipFile(archives[-1], "w") as archive:
            for path in sorted((dcase_original / name).rglob("*.*")):
                archive.write(path, path.relative_to(dcase_original))
    again = tasks.prepare("dcase2016_task2", tmp_path / "again", source=tuple(archives))
    first, second = (open_task(find_task("dcase2016_task2"), f) for f in (dcase, again))
    assert first.fingerprint == second.fingerprint
    assert [path.name for path in (tmp_path / "again").iterdir()] == [again.name]
    with pytest.raises(FileNotFoundError, match="nor the original dcase2016_task2_test_public"):
        tasks.prepare("dcase2016_task2", tmp_path / "half", source=(archives[0],))


def test_the_original_dcase_clips_are_kept_at_their_rate(dcase, dcase_original, tmp_path):
    source = {"source": (dcase_original,), "sample_rate": 44100}
    folder = tasks.prepare("dcase2016_task2", tmp_path / "more", **source)
    given = {path.name: path.read_bytes() for path in dcase_original.rglob("*.wav")}
    kept = {path.name: path.read_bytes() for path in folder.glob("44100/*/*.wav")}
    assert kept == given and len(kept) == 72
    first, second = (open_task(find_task("dcase2016_task2"), f) for f in (dcase, folder))
    assert first.fingerprint == second.fingerprint


@pytest.fixture
def released(dcase, tmp_path) -> Path:
    """HEAR's folder with 48 kHz audio only."""
    folder = tmp_path / "hear-2021.0.6" / "tasks" / dcase.name
    shutil.copytree(dcase, folder, ignore=shutil.ignore_patterns("16000", "manifest.json"))
    for path in dcase.glob("16000/*/*.wav"):
        tone(folder / "48000" / path.parent.name / path.name, 1.0, 48000)
    return folder


def test_a_hear_archive_at_48_khz_is_resampled_and_one_at_16_khz_is_linked(
    dcase, released, tmp_path
):
    archive = tmp_path / "hear2021-dcase2016_task2-full-48000.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(tmp_path / "hear-2021.0.6", "hear-2021.0.6")
    folder = tasks.prepare("dcase2016_task2", tmp_path / "a", source=(archive,), jobs=2)
    first, second = (open_task(find_task("dcase2016_task2"), f) for f in (dcase, folder))
    assert first.fingerprint == second.fingerprint
    assert sorted(path.name for path in folder.glob("*000")) == ["16000"]
    audio, expected = (data.parts["test"].read(f"{TEST[0]}.wav") for data in (second, first))
    assert np.abs(audio - expected)[500:-500].max() < 1e-3

    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(archive.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="broken.tar.gz is damaged"):
        tasks.prepare("dcase2016_task2", tmp_path / "c", source=(broken,))

    above = tmp_path / "hear-2021.0.6"
    shutil.copytree(folder / "16000", released / "16000")
    (released / "16000" / "test" / f"{TEST[0]}.wav").unlink()  # is made again
    folder = tasks.prepare("dcase2016_task2", tmp_path / "b", source=(above,))
    assert open_task(find_task("dcase2016_task2"), folder).fingerprint == first.fingerprint
    linked = folder / "16000" / "valid" / f"{VALID[0]}.wav"
    assert linked.samefile(released / "16000" / "valid" / linked.name)


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _other_labels(folder):
    change(folder / "test.json", **{f"{TEST[0]}.wav": [{"label": "cow", "start": 0, "end": 1}]})


def _fewer_clips(folder):
    path = folder / "train.json"
    path.write_text(json.dumps(dict(list(json.loads(path.read_text()).items())[:40])))


def _short_clip(folder):
    tone(folder / "48000/test" / f"{TEST[1]}.wav", 0.4, 16000)
    shutil.move(folder / "48000/test" / f"{TEST[1]}.wav", folder / "16000/test")


DAMAGES = {
    "valid.json is missing": lambda f: (f / "valid.json").unlink(),
    "valid.json lists no clip": lambda f: (f / "valid.json").write_text("{}"),
    "valid.json is not valid JSON": lambda f: (f / "valid.json").write_text('{"a'),
    r"1 clips \(.*48000/test/.*missing; complete": lambda f: (
        f / f"48000/test/{TEST[2]}.wav"
    ).unlink(),
    "has 44100 Hz, expected 48000": lambda f: tone(f / f"48000/test/{TEST[2]}.wav", 1, 44100),
    "not usable; download them again": lambda f: (f / f"48000/test/{TEST[2]}.wav").write_bytes(
        b"RIFF"
    ),
    "has the label 'cow', which labelvocabulary.csv does not": _other_labels,
    "'train': 40.* clips; expected": _fewer_clips,
    "lacks|expected dcase2016_task2-hear2021-full": lambda f: change(
        f / "task_metadata.json", mode="small"
    ),
    "expected 1 s|have not 32000 samples": lambda f: change(
        f / "task_metadata.json", sample_duration=2.0
    ),
    "16000/test.*has 44100 Hz, expected 16000": lambda f: tone(
        f / f"16000/test/{TEST[2]}.wav", 1, 44100
    ),
    r"1 clips of test \(.*have not 16000 samples": lambda f: tone(
        f / f"16000/test/{TEST[2]}.wav", 0.5, 16000
    ),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_release_is_named_in_a_line_and_nothing_is_written(released, tmp_path, message):
    DAMAGES[message](released)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        tasks.prepare("dcase2016_task2", tmp_path / "new", source=(released,))
    assert "\n" not in str(error.value) and str(tmp_path / "new") not in str(error.value)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip", ".rar"])
def test_a_damaged_archive_is_refused(tmp_path, suffix):
    archive = tmp_path / f"hear{suffix}"
    archive.write_bytes(b"\x1f\x8b not an archive")
    with pytest.raises(ValueError, match="is damaged|is no folder and no .zip"):
        tasks.prepare("dcase2016_task2", tmp_path / "new", source=(archive,))


def test_a_release_is_never_replaced_by_itself(released):
    with pytest.raises(FileExistsError, match="was not made here"):
        tasks.prepare("dcase2016_task2", released.parent, source=(released,))
    with pytest.raises(ValueError, match="would be replaced by itself"):
        tasks.prepare("dcase2016_task2", released.parent, source=(released,), force=True)
    assert (released / "48000" / "test").is_dir()
