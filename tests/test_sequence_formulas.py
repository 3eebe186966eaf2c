"""hybrid, mamba2 and tcn: outputs, gradients and a training step against the published formulae,
written out here in float64 and frame by frame.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from sequence_parts import audio_frames, check_scan, norm64, scan_input, shaken, small
from torch import Tensor, nn

from hear_ptsed.registry import build
from hear_ptsed.sequence import build_sequence_model, chunked_scan, linear_scan
from training.optim import groups
from training.recipe import Optim

KINDS = {
    "hybrid": {"dim": 40},
    "mamba2": {"dim": 16, "heads": 4},
    "tcn": {"dim": 16, "dropout": 0.0},
}
Weights = dict[str, Tensor]


def below(w: Weights, prefix: str) -> Weights:
    return {key.removeprefix(prefix): v for key, v in w.items() if key.startswith(prefix)}


def recurrence64(decay: Tensor, drive: Tensor) -> Tensor:
    state, outputs = torch.zeros_like(drive[:, 0]), []
    for t in range(drive.shape[1]):
        state = decay[:, t] * state + drive[:, t]
        outputs.append(state)
    return torch.stack(outputs, 1)


def mingru64(u: Tensor, weight: Tensor) -> Tensor:
    c, s = (u @ weight.T).chunk(2, -1)
    z = 1 / (1 + (-s).exp())
    candidate = torch.where(c >= 0, c + 0.5, 1 / (1 + (-c).exp()))
    return recurrence64(1 - z, z * candidate)


def hybrid64(x: Tensor, w: Weights) -> Tensor:
    """One layer, head by head."""
    u = norm64(x, w["0.gamma"])
    q, k, v = (u @ w["1.to_qkv.weight"].T).chunk(3, -1)
    name = "1.rnn.{}_minGRU.to_hidden_and_gate.weight"
    ways = mingru64(u, w[name.format("forward")])
    ways = ways, mingru64(u.flip(1), w[name.format("backward")]).flip(1)
    m = torch.cat(ways, -1) @ w["1.rnn.to_out.weight"].T
    size, heads = len(w["1.rnn_out_norm.gamma"]), []
    for start in range(0, x.shape[-1], size):
        part = slice(start, start + size)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(size)
        a = norm64(scores.softmax(-1) @ v[..., part], w["1.attn_out_norm.gamma"])
        heads.append(0.5 * norm64(m[..., part], w["1.rnn_out_norm.gamma"]) + 0.5 * a)
    x = x + torch.cat(heads, -1) @ w["1.to_out.weight"].T
    u = norm64(x, w["2.gamma"]) @ w["3.0.weight"].T + w["3.0.bias"]
    u = u * 0.5 * (1 + torch.erf(u / math.sqrt(2)))
    return x + u @ w["3.2.weight"].T + w["3.2.bias"]


def layer_norm64(x: Tensor, w: Weights) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w["weight"] + w["bias"]


def scan64(log_decay: Tensor, drive: Tensor, b: Tensor, c: Tensor) -> Tensor:
    driven = drive[..., None] * b[:, :, None, None]  # (B, T, H, P, N)
    states = recurrence64(log_decay.exp()[..., None, None], driven)
    return (states * c[:, :, None, None]).sum(-1)


def mamba64(u: Tensor, w: Weights) -> Tensor:
    """The state-space part of one layer."""
    dim, heads = u.shape[-1], len(w["A_log"])
    z, x, b, c, dt = (u @ w["in_proj.weight"].T).split((2 * dim, 2 * dim, 64, 64, heads), -1)
    mixed = torch.cat([x, b, c], -1)
    taps = w["conv1d.weight"][:, 0]
    past = torch.cat([torch.zeros_like(mixed[:, :2]), mixed], 1)
    mixed = w["conv1d.bias"] + sum(past[:, j : j + u.shape[1]] * taps[:, j] for j in range(3))
    x, b, c = (mixed * torch.sigmoid(mixed)).split((2 * dim, 64, 64), -1)
    delta = torch.log1p((dt + w["dt_bias"]).exp())
    x = x.unflatten(-1, (heads, -1))
    s = scan64(-w["A_log"].exp() * delta, delta[..., None] * x, b, c) + w["D"][:, None] * x
    return (s.flatten(2) * z * torch.sigmoid(z)) @ w["out_proj.weight"].T


def tcn64(x: Tensor, w: Weights) -> Tensor:
    """One layer: taps one after the other, from the past to the present."""
    y = x
    for i in range(5):
        v, step = y, 2**i
        for name in (f"network.{i}.conv1.", f"network.{i}.conv2."):
            norm = w[name + "weight_v"].square().sum((1, 2), keepdim=True).sqrt()
            weight = w[name + "weight_g"] * w[name + "weight_v"] / norm
            past = F.pad(v, (0, 0, 2 * step, 0))
            v = w[name + "bias"] + sum(
                past[:, j * step : j * step + v.shape[1]] @ weight[..., j].T for j in range(3)
            )
            v = v.clamp(min=0)
        y = (y + v).clamp(min=0)
    return x + y


def formula(kind: str, x: Tensor, w: Weights) -> Tensor:
    """The whole sequence model: frames (B, T, E) -> (B, T, D)."""
    x = x.double() @ w["0.weight"].T + w["0.bias"]
    if kind == "mamba2":
        x = layer_norm64(x, below(w, "1."))
    for i in range(2):
        if kind == "hybrid":
            x = hybrid64(x, below(w, f"1.layers.{i}."))
        elif kind == "tcn":
            x = tcn64(x, below(w, f"1.layers.{i}."))
        else:
            layer = f"2.layers.{i}."
            x = x + layer_norm64(mamba64(x, below(w, layer + "0.")), below(w, layer + "1."))
    return norm64(x, w["1.norm.gamma"]) if kind == "hybrid" else x


def leaves(model: nn.Module) -> Weights:
    return {n: p.detach().double().requires_grad_() for n, p in model.named_parameters()}


def assert_same_gradients(model: nn.Module, want: Weights) -> None:
    for name, parameter in model.named_parameters():
        grad = want[name].grad
        assert grad.any(), name
        limit = 2e-5 * float(grad.abs().max())
        torch.testing.assert_close(parameter.grad.double(), grad, rtol=1e-4, atol=limit, msg=name)


@pytest.mark.parametrize("length", (2, 50, 130))
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_those_of_the_formula(kind, length):
    model, x = shaken(small(kind, **KINDS[kind])), audio_frames(length)
    w, got = leaves(model), model(x)
    want = formula(kind, x, w)
    torch.testing.assert_close(
        got.double(), want, rtol=1e-4, atol=1e-4 * float(want.detach().abs().max())
    )
    pull = torch.randn(got.shape, generator=torch.Generator().manual_seed(4))
    got.backward(pull)
    want.backward(pull.double())
    assert_same_gradients(model, w)


@pytest.mark.parametrize("length", (1, 15, 16, 17, 250))
def test_the_linear_scan_and_its_gradients_are_those_of_the_recurrence(length):
    generator = torch.Generator().manual_seed(3)
    decay = torch.rand(2, length, 6, generator=generator)
    decay[:, ::7] = 0  # a gate that is wide open
    ours = [decay.requires_grad_(), torch.randn(2, length, 6, generator=generator).requires_grad_()]
    check_scan(linear_scan, recurrence64, ours)


@pytest.mark.parametrize("length", (1, 49, 50, 51, 250))
def test_the_chunked_scan_and_its_gradients_are_those_of_the_recurrence(length):
    delta, x, _, b, c = scan_input(length)
    drive = x.reshape(2, length, 2, 3)
    rate = torch.tensor([-30.0, -1.0])  # from fast to slow decay
    ours = [(delta[..., :2] * rate), drive, b, c]
    check_scan(chunked_scan, scan64, [z.detach().requires_grad_() for z in ours])


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_is_that_of_the_formula(kind):
    """Cross-entropy of frames, gradients, groups of parameters, and AdamW's first step."""
    torch.manual_seed(0)
    model = build("frame_mn02", 3, kind, **KINDS[kind])
    model.train().requires_grad_(False)
    for part in (model.sequence, model.head.strong_head):
        shaken(part).requires_grad_(True)
    parts = groups(model, Optim(name="adamw", lr=1e-2, weight_decay=0.1, vector_decay=0.01))
    decay = {id(p): part["weight_decay"] for part in parts for p in part["params"]}
    decay = {name: decay[id(p)] for name, p in model.named_parameters() if id(p) in decay}
    assert decay.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, value in decay.items():
        exempt = name.endswith((".A_log", ".D", ".dt_bias"))
        matrix = model.get_parameter(name).ndim > 1
        assert value == (0.1 if matrix else 0.0 if exempt else 0.01), name
    assert {part["lr"] for part in parts} == {1e-2}

    frames = audio_frames(60, model.backbone.embed_dim)
    target = (torch.rand(2, 3, 60, generator=torch.Generator().manual_seed(5)) > 0.5).float()
    w = leaves(model.sequence)
    head = {n: p.detach().double() for n, p in model.head.strong_head.named_parameters()}
    logits = formula(kind, frames, w) @ head["weight"].T + head["bias"]
    p, t = logits.sigmoid().transpose(1, 2), target.double()
    loss64 = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
    loss64.backward()
    logits = model.head.strong_head(model.sequence(frames)).transpose(1, 2)
    loss = F.binary_cross_entropy_with_logits(logits, target)
    loss.backward()
    assert loss.item() == pytest.approx(loss64.item(), rel=1e-5)
    assert_same_gradients(model.sequence, w)

    torch.optim.AdamW(parts).step()
    for name, parameter in model.sequence.named_parameters():
        before, grad = w[name].detach(), w[name].grad
        kept = 1 - 1e-2 * decay[f"sequence.{name}"]
        step = before * kept - 1e-2 * grad / (grad.abs() + 1e-8)
        clear = grad.abs() > 1e-3 * grad.abs().max()  # of smaller ones rounding decides the sign
        assert clear.any()
        torch.testing.assert_close(parameter.double()[clear], step[clear], rtol=1e-4, atol=1e-5)


