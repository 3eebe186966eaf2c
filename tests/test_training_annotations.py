"""Annotations: clip keys, official and own tables of events, merging."""

import numpy as np
import pytest
from training_clips import GENERIC, OFFICIAL, TIMES, as_set, read_times, write

from training.data.annotations import Events, clip_key, merged, read_events, read_names


@pytest.fixture(scope="module")
def events(tmp_path_factory) -> Events:
    return read_times(tmp_path_factory.mktemp("annotation"))


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
    merged_events = merged(events)
    assert as_set(merged_events) == expected and len(merged_events) == len(expected)
    assert merged_events.clips == events.clips and merged_events.first[-1] == len(merged_events)
    assert as_set(merged(merged_events)) == expected
