"""Training runs that are refused, and runs that go on past clips which cannot be read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from training_corpus import CLASSES, TRAIN, assert_refused, fit, write_corpus, write_pseudo_labels

lightning = pytest.importorskip("lightning")

import hear_ptsed  # noqa: E402
from hear_ptsed.plugins import frame_mn06_strong  # noqa: E402
from training.data.coverage import Coverage  # noqa: E402


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"optim": {"warmup": 3}}, "recipe has the unknown optim.warmup; known: name, lr,"),
        ({"optimiser": {"lr": 3}}, "recipe has the unknown optimiser; known: model, data,"),
        ({"optim": {"batch": "four"}}, "optim.batch is 'four'; it must be a valid integer"),
        (
            {"augment": {"warp_p": 2}},
            "augment.warp_p is 2; it must be less than or equal to 1 (",
        ),
        ({"optim": {"warmup_steps": 6}}, "warmup_steps 6 in a run of 6 optimizer steps"),
        ({"data": {"train": []}}, "names no data to train on"),
        ({"data": {"train": [{"audio": "gone.hdf"}]}}, "gone.hdf"),
        (
            {"data": {"train": [{"audio": "train.hdf", "events": "eval.tsv"}]}},
            "train.hdf is in the annotation",
        ),
        ({"model": {"name": "frame_mn"}}, "unknown model 'frame_mn'; known: atst_frame,"),
        ({"model": {"start": "strong"}}, "frame_mn02 has no 'strong' stage"),
        ({"distill": {"weight": 0.5, "pseudo_labels": ["cut.h5"]}}, "expected float16 (clips, 3,"),
        ({"distill": {"weight": 0.5, "pseudo_labels": ["nan.h5"]}}, "NaN or infinite logits of t"),
    ],
)
def test_a_bad_recipe_or_bad_data_is_refused_in_one_line(corpus, tmp_path, sections, message):
    logits = np.zeros((TRAIN, len(CLASSES), 250))
    write_pseudo_labels(corpus / "cut.h5", logits[:, :, :249])
    logits[:, 1, 7] = np.nan
    write_pseudo_labels(corpus / "nan.h5", logits)
    assert_refused(fit(corpus, tmp_path, **sections), message)
    assert not (tmp_path / "run" / "last.ckpt").exists()


@pytest.fixture(scope="module")
def half_broken(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("broken"), broken=(3,))


def test_more_unreadable_clips_than_allowed_stop_a_run(half_broken, tmp_path):
    command = fit(half_broken, tmp_path)
    assert_refused(command, "1 of 8 clips are unreadable", "max_unreadable = 0.01", "Yt0000000003")


@pytest.fixture(scope="module")
def lenient(half_broken, tmp_path_factory) -> Path:
    """Folder of a run with one unreadable clip of 8, where more are allowed."""
    folder = tmp_path_factory.mktemp("lenient")
    sections = {
        "model": {"name": "frame_mn06"},
        "data": {"max_unreadable": 0.2},
        "sampling": {"balanced": False},
        "optim": {"epochs": 1},
    }
    command = fit(half_broken, folder, **sections)
    assert command.code == 0, command.text
    return folder


def test_fewer_unreadable_clips_are_named_and_listed(lenient):
    text = (lenient / "log").read_text(encoding="utf-8")
    assert "unreadable, left out: " in text
    assert "1 unreadable (12.50%): Yt0000000003" in text
    assert list(Coverage.read(lenient / "run" / "coverage-0.json").unreadable) == ["Yt0000000003"]
    assert Coverage.read(lenient / "run" / "coverage-1.json").unreadable == {}


def test_a_plug_in_takes_a_trained_file(lenient):
    audio = 0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    expected = hear_ptsed.load(checkpoint=lenient / "run" / "model.pt")
    for name in ("model.pt", "model.safetensors"):
        model = frame_mn06_strong.load_model(str(lenient / "run" / name))
        embeddings, _ = frame_mn06_strong.get_timestamp_embeddings(audio, model)
        assert embeddings.shape[:2] == (1, 25) and embeddings.isfinite().all()
        with torch.no_grad():
            features = expected(torch.nn.functional.pad(audio, (0, 144000))).frames
        torch.testing.assert_close(embeddings, features[:, :25], rtol=1e-3, atol=1e-3)
