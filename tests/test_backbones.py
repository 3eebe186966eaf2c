"""Backbones and the detector around them: numbers of the public models, structure, behaviour."""

import copy

import numpy as np
import pytest
import torch
from conftest import GOLDEN, RELEASED, each_model, published, small
from torch import nn

from hear_ptsed.backbones.beats import buckets
from hear_ptsed.backbones.frame_mn import FrameMN
from hear_ptsed.backbones.layers import Block
from hear_ptsed.grid import WINDOW
from hear_ptsed.model import pooling_matrix
from hear_ptsed.registry import RELEASES, build, find_row, trainable


def assert_close(got: torch.Tensor, want: np.ndarray, tolerance: float = 5e-5) -> None:
    error = np.abs(got.numpy() - want).max()
    assert error <= tolerance * max(1.0, np.abs(want).max()), error


def assert_same_log_energies(got: torch.Tensor, want: np.ndarray, divisor: float) -> None:
    """As assert_close, with what float32 leaves of a Fourier transform: an error of its precision
    relative to the frame's loudest band. In bands 80 dB below that one it exceeds 5e-5, and differs
    from processor to processor.
    """
    below = np.exp((want.max(-2, keepdims=True) - want) * divisor / 2)  # ratio of amplitudes
    limit = 5e-5 * max(1.0, np.abs(want).max()) + np.finfo(np.float32).eps * below / divisor
    assert (np.abs(got.numpy() - want) <= limit).all(), (np.abs(got.numpy() - want) / limit).max()


@pytest.mark.parametrize("name", RELEASED)
@torch.no_grad()
def test_every_array_of_the_public_model_is_reproduced(name, clips):
    golden = np.load(GOLDEN / f"{name}.npz")
    plain = published(name)
    folded = copy.deepcopy(plain).fold()
    for model in (plain, folded):
        for i, clip in enumerate(clips[:, None]):
            spec = model.frontend(clip)
            divisor = getattr(model.frontend, "divisor", None)
            if divisor is None:  # decibels above a floor: no band is that quiet
                assert_close(spec[0, ..., ::9], golden["mel"][i])
            else:
                assert_same_log_energies(spec[0, ..., ::9], golden["mel"][i], divisor)
            assert_close(model.backbone(spec)[0, ::10], golden["sequence"][i])
            strong, weak, frames = model(clip)
            assert_close(frames[0, ::10], golden["embedding"][i])
            assert_close(strong[0, ::15], golden["strong"][i])
            assert_close(weak[0], golden["weak"][i])


@each_model
@torch.no_grad()
def test_a_batch_gives_the_numbers_of_its_clips(name, clips):
    model = published(name)
    batch = model(clips).frames
    loud = model(torch.stack([clips[1], clips[0] * 30])).frames[0]
    alone = model(clips[1:]).frames[0]
    limit = 1e-5 * max(1.0, alone.abs().max().item())
    assert (batch[1] - alone).abs().max() < limit
    assert (loud - alone).abs().max() < limit


def test_the_classes_of_layers_are_the_published_ones():
    eps = {"atst_frame": 1e-6, "fpasst": 1e-6, "m2d": 1e-6, "asit": 1e-6, "beats": 1e-5}
    for name in filter(lambda name: find_row(name).family in RELEASES, trainable()):
        with torch.device("meta"):
            backbone = find_row(name).backbone()
        norms = [m for m in backbone.modules() if isinstance(m, nn.LayerNorm)]
        assert len(norms) == {"beats": 26}.get(name, 25 if name in eps else 0)
        assert {norm.eps for norm in norms} <= {eps.get(name)}
        batch_norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {(m.eps, m.momentum) for m in batch_norms} <= {(0.001, 0.01)}


def test_gelu_is_the_exact_one():
    torch.manual_seed(0)
    block = Block(8, 2)
    x = torch.randn(1, 3, 8)
    hidden = block.mlp.fc1(x)
    exact = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(block.mlp(x), block.mlp.fc2(exact), atol=1e-6, rtol=0)


def test_m2d_ignores_the_statistics_stored_in_its_checkpoint():
    model = small("m2d")
    audio = torch.randn(1, 16000) * 0.1
    before = model(audio).frames
    model.backbone.norm_stats.copy_(torch.tensor([3.0, 9.0]))
    assert torch.equal(model(audio).frames, before)


@pytest.mark.parametrize(
    ("width", "dim", "parameters"),
    [
        (0.1, 96, 43_384),
        (0.2, 192, 139_848),
        (0.4, 384, 516_128),
        (0.5, 480, 785_592),
        (0.6, 576, 1_099_184),
        (0.8, 768, 1_919_016),
        (1.0, 960, 2_971_664),
        (1.2, 1152, 4_255_824),
        (1.4, 1344, 5_785_656),
        (1.6, 1536, 7_482_472),
        (2.0, 1920, 11_641_880),
        (3.0, 2880, 25_999_120),
        (4.0, 3840, 46_062_616),
    ],
)
def test_every_width_of_frame_mn_has_the_published_size(width, dim, parameters):
    with torch.device("meta"):
        net = FrameMN(width)
    assert net.embed_dim == dim
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_beats_buckets_its_distances_as_published():
    index = buckets(900, 320, 800)
    known = {0: 0, -1: 1, 1: 161, -79: 79, -80: 80, -82: 80, 83: 241, 100: 247, 495: 303}
    known |= {-495: 143, -799: 159, 799: 319, -899: 159, 899: 319}
    assert {distance: int(index[distance + 899]) for distance in known} == known
    assert 160 not in index


