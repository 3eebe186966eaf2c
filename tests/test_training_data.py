"""Training data: annotations, the four kinds of sources, coverage reports, packing."""

import hashlib
import io
import json
import multiprocessing
import pickle
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from tqdm import tqdm

h5py = pytest.importorskip("h5py")
datasets = pytest.importorskip("datasets")

from training.annotations import Events, clip_key, merged, read_events, read_names  # noqa: E402
from training.clips import Clips, Unreadable, decode, open_clips  # noqa: E402
from training.coverage import Coverage, coverage  # noqa: E402
from training.pack import pack  # noqa: E402

RATE = 32_000
NAMES = ["07/Y-0abc_x.mp3", "00/Y_mp3.mp3", "31/Yb.1.mp3", "02/Yempty-ish3.mp3", "02/Yquiet.mp3"]
TIMES = {  # clip: events, not sorted
    "Y-0abc_x": [("Speech", 0.25, 0.999), ("Dog", 0.5, 0.75), ("Dog", 0.04, 0.6)],
    "Y_mp3": [("Accelerating, revving, vroom", 0.001, 1.1)],
    "Yb.1": [("Speech", 0.123, 0.456)],
    "Yempty-ish3": [("Dog", 0.0, 1.3)],
}
OFFICIAL = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
GENERIC = "filename\tonset\toffset\tevent_label\n"


def encoded(seconds: float, seed: int = 0, rate: int = RATE, kind: str = "MP3", channels: int = 1):
    audio = 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
    file = io.BytesIO()
    soundfile.write(file, audio, rate, format=kind)
    return file.getvalue()


def write_hdf5(path: Path, clips: dict[str, bytes], **extra: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file["audio_name"] = np.array(list(clips), dtype="S20")
        mp3 = file.create_dataset("mp3", len(clips), dtype=h5py.vlen_dtype(np.uint8))
        for i, data in enumerate(clips.values()):
            mp3[i] = np.frombuffer(data, np.uint8)
        for name, array in extra.items():
            file[name] = array
    return path


def write_hugging_face(path: Path, clips: dict[str, bytes], as_structs: bool = False) -> Path:
    fields = {"event_label": [], "onset": [], "offset": []}
    types = {"event_label": "string", "onset": "float32", "offset": "float32"}
    types = {name: datasets.Value(kind) for name, kind in types.items()}
    rows = []
    for name in clips:
        events = TIMES.get(clip_key(name), [])
        columns = zip(*events, strict=True) if events else ([], [], [])
        row = dict(zip(fields, map(list, columns), strict=True))
        if as_structs:
            row = [
                dict(zip(row, values, strict=True)) for values in zip(*row.values(), strict=True)
            ]
        rows.append(row)
    # `List` of a dict and `Sequence` of a dict are the two layouts that versions of datasets write
    kind = datasets.List(types) if as_structs else datasets.Sequence(types)
    schema = {"events": kind, "filename": "string", "mp3_bytes": "binary"}
    schema = {n: t if n == "events" else datasets.Value(t) for n, t in schema.items()}
    columns = [rows, [name.split("/")[-1] for name in clips], list(clips.values())]
    whole = datasets.Dataset.from_dict(
        dict(zip(schema, columns, strict=True)), features=datasets.Features(schema)
    )
    splits = {"balanced_train": whole.select(range(2)), "eval": whole.select(range(2, len(clips)))}
    datasets.DatasetDict(splits).save_to_disk(path)
    return path


def write_folder(path: Path, clips: dict[str, bytes]) -> Path:
    for name, data in clips.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    (path / "notes.txt").write_text("not audio")
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def as_set(events: Events) -> set[tuple]:
    clips, labels = (
        [names[i] for i in column]
        for names, column in ((events.clips, events.clip), (events.labels, events.label))
    )
    columns = (clips, labels, events.onset_s.tolist(), events.offset_s.tolist())
    return set(zip(*columns, strict=True))


def checksums(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def clips() -> dict[str, bytes]:
    return {name: encoded(1 + 0.1 * i, seed=i) for i, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def target() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (len(NAMES), 66), dtype=np.uint8)


@pytest.fixture(scope="module")
def sources(tmp_path_factory, clips, target) -> dict[str, Clips]:
    folder = tmp_path_factory.mktemp("sources")
    return {
        "hdf5": open_clips(write_hdf5(folder / "a.hdf", clips, target=target)),
        "hugging face": open_clips(write_hugging_face(folder / "hf", clips)),
        "folder": open_clips(write_folder(folder / "audio", clips)),
    }


@pytest.fixture(scope="module")
def events(tmp_path_factory) -> Events:
    rows = [f"{c}.mp3\t{a}\t{b}\t{label}" for c in TIMES for label, a, b in TIMES[c]]
    path = tmp_path_factory.mktemp("annotation") / "events.tsv"
    return read_events(write(path, GENERIC + "\n".join(rows) + "\n"))


# Annotations


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("07/Y-0abc_x.mp3", "Y-0abc_x"),
        ("Y-0abc_x.mp3", "Y-0abc_x"),
        ("Y-0abc_x", "Y-0abc_x"),
        ("a/b/Ymmpp3.MP3", "Ymmpp3"),
        ("Yx_30.000_40.000.wav", "Yx_30.000_40.000"),
        ("Yx_30.000_40.000", "Yx_30.000_40.000"),
        ("double.mp3.mp3", "double.mp3"),
        ("x.FlAc", "x"),
        (".wav", ".wav"),
    ],
)
def test_a_clip_has_one_key_under_all_its_names(name, key):
    assert clip_key(name) == key


