"""Packing: the same bytes however it goes, what stops it, and what the shards hold."""

import json
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tqdm import tqdm
from training_clips import (
    TIMES,
    as_set,
    checksums,
    encoded,
    mp3_clips,
    open_sources,
    read_times,
    write_folder,
    write_hdf5,
)

from training.data.annotations import Events, clip_key
from training.data.clips import Clips, open_clips
from training.data.coverage import Coverage
from training.data.pack import pack


@pytest.fixture(scope="module")
def clips() -> dict[str, bytes]:
    return mp3_clips()


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Clips]:
    return open_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def events(tmp_path_factory) -> Events:
    return read_times(tmp_path_factory.mktemp("annotation"))


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """60 clips of 5 s, two of them cut off."""
    different = [encoded(5, seed) for seed in range(3)]
    clips = {f"{i:02d}/Yclip{i:02d}.mp3": different[i % 3] for i in range(60)}
    clips["30/Yclip30.mp3"] = clips["41/Yclip41.mp3"] = different[0][:9000]
    return write_hdf5(tmp_path_factory.mktemp("many") / "many.hdf", clips)


@pytest.fixture(scope="module")
def undisturbed(many, tmp_path_factory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    report = pack([open_clips(many)], None, out, clips_per_shard=4, max_unreadable=0.05)
    assert sorted(report.unreadable) == ["Yclip30", "Yclip41"]
    assert len(open_clips(out)) == 58 and "Yclip30" not in open_clips(out).keys
    assert Coverage.read(out / "coverage.json") == report
    return checksums(out)


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path, many, undisturbed):
    pack([open_clips(many)], None, tmp_path, clips_per_shard=4, max_unreadable=0.05, workers=2)
    assert checksums(tmp_path) == undisturbed


def test_ctrl_c_leaves_only_whole_shards(tmp_path, many, undisturbed, monkeypatch):
    done = []

    class Bar(tqdm):
        def update(self, n=1):
            done.append(n)
            if len(done) == 2:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("training.data.pack.tqdm", Bar)
    # A shell's background jobs begin with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            pack(
                [open_clips(many)],
                None,
                tmp_path,
                clips_per_shard=4,
                workers=2,
                max_unreadable=0.05,
            )
    finally:
        signal.signal(signal.SIGINT, before)
    names = {file.name for file in tmp_path.iterdir()}
    assert not any(name.startswith(".") for name in names) and "index.npz" not in names
    for name in names - {"shards.json"}:
        assert checksums(tmp_path)[name] == undisturbed[name]
    with pytest.raises(ValueError, match="packing was not finished"):
        open_clips(tmp_path)


def test_a_damaged_shard_is_noticed_and_written_again(tmp_path, many, undisturbed):
    options = {"clips_per_shard": 4, "max_unreadable": 0.05}
    pack([open_clips(many)], None, tmp_path, **options)
    shard = tmp_path / "shard-00002.i16"
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    pack([open_clips(many)], None, tmp_path, **options)
    assert checksums(tmp_path) == undisturbed
    shard.write_bytes(data[:-2])
    with pytest.raises(
        ValueError, match="shard-00002.i16: missing or not .* bytes; run pack again"
    ):
        open_clips(tmp_path)


def test_too_many_unreadable_clips_stop_packing(tmp_path, many, undisturbed):
    for workers in (1, 2):
        with pytest.raises(
            RuntimeError, match=r"of 60 clips .* than the 1.00% allowed: Yclip\d0? ?"
        ):
            pack([open_clips(many)], None, tmp_path, clips_per_shard=4, workers=workers)
    assert Coverage.read(tmp_path / "coverage.json").unreadable
    pack([open_clips(many)], None, tmp_path, clips_per_shard=4, max_unreadable=0.05)
    assert checksums(tmp_path) == undisturbed


def test_a_folder_of_something_else_is_refused(tmp_path, sources, events):
    out = tmp_path / "out"
    pack([sources["hdf5"]], events, out)
    with pytest.raises(
        FileExistsError, match=r"out was made with sources .* \(asked: .*\); delete"
    ):
        pack([sources["folder"]], events, out)
    with pytest.raises(FileExistsError, match=r"clips_per_shard 2000 \(asked: 1\)"):
        pack([sources["hdf5"]], events, out, clips_per_shard=1)
    with pytest.raises(FileExistsError, match=r"events \w+ \(asked: None\)"):
        pack([sources["hdf5"]], None, out)
    write_folder(tmp_path / "audio", {"a.wav": b"x"})
    with pytest.raises(FileExistsError, match="audio was not made here, or by an older version"):
        pack([sources["hdf5"]], events, tmp_path / "audio")
    with pytest.raises(ValueError, match="lies inside the source"):
        pack([open_clips(tmp_path / "audio")], None, tmp_path / "audio" / "packed")


