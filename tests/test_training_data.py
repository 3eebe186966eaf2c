"""Training data: the four kinds of sources, coverage reports."""

import io
import multiprocessing
import pickle

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from training_clips import (
    GENERIC,
    NAMES,
    RATE,
    as_set,
    encoded,
    mp3_clips,
    open_sources,
    random_target,
    read_times,
    write,
    write_folder,
    write_hdf5,
    write_hugging_face,
)

h5py = pytest.importorskip("h5py")
datasets = pytest.importorskip("datasets")

from training.data.annotations import Events, clip_key, read_events  # noqa: E402
from training.data.clips import Clips, Unreadable, decode_audio, open_clips  # noqa: E402
from training.data.coverage import Coverage, coverage  # noqa: E402
from training.data.pack import pack  # noqa: E402


@pytest.fixture(scope="module")
def clips() -> dict[str, bytes]:
    return mp3_clips()


@pytest.fixture(scope="module")
def target() -> np.ndarray:
    return random_target()


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Clips]:
    return open_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def events(tmp_path_factory) -> Events:
    return read_times(tmp_path_factory.mktemp("annotation"))


# Sources


def test_all_sources_give_the_same_audio_and_keys(sources):
    reference = sources["hdf5"]
    assert reference.keys == ["Y-0abc_x", "Y_mp3", "Yb.1", "Yempty-ish3", "Yquiet"]
    for source in sources.values():
        assert sorted(source.keys) == sorted(reference.keys) and source.rate is None
        for i, key in enumerate(reference.keys):
            audio, rate = source.read(source.keys.index(key))
            expected, _ = reference.read(i)
            assert rate == RATE and audio.dtype == np.int16 and len(audio) == RATE + 3200 * i
            np.testing.assert_array_equal(audio, expected)


def test_packed_clips_equal_direct_reading_after_resampling(tmp_path, sources, events):
    for name, source in sources.items():
        pack([source], events, tmp_path / name, clips_per_shard=2)
        packed = open_clips(tmp_path / name)
        assert packed.rate == 16_000 and len(packed) == 4
        for i, key in enumerate(packed.keys):
            audio, rate = source.read(source.keys.index(key))
            expected = torchaudio.functional.resample(
                torch.from_numpy(audio.astype(np.float64)),
                rate,
                16_000,
                resampling_method="sinc_interp_kaiser",
            )
            samples, rate = packed.read(i)
            assert rate == 16_000 and samples.dtype == np.int16
            np.testing.assert_allclose(samples, expected.numpy(), atol=0.51)
            assert packed.seconds()[i] == pytest.approx(len(audio) / RATE, abs=1e-4)
        assert as_set(packed.events()) == as_set(events)


@pytest.mark.parametrize("as_structs", [False, True])
def test_a_hugging_face_folder_gives_the_written_times(tmp_path, clips, events, as_structs):
    path = write_hugging_face(tmp_path / "hf", clips, as_structs)
    assert as_set(open_clips(path).events()) == as_set(events)
    split = open_clips(path / "eval")
    assert split.keys == [clip_key(name) for name in NAMES[2:]]
    assert {row[0] for row in as_set(split.events())} == {"Yb.1", "Yempty-ish3"}
    np.testing.assert_array_equal(split.read(1)[0], open_clips(path).read(3)[0])


