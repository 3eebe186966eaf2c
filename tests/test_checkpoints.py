"""Checkpoint files of every layout: what loads, what is dropped, what is refused."""

import json
import logging
from argparse import Namespace
from collections import OrderedDict
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN, RELEASED, SMALL
from deterministic import weight
from torch import nn

from hear_ptsed import checkpoints
from hear_ptsed.backbones.fpasst import FPaSST
from hear_ptsed.checkpoints import describe, load_checkpoint, open_checkpoint, save_checkpoint
from hear_ptsed.heads import AttentionHead, LinearHead
from hear_ptsed.model import SEDModel
from hear_ptsed.registry import MODELS, build
from hear_ptsed.sequence import DEFAULTS, build_sequence_model

WIDTHS = ("frame_mn02", "frame_mn04", "frame_mn10")  # other widths of frame_mn06
each_small = pytest.mark.parametrize("name", [name for name in SMALL if name not in WIDTHS])


def tiny(name, n_strong=5, n_weak=None, sequence=None, head=LinearHead, **options) -> SEDModel:
    """A small model without front-end, which plays no role in files; n_strong None: no heads."""
    backbone = SMALL[name]()
    width = backbone.embed_dim
    if sequence:
        sequence = build_sequence_model(sequence, width, **options)
        width = sequence.out_dim
    counts = [count for count in (n_strong, n_weak) if count is not None]
    return SEDModel(nn.Identity(), backbone, sequence, head(width, *counts) if counts else None)


def randomised(model: SEDModel) -> SEDModel:
    """The model with values that no initialisation gives; BEATs' table stays one for all layers."""
    generator = torch.Generator().manual_seed(1)
    for key, value in model.state_dict().items():
        if value.is_floating_point() and "norm_stats" not in key:
            value.copy_(torch.randn(value.shape, generator=generator).abs() + 0.1)
    return model


def released(model: SEDModel, tmp_path: Path) -> dict[str, torch.Tensor]:
    """The model's tensors under released names."""
    save_checkpoint(model, tmp_path / "released.pt")
    return dict(torch.load(tmp_path / "released.pt", weights_only=True))


def write(content, tmp_path: Path) -> Path:
    torch.save(content, tmp_path / "file.pt")
    return tmp_path / "file.pt"


def same(a: nn.Module, b: nn.Module) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


def renamed(state: dict, old: str, new: str) -> dict:
    return {new + k.removeprefix(old) if k.startswith(old) else k: v for k, v in state.items()}


@cache
def golden_keys() -> dict[str, dict[str, tuple]]:
    """Released names -> (shape, dtype); the file lists shapes -> values of `*` in the name."""
    models = {}
    for model, patterns in json.loads((GOLDEN / "checkpoint_keys.json").read_text()).items():
        models[model] = {
            pattern.replace("*", str(index)): ((), torch.int64)
            if text == "int64"
            else (tuple(map(int, text.split("x"))), torch.float32)
            for pattern, shapes in patterns.items()
            for text, indices in shapes.items()
            for index in indices or [""]
        }
    return models


@pytest.mark.parametrize("name", RELEASED)
def test_names_shapes_and_types_are_those_of_the_released_files(name):
    with torch.device("meta"):
        backbone = MODELS[name].backbone()
        head = LinearHead(backbone.embed_dim, 447)
    state = {
        backbone.prefixes[0] + key: value
        for key, value in backbone.to_released(backbone.state_dict()).items()
    } | head.state_dict()
    assert {key: (tuple(v.shape), v.dtype) for key, v in state.items()} == golden_keys()[name]


@each_small
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_saved_model_loads_completely(name, suffix, tmp_path):
    model, other = randomised(tiny(name)), tiny(name)
    save_checkpoint(model, tmp_path / f"m{suffix}")
    report = load_checkpoint(other, tmp_path / f"m{suffix}")
    assert same(model, other)
    assert (report.dropped, report.random, report.classes) == ({}, (), None)
    prefix = model.backbone.prefixes[0]
    assert {n.startswith((prefix, "strong_head.", "weak_head.")) for n in report.loaded} == {True}
    assert list(tmp_path.iterdir()) == [tmp_path / f"m{suffix}"]


