"""Models rebuilt from their files alone."""

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_parts import each_small, randomised, released, same, tiny, write
from conftest import NETWORKS, SMALL

import hear_ptsed
from hear_ptsed.checkpoints import describe, names, save_checkpoint
from hear_ptsed.heads import AttentionHead, LinearHead
from hear_ptsed.model import SEDModel
from hear_ptsed.registry import MODELS, build
from hear_ptsed.sequence import DEFAULTS


@pytest.fixture
def registered(monkeypatch):
    """The small backbones as the registered ones."""
    for name in NETWORKS:
        monkeypatch.setitem(MODELS, name, replace(MODELS[name], backbone=SMALL[name]))
    names.sign.cache_clear()
    yield
    names.sign.cache_clear()


def rebuilt_alike(model: SEDModel, path: Path, name: str | None = None) -> SEDModel:
    again = hear_ptsed.load(name, checkpoint=path)
    assert same(model.eval(), again) and not again.training
    audio = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)) * 0.1
    with torch.no_grad():
        for got, want in zip(again(audio), model(audio), strict=True):
            assert (got is None and want is None) or torch.equal(got, want)
    return again


@each_small
def test_a_model_is_rebuilt_from_its_file_alone(name, registered, tmp_path):
    model = build(name, 5)
    save_checkpoint(model, tmp_path / "m.safetensors", classes=list("abcde"))
    again = rebuilt_alike(model, tmp_path / "m.safetensors")
    assert describe(tmp_path / "m.safetensors")["model"] == name
    assert (again.classes, again.report.random) == (tuple("abcde"), ())
    # without the description, as released files are: by the tensors, or by the name that is given
    path = write(released(model, tmp_path), tmp_path)
    for given in (None, name):
        assert rebuilt_alike(model, path, given).classes is None


@pytest.mark.parametrize("kind", DEFAULTS)
def test_a_teacher_is_rebuilt_from_its_file_alone(kind, tmp_path):
    options = {"bidirectional": True} if kind == "mamba" else {"layers": 2}
    model = build("frame_mn02", 5, kind, "attention", dim=32, **options)
    save_checkpoint(model, tmp_path / "m.pt")
    again = rebuilt_alike(model, tmp_path / "m.pt")
    assert type(again.head) is AttentionHead and again.classes is None


@pytest.mark.parametrize("kind", ["bigru", "bilstm"])
@pytest.mark.parametrize("layers", [1, 3])
def test_a_released_teacher_is_rebuilt_from_its_tensors(kind, layers, tmp_path):
    model = build("frame_mn02", 5, kind, dim=12, layers=layers)
    rebuilt_alike(model, write(released(model, tmp_path), tmp_path))


def test_models_without_heads_or_with_heads_of_different_widths_are_rebuilt(tmp_path):
    model = build("frame_mn04", None)
    save_checkpoint(model, tmp_path / "m.pt")
    assert rebuilt_alike(model, tmp_path / "m.pt").head is None
    model.head = LinearHead(384, 5, 7)
    save_checkpoint(model, tmp_path / "m.pt", classes=list("abcde"))
    rebuilt_alike(model, tmp_path / "m.pt")
    rebuilt_alike(model, write(released(model, tmp_path), tmp_path))


@pytest.mark.parametrize("kept", ["strong_head", "weak_head"])
def test_an_untrained_head_is_left_out_and_reported(kept, tmp_path):
    model = randomised(build("frame_mn02", None))
    model.head = randomised(LinearHead(192, 5, 3))
    classes = list("abcde" if kept == "strong_head" else "abc")
    save_checkpoint(model, tmp_path / "m.pt", classes, heads=[kept])
    names = torch.load(tmp_path / "m.pt", weights_only=True).keys()
    assert {n.split(".")[0] for n in names if "head" in n} == {kept}
    again = hear_ptsed.load(checkpoint=tmp_path / "m.pt")
    missing = {"strong_head": "weak_head", "weak_head": "strong_head"}[kept]
    assert again.report.random == () and getattr(again.head, missing) is None
    with torch.no_grad():
        output = again(torch.zeros(1, 16000))
    assert getattr(output, missing.removesuffix("_head")) is None
    assert getattr(output, kept.removesuffix("_head")).shape[1] == len(classes)
    assert again.classes == tuple(classes)
    got, want = (getattr(m.head, kept).weight for m in (again, model))
    assert got.equal(want)
    wrong = list("abc" if kept == "strong_head" else "abcde")
    with pytest.raises(ValueError, match=rf"{len(wrong)} class names for a head of {len(classes)}"):
        save_checkpoint(model, tmp_path / "m.pt", wrong, heads=[kept])
    with pytest.raises(ValueError, match=r"unknown head str; known: strong_head, weak_head"):
        save_checkpoint(model, tmp_path / "m.pt", heads=["str"])


def test_models_that_are_not_registered_have_no_name(tmp_path):
    save_checkpoint(tiny("asit"), tmp_path / "m.pt")
    assert describe(tmp_path / "m.pt")["model"] is None
    with pytest.raises(ValueError, match=r"m\.pt looks like none of the registered models: atst_"):
        hear_ptsed.load(checkpoint=tmp_path / "m.pt")
    with pytest.raises(ValueError, match="m.pt does not fit ASiT: it misses"):
        hear_ptsed.load("asit", checkpoint=tmp_path / "m.pt")
    with pytest.raises(ValueError, match="m.pt is a 'vit', which is none of the registered models"):
        hear_ptsed.load("vit", checkpoint=tmp_path / "m.pt")


def test_a_file_that_cannot_be_rebuilt_whole_is_refused(tmp_path):
    state = released(build("frame_mn02", 5), tmp_path)
    extra = {"seq_model.1.layers.0.norm.weight": torch.ones(8)}
    with pytest.raises(ValueError, match=r"seq_model\.1\.layers.*, a sequence model that is none"):
        hear_ptsed.load(checkpoint=write(state | extra, tmp_path))
    half = {key: value for key, value in state.items() if key != "strong_head.bias"}
    with pytest.raises(ValueError, match=r"cannot be rebuilt: strong_head\.weight \(another"):
        hear_ptsed.load(checkpoint=write(half, tmp_path))
    newer = OrderedDict(state)
    newer.hear_ptsed = {"format": 2}
    with pytest.raises(ValueError, match="is of format 2, this version reads 1: update"):
        hear_ptsed.load(checkpoint=write(newer, tmp_path))
