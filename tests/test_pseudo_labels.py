"""Pseudo labels: files of the published layout."""

import multiprocessing
import pickle

import numpy as np
import pytest
from pseudo_label_parts import CLASSES, ID, logits, published

from hear_ptsed.labels import load_labels
from training.data.pseudo_labels import PseudoLabels


@pytest.mark.parametrize("stored", [ID, f"Y{ID}", f"Y{ID}.mp3", f"07/Y{ID}.mp3", f"a/b/{ID}.wav"])
def test_a_clip_is_found_by_its_name_in_every_form(stored, tmp_path):
    labels = PseudoLabels(published(tmp_path / "p.h5", ["other", stored, "m3p.mp3"]))
    for key in (ID, f"Y{ID}", f"{ID}.mp3", f"x/Y{ID}.flac", stored):
        assert labels.find(key) == 1
    assert (labels.find("m3p"), labels.find("m")) == (2, None)  # the suffix, not its letters
    assert labels.find(ID[1:]) is None and len(labels) == 3


def test_only_the_letter_before_eleven_others_is_left_out(tmp_path):
    names = ["Yell", "Y2345678901", "YY2345678902"]
    labels = PseudoLabels(published(tmp_path / "p.h5", names))
    wanted = {"Yell": 0, "ell": None, "Y2345678901": 1, "2345678901": None, "Y2345678902": 2}
    wanted |= {"YY2345678901": 1, "YY2345678902": 2}
    assert {key: labels.find(key) for key in wanted} == wanted


def read_in_child(labels: PseudoLabels, row: int, queue) -> None:
    queue.put(labels.read(row))


def test_rows_are_read_in_this_process_after_a_fork_and_after_pickling(tmp_path):
    values = logits(3)
    labels = PseudoLabels(published(tmp_path / "p.h5", list("abc"), values))
    assert labels.classes == load_labels() and len(labels.classes) == 447
    assert labels.read(1).dtype == np.float16 and np.array_equal(labels.read(1), values[1])
    handles = labels._opened[1]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=read_in_child, args=(labels, 2, queue))
    child.start()
    assert np.array_equal(queue.get(timeout=30), values[2])
    child.join()
    assert np.array_equal(pickle.loads(pickle.dumps(labels)).read(0), values[0])
    assert labels._opened[1] is handles  # opened once


def test_of_several_files_the_first_that_has_the_clip_wins(tmp_path):
    files = [
        published(tmp_path / "a.h5", [f"Y{ID}.mp3", "b"], logits(2, seed=1)),
        published(tmp_path / "b.h5", ["c", ID, "b"], logits(3, seed=2)),
    ]
    labels = PseudoLabels(*files)
    assert [labels.find(key) for key in (ID, "b", "c", "d")] == [0, 1, 2, None]
    assert np.array_equal(labels.read(1), logits(2, seed=1)[1])
    assert np.array_equal(labels.read(2), logits(3, seed=2)[0])
    other = published(tmp_path / "o.h5", ["x"], logits(1, 3), classes=CLASSES)
    with pytest.raises(ValueError, match=r"o\.h5: its 3 classes differ from .*a\.h5"):
        PseudoLabels(files[0], other)
    with pytest.raises(ValueError, match="give at least one"):
        PseudoLabels()


@pytest.mark.parametrize(
    ("spoiled", "match"),
    [
        ({"strong_logits": None}, "no dataset strong_logits; it has filenames"),
        ({"filenames": None}, "no dataset filenames; it has strong_logits"),
        ({"strong_logits": np.zeros((2, 446, 250), "f2")}, r"\(2, 446, 250\), .*\(clips, 447, 250"),
        ({"strong_logits": np.zeros((2, 250, 447), "f2")}, r"is float16 \(2, 250, 447\), expected"),
        ({"strong_logits": np.zeros((2, 447, 250), "f4")}, "is float32 .* expected float16"),
        ({"strong_logits": np.float16(1)}, r"is float16 \(\), expected"),
        ({"strong_logits": np.zeros((3, 447, 250), "f2")}, r"filenames is .* expected text \(3,\)"),
        ({"filenames": np.array([1, 2])}, r"filenames is int64 \(2,\), expected text \(2,\)"),
        ({"classes": CLASSES}, r"expected float16 \(clips, 3, 250\)"),
        ({"filenames": [b"x/a.mp3", b"a"]}, "x/a.mp3 and a are both clip a"),
    ],
)
def test_files_of_another_layout_are_refused_in_one_line(spoiled, match, tmp_path):
    path = published(tmp_path / "p.h5", ["a", "b"], **spoiled)
    with pytest.raises(ValueError, match=match) as caught:
        PseudoLabels(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_absent_foreign_and_cut_off_files_are_refused_in_one_line(tmp_path):
    path = published(tmp_path / "p.h5", ["a", "b"])
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-1], b"", b"PK hello"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"p\.h5: not a complete HDF5 file") as caught:
            PseudoLabels(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no such file; give a file of pseudo labels"):
        PseudoLabels(tmp_path / "absent.h5")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_with_nan_or_infinity_is_named_when_it_is_read(bad, tmp_path):
    values = logits(2)
    values[0, 0, :2] = 65504, -65504  # the largest numbers
    values[1, 446, 249] = bad
    labels = PseudoLabels(published(tmp_path / "p.h5", ["a", "b"], values))
    assert np.array_equal(labels.read(0), values[0])
    with pytest.raises(ValueError, match=r"p\.h5: NaN or infinite logits of b$"):
        labels.read(1)