@pytest.mark.parametrize("kind", DEFAULTS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_teacher_returns_with_its_sequence_model_and_describes_itself(kind, suffix, tmp_path):
    build = {"sequence": kind, "dim": 32, "layers": 1, "head": AttentionHead}
    model, other = randomised(tiny("asit", **build)), tiny("asit", **build)
    path = tmp_path / f"m{suffix}"
    save_checkpoint(model, path, classes=list("abcde"))
    assert load_checkpoint(other, path).classes == tuple("abcde")
    assert same(model, other)
    facts = describe(path)
    assert (facts["format"], facts["backbone"], facts["head"]) == (1, "ASiT", "AttentionHead")
    again = build_sequence_model(in_dim=24, **facts["sequence_model"])
    again.load_state_dict(model.sequence.state_dict())
    assert type(again) is type(model.sequence)


def test_a_pt_file_is_a_flat_dictionary_of_tensors_for_other_readers(tmp_path):
    save_checkpoint(tiny("m2d"), tmp_path / "m.pt", classes=list("abcde"))
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in content.values())
    assert (tmp_path / "m.pt").stat().st_size < 1.3 * sum(v.nbytes for v in content.values())


# Names


@each_small
@pytest.mark.parametrize("file_name", ["BEATs_ASIT_fpasst_M2D.pt", "x.ckpt"])
def test_renamed_names_load_whatever_the_file_is_called(name, file_name, tmp_path):
    model = randomised(tiny(name))
    state, first = released(model, tmp_path), model.backbone.prefixes[0]
    level = {"frame_mn06": "frame_mn", "atst_frame": "atst"}.get(name, name)
    inner = f"{level}.backbone." if name == "m2d" else f"{level}."
    for prefix in ("", inner, f"model.{inner}", f"model.{inner}{inner}", f"model.model.{inner}"):
        other = tiny(name)
        torch.save(renamed(state, first, prefix), tmp_path / file_name)
        report = load_checkpoint(other, tmp_path / file_name)
        assert same(model, other) and not report.dropped and not report.random
        assert report.loaded[0].startswith(prefix)