@torch.no_grad()
def test_asit_reads_its_position_table_as_8_x_37():
    net = small("asit").backbone
    net.pos_embed.copy_(torch.arange(297.0)[None, :, None].expand_as(net.pos_embed))
    resized = net.positions()
    assert resized.shape == (1, 497, 24)
    assert resized[0, 0, 0] == 0
    # The 8-long axis of the table has become time: one column spans most of a 37-long row.
    assert resized[0, 8, 0] - resized[0, 1, 0] > 25


def test_frame_mn_refuses_another_number_of_bands():
    with pytest.raises(ValueError, match="64 mel bands; frame_mn takes 128"):
        small("frame_mn06").backbone(torch.zeros(1, 1, 64, 100))


@each_model
def test_gradients_reach_every_parameter(name):
    model = small(name).train()
    if name == "beats":
        model.backbone.encoder.layer_drop = 0.0
    out = model(torch.randn(2, 32000) * 0.1)
    (out.strong.square().mean() + out.weak.square().mean()).backward()
    unused = {"backbone.mask_embed"} if name == "atst_frame" else set()
    assert {n for n, p in model.named_parameters() if p.grad is None} == unused


def test_beats_drops_layers_only_in_training():
    model = small("beats")
    spec = model.frontend(torch.randn(1, WINDOW) * 0.1)
    net = model.backbone
    net.encoder.layer_drop = 1.0
    assert torch.equal(net(spec), net(spec))
    trained = net.train()(spec)
    assert not torch.allclose(trained, net.eval()(spec))


@each_model
def test_models_compile_without_graph_breaks(name):
    model = small(name)
    audio = torch.randn(2, WINDOW) * 0.1
    with torch.no_grad():
        want = model(audio)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        for got, expected in zip(compiled(audio), want, strict=True):
            torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-4)


@each_model
def test_models_export(name):
    model = small(name)
    audio = torch.randn(1, WINDOW) * 0.1
    with torch.no_grad():
        program = torch.export.export(model, (audio,))
        got = program.module()(audio)
        torch.testing.assert_close(got.strong, model(audio).strong, atol=2e-4, rtol=1e-4)


@each_model
@torch.no_grad()
def test_folding_does_not_change_the_numbers(name):
    model = small(name)
    audio = torch.randn(1, WINDOW) * 0.1
    before = model(audio).strong
    torch.testing.assert_close(model.fold()(audio).strong, before, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("n_in", [62, 93, 250, 251, 496, 497])
def test_resampling_to_250_frames_follows_its_formula(n_in):
    x = np.random.default_rng(0).standard_normal((n_in, 3)).astype(np.float32)
    matrix = pooling_matrix(n_in, 250)
    got = x if matrix is None else matrix.numpy() @ x
    for i in (0, 1, 77, 124, 248, 249):
        if n_in >= 250:
            want = x[i * n_in // 250 : -(-(i + 1) * n_in // 250)].mean(0)
        else:
            s = np.clip((i + 0.5) * n_in / 250 - 0.5, 0, n_in - 1)
            low = int(s)
            want = x[low] + (s - low) * (x[min(low + 1, n_in - 1)] - x[low])
        np.testing.assert_allclose(got[i], want, atol=2e-5)


@torch.no_grad()
def test_short_clips_return_their_real_frames():
    model = small("beats")
    short = torch.randn(2, 59_200) * 0.1
    out = model(short)
    assert out.strong.shape == (2, 5, 93) and out.frames.shape == (2, 93, 32)
    padded = model(torch.nn.functional.pad(short, (0, WINDOW - 59_200)))
    torch.testing.assert_close(out.strong, padded.strong[..., :93])
    torch.testing.assert_close(out.weak, model.head(out.frames)[1])


def test_bad_audio_is_refused_by_the_model():
    model = small("atst_frame")
    with pytest.raises(ValueError, match="audio of torch.int16; expected floating-point"):
        model(torch.zeros(1, 100, dtype=torch.int16))
    with pytest.raises(ValueError, match=r"shape \(100,\)"):
        model(torch.zeros(100))
    with pytest.raises(ValueError, match="160001 samples; the model takes 1 to 160000"):
        model(torch.zeros(1, WINDOW + 1))


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown model 'vit'; known: atst_frame, beats"):
        build("vit")
    with pytest.raises(ValueError, match="frame_mn06 has no 'ssl' stage; it has strong"):
        find_row("frame_mn06", "ssl")
    with pytest.raises(ValueError, match="no 'strong' stage; it has no released checkpoints: give"):
        find_row("frame_mn02", "strong")
    with pytest.raises(ValueError, match="unknown head 'mlp'; known: linear, attention"):
        build("frame_mn06", head="mlp")
    with pytest.raises(ValueError, match="layers given without a sequence_model"):
        build("frame_mn06", layers=2)
