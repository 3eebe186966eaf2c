"""Embeddings of earlier blocks, and the plug-in for files of one's own."""

from dataclasses import replace

import pytest
import torch
from conftest import SMALL
from torch import Tensor, nn

from eval_tasks.heareval import launch
from hear_ptsed import hear, tensor_files
from hear_ptsed.backbones.asit import ASiT, ASiTConfig
from hear_ptsed.backbones.atst import ATSTFrame, ATSTFrameConfig
from hear_ptsed.backbones.base import Backbone
from hear_ptsed.backbones.beats import BEATs, BEATsConfig
from hear_ptsed.backbones.fpasst import FPaSST, FPaSSTConfig
from hear_ptsed.backbones.m2d import M2D, M2DConfig
from hear_ptsed.checkpoints import load_checkpoint, save_checkpoint
from hear_ptsed.heads import LinearHead
from hear_ptsed.hear import HearModel, Options, get_timestamp_embeddings
from hear_ptsed.model import SEDModel
from hear_ptsed.plugins import checkpoint
from hear_ptsed.registry import MODELS, RELEASES, build
from training.optim import groups
from training.recipe import Optim

DEPTH = 4
TRANSFORMERS = {
    "atst_frame": lambda: ATSTFrame(ATSTFrameConfig(dim=24, depth=DEPTH, heads=2)),
    "beats": lambda: BEATs(BEATsConfig(dim=32, depth=DEPTH, heads=2, patch_dim=8)),
    "fpasst": lambda: FPaSST(FPaSSTConfig(dim=24, depth=DEPTH, heads=2)),
    "m2d": lambda: M2D(M2DConfig(dim=24, depth=DEPTH, heads=2)),
    "asit": lambda: ASiT(ASiTConfig(dim=24, depth=DEPTH, heads=2)),
}
BLOCKS = {name: "encoder.layers." if name == "beats" else "blocks." for name in TRANSFORMERS}
each = pytest.mark.parametrize("name", TRANSFORMERS)
with_norm = [name for name in TRANSFORMERS if name != "beats"]


def model(name: str, **choice) -> SEDModel:
    """A narrow model of four blocks, the same weights at every call, reduced to a choice."""
    torch.manual_seed(0)
    backbone = TRANSFORMERS[name]()
    with torch.no_grad():
        for parameter in backbone.parameters():
            # Away from the initial values, at which all blocks and norms do nearly the same.
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    backbone.take(**choice)
    head = LinearHead(backbone.embed_dim, 5)
    return SEDModel(MODELS[name].frontend(), backbone, head=head).eval()


def spectrogram(net: SEDModel) -> Tensor:
    return net.frontend(torch.randn(1, 160_000, generator=torch.Generator().manual_seed(1)) / 9)


@torch.no_grad()
def frames(name: str, **choice) -> Tensor:
    net = model(name, **choice)
    return net.backbone(spectrogram(net))


def by_hand(name: str, net: Backbone, x: Tensor, norm: bool) -> Tensor:
    """What a backbone makes of the output of a block."""
    if name == "beats":
        return x
    special = {"fpasst": 2, "m2d": 1}.get(name, 0)
    x = x[:, special:]
    if norm:
        last = net.norm_frame if name == "atst_frame" else net.norm
        x = nn.functional.layer_norm(x, (24,), last.weight, last.bias, 1e-6)
    if name == "m2d":  # five bands of 62 time steps each
        x = torch.cat([x[:, 62 * band : 62 * (band + 1)] for band in range(5)], dim=2)
    return x


@each
@torch.no_grad()
def test_a_layer_is_the_output_of_that_block_and_the_norm_behind_it(name):
    net, outputs = model(name), []
    blocks = net.get_submodule(f"backbone.{BLOCKS[name]}".rstrip("."))
    for block in blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    last = net.backbone(spectrogram(net))
    assert len(outputs) == DEPTH
    for k, output in enumerate(outputs, 1):
        want = by_hand(name, net.backbone, output, norm=True)
        got = frames(name, layer=k)
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
        if k < DEPTH:
            assert (got - last).abs().max() > 1e-2
        if name in with_norm:
            plain = by_hand(name, net.backbone, output, norm=False)
            got = frames(name, layer=k, final_norm=False)
            torch.testing.assert_close(got, plain, atol=1e-5, rtol=1e-5)
            assert (plain - want).abs().max() > 1e-2


@each
def test_the_last_layer_is_the_default(name):
    want = frames(name)
    for choice in ({"layer": DEPTH}, {"drop_layers": 0}, {"layer": None, "final_norm": True}):
        assert torch.equal(frames(name, **choice), want)


@each
def test_dropping_layers_stops_as_many_blocks_earlier(name):
    for n in range(1, DEPTH):
        assert torch.equal(frames(name, drop_layers=n), frames(name, layer=DEPTH - n))