def test_causal_kinds_see_no_later_frame_and_a_tcn_248_earlier_ones():
    x = audio_frames(300)
    for kind in ("mamba2", "tcn"):
        model, changed = shaken(small(kind, **KINDS[kind])), x.clone()
        changed[:, 20] += 1
        differs = (model(x) - model(changed)).abs().amax((0, 2)) > 0
        assert not differs[:20].any() and differs[20:60].all()
        assert differs[200:269].any() and differs[269:].any() == (kind == "mamba2")


def test_start_values_are_those_of_the_specification():
    torch.manual_seed(0)
    model = build_sequence_model("mamba2", 24, dim=1024)
    state = {key.removeprefix("2.layers.0.0."): v for key, v in model.state_dict().items()}
    assert len(state["A_log"]) == 32  # heads of 64 channels
    assert len(build_sequence_model("mamba2", 24, dim=128)[2].layers[0][0].A_log) == 8  # of 32
    assert 1 <= state["A_log"].exp().min() and 8 < state["A_log"].exp().max() <= 16.0001
    assert (state["D"] == 1).all()
    step = F.softplus(state["dt_bias"])
    assert 0.000999 < step.min() < 0.01 < step.max() < 0.1001
    layer = build_sequence_model("tcn", 24, dim=16).state_dict()
    v, g = (layer[f"1.layers.1.network.4.conv2.weight_{part}"] for part in "vg")
    assert torch.allclose(v.norm(dim=(1, 2), keepdim=True), g)
    assert v.abs().max() <= 48**-0.5 and v.std() == pytest.approx((3 * 48) ** -0.5, rel=0.1)
    hybrid = build_sequence_model("hybrid", 24, dim=16).state_dict()
    assert all((v == 1).all() for key, v in hybrid.items() if key.endswith("gamma"))
    assert hybrid["1.layers.0.3.0.weight"].std() == pytest.approx((3 * 16) ** -0.5, rel=0.1)


