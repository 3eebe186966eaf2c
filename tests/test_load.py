"""hear_ptsed.load gives what a file holds, refuses what it does not hold, draws what is named."""

import numpy as np
import pytest
import torch
from checkpoint_parts import same
from conftest import released_weights

import hear_ptsed
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.heads import AttentionHead, LinearHead
from hear_ptsed.labels import load_labels
from hear_ptsed.model import SEDModel
from hear_ptsed.registry import build
from hear_ptsed.sequence import BiGRU, Projected
from hear_ptsed.yamnet.network import YamNet

NAMES = tuple("abcde")
AUDIO = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0)) / 9
FRAMES = 25


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of frame_mn02: plain, teacher, no_heads, strong_only, weak_only, undescribed."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(1)
    plain, teacher = build("frame_mn02", 5), build("frame_mn02", 5, "bigru", "attention", dim=16)
    save_checkpoint(plain, folder / "plain.pt", NAMES)
    save_checkpoint(teacher, folder / "teacher.pt", NAMES)
    save_checkpoint(teacher, folder / "teacher.safetensors", NAMES)
    save_checkpoint(build("frame_mn02", None), folder / "no_heads.pt")
    save_checkpoint(plain, folder / "strong_only.pt", NAMES, ["strong_head"])
    save_checkpoint(plain, folder / "weak_only.pt", NAMES, ["weak_head"])
    tower = build("frame_mn02", 5, "transformer", dim=32, layers=1)
    save_checkpoint(tower, folder / "undescribed.pt")
    content = torch.load(folder / "undescribed.pt", weights_only=True)
    torch.save(dict(content), folder / "undescribed.pt")
    return folder


def load(path, **asked) -> SEDModel:
    return hear_ptsed.load("frame_mn02", checkpoint=path, **asked)


def answer(model: SEDModel):
    with torch.no_grad():
        return model(AUDIO)


def test_a_file_of_five_classes_gives_five_classes(files):
    model = load(files / "plain.pt")
    out = answer(model)
    assert out.strong.shape == (2, 5, FRAMES) and out.weak.shape == (2, 5)
    assert out.frames.shape == (2, FRAMES, 192)
    assert model.classes == NAMES and model.report.random == () and not model.training
    assert torch.equal(out.strong, answer(hear_ptsed.load(checkpoint=files / "plain.pt")).strong)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_teacher_keeps_its_sequence_model_and_its_kind_of_head(files, suffix):
    model = load(str(files / f"teacher{suffix}"))
    assert type(model.sequence) is BiGRU and type(model.head) is AttentionHead
    assert answer(model).frames.shape == (2, FRAMES, 32) and model.classes == NAMES
    assert same(model, hear_ptsed.load(checkpoint=files / "teacher.pt"))


def test_what_a_file_has_no_head_for_is_none_and_never_random(files):
    strong, weak = load(files / "strong_only.pt"), load(files / "weak_only.pt")
    assert answer(strong).strong.shape == (2, 5, FRAMES) and answer(strong).weak is None
    assert answer(weak).weak.shape == (2, 5) and answer(weak).strong is None
    none = load(files / "no_heads.pt")
    assert answer(none)[:2] == (None, None) and none.classes is None
    for model in (strong, weak, none):
        assert model.report.random == ()


def test_an_opened_half_head_is_written_as_it_is(files, tmp_path):
    save_checkpoint(load(files / "weak_only.pt"), tmp_path / "again.pt", NAMES)
    again = load(tmp_path / "again.pt")
    assert again.classes == NAMES and again.report.random == () and answer(again).strong is None


def test_asking_for_what_the_file_holds_is_allowed(files):
    model = load(
        files / "teacher.pt", n_classes=5, sequence_model="bigru", dim=16, head="attention"
    )
    assert same(model, load(files / "teacher.pt"))
    assert answer(load(files / "plain.pt", n_classes=None))[:2] == (None, None)


