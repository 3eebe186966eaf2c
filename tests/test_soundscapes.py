"""Soundscapes: classes, sources, labels, files; the computed version, and a tiny real one."""

import csv
import io
import json
import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile

from eval_tasks.__main__ import main
from eval_tasks.sounds import audioset, scene
from eval_tasks.sounds.catalogue import WHEELS
from eval_tasks.sounds.signal import WINDOW, decibels, window_rms
from eval_tasks.sounds.sources import Source
from eval_tasks.sounds.synthetic import synthetic_audioset_bank
from eval_tasks.tasks import prepare, soundscapes
from eval_tasks.tasks.soundscapes import PARTS, render
from hear_ptsed import wheels
from hear_ptsed.files import sha256
from hear_ptsed.grid import SAMPLE_RATE

LABELS = Path(wheels.__file__).parent / "labels" / "audioset_strong.csv"
needs_sounds = pytest.mark.skipif(
    not all(wheel.path.exists() for wheel in WHEELS.values()),
    reason="needs the packages of `python -m eval_tasks fetch`",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return prepare("soundscapes", tmp_path_factory.mktemp("tasks"), synthetic=True)


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    return render(tmp_path_factory.mktemp("real") / "set", train=6, evaluation=3, jobs=1)


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def events(folder: Path, part: str) -> list[dict]:
    with (folder / f"{part}.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def clips(folder: Path, part: str) -> dict[str, bytes]:
    with h5py.File(folder / f"{part}_mp3.hdf") as file:
        assert file["audio_name"].dtype == "S20" and file["mp3"].dtype == object
        names = [name.decode() for name in file["audio_name"]]
        return {name: mp3.tobytes() for name, mp3 in zip(names, file["mp3"], strict=True)}


def test_a_settled_seed_keeps_its_labels_from_version_to_version(folder):
    assert sha256(folder / "train.tsv")[:16] == "d8808796e6a5822b"
    assert sha256(folder / "eval.tsv")[:16] == "55821d5b78f4afc5"


def check_files(folder: Path, counts: tuple[int, int]) -> None:
    mids = {row["mid"] for row in csv.DictReader(LABELS.open(newline=""))}
    told = manifest(folder)
    for part, count in zip(PARTS, counts, strict=True):
        stored, rows = clips(folder, part), events(folder, part)
        assert len(stored) == count and len(rows) == told[part]["events"]
        for name, mp3 in stored.items():
            audio, rate = soundfile.read(io.BytesIO(mp3))
            assert rate == 32000 and audio.shape == (320000,) and 0.001 < np.abs(audio).max()
            assert name.startswith("Y") and name.endswith(".mp3") and len(name) == 16
        for event in rows:
            assert list(event) == list(soundscapes.HEADER) and event["label"] in mids
            assert f"Y{event['segment_id'].removesuffix('_0')}.mp3" in stored
            onset, offset = float(event["start_time_seconds"]), float(event["end_time_seconds"])
            assert 0 <= onset and onset + 0.0299 < offset <= 10
    assert "Do not redistribute" in (folder / "README.md").read_text(encoding="utf-8")


def check_sources(folder: Path) -> None:
    for label, entry in manifest(folder)["classes"].items():
        train, evaluation = (set(entry["sources"][part]) for part in PARTS)
        assert train and evaluation
        if train & evaluation:  # one drum key, one call or a formula
            assert train == evaluation and len(train) == 1 and entry["shared_sources"] == 1, label
            assert entry["independent_sources"] == {"train": 0, "eval": 0}


def test_every_class_is_one_of_audioset_strong():
    names = {row["name"] for row in csv.DictReader(LABELS.open(newline=""))}
    assert len(audioset.AUDIOSET_CLASSES) == 54 and set(audioset.AUDIOSET_CLASSES) <= names
    assert set(synthetic_audioset_bank().classes) <= names


def test_the_files_read_back_as_passt_hdf5_and_official_tables(folder):
    check_files(folder, (12, 7))


def test_the_two_parts_share_no_source_unless_the_manifest_says_so(folder):
    check_sources(folder)
    entry = manifest(folder)["classes"]["Sine wave"]
    assert entry["independent_sources"] == {"train": 4, "eval": 2} and not entry["shared_sources"]
    assert "| Mains hum | 0 | 0 | 1 |" in (folder / "README.md").read_text(encoding="utf-8")


def test_each_class_comes_at_least_once_in_as_many_clips_as_there_are_classes(folder):
    labels = {entry["mid"] for entry in manifest(folder)["classes"].values()}
    for part in PARTS:
        ids = [f"{soundscapes.clip_id(part, i)}_0" for i in range(len(labels))]
        mids = {event["label"] for event in events(folder, part) if event["segment_id"] in ids}
        assert mids == labels


def test_one_seed_gives_the_same_clips_and_another_seed_gives_others(folder, tmp_path):
    kinds = {"train": 12, "evaluation": 7, "jobs": 1, "synthetic": True}
    again = render(tmp_path / "again", **kinds)
    other = render(tmp_path / "other", **kinds | {"seed": 1, "train": 3, "evaluation": 1})
    for part in PARTS:
        assert clips(again, part) == clips(folder, part)
        assert events(again, part) == events(folder, part)
        assert not set(clips(other, part).values()) & set(clips(folder, part).values())
    assert not set(clips(folder, "train").values()) & set(clips(folder, "eval").values())


def test_a_smaller_set_is_the_beginning_of_a_larger_one_and_jobs_do_not_matter(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(soundscapes, "CHUNK", 4)
    small = render(tmp_path / "small", train=6, evaluation=2, jobs=2, synthetic=True)
    for part in PARTS:
        smaller, larger = clips(small, part), clips(folder, part)
        assert smaller == dict(list(larger.items())[: len(smaller)])
        ids = {name[1:-4] + "_0" for name in smaller}
        assert events(small, part) == [e for e in events(folder, part) if e["segment_id"] in ids]


def test_labels_hold_all_that_is_audible_and_nothing_else(monkeypatch):
    monkeypatch.setattr(scene, "BACKGROUND_DB", (-120.0, -110.0))
    sources = synthetic_audioset_bank().sources["train"]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        audio, scene_events = scene.soundscape(
            sources, "Sine wave", scene.Surroundings([], []), rng
        )
        assert len({label for *_, label in scene_events}) >= 2 and scene_events == sorted(
            scene_events
        )
        rms = window_rms(audio / 32768)
        covered = np.zeros(len(rms), bool)
        for onset, offset, _ in scene_events:
            first, end = round(onset * SAMPLE_RATE / WINDOW), round(offset * SAMPLE_RATE / WINDOW)
            assert rms[first] > 1e-4 and rms[end - 1] > 1e-4  # audible from edge to edge
            covered[first:end] = True
        # of each sound, what is left out lies 35 dB below its peak; six at most lie together
        assert rms[~covered].max() < 6 * rms.max() * decibels(-35)


def test_sounds_drowned_by_the_background_are_left_out(monkeypatch):
    monkeypatch.setattr(scene, "BACKGROUND_DB", (-5.0, -5.0))
    monkeypatch.setattr(scene, "LOUDNESS_DB", (-60.0, -60.0))
    sources = synthetic_audioset_bank().sources["train"]
    rng = np.random.default_rng(0)
    audio, scene_events = scene.soundscape(sources, "Hiss", scene.Surroundings([], []), rng)
    assert scene_events == [] and len(audio) == 160000


def test_pauses_of_more_than_a_third_of_a_second_split_an_event():
    beep = np.sin(np.arange(SAMPLE_RATE // 2) * 0.3)

    def draw(pause_s: float):
        return lambda rng: np.concatenate([beep, np.zeros(int(pause_s * SAMPLE_RATE)), beep])

    for pause_s, count in ((0.3, 1), (0.5, 2)):
        source = Source("beeps", "computed", "test", draw(pause_s))
        lengths = []
        for seed in range(8):  # reverberation fills some pauses: look at the dry ones
            rng = np.random.default_rng(seed)
            around = scene.Surroundings([], [])
            lengths.append(len(scene.soundscape({"a": [source]}, "a", around, rng)[1]))
        assert max(lengths) == count


def test_a_finished_folder_is_kept_and_other_settings_are_refused(tmp_path):
    out = render(tmp_path / "set", train=2, evaluation=1, jobs=1, synthetic=True)
    (out / "mark").write_text("kept")
    render(out, train=2, evaluation=1, jobs=2, synthetic=True)
    assert (out / "mark").exists() and [path.name for path in tmp_path.iterdir()] == ["set"]
    with pytest.raises(
        FileExistsError, match=r"train 2 \(asked: 3\); use --force to replace it, or use another"
    ):
        render(out, train=3, evaluation=1, jobs=1, synthetic=True)
    (out / "manifest.json").unlink()
    with pytest.raises(FileExistsError, match="no manifest"):
        render(out, train=2, evaluation=1, jobs=1, synthetic=True)


def test_an_interrupted_rendering_goes_on_where_it_stopped(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(soundscapes, "CHUNK", 4)
    render_chunk, done = soundscapes.render_chunk, []

    def interrupted(chunk):
        if len(done) == 2:
            raise OSError("disk full")
        done.append(chunk)
        return render_chunk(chunk)

    kinds = {"train": 12, "evaluation": 4, "jobs": 1, "synthetic": True}
    monkeypatch.setattr(soundscapes, "render_chunk", interrupted)
    with pytest.raises(OSError, match="disk full"):
        render(tmp_path / "set", **kinds)
    assert not (tmp_path / "set").exists()
    again = []

    def counted(chunk):
        again.append(chunk)
        return render_chunk(chunk)

    monkeypatch.setattr(soundscapes, "render_chunk", counted)
    out = render(tmp_path / "set", **kinds)
    assert [(c.part, c.start) for c in again] == [("train", 8), ("eval", 0)]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert clips(out, "train") == dict(list(clips(folder, "train").items())[:12])


def test_the_command_prepares_it_like_any_small_task_and_replaces_it_only_if_forced(
    folder, tmp_path, capsys
):
    words = ["prepare", "soundscapes", "--synthetic", "--jobs", "2", "--tasks-dir", str(tmp_path)]
    assert main(words) == 0
    made = tmp_path / "soundscapes_synthetic-v1-tiny"
    assert capsys.readouterr().out == f"{made}\n" and folder.name == made.name
    for part in PARTS:
        assert clips(made, part) == clips(folder, part)
        assert events(made, part) == events(folder, part)
    assert main([*words, "--seed", "1"]) == 1
    assert "seed 0 (asked: 1); use --force to replace it" in capsys.readouterr().err
    assert main([*words, "--seed", "1", "--force"]) == 0
    assert manifest(made)["settings"]["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == [made.name]
    with pytest.raises(ValueError, match="size is 'huge'; it must be 'demo' or 'full'"):
        prepare("soundscapes", tmp_path, size="huge")


def test_wrong_counts_and_seeds_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="train 0, evaluation 1, jobs 2: each must be 1"):
        render(tmp_path / "set", train=0, evaluation=1, synthetic=True)
    with pytest.raises(ValueError, match="seed -1 is negative"):
        render(tmp_path / "set", train=1, evaluation=1, seed=-1, synthetic=True)
    assert list(tmp_path.iterdir()) == []


def test_classes_whose_package_is_missing_are_left_out_with_a_warning(monkeypatch, caplog):
    def missing(wheel):
        raise RuntimeError(f"cannot fetch {wheel.project}")

    monkeypatch.setattr(wheels, "fetch", missing)
    with caplog.at_level(logging.WARNING):
        bank = audioset.audioset_bank(["Knock", "Applause", "Fart", "Mains hum", "Static"])
        around = scene.surroundings("train")
    assert bank.classes == ["Mains hum", "Static"]
    assert bank.dropped["Knock"] == "cannot fetch FoxDot" and len(bank.dropped) == 3
    assert "class Fart is left out: cannot fetch ovos-skill-fart" in caplog.text
    assert around == scene.Surroundings([], []) and "computed ones replace jupylet" in caplog.text


@needs_sounds
def test_real_sounds_read_back_with_their_sources_and_licences(real):
    check_files(real, (6, 3))
    check_sources(real)
    told = manifest(real)
    assert len(told["classes"]) == 54 and told["dropped_classes"] == {}
    assert set(told["packages"]) == {*WHEELS, "espeakng-loader"}
    assert all(package["licence"] for package in told["packages"].values())
    assert all(len(value) == 64 for value in told["members"].values())
    assert told["classes"]["Laughter"]["independent_sources"] == {"train": 12, "eval": 4}


@needs_sounds
def test_every_real_class_draws_audible_sounds_of_both_parts():
    bank = audioset.audioset_bank()
    for part in PARTS:
        for label, sources in bank.sources[part].items():
            sound = sources[-1].draw(np.random.default_rng(1))
            assert np.isfinite(sound).all() and 0.02 < len(sound) / SAMPLE_RATE < 14, label
            assert window_rms(sound).max() > 1e-3, label


@needs_sounds
def test_evaluation_hears_other_stretches_of_the_recorded_backgrounds():
    train, evaluation = (scene.surroundings(part) for part in PARTS)
    assert len(train.backgrounds) == len(evaluation.backgrounds) == 4 and len(train.rooms) == 3
    for ours, theirs in zip(train.backgrounds, evaluation.backgrounds, strict=True):
        assert len(theirs) > 10 * SAMPLE_RATE and not np.shares_memory(ours, theirs)