def test_mamba2_and_the_scan_of_hybrid_stay_in_float32_under_autocast():
    model, x = small("mamba2"), audio_frames()
    decay, drive = torch.rand(2, 40, 24), audio_frames()
    want, scanned = model(x), linear_scan(decay, drive)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(x), want)
        assert linear_scan(decay.bfloat16(), drive.bfloat16()).dtype == torch.float32
        assert torch.equal(linear_scan(decay, drive), scanned)


# millions of parameters of the published fmn10 with two 447-class heads: dim 128, 256, 512, 1024
PUBLISHED = {
    "transformer": (3.607, 5.028, 10.230, 30.070),
    "hybrid": (3.802, 5.811, 13.367, 42.637),
    "bigru": (4.335, 6.484, 13.141, 35.892),
    "attention": (3.343, 3.976, 6.029, 13.279),
    "tcn": (4.198, 7.390, 19.671, 67.828),
    "mamba2": (3.445, 4.310, 7.228, 17.806),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_parameter_counts_are_the_published_ones(kind):
    for dim, millions in zip((128, 256, 512, 1024), PUBLISHED[kind], strict=True):
        with torch.device("meta"):
            model = build("frame_mn10", 447, kind, dim=dim)
        count = sum(p.numel() for p in model.parameters()) / 1e6
        assert count == pytest.approx(millions, abs=0.0011), dim