@each
def test_the_mean_counts_every_normed_block_alike(name):
    single = [frames(name, layer=k) for k in range(1, DEPTH + 1)]
    mean = torch.stack(single).mean(0)
    torch.testing.assert_close(frames(name, layers="mean"), mean, atol=1e-5, rtol=1e-5)
    if name in with_norm:
        plain = [frames(name, layer=k, final_norm=False) for k in range(1, DEPTH + 1)]
        got = frames(name, layers="mean", final_norm=False)
        torch.testing.assert_close(got, torch.stack(plain).mean(0), atol=1e-5, rtol=1e-5)


@each
def test_dropped_blocks_leave_nothing_behind(name):
    full, net = model(name).backbone, model(name, drop_layers=2).backbone
    gone = tuple(f"{BLOCKS[name]}{k}." for k in (2, 3))
    kept = {key for key in full.state_dict() if not key.startswith(gone)}
    assert len(kept) < len(full.state_dict()) and net.state_dict().keys() == kept
    if name in with_norm:
        net.take(final_norm=False)
        assert {key.split(".")[0] for key in kept - net.state_dict().keys()} == {net.last_norm}


@each
def test_the_top_remaining_block_learns_at_the_first_rate_below_the_head(name):
    net = model(name, drop_layers=1)
    assert net.backbone.depth == 3
    depths = {key: net.backbone.depth_of(key) for key, _ in net.backbone.named_parameters()}
    assert set(depths.values()) == {0, 1, 2}
    assert all(depths[key] == 2 for key in depths if key.startswith((f"{BLOCKS[name]}2.", "norm")))
    param_groups = groups(net, Optim(lr=1.0, layer_decay=0.5))
    rates = {id(p): group["lr"] for group in param_groups for p in group["params"]}
    for key, parameter in net.backbone.named_parameters():
        assert rates[id(parameter)] == 0.5 ** (3 - depths[key])


@each
@pytest.mark.parametrize("choice", [{"layer": 2}, {"layers": "mean"}, {"drop_layers": 1}])
def test_gradients_reach_whatever_is_kept(name, choice):
    net = model(name, **choice).train()
    if name == "beats":
        net.backbone.encoder.layer_drop = 0.0
    net.backbone(spectrogram(net)).square().mean().backward()
    unused = {"mask_embed"} if name == "atst_frame" else set()
    assert {key for key, p in net.backbone.named_parameters() if p.grad is None} == unused


def test_a_block_that_beats_skips_in_training_passes_its_input_on():
    net = model("beats", layers="mean").backbone.train()
    inputs = []
    net.encoder.register_forward_hook(lambda module, args, output: inputs.append(output[0]))
    net.encoder.layer_drop = 1.0
    got = net(torch.randn(1, 1, 128, 160))
    torch.testing.assert_close(got, inputs[0])


@each
@pytest.mark.parametrize("choice", [{"layer": 2}, {"layers": "mean"}])
@torch.no_grad()
def test_reduced_models_compile_and_fold(name, choice):
    net = model(name, **choice)
    spec = spectrogram(net)
    want = net.backbone(spec)
    compiled = torch.compile(net.backbone, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(spec), want, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(net.fold().backbone(spec), want, atol=1e-4, rtol=1e-4)


@each
def test_a_default_call_leaves_an_earlier_choice_alone_and_the_next_choice_replaces_it(name):
    net = model(name, layers="mean").backbone
    net.take()
    assert net.mean and net.depth == DEPTH
    net.take(layer=3)
    assert not net.mean and net.depth == 3
    net.take(drop_layers=1)
    assert net.depth == 2


@each
@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"layer": 0}, "layer 0; allowed is 1 to 4"),
        ({"layer": 5}, "layer 5; allowed is 1 to 4"),
        ({"layer": 2.0}, "layer 2.0; allowed is 1 to 4"),
        ({"layer": True}, "layer True; allowed is 1 to 4"),
        ({"layer": "last"}, "layer 'last'; allowed is 1 to 4"),
        ({"layers": "max"}, "layers 'max'; allowed is 'mean'"),
        ({"drop_layers": 4}, "drop_layers 4; allowed is 0 to 3"),
        ({"drop_layers": -1}, "drop_layers -1; allowed is 0 to 3"),
        ({"drop_layers": None}, "drop_layers None; allowed is 0 to 3"),
        ({"final_norm": "no"}, "final_norm 'no'; allowed are True, False"),
        ({"layer": 4, "layers": "mean"}, "layer and layers exclude each other: give one of them"),
        ({"layer": 1, "drop_layers": 1}, "layer and drop_layers exclude each other"),
        ({"layers": "mean", "drop_layers": 2}, "layers and drop_layers exclude each other"),
    ],
)
def test_wrong_choices_are_answered_with_the_allowed_ones_and_change_nothing(name, choice, message):
    net = TRANSFORMERS[name]()
    keys = net.state_dict().keys()
    with pytest.raises(ValueError, match=message) as caught:
        net.take(**choice)
    assert "\n" not in str(caught.value)
    assert net.state_dict().keys() == keys and not net.mean