@each_small
@pytest.mark.parametrize("wrapper", ["model.", "model._orig_mod.", "module.model.", ""])
def test_a_lightning_checkpoint_loads_by_our_own_names(name, wrapper, tmp_path):
    build = {"sequence": "bigru", "dim": 8}
    model, other = randomised(tiny(name, **build)), tiny(name, **build)
    state = {wrapper + key: value for key, value in model.state_dict().items()}
    content = {"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 1e-4}}
    report = load_checkpoint(other, write(content, tmp_path))
    assert same(model, other) and not report.dropped and not report.random


@pytest.mark.parametrize("kind", ["bigru", "transformer"])
def test_an_efficientsed_file_loads(kind, tmp_path):
    build = {"sequence": kind, "dim": 32}
    model, other = randomised(tiny("frame_mn06", **build)), tiny("frame_mn06", **build)
    state = renamed(released(model, tmp_path), "model.frame_mn.", "model.")
    state = {f"net.{k}": v for k, v in renamed(state, "seq_model.rnn.", "seq_model.0.gru.").items()}
    assert ("net.seq_model.0.gru.weight_hh_l0" in state) == (kind == "bigru")
    report = load_checkpoint(other, write(state, tmp_path))
    assert same(model, other) and not report.dropped and not report.random


def test_two_tensors_for_one_place_are_refused(tmp_path):
    state = released(tiny("asit"), tmp_path)
    state["model.asit.cls_token"] = state["model.cls_token"]
    with pytest.raises(ValueError, match=r"cls_token twice: as model.cls_token and as model.asit"):
        load_checkpoint(tiny("asit"), write(state, tmp_path))


# Upstream files


def test_an_atst_training_file_gives_its_teacher(tmp_path):
    model = randomised(tiny("atst_frame", None))
    state = renamed(released(model, tmp_path), "model.atst.norm_frame.", "model.atst.norm.")
    for prefix in ("model.teacher.encoder.", "encoder.encoder."):
        inner = renamed(state, "model.atst.", prefix) | {f"{prefix}cls_token": torch.ones(1)}
        if "teacher" in prefix:
            inner |= renamed(state, "model.atst.", "model.student.encoder.")
            inner["model.teacher.projector.weight"] = torch.ones(2, 2)
        other = tiny("atst_frame", None)
        path = write({"state_dict": inner, "hyper_parameters": Namespace(lr=1)}, tmp_path)
        report = load_checkpoint(other, path)
        assert same(model, other)
        assert f"{prefix}cls_token" in report.dropped and len(report.loaded) == len(state)


def test_a_raw_beats_file_loads_without_its_classifier(tmp_path):
    model, other = randomised(tiny("beats", None)), tiny("beats", None)
    state = renamed(released(model, tmp_path), "model.model.", "")
    state["predictor.weight"] = torch.ones(3, 3)
    report = load_checkpoint(other, write({"cfg": {"x": 1}, "model": state}, tmp_path))
    assert same(model, other) and list(report.dropped) == ["predictor.weight"]


def test_beats_loads_the_newer_names_of_the_weight_norm(tmp_path):
    model, other = randomised(tiny("beats")), tiny("beats")
    state, conv = released(model, tmp_path), "model.model.encoder.pos_conv.0."
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        state[f"{conv}parametrizations.weight.{new}"] = state.pop(conv + old)
    load_checkpoint(other, write(state, tmp_path))
    assert same(model, other)


def test_the_last_of_differing_beats_tables_wins_with_a_warning(tmp_path, caplog):
    state, other = released(tiny("beats"), tmp_path), tiny("beats")
    tables = [key for key in state if key.endswith("relative_attention_bias.weight")]
    assert len(tables) == 2
    load_checkpoint(other, write(state, tmp_path))
    assert not caplog.records
    state[tables[1]] = torch.full_like(state[tables[1]], 7.0)
    load_checkpoint(other, write(state, tmp_path))
    assert (other.backbone.encoder.relative_attention_bias.weight == 7).all()
    assert "differ" in caplog.text


def test_an_asit_training_file_gives_its_teacher(tmp_path):
    model, other = randomised(tiny("asit", None)), tiny("asit", None)
    state = renamed(released(model, tmp_path), "model.", "module.backbone.")
    state |= {"module.head_cls.weight": torch.ones(2), "module.head_recons.bias": torch.ones(2)}
    student = {key: value * 0 for key, value in state.items()}
    content = {"student": student, "teacher": state, "args": Namespace(epochs=1)}
    report = load_checkpoint(other, write(content, tmp_path))
    assert same(model, other) and len(report.dropped) == 2


def test_a_raw_m2d_file_loads_without_its_heads(tmp_path):
    model, other = randomised(tiny("m2d", None)), tiny("m2d", None)
    state = renamed(released(model, tmp_path), "model.m2d.backbone.", "module.ar.runtime.backbone.")
    state |= {"module.head.weight": torch.ones(2), "module.ar.projection.weight": torch.ones(2)}
    report = load_checkpoint(other, write({"model": state}, tmp_path))
    assert same(model, other) and len(report.dropped) == 2


def test_other_m2d_statistics_bring_a_warning(tmp_path, caplog):
    state = released(tiny("m2d"), tmp_path)
    load_checkpoint(tiny("m2d"), write(state, tmp_path))
    assert not caplog.records
    state["model.m2d.backbone.norm_stats"] = torch.tensor([-5.0, 4.2])
    load_checkpoint(tiny("m2d"), write(state, tmp_path))
    assert "norm_stats are [-5.0, " in caplog.text


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("atst_frame", "model.atst_mel.mel_transform.spectrogram.window"),
        ("m2d", "model.m2d.to_spec.mel_basis"),
        ("m2d", "model.to_spec.stft.wsin"),
        ("asit", "model.head.weight"),
    ],
)
def test_front_end_constants_and_classifiers_in_a_file_are_dropped(name, key, tmp_path):
    state = released(tiny(name), tmp_path) | {key: torch.ones(4)}
    report = load_checkpoint(tiny(name), write(state, tmp_path))
    assert report.dropped == {key: "not part of the network"} and not report.random


