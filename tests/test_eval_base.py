"""Opening a task's folder: splits, targets, and every way in which a folder can be wrong."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tones import write_tones

from eval_tasks.heareval.adjustments import tensorflow_stand_in
from eval_tasks.tasks import find_task
from eval_tasks.tasks.base import Split, open_task

TASK = find_task("home")
CLASSES = ["cat", "dog"]


def event(label: str | int, start: float, end: float) -> dict:
    return {"label": label, "start": start, "end": end}


def wav(path: Path, seconds: float = 1.0, rate: int = 16000, channels: int = 1) -> None:
    samples = np.linspace(-0.5, 0.5, round(seconds * rate))
    soundfile.write(path, np.tile(samples[:, None], channels), rate, subtype="PCM_16")


def make(folder: Path, splits: tuple[str, ...] = ("train", "valid", "test"), **more) -> Path:
    """A folder of one clip per part, a.wav; `more` are parts that HEAR does not know."""
    labels = {split: {"a.wav": [event("dog", 100, 300)]} for split in splits} | more
    clips, hz = dict.fromkeys(labels, [1.0]), {"cat": 900.0, "dog": 300.0}
    return write_tones(folder, clips, hz, names="a.wav", labels=labels)


@pytest.fixture
def folder(tmp_path) -> Path:
    return make(tmp_path / "pets-v1-full")


def change(path: Path, **values) -> None:
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def test_a_split_trains_validates_and_tests_on_the_parts_of_those_names(folder):
    data = open_task(TASK, folder)
    assert data.splits == [Split(("train",), "valid", "test")]
    assert data.version == "pets-v1-full" and data.classes == ("cat", "dog")
    assert data.parts["test"].files == ["a.wav"] and len(data.parts["test"]) == 1
    assert data.coverage is None


def test_of_folds_each_is_tested_once_the_next_one_validates_and_the_rest_train(tmp_path):
    names = tuple(f"fold{i:02d}" for i in range(5))
    splits = open_task(TASK, make(tmp_path / "folds", names)).splits
    assert [split.test for split in splits] == list(names)
    assert splits[0] == Split(("fold02", "fold03", "fold04"), "fold01", "fold00")
    assert splits[4] == Split(("fold01", "fold02", "fold03"), "fold00", "fold04")
    with pytest.raises(ValueError, match="has 2 folds; at least 3"):
        open_task(TASK, make(tmp_path / "two", names[:2]))


def test_weak_and_unlabelled_parts_durations_and_coverage_are_read_where_they_are(tmp_path):
    folder = make(tmp_path / "more", weak={"a.wav": ["cat"]}, unlabelled={"a.wav": []})
    (folder / "durations.json").write_text('{"weak": {"a.wav": 0.9}}')
    (folder / "coverage.json").write_text('{"summary": "test: 1 of 2 clips"}')
    data = open_task(TASK, folder)
    weak = data.parts["weak"]
    assert weak.clip_targets("a.wav").tolist() == [1, 0] and weak.durations_s == {"a.wav": 0.9}
    assert data.parts["unlabelled"].tags == {"a.wav": []}
    assert data.parts["test"].durations_s == {"a.wav": 1.0}
    assert data.coverage == "test: 1 of 2 clips"
    assert [split.train for split in data.splits] == [("train",)]


def test_targets_are_those_of_heareval_for_any_events(tmp_path):
    with tensorflow_stand_in():
        from heareval.embeddings.task_embeddings import get_labels_for_timestamps

    folder = make(tmp_path / "pets")
    rng = np.random.default_rng(0)
    all_events = [
        event("dog", 60.0, 60.0),
        event("cat", 19.9999, 20.0),
        event("cat", 100.0001, 139.9),
    ]
    for start in rng.choice(np.arange(0, 1000, 5.0), 20):
        all_events.append(
            event(str(rng.choice(CLASSES)), start, start + rng.choice([5.0, 40.0, 315.0]))
        )
    for events in ([], all_events[:3], all_events, [event("dog", 900.0, 5000.0)]):
        change(folder / "test.json", **{"a.wav": events})
        for hop_ms, frames in ((40, 25), (20, 50), (10, 99)):
            part = open_task(TASK, folder).with_hop(hop_ms).parts["test"]
            centres = 20.0 + hop_ms * np.arange(frames)
            (expected,) = get_labels_for_timestamps([events], centres[None])
            ours = part.targets("a.wav")
            assert ours.shape == (frames, 2)
            assert [sorted({CLASSES[c] for c in np.flatnonzero(row)}) for row in ours] == [
                sorted(set(labels)) for labels in expected
            ]


def test_audio_is_read_by_frames_and_ends_in_silence(folder):
    part = open_task(TASK, folder).parts["train"]
    every = part.read("a.wav")
    assert every.shape == (16000,) and every.dtype == np.float32
    assert np.array_equal(part.read("a.wav", 3, 2), every[1920:3200])
    late = part.read("a.wav", 24, 5)
    assert np.array_equal(late[:640], every[-640:]) and not late[640:].any()


def test_the_fingerprint_changes_with_labels_lengths_and_metadata_only(folder):
    first = open_task(TASK, folder).fingerprint
    assert open_task(replace(TASK, name="other"), folder).fingerprint == first
    wav(folder / "16000/test/not_listed.wav")
    assert open_task(TASK, folder).fingerprint == first
    wav(folder / "16000/test/a.wav", seconds=0.9)
    second = open_task(TASK, folder).fingerprint
    change(folder / "test.json", **{"a.wav": [event("dog", 101, 300)]})
    third = open_task(TASK, folder).fingerprint
    change(folder / "task_metadata.json", mode="half")
    assert len({first, second, third, open_task(TASK, folder).fingerprint}) == 4


def test_what_is_not_a_task_of_sound_events_is_refused(folder):
    with pytest.raises(FileNotFoundError, match="no task folder .*eval_tasks prepare home"):
        open_task(TASK, folder / "nowhere")
    described = folder / "task_metadata.json"
    change(described, embedding_type="scene")
    with pytest.raises(ValueError, match="task of whole clips"):
        open_task(TASK, folder)
    change(described, splits=None)
    with pytest.raises(ValueError, match="lacks splits"):
        open_task(TASK, folder)
    described.write_text("{")
    with pytest.raises(ValueError, match=r"task_metadata.json is not valid JSON"):
        open_task(TASK, folder)
    described.unlink()
    with pytest.raises(FileNotFoundError, match=r"task_metadata.json is missing"):
        open_task(TASK, folder)


def test_a_missing_or_empty_split_is_named(folder):
    (folder / "valid.json").write_text("{}")
    with pytest.raises(ValueError, match=r"valid.json lists no clip"):
        open_task(TASK, folder)
    (folder / "valid.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"valid.json is missing"):
        open_task(TASK, folder)


@pytest.mark.parametrize("part", ["test", "weak"])
def test_a_label_outside_the_vocabulary_is_named_with_its_file(tmp_path, part):
    folder = make(tmp_path / "pets", weak={"a.wav": ["cat"]})
    wrong = [event("cow", 0, 1)] if part == "test" else ["cow"]
    change(folder / f"{part}.json", **{"a.wav": wrong})
    with pytest.raises(ValueError, match=rf"{part}.json: a.wav has the label 'cow'"):
        open_task(TASK, folder)


def test_a_wrong_vocabulary_is_refused_and_numbers_are_labels_too(folder):
    path = folder / "labelvocabulary.csv"
    path.write_text("idx,label\n0,cat\n1,dog\n2,60\n")
    change(folder / "test.json", **{"a.wav": [event(60, 0, 1000)]})
    assert open_task(TASK, folder).parts["test"].targets("a.wav").sum(0).tolist() == [0, 0, 25]
    path.write_text("idx,label\n0,cat\n2,dog\n")
    with pytest.raises(ValueError, match=r"labelvocabulary.csv: expected idx,label"):
        open_task(TASK, folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"labelvocabulary.csv is missing"):
        open_task(TASK, folder)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"rate": 8000}, "a.wav has 8000 Hz and 1 channels; expected 16000 Hz mono"),
        ({"channels": 2}, "a.wav has 16000 Hz and 2 channels"),
        (b"no audio", "a.wav is not audio that can be read"),
        (None, "a.wav is missing"),
    ],
)
def test_audio_that_is_missing_or_of_another_form_is_named(folder, form, message):
    path = folder / "16000" / "valid" / "a.wav"
    path.unlink()
    if isinstance(form, bytes):
        path.write_bytes(form)
    elif form:
        wav(path, **form)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        open_task(TASK, folder)
    assert "\n" not in str(error.value)