def test_clip_labels_are_unpacked_most_significant_bit_first(tmp_path, sources, target):
    labels = sources["hdf5"].clip_labels()
    assert labels.shape == (len(NAMES), 527)
    for row in range(len(NAMES)):
        expected = [target[row, c // 8] >> (7 - c % 8) & 1 for c in range(527)]
        assert labels[row].tolist() == expected
    pack([sources["hdf5"]], None, tmp_path / "packed", clips_per_shard=2)  # no events: all clips
    np.testing.assert_array_equal(open_clips(tmp_path / "packed").clip_labels(), labels)
    assert open_clips(tmp_path / "packed").events() is None


def _sums(source: Clips) -> list[int]:
    return [int(np.abs(source.read(i)[0].astype(int)).sum()) for i in range(len(source))]


@pytest.mark.parametrize("kind", ["hdf5", "hugging face", "folder"])
def test_a_source_opened_before_a_fork_or_pickled_reads_the_same(sources, kind):
    here = _sums(sources[kind])
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_sums, [sources[kind]] * 2) == [here, here]
    queue = multiprocessing.get_context("fork").SimpleQueue()
    child = multiprocessing.get_context("fork").Process(
        target=lambda: queue.put(_sums(sources[kind]))
    )
    child.start()
    assert queue.get() == here
    child.join()
    assert _sums(pickle.loads(pickle.dumps(sources[kind]))) == here


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_16_bit_files_come_back_bit_for_bit_and_channels_are_averaged(kind):
    audio = np.random.default_rng(0).integers(-32768, 32768, (800, 2)).astype(np.int16)
    for channels, expected in ((audio[:, :1], audio[:, 0]), (audio, audio.mean(1))):
        file = io.BytesIO()
        soundfile.write(file, channels, 8000, format=kind, subtype="PCM_16")
        samples, rate = decode_audio(file.getvalue(), "x")
        assert rate == 8000
        np.testing.assert_allclose(samples, expected, atol=0 if channels.shape[1] == 1 else 0.5)


def test_samples_beyond_full_scale_are_clipped():
    file = io.BytesIO()
    soundfile.write(file, np.array([-3.0, 3.0, 1.0, 0.5]), 8000, format="WAV", subtype="FLOAT")
    assert decode_audio(file.getvalue(), "x")[0].tolist() == [-32768, 32767, 32767, 16384]


def test_an_mp3_behind_foreign_bytes_is_read():
    data = encoded(1)
    np.testing.assert_array_equal(
        decode_audio(b"xyz" * 10 + data, "a.mp3")[0], decode_audio(data, "a.mp3")[0]
    )


def bad_files() -> dict[str, tuple[bytes, str]]:
    mp3, wav = encoded(2), encoded(1, kind="WAV")
    file = io.BytesIO()
    soundfile.write(file, np.array([0.0, np.nan]), 8000, format="WAV", subtype="FLOAT")
    quieter = io.BytesIO()  # bit rate varies; without its first frame nothing tells the length
    noise = np.random.default_rng(0).standard_normal(4 * RATE) * np.linspace(0.2, 0.0, 4 * RATE)
    soundfile.write(quieter, noise, RATE, format="MP3", bitrate_mode="VARIABLE")
    headerless = quieter.getvalue()[quieter.getvalue().find(b"\xff\xfb", 4) :]
    return {
        "empty.mp3": (b"", "empty"),
        "short.mp3": (mp3[: len(mp3) * 6 // 10], r"cut off: 1\.\d+ of 2.000 s decoded"),
        "shorter.mp3": (mp3[:1500], "cut off|not readable as audio"),
        "headerless.mp3": (headerless, "without length header"),
        "junk.mp3": (b"hello " * 500, "not readable as audio"),
        "zeros.mp3": (bytes(5000), "not readable as audio"),
        "page.mp3": (b"<html>404</html>", "not readable as audio"),
        "cut.wav": (wav[:-1000], "cut off: 63044 of 64044 bytes"),
        "none.wav": (encoded(0, kind="WAV"), "holds no samples"),
        "nan.wav": (file.getvalue(), "NaN"),
        "cut.flac": (encoded(1, kind="FLAC")[:-2000], "cut off|not readable as audio"),
    }


@pytest.mark.parametrize("name", bad_files())
def test_a_file_that_cannot_be_decoded_to_its_end_is_unreadable(tmp_path, name):
    data, reason = bad_files()[name]
    write_folder(tmp_path, {name: data})
    with pytest.raises(Unreadable, match=reason) as caught:
        open_clips(tmp_path).read(0)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.name, str(again)) == (name, f"{name}: {again.reason}")
    assert "\n" not in str(again)


def test_a_file_that_vanished_is_unreadable(tmp_path):
    folder = open_clips(write_folder(tmp_path, {"a.wav": encoded(1, kind="WAV")}))
    (tmp_path / "a.wav").unlink()
    with pytest.raises(Unreadable, match="a.wav: no such file"):
        folder.read(0)


def test_an_hdf5_file_cut_off_is_refused(tmp_path, clips):
    path = write_hdf5(tmp_path / "a.hdf", clips)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="a.hdf: not a complete HDF5 file .*truncated.*again"):
        open_clips(path)
    with pytest.raises(ValueError, match="not a complete HDF5 file"):
        open_clips(write(tmp_path / "b.hdf", "text"))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("mp3", None, "no dataset mp3; it has audio_name"),
        ("audio_name", None, "no dataset audio_name; it has mp3"),
        ("audio_name", np.arange(5), r"audio_name is int64 \(5,\), expected text"),
        ("audio_name", np.array([b"a.mp3"]), r"audio_name is \|S5 \(1,\), expected text \(5,\)"),
        ("mp3", np.zeros((5, 9), np.uint8), "mp3 is uint8 .* expected variable-length uint8"),
        ("target", np.zeros((5, 527), np.uint8), r"target is uint8 \(5, 527\), expected uint8"),
        ("audio_name", np.array([b"a/x.mp3"] * 2 + [b"x.mp3", b"y", b"z"]), "are both clip x"),
    ],
)
def test_a_wrong_hdf5_file_is_refused(tmp_path, clips, name, array, message):
    path = write_hdf5(tmp_path / "a.hdf", clips)
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        if array is not None:
            file[name] = array
    with pytest.raises(ValueError, match=message):
        open_clips(path)