def test_deit_becomes_fpasst_as_published():
    shapes = {"pos_embed": (1, 578, 768), "patch_embed.proj.weight": (768, 3, 16, 16)}
    state = FPaSST.from_released({k: torch.from_numpy(weight(k, s)) for k, s in shapes.items()})
    kernel, time = state["patch_embed.proj.weight"], state["time_new_pos_embed"]
    found = [
        (kernel[0, 0, 0], [-0.0037556, -0.0101274]),
        (kernel[5, 3, 17], [-0.0014620, 0.0048016]),
        (kernel[767, 15, 127], [-0.0063676, -0.0026115]),
        (kernel.std(), 0.0101487),
        (
            time[0, 0, 0, [0, 1, 124, 125, 249]],
            [0.2621737, 0.2594291, -0.3193073, -0.2454338, -0.3273271],
        ),
        (state["freq_new_pos_embed"][0, :3, 0, 0], [0.1002544, -0.0902020, 0.0353907]),
        (state["new_pos_embed"][0, :, 0], [0.0855552, 0.2052059]),
    ]
    assert kernel.shape == (768, 16, 128, 2) and time.shape == (1, 768, 1, 250)
    for got, expected in found:
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_an_imagenet_file_leaves_only_the_stem_of_fpasst_random(tmp_path, caplog):
    state = renamed(released(tiny("fpasst", None), tmp_path), "model.", "")
    deit = {k: v for k, v in state.items() if "new_pos" not in k and not k.startswith("conv_in_")}
    deit |= {"pos_embed": torch.randn(1, 578, 24), "head.weight": torch.ones(1000, 24)}
    deit["patch_embed.proj.weight"] = torch.randn(24, 3, 16, 16)
    report = load_checkpoint(tiny("fpasst", None), write({"model": deit}, tmp_path))
    assert len(report.random) == 6
    assert all(name.startswith("backbone.conv_in_") for name in report.random)
    assert list(report.dropped) == ["head.weight"] and "left random" in caplog.text
    del deit["norm.bias"]
    with pytest.raises(ValueError, match=r"misses model\.norm\.bias$"):
        load_checkpoint(tiny("fpasst", None), write({"model": deit}, tmp_path))


# Heads and sequence models


@each_small
def test_heads_of_other_classes_are_dropped_and_stay_random(name, tmp_path, caplog):
    save_checkpoint(randomised(tiny(name, 9)), tmp_path / "m.pt")
    model = tiny(name, 4)
    before = model.head.strong_head.weight.clone()
    with caplog.at_level(logging.INFO):
        report = load_checkpoint(model, tmp_path / "m.pt")
    heads = [f"{head}_head.{kind}" for head in ("strong", "weak") for kind in ("weight", "bias")]
    assert list(report.dropped) == heads
    assert report.random == tuple(f"head.{key}" for key in heads)
    width = model.backbone.embed_dim
    assert (
        report.dropped["strong_head.weight"] == f"9 x {width} in the file, 4 x {width} in the model"
    )
    assert model.head.strong_head.weight.equal(before)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "\n" not in str(report) and "4 x" in str(report)


def test_a_weak_file_gives_the_backbone_and_the_head_that_fits(tmp_path):
    state = released(randomised(tiny("beats", 5, 7)), tmp_path)
    report = load_checkpoint(tiny("beats", 5, 5), write(state, tmp_path))
    assert report.random == ("head.weak_head.weight", "head.weak_head.bias")
    weak = {key: value for key, value in state.items() if "strong_head" not in key}
    report = load_checkpoint(tiny("beats", 5), write(weak, tmp_path))
    assert len(report.dropped) == 2 and len(report.random) == 4


def test_a_file_without_heads_leaves_them_random(tmp_path, caplog):
    save_checkpoint(tiny("asit", None), tmp_path / "m.pt")
    report = load_checkpoint(tiny("asit"), tmp_path / "m.pt")
    assert not report.dropped and len(report.random) == 4
    assert caplog.records[0].levelname == "WARNING"


def test_a_model_without_heads_drops_them_without_a_warning(tmp_path, caplog):
    save_checkpoint(tiny("asit"), tmp_path / "m.pt")
    with caplog.at_level(logging.INFO):
        report = load_checkpoint(tiny("asit", None), tmp_path / "m.pt")
    assert set(report.dropped.values()) == {
        "the model has no strong_head",
        "the model has no weak_head",
    }
    assert not report.random and caplog.records[0].levelname == "INFO"