@pytest.mark.parametrize(
    ("file", "asked", "message"),
    [
        ("plain", {"n_classes": 447}, r"holds a head \(head linear, n_classes 5\), asked for is n"),
        ("plain", {"head": "attention"}, "asked for is head attention: .* random=.'head',.$"),
        ("plain", {"sequence_model": "bigru"}, "holds no sequence model, asked for is kind bigru"),
        ("teacher", {"sequence_model": "bilstm"}, "kind bigru, dim 16, layers 2.* kind bilstm"),
        ("teacher", {"sequence_model": "bigru", "dim": 32}, r"dim 16.* dim 32.*\('sequence_mo"),
        ("no_heads", {"n_classes": 5}, "holds no head, asked for is n_classes 5"),
        ("weak_only", {"n_classes": 7}, "holds a head .head linear, n_classes 5"),
    ],
)
def test_what_a_file_does_not_hold_is_refused(files, file, asked, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(files / f"{file}.pt", **asked)
    assert "\n" not in str(caught.value) and f"{file}.pt" in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"n_classes": True}, "n_classes is True; it must be a valid integer"),
        ({"n_classes": 0}, "n_classes is 0; it must be greater than or equal to 1"),
        ({"n_classes": "5"}, "n_classes is '5'; it must be a valid integer"),
        ({"n_classes": 10**9, "random": "head"}, "n_classes is 1000000000; it must be less"),
        ({"random": "heads"}, "random has the unknown 'heads'; known: sequence_model, head"),
        ({"random": "head"}, "say for how many classes, by n_classes"),
        ({"random": "sequence_model", "n_classes": 5}, "say of which kind, by sequence_model"),
        ({"random": "sequence_model", "sequence_model": "bigru"}, "needs a random head, too"),
        ({"dim": 16}, "dim given without a sequence_model"),
        ({"sequence_model": "gru"}, "kind is 'gru'; it must be 'bigru', 'bilstm'"),
        ({"sequence_model": "bigru", "dim": 10**12}, "dim is 1000000000000; it must be less"),
        ({"sequence_model": "bigru", "width": 16}, "has the unknown width; known: kind, dim"),
        ({"head": "mean"}, "unknown head 'mean'; known: linear, attention"),
    ],
)
@pytest.mark.parametrize("stage", ["file", None])
def test_wrong_arguments_are_refused_in_one_line(files, asked, message, stage):
    if stage is None and "random" in asked:
        message = "all is random: leave out random"
    with pytest.raises(ValueError, match=message) as caught:
        hear_ptsed.load("frame_mn02", None, None if stage is None else files / "plain.pt", **asked)
    assert "\n" not in str(caught.value)


def test_a_random_head_for_own_classes_is_drawn_by_name(files):
    torch.manual_seed(0)
    one = load(files / "teacher.pt", n_classes=7, random="head")
    two = load(files / "teacher.pt", n_classes=7, random=["head"])
    kept = hear_ptsed.load(checkpoint=files / "teacher.pt")
    assert same(one.backbone, kept.backbone) and same(one.sequence, kept.sequence)
    assert type(one.head) is LinearHead and answer(one).strong.shape == (2, 7, FRAMES)
    assert not torch.equal(one.head.strong_head.weight, two.head.strong_head.weight)
    names = {
        f"head.{head}.{kind}"
        for head in ("strong_head", "weak_head")
        for kind in ("weight", "bias")
    }
    assert set(one.report.random) == names and one.classes is None
    with pytest.raises(ValueError, match="the model has no trained strong head"):
        one.classes_of("strong")


def test_a_random_head_is_drawn_even_where_the_files_would_fit(files):
    model, kept = load(files / "plain.pt", n_classes=5, random=("head",)), load(files / "plain.pt")
    assert same(model.backbone, kept.backbone) and model.classes is None
    assert not torch.equal(model.head.strong_head.weight, kept.head.strong_head.weight)


@pytest.mark.parametrize("file", ["plain", "teacher", "no_heads"])
def test_a_random_sequence_model_and_head_are_drawn_by_name(files, file):
    parts = {"sequence_model": "mamba", "dim": 16, "random": ("sequence_model", "head")}
    model = load(files / f"{file}.pt", n_classes=3, head="attention", **parts)
    assert type(model.sequence) is Projected and type(model.head) is AttentionHead
    assert answer(model).strong.shape == (2, 3, FRAMES) and not model.training
    random = {name.split(".")[0] for name in model.report.random}
    assert random == {"sequence", "head"} and model.report.dropped.keys().isdisjoint(random)
    bare = load(
        files / f"{file}.pt",
        n_classes=None,
        sequence_model="bigru",
        dim=8,
        layers=1,
        random="sequence_model",
    )
    assert answer(bare).strong is None and answer(bare).frames.shape == (2, FRAMES, 16)


def test_a_sequence_model_that_a_file_does_not_describe_is_known_by_its_tensors(files):
    for asked in ({}, {"sequence_model": "transformer", "dim": 32, "layers": 1}):
        model = load(files / "undescribed.pt", **asked)
        assert model.sequence.options == {"kind": "transformer", "dim": 32, "layers": 1, "heads": 4}
        assert model.report.random == () and not model.report.dropped
    with pytest.raises(ValueError, match="kind transformer, dim 32, .*, asked for is .*dim 48"):
        load(files / "undescribed.pt", sequence_model="transformer", dim=48, layers=1)