def test_models_without_such_blocks_or_norm_refuse_before_a_file_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("HEAR_PTSED_CACHE", str(tmp_path))
    monkeypatch.delenv("HEAR_PTSED_CHECKPOINTS", raising=False)
    monkeypatch.setitem(RELEASES, "PretrainedSED", "http://127.0.0.1:9/")  # nobody listens
    for choice in ({"layer": 17}, {"layers": "mean"}, {"drop_layers": 1}, {"final_norm": False}):
        with pytest.raises(ValueError, match="frame_mn, whose blocks .* leave out layer, layers"):
            hear.load_model("frame_mn06", "strong", **choice)
    with pytest.raises(ValueError, match="BEATs has no norm behind its blocks"):
        hear.load_model("beats", "ssl", final_norm=False)
    with pytest.raises(ValueError, match="layer 13; allowed is 1 to 12"):
        hear.load_model("m2d", "weak", layer=13)


def own_file(net: SEDModel, path, **description) -> str:
    backbone = net.backbone
    tensors = backbone.to_released(backbone.state_dict())
    tensors = {backbone.prefixes[0] + key: value for key, value in tensors.items()}
    tensor_files.write(path, tensors, description)
    return str(path)


@each
def test_plug_ins_embed_by_the_chosen_blocks_of_their_file(name, tmp_path, monkeypatch):
    path = own_file(model(name), tmp_path / "x.pt", format=1, model=name)
    monkeypatch.setitem(MODELS, name, replace(MODELS[name], backbone=TRANSFORMERS[name]))
    audio = torch.randn(2, 32_000) / 9
    for choice in ({}, {"layer": 1}, {"layers": "mean"}, {"drop_layers": 2}):
        want, _ = get_timestamp_embeddings(audio, HearModel(model(name), Options(**choice)))
        for loaded in (
            hear.load_model(name, "strong", path, **choice),
            checkpoint.load_model(path, **choice),
        ):
            got, _ = get_timestamp_embeddings(audio, loaded)
            torch.testing.assert_close(got, want)
            assert got.shape[2] == loaded.timestamp_embedding_size
            assert loaded.model.backbone.depth == {1: 1}.get(
                choice.get("layer"), DEPTH - choice.get("drop_layers", 0)
            )


def test_untrained_models_take_blocks_too():
    net = hear.load_model("atst_frame", "ssl", untrained=True, layer=1, final_norm=False)
    assert [key for key in net.state_dict() if ".blocks.1." in key or "norm_frame" in key] == []


@each
def test_the_file_of_a_reduced_model_goes_into_an_equally_reduced_one(name, tmp_path):
    first = model(name, drop_layers=2)
    save_checkpoint(first, tmp_path / "x.pt")
    torch.manual_seed(9)
    backbone = TRANSFORMERS[name]()
    backbone.take(layer=2)
    second = SEDModel(MODELS[name].frontend(), backbone).eval()
    assert not load_checkpoint(second, tmp_path / "x.pt").random
    with torch.no_grad():
        torch.testing.assert_close(backbone(spectrogram(second)), frames(name, layer=2))


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> str:
    """A file of a frame_mn02 with a sequence model and heads."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("own") / "mine.pt"
    save_checkpoint(build("frame_mn02", 3, "bigru", dim=8, layers=1).eval(), path)
    return str(path)


@pytest.mark.filterwarnings(r"ignore:\s*IMPORTANT")  # said to everybody
def test_hear_validator_finds_nothing_to_complain_about_in_a_file_of_ones_own(own, capsys):
    launch.validate("hear_ptsed.plugins.checkpoint", own, device="cpu")
    assert capsys.readouterr().out.count("Received embedding of shape") == 4


@torch.no_grad()
def test_a_file_of_ones_own_embeds_by_its_backbone_alone(own):
    net = build("frame_mn02", 3, "bigru", dim=8, layers=1).eval()
    load_checkpoint(net, own)
    audio = torch.randn(1, 160_000) / 9
    loaded = checkpoint.load_model(own)
    got, _ = checkpoint.get_timestamp_embeddings(audio, loaded)
    want = net.backbone(net.frontend(audio))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    assert loaded.scene_embedding_size == 192
    assert not [key for key in loaded.state_dict() if "sequence" in key or "head" in key]
    assert loaded.options == Options() and not loaded.training


def test_the_plug_in_for_files_says_what_it_needs(own, tmp_path):
    for nothing in ({}, {"model_file_path": ""}, {"model_file_path": None}):
        with pytest.raises(ValueError, match="no file: give the path of a checkpoint as model_fi"):
            checkpoint.load_model(**nothing)
    with pytest.raises(ValueError, match="untrained: this plug-in opens a file; use the plug-in"):
        checkpoint.load_model(own, untrained=True)
    with pytest.raises(ValueError, match="unknown step; known: overlap, batch"):
        checkpoint.load_model(own, step=50)
    with pytest.raises(ValueError, match="frame_mn, whose blocks differ"):
        checkpoint.load_model(own, layer=3)
    with pytest.raises(FileNotFoundError, match="x.pt: no such file; give the path"):
        checkpoint.load_model(str(tmp_path / "x.pt"))


def test_every_transformer_is_tested_here():
    assert {name for name in SMALL if "mn" not in name} == TRANSFORMERS.keys()