def test_half_a_head_is_dropped(tmp_path):
    state = released(tiny("asit"), tmp_path)
    del state["strong_head.bias"]
    report = load_checkpoint(tiny("asit"), write(state, tmp_path))
    assert list(report.dropped) == ["strong_head.weight"]
    assert report.random == ("head.strong_head.weight", "head.strong_head.bias")


@pytest.mark.parametrize("n_classes", [None, 5])
def test_a_teacher_becomes_a_student_without_its_sequence_model(n_classes, tmp_path):
    # dim 12 makes the heads fit by shape; they were trained on another input all the same
    teacher, student = randomised(tiny("asit", sequence="bigru", dim=12)), tiny("asit", n_classes)
    save_checkpoint(teacher, tmp_path / "m.pt")
    report = load_checkpoint(student, tmp_path / "m.pt")
    assert same(teacher.backbone, student.backbone)
    assert "the model has no sequence model" in report.dropped["seq_model.rnn.weight_hh_l0"]
    assert len(report.random) == (0 if n_classes is None else 4)


@pytest.mark.parametrize("n_classes", [None, 5])
def test_a_student_becomes_a_teacher_with_a_random_sequence_model(n_classes, tmp_path, caplog):
    student = randomised(tiny("asit"))
    teacher = tiny("asit", n_classes, sequence="bigru", dim=12)
    save_checkpoint(student, tmp_path / "m.pt")
    report = load_checkpoint(teacher, tmp_path / "m.pt")
    assert same(teacher.backbone, student.backbone)
    assert len(report.dropped) == 4
    assert len(report.random) == 16 + (0 if n_classes is None else 4)
    assert "sequence.rnn.weight_ih_l0" in caplog.text


def test_a_sequence_model_of_another_size_or_kind_is_dropped_as_a_whole(tmp_path):
    save_checkpoint(tiny("asit", sequence="bigru", dim=12), tmp_path / "m.pt")
    for other in ({"dim": 16}, {"dim": 12, "layers": 1}, {"sequence": "bilstm", "dim": 12}):
        model = tiny("asit", **({"sequence": "bigru"} | other))
        report = load_checkpoint(model, tmp_path / "m.pt")
        assert {n.split(".")[0] for n in report.random} == {"sequence", "head"}
        assert len(report.random) == len(model.sequence.state_dict()) + 4


# Models rebuilt from their files


@pytest.fixture
def registered(monkeypatch):
    """The small backbones as the registered ones."""
    for name, row in MODELS.items():
        monkeypatch.setitem(MODELS, name, replace(row, backbone=SMALL[name]))
    checkpoints._signature.cache_clear()
    yield
    checkpoints._signature.cache_clear()


def rebuilt_alike(model: SEDModel, path: Path, name: str | None = None) -> SEDModel:
    again = open_checkpoint(path, name)
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
    model = build("frame_mn02", 5, kind, "attention", dim=16, **options)
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
    again = open_checkpoint(tmp_path / "m.pt")
    missing = {"strong_head": "weak_head", "weak_head": "strong_head"}[kept]
    assert again.report.random == (f"head.{missing}.weight", f"head.{missing}.bias")
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
        open_checkpoint(tmp_path / "m.pt")
    with pytest.raises(ValueError, match="m.pt does not fit ASiT: it misses"):
        open_checkpoint(tmp_path / "m.pt", "asit")
    with pytest.raises(ValueError, match="m.pt is a 'vit', which is none of the registered models"):
        open_checkpoint(tmp_path / "m.pt", "vit")


def test_a_file_that_cannot_be_rebuilt_whole_is_refused(tmp_path):
    state = released(build("frame_mn02", 5), tmp_path)
    extra = {"seq_model.1.layers.0.norm.weight": torch.ones(8)}
    with pytest.raises(ValueError, match=r"seq_model\.1\.layers.*, a sequence model that it does"):
        open_checkpoint(write(state | extra, tmp_path))
    half = {key: value for key, value in state.items() if key != "strong_head.bias"}
    with pytest.raises(ValueError, match=r"cannot be rebuilt: strong_head\.weight \(another"):
        open_checkpoint(write(half, tmp_path))
    newer = OrderedDict(state)
    newer.hear_ptsed = {"format": 2}
    with pytest.raises(ValueError, match="is of format 2, this version reads 1: update"):
        open_checkpoint(write(newer, tmp_path))