def test_events_are_sorted_by_clip_label_and_onset(events):
    assert events.clips == list(TIMES)
    assert events.labels == ["Accelerating, revving, vroom", "Dog", "Speech"]
    assert events.first.tolist() == [0, 3, 4, 5, 6]
    assert events.label.tolist() == [1, 1, 2, 0, 2, 1]
    assert events.onset_s.tolist() == [0.04, 0.5, 0.25, 0.001, 0.123, 0.0]
    assert events.offset_s.tolist() == [0.6, 0.75, 0.999, 1.1, 0.456, 1.3]


@pytest.mark.parametrize("comma", [False, True])
def test_official_annotation_gets_names_and_keys(tmp_path, comma):
    text = (
        OFFICIAL + "-0_a_bcdefg_30000\t0.1\t0.5\t/m/07q2z82\n-0_a_bcdefg_30000\t0\t10\t/m/0gvgw0\n"
    )
    events = read_events(write(tmp_path / "a.tsv", text.replace("\t", "," if comma else "\t")))
    assert as_set(events) == {
        ("Y-0_a_bcdefg", "Accelerating, revving, vroom", 0.1, 0.5),
        ("Y-0_a_bcdefg", "Air brake", 0.0, 10.0),
    }


def test_official_names_replace_the_447(tmp_path):
    tabs = read_names(write(tmp_path / "names.tsv", "/m/x1\tStudio recording\n/m/x2\tA, b\n"))
    with_header = 'index,mid,display_name\n0,/m/x1,Studio recording\n1,/m/x2,"A, b"\n'
    assert tabs == read_names(write(tmp_path / "names.csv", with_header))
    path = write(tmp_path / "a.tsv", OFFICIAL + "x_0\t1\t2\t/m/x2\n")
    assert as_set(read_events(path, names=tabs)) == {("Yx", "A, b", 1.0, 2.0)}
    with pytest.raises(ValueError, match="names.tsv: neither two columns"):
        read_names(write(tmp_path / "names.tsv", "one\n"))


def test_own_annotation_may_have_commas_other_columns_and_any_order(tmp_path):
    text = 'event_label,score,offset,filename,onset\n"Whistle, far",1,2.5,sub/a.wav,1\n'
    events = read_events(write(tmp_path / "a.csv", "\ufeff" + text))
    assert as_set(events) == {("a", "Whistle, far", 1.0, 2.5)}


