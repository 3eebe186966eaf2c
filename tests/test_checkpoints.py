"""Checkpoint files of every layout: what loads, what is dropped, what is refused."""

import logging
from argparse import Namespace

import numpy as np
import pytest
import torch
from checkpoint_parts import each_small, golden_keys, randomised, released, same, tiny, write
from conftest import RELEASED
from deterministic import weight

from hear_ptsed.backbones.fpasst import FPaSST
from hear_ptsed.checkpoints import describe, load_checkpoint, save_checkpoint
from hear_ptsed.heads import AttentionHead, LinearHead
from hear_ptsed.registry import MODELS
from hear_ptsed.sequence import DEFAULTS, build_sequence_model


def renamed(state: dict, old: str, new: str) -> dict:
    return {new + k.removeprefix(old) if k.startswith(old) else k: v for k, v in state.items()}


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
    pairs = [
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
    for got, expected in pairs:
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