def test_a_damaged_hugging_face_folder_is_refused(tmp_path, clips):
    path = write_hugging_face(tmp_path / "hf", clips)
    arrow = next(path.glob("eval/*.arrow"))
    whole = arrow.read_bytes()
    arrow.write_bytes(whole[:3000])
    with pytest.raises(ValueError, match="hf: not a complete Hugging Face data set"):
        open_clips(path)
    datasets.Dataset.from_dict({"filename": ["a"]}).save_to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match="no column mp3_bytes; it has filename"):
        open_clips(tmp_path / "other")


def test_a_path_without_audio_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no audio files"):
        open_clips(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        open_clips(tmp_path / "nowhere")


# Coverage


def test_coverage_names_what_is_missing(tmp_path, sources, events):
    split = open_clips(sources["hugging face"].path / "eval")
    report = coverage([split], events, ["Dog", "Cat", "Accelerating, revving, vroom"])
    assert (report.expected, report.found, report.extra) == (4, 2, 1)
    assert report.missing == ["Y-0abc_x", "Y_mp3"]
    assert report.classes_without_clips == ["Cat", "Accelerating, revving, vroom"]
    assert report.labels_outside == {"Speech": 2}
    report.unreadable["Yb.1"] = "empty"
    assert report.text().splitlines() == [
        f"2 of 4 clips found (50.00%): {split.path}",
        "2 missing: Y-0abc_x, Y_mp3",
        "1 clips without events, not used",
        "1 unreadable (50.00%): Yb.1 (empty)",
        "2 of 3 classes without clips: Cat, Accelerating, revving, vroom",
        "2 events of 1 labels outside the classes: Speech",
    ]
    report.check(0.5)
    with pytest.raises(RuntimeError, match=r"1 of 2 clips .50.00%. .* 49.00% allowed: Yb.1 .empty"):
        report.check(0.49)
    report.write(tmp_path / "report.json")
    assert Coverage.read(tmp_path / "report.json") == report
    with pytest.raises(ValueError, match="not a coverage report"):
        Coverage.read(write(tmp_path / "x.json", '{"a": 1}'))


def test_coverage_of_all_sources_without_annotation_expects_every_clip(sources):
    report = coverage([sources["hdf5"]], None, ["Dog"])
    assert (report.expected, report.found, report.missing) == (5, 5, [])
    assert report.text() == f"5 of 5 clips found (100.00%): {sources['hdf5'].path}"


def test_coverage_reports_events_past_the_end_once_durations_are_known(tmp_path):
    long = encoded(10.2, kind="WAV", rate=8000)
    folder = write_folder(tmp_path / "a", {"x.wav": encoded(1, kind="WAV"), "long.wav": long})
    rows = (
        "x.wav\t0\t1.09\tDog\nx.wav\t0\t1.2\tDog\nx.wav\t1.05\t1.09\tCat\nlong.wav\t0\t10.28\tDog\n"
    )
    events = read_events(write(tmp_path / "a.tsv", GENERIC + rows))
    report = pack([open_clips(folder)], events, tmp_path / "packed")
    assert report.past_end == {"x": 2} and report.longer_than_10_s == 1
    assert "2 events past the end of 1 clips: x\n1 clips longer than 10 s" in report.text()
    packed = open_clips(tmp_path / "packed")
    again = coverage([packed], packed.events())
    assert again.past_end == {"x": 2} and again.longer_than_10_s == 1