def test_an_unknown_mid_is_refused_or_kept(tmp_path):
    rows = "x_0\t1\t2\t/m/0gvgw0\nx_0\t1\t2\t/m/zzz\nx_0\t1\t2\t/m/yyy\n"
    path = write(tmp_path / "a.tsv", OFFICIAL + rows)
    with pytest.raises(ValueError, match="a.tsv, line 3: no name for /m/zzz and 1 other mids"):
        read_events(path)
    assert read_events(path, unknown="keep").labels == ["/m/yyy", "/m/zzz", "Air brake"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.wav\t-0.5\t1\tDog", "line 3: the event begins before the clip .onset -0.5 s"),
        ("a.wav\t2\t1.5\tDog", "line 3: the event ends before it begins .onset 2 s, offset 1.5"),
        ("a.wav\tone\t2\tDog", "line 3: onset is 'one', not a number"),
        ("a.wav\t1\tnan\tDog", "line 3: offset is 'nan', not a number"),
        ("a.wav\t1\tinf\tDog", "line 3: a time is not a finite number"),
        ("a.wav\t1\t\tDog", "line 3: offset is '', not a number"),
        ("a.wav\t1\t2\t", "line 3: event_label is empty"),
        ("\t1\t2\tDog", "line 3: filename is empty"),
        ("a.wav\t1\t2\tDog\tmore", "line 3"),
    ],
)
def test_a_bad_event_is_refused_with_its_line(tmp_path, row, message):
    path = write(tmp_path / "bad.tsv", f"{GENERIC}a.wav\t0\t1\tDog\n{row}\n")
    with pytest.raises(ValueError, match=f"bad.tsv.*{message}"):
        read_events(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename\tonset\toffset\nx\t1\t2\n", "columns filename, onset, offset; expected"),
        ("", "not a table"),
        (OFFICIAL + "x30000\t1\t2\t/m/0gvgw0\n", "line 2: segment_id is 'x30000', expected"),
        (OFFICIAL + "x_0\t1\t2\t/m/0gvgw0\nx_5000\t1\t2\t/m/0gvgw0\n", "line 3: x_5000 and x_0"),
        (OFFICIAL + "x_0\t-1\t2\t/m/0gvgw0\ny_0\t-1\t2\t/m/0gvgw0\n", "and 1 more like it"),
    ],
)
def test_a_bad_annotation_file_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_events(write(tmp_path / "bad.tsv", text))


def test_events_of_zero_length_are_left_out_and_counted(tmp_path, caplog):
    rows = "a.wav\t1\t1\tDog\na.wav\t1\t2\tCat\nsilent.wav\t\t\t\n\n"
    events = read_events(write(tmp_path / "a.tsv", GENERIC + rows))
    assert as_set(events) == {("a", "Cat", 1.0, 2.0)}
    assert "1 events of zero length left out" in caplog.text


def test_an_annotation_without_events_is_read_and_merged(tmp_path):
    events = read_events(write(tmp_path / "a.tsv", GENERIC))
    assert len(events) == len(merged(events)) == 0
    assert events.clips == events.labels == [] and events.first.tolist() == [0]


def joined_one_by_one(spans: list[tuple[float, float]]) -> set[tuple[float, float]]:
    spans = list(spans)
    for i, (a, b) in enumerate(spans):
        for j, (c, d) in enumerate(spans[:i]):
            if a <= d and c <= b:
                rest = [span for k, span in enumerate(spans) if k not in (i, j)]
                return joined_one_by_one([*rest, (min(a, c), max(b, d))])
    return set(spans)


@pytest.mark.parametrize("seed", range(5))
def test_merging_equals_joining_pair_by_pair(seed):
    rng = np.random.default_rng(seed)
    n = 400
    onset = rng.integers(0, 80, n) / 8  # coarse, so that events touch and coincide
    offset = onset + rng.integers(1, 12, n) / 8
    clip, label = rng.integers(0, 9, n), rng.integers(0, 6, n)
    events = Events.from_columns([f"c{i}" for i in clip], [f"l{i}" for i in label], onset, offset)
    expected = set()
    for c in range(9):
        for k in range(6):
            mine = (clip == c) & (label == k)
            spans = joined_one_by_one(list(zip(onset[mine], offset[mine], strict=True)))
            expected |= {(f"c{c}", f"l{k}", a, b) for a, b in spans}
    found = merged(events)
    assert as_set(found) == expected and len(found) == len(expected)
    assert found.clips == events.clips and found.first[-1] == len(found)
    assert as_set(merged(found)) == expected


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
            found, rate = packed.read(i)
            assert rate == 16_000 and found.dtype == np.int16
            np.testing.assert_allclose(found, expected.numpy(), atol=0.51)
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
        found, rate = decode(file.getvalue(), "x")
        assert rate == 8000
        np.testing.assert_allclose(found, expected, atol=0 if channels.shape[1] == 1 else 0.5)


def test_samples_beyond_full_scale_are_clipped():
    file = io.BytesIO()
    soundfile.write(file, np.array([-3.0, 3.0, 1.0, 0.5]), 8000, format="WAV", subtype="FLOAT")
    assert decode(file.getvalue(), "x")[0].tolist() == [-32768, 32767, 32767, 16384]