def test_sources_are_packed_one_after_the_other(tmp_path, sources, clips):
    path = sources["hugging face"].path
    parts = [open_clips(path / name) for name in ("balanced_train", "eval")]
    report = pack(parts, None, tmp_path / "both", clips_per_shard=3)  # events of the sources
    packed = open_clips(tmp_path / "both")
    assert packed.keys == list(TIMES) and report.extra == 1
    assert as_set(packed.events()) == as_set(sources["hugging face"].events())
    report = pack(parts, None, tmp_path / "all", all_clips=True)
    assert open_clips(tmp_path / "all").keys == [clip_key(name) for name in clips]
    assert "1 clips without events, used too" in report.text()
    with pytest.raises(ValueError, match="clip Yb.1 is in .*eval and in .*hf"):
        pack([parts[1], sources["hugging face"]], None, tmp_path / "twice")


def test_an_annotation_of_other_clips_is_refused(tmp_path, sources):
    events = Events.from_columns(["other.wav"], ["Dog"], [0], [1])
    with pytest.raises(ValueError, match="no clip to pack: .* Y-0abc_x …, .* names other …"):
        pack([sources["hdf5"]], events, tmp_path / "out")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_leaves_no_half_written_shard(tmp_path, many, undisturbed, workers):
    # A limit on the size of files stands for the full disk: both make write() fail.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        with pytest.raises(OSError, match="make room and run the same command again.*shard-0000"):
            pack([open_clips(many)], None, tmp_path, clips_per_shard=4, workers=workers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in tmp_path.iterdir()] == ["shards.json"]
    pack([open_clips(many)], None, tmp_path, clips_per_shard=4, max_unreadable=0.05)
    assert checksums(tmp_path) == undisturbed


def test_the_manifest_holds_checksums_and_settings(tmp_path, sources, events):
    pack([sources["folder"]], events, tmp_path, clips_per_shard=3)
    manifest = json.loads((tmp_path / "shards.json").read_text())
    settings = manifest["settings"]
    assert (manifest["rate"], settings["clips_per_shard"], settings["clips"]) == (16_000, 3, 4)
    sums = checksums(tmp_path)
    assert {s["file"]: s["sha256"] for s in manifest["shards"]} == {
        name: value for name, value in sums.items() if name.endswith(".i16")
    }


def test_an_odd_rate_is_resampled_with_a_small_kernel(tmp_path):
    audio = np.sin(2 * np.pi * 440 * np.arange(2 * 22_051) / 22_051) * 0.5
    soundfile.write(tmp_path / "a.wav", audio, 22_051)
    pack([open_clips(tmp_path)], None, tmp_path.parent / f"{tmp_path.name}-packed")
    samples, _ = open_clips(tmp_path.parent / f"{tmp_path.name}-packed").read(0)
    expected = np.sin(2 * np.pi * 440 * np.arange(len(samples)) / 16_000) * 16_384
    assert len(samples) == pytest.approx(32_000, abs=20)
    assert np.abs(samples - expected)[500:8000].max() < 150


class Deadly(Clips):
    """The second clip kills the process that reads it, or raises."""

    def __init__(self, path: Path, error: Exception | None):
        super().__init__(path, ["a.wav", "b.wav"])
        self.error = error

    def read(self, i: int) -> tuple[np.ndarray, int]:
        if i == 1 and self.error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        elif i == 1:
            raise self.error
        return np.zeros(16_000, np.int16), 16_000


def test_what_goes_wrong_in_a_worker_is_told_in_one_line_and_nothing_half_written_stays(tmp_path):
    for error, match in (
        (None, "a process that reads ahead was killed.*; use fewer workers"),
        (ConnectionError("no more files"), "^no more files$"),
    ):
        kind = RuntimeError if error is None else ConnectionError
        with pytest.raises(kind, match=match) as caught:
            pack([Deadly(tmp_path / "source", error)], None, tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert [file.name for file in (tmp_path / "out").iterdir()] == ["shards.json"]