def test_released_files_of_each_stage_give_what_they_hold(tmp_path, monkeypatch):
    monkeypatch.setenv("HEAR_PTSED_CHECKPOINTS", str(tmp_path))
    torch.save(released_weights(build("frame_mn06")), tmp_path / "frame_mn06.pt")
    model = hear_ptsed.load("frame_mn06")
    assert answer(model).strong.shape == (2, 447, FRAMES)
    assert model.classes == tuple(load_labels()) == model.classes_of("weak")
    with pytest.raises(ValueError, match="frame_mn06 has no 'weak' stage; it has strong"):
        hear_ptsed.load("frame_mn06", stage="weak")


def test_a_file_of_clip_labels_without_names_is_not_given_any(tmp_path):
    model = build("frame_mn02", None)
    model.head = LinearHead(192, 3, 527)
    save_checkpoint(model, tmp_path / "weak.pt", heads=["weak_head"])
    loaded = load(tmp_path / "weak.pt")
    assert answer(loaded).weak.shape == (2, 527) and loaded.classes is None
    with pytest.raises(ValueError, match="x.pt does not name its 527 classes"):
        loaded.classes_of("weak", "x.pt")
    with pytest.raises(ValueError, match="has no trained strong head, but a weak one"):
        loaded.classes_of("strong")


def test_without_a_file_all_is_random_as_described():
    model = hear_ptsed.load("frame_mn02", None, None, 3, "attention", "attention", dim=32, layers=1)
    assert answer(model).strong.shape == (2, 3, FRAMES) and model.sequence.out_dim == 32
    assert answer(hear_ptsed.load("frame_mn02", stage=None)).strong.shape[1] == 447
    none = hear_ptsed.load("frame_mn02", stage=None, n_classes=None)
    assert answer(none).strong is None and (none.classes, none.report) == (None, None)
    assert isinstance(none, SEDModel) and not none.training


def test_yamnet_loads_like_a_model_without_parts_to_choose():
    model = hear_ptsed.load("yamnet", stage=None, seed=0)
    assert isinstance(model, YamNet) and (model.classes, model.report) == (None, None)
    assert same(model, hear_ptsed.load("yamnet", stage=None, seed=0))
    out = model(AUDIO)
    assert out.strong.shape == (2, 521, FRAMES) and out.weak is None
    assert out.frames.shape == (2, FRAMES, 1024) and not model.training
    assert hear_ptsed.load("yamnet", stage=None, backbone_only=True)(AUDIO).strong is None
    for asked in ({"stage": "weak"}, {"n_classes": 5}, {"head": "linear"}, {"random": "head"}):
        with pytest.raises(ValueError, match="yamnet has no stages and no parts to choose"):
            hear_ptsed.load("yamnet", **asked)


def test_random_weights_are_a_function_of_the_seed_which_leaves_the_global_generator(files):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, two = (load(files / "plain.pt", n_classes=7, random="head", seed=3) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert same(one, two)
    assert same(*(hear_ptsed.load("frame_mn02", stage=None, seed=4) for _ in range(2)))


def test_the_backbone_alone_is_taken_from_any_file(files):
    for file in ("teacher", "undescribed", "no_heads"):
        model = hear_ptsed.load(checkpoint=files / f"{file}.pt", backbone_only=True)
        assert (model.sequence, model.head, model.classes) == (None, None, None)
        assert model.report.random == ()
    for asked in ({"n_classes": 5, "random": "head"}, {"head": "linear"}, {"n_classes": 5}):
        with pytest.raises(ValueError, match="backbone_only leaves no parts to choose"):
            load(files / "plain.pt", backbone_only=True, **asked)


def test_without_a_name_a_file_says_what_it_is(files):
    model = hear_ptsed.load(checkpoint=files / "plain.pt")
    assert same(model, load(files / "plain.pt")) and model.classes == NAMES
    with pytest.raises(ValueError, match="give the name of a model, a checkpoint, or both"):
        hear_ptsed.load()


def test_an_unknown_model_is_answered_with_the_known_ones():
    for stage in ("strong", None):
        with pytest.raises(ValueError, match="unknown model 'vit'; known: atst_frame, beats"):
            hear_ptsed.load("vit", stage)


def test_a_loaded_model_takes_no_list_or_array(files):
    model = load(files / "plain.pt")
    for audio in ([[0.0]], np.zeros((1, 16000), np.float32), True, None):
        with pytest.raises(TypeError, match=r"expected a tensor .*torch\.as_tensor"):
            model(audio)
