"""The small task `home`: its five parts, and the real heareval on it."""

import json
import shutil

import numpy as np
import pytest
import soundfile
from hear_scores import scores

from eval_tasks.heareval import launch
from eval_tasks.tasks import find_task, prepare
from eval_tasks.tasks.base import open_task
from eval_tasks.tasks.home import HOME, HOME_CLASSES, PARTS, TURNS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare("home", tmp_path_factory.mktemp("tasks"), synthetic=True)


def test_the_folder_opens_with_three_splits_and_two_more_parts(folder):
    data = open_task(find_task("home"), folder)
    assert list(data.parts) == list(PARTS) == ["train", "valid", "test", "weak", "unlabelled"]
    assert {name: len(part) for name, part in data.parts.items()} == HOME["tiny"].counts
    assert data.metadata["splits"] == ["train", "valid", "test"] and data.coverage is None
    for part in data.parts.values():
        assert set(part.samples.values()) == {HOME["tiny"].seconds * 16000}


def test_every_part_has_every_class_as_far_as_it_has_labels(folder):
    data = open_task(find_task("home"), folder)
    for name in ("train", "valid", "test"):
        targets = [data.parts[name].targets(file) for file in data.parts[name].files]
        assert np.concatenate(targets).any(axis=0).all()
    weak = data.parts["weak"]
    assert np.any([weak.clip_targets(file) for file in weak.files], axis=0).all()
    assert all(weak.tags.values()) and not any(data.parts["unlabelled"].tags.values())


def test_some_clips_hold_no_event_and_some_are_padded_with_silence(folder):
    data = open_task(find_task("home"), folder)
    for name in ("train", "test"):
        assert sum(not events for events in data.parts[name].events.values()) == 1
    padded = [
        (part, file, seconds)
        for part in data.parts.values()
        for file, seconds in part.durations_s.items()
        if seconds < HOME["tiny"].seconds
    ]
    assert padded
    for part, file, seconds in padded:
        audio = part.read(file)
        assert not audio[round(seconds * 16000) :].any()
        assert audio[: round(seconds * 16000)].any()
        assert all(event["end"] <= 1000 * seconds for event in part.events.get(file, []))


def test_events_of_a_class_do_not_overlap_in_a_clip(folder):
    data = open_task(find_task("home"), folder)
    for name in ("train", "valid", "test"):
        for events in data.parts[name].events.values():
            for label in data.classes:
                of_label = [event for event in events if event["label"] == label]
                for before, after in zip(of_label, of_label[1:], strict=False):
                    assert before["end"] < after["start"]


def test_sounds_are_where_the_labels_say(folder):
    data = open_task(find_task("home"), folder)
    louder = []
    for file, events in data.parts["test"].events.items():
        audio, active = data.parts["test"].read(file), np.zeros(100, bool)
        for event in events:
            active[int(event["start"] / 40) : int(np.ceil(event["end"] / 40))] = True
        active[round(data.parts["test"].durations_s[file] * 25) :] = True
        power = np.mean(audio.reshape(100, 640) ** 2, axis=1)
        if active.any() and not active.all():
            louder.append(power[~active].max() < power[active].max())
    assert len(louder) > 15 and np.mean(louder) > 0.9


def test_no_source_is_in_two_of_the_five_parts(folder):
    sources = json.loads((folder / "manifest.json").read_text())["sources"]
    assert set(sources) == set(PARTS)
    for label in open_task(find_task("home"), folder).classes:
        names = [name for part in sources.values() for name in part[label]]
        assert len(names) == len(set(names)) >= 5 and all(part[label] for part in sources.values())


def test_the_deal_reaches_every_part_within_its_first_five_sources():
    assert set(TURNS[:5]) == set(PARTS) and len(TURNS) % 2 == 1
    assert len(HOME_CLASSES) == 10


def test_the_synthetic_clips_are_16_bit_mono(folder):
    info = soundfile.info(folder / "16000" / "weak" / "weak_0000.wav")
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")


@pytest.mark.filterwarnings("ignore")  # dozens of the old packages' own
def test_the_unmodified_heareval_runs_on_the_folder(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "tasks" / folder.name)
    folder = tmp_path / "tasks" / folder.name
    described = json.loads((folder / "task_metadata.json").read_text())
    described["evaluation_params"]["task_specific_param_grid"]["max_epochs"] = [10]  # a short test
    (folder / "task_metadata.json").write_text(json.dumps(described))
    options = ["--tasks-dir", str(folder.parent), "--embeddings-dir", str(tmp_path / "e")]
    results = tmp_path / "e" / "eval_tasks.logmel" / folder.name
    assert (
        launch.heareval("embeddings", ["eval_tasks.logmel", "--task", folder.name, *options]) == 0
    )
    grid = ["--grid", "faster", "--grid-points", "1"]
    assert launch.heareval("predictions", [str(results), *grid]) == 0
    assert scores(results)["score"] > 0