def test_an_mp3_behind_foreign_bytes_is_read():
    data = encoded(1)
    np.testing.assert_array_equal(decode(b"xyz" * 10 + data, "a.mp3")[0], decode(data, "a.mp3")[0])


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
        "shorter.mp3": (mp3[:1500], "cut off|not decodable"),
        "headerless.mp3": (headerless, "without length header"),
        "junk.mp3": (b"hello " * 500, "not decodable"),
        "zeros.mp3": (bytes(5000), "not decodable"),
        "page.mp3": (b"<html>404</html>", "not decodable"),
        "cut.wav": (wav[:-1000], "cut off: 63044 of 64044 bytes"),
        "none.wav": (encoded(0, kind="WAV"), "holds no samples"),
        "nan.wav": (file.getvalue(), "NaN"),
        "cut.flac": (encoded(1, kind="FLAC")[:-2000], "cut off|not decodable"),
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
    with pytest.raises(Unreadable, match="a.wav: No such file"):
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
    report.add_unreadable({"Yb.1": "empty"})
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


# Packing


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


def wait_for_shards(out: Path, count: int) -> None:
    end = time.monotonic() + 60
    while len(list(out.glob("shard-*.json"))) < count:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_packing_killed_and_run_again_gives_the_same_bytes(tmp_path, many, undisturbed):
    out = tmp_path / "out"
    options = {"clips_per_shard": 4, "max_unreadable": 0.05, "workers": 2}
    process = multiprocessing.get_context("fork").Process(
        target=pack, args=([open_clips(many)], None, out), kwargs=options
    )
    process.start()
    wait_for_shards(out, 3)
    process.kill()
    process.join()
    assert not (out / "index.npz").exists()
    time.sleep(0.5)  # its workers end with it
    kept = {file.name: file.stat().st_mtime_ns for file in out.glob("shard-*.i16")}
    time.sleep(0.5)
    assert kept == {file.name: file.stat().st_mtime_ns for file in out.glob("shard-*.i16")}
    (out / ".99-shard-00014.i16").write_bytes(b"half")  # what the killed worker may leave
    with pytest.raises(ValueError, match="packing was not finished"):
        open_clips(out)
    pack([open_clips(many)], None, out, clips_per_shard=4, max_unreadable=0.05)
    assert checksums(out) == undisturbed
    again = {file.name: file.stat().st_mtime_ns for file in out.glob("shard-*.i16")}
    assert sum(again[name] == written for name, written in kept.items()) >= 3


def test_ctrl_c_leaves_only_whole_shards(tmp_path, many, undisturbed, monkeypatch):
    done = []

    class Bar(tqdm):
        def update(self, n=1):
            done.append(n)
            if len(done) == 2:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("training.pack.tqdm", Bar)
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
    with pytest.raises(ValueError, match="out was packed with other sources; choose"):
        pack([sources["folder"]], events, out)
    with pytest.raises(ValueError, match="other clips_per_shard"):
        pack([sources["hdf5"]], events, out, clips_per_shard=1)
    with pytest.raises(ValueError, match="other events"):
        pack([sources["hdf5"]], None, out)
    write_folder(tmp_path / "audio", {"a.wav": b"x"})
    with pytest.raises(ValueError, match="not empty and not a folder of shards"):
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
    assert (manifest["rate"], manifest["clips_per_shard"], manifest["clips"]) == (16_000, 3, 4)
    sums = checksums(tmp_path)
    assert {s["file"]: s["sha256"] for s in manifest["shards"]} == {
        name: value for name, value in sums.items() if name.endswith(".i16")
    }


def test_an_odd_rate_is_resampled_with_a_small_kernel(tmp_path):
    audio = np.sin(2 * np.pi * 440 * np.arange(2 * 22_051) / 22_051) * 0.5
    soundfile.write(tmp_path / "a.wav", audio, 22_051)
    pack([open_clips(tmp_path)], None, tmp_path.parent / f"{tmp_path.name}-packed")
    found, _ = open_clips(tmp_path.parent / f"{tmp_path.name}-packed").read(0)
    expected = np.sin(2 * np.pi * 440 * np.arange(len(found)) / 16_000) * 16_384
    assert len(found) == pytest.approx(32_000, abs=20)
    assert np.abs(found - expected)[500:8000].max() < 150
