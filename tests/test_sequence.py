"""Sequence models against computations written out here from their formulae."""

import math

import pytest
import torch
import torch.nn.functional as F
from sequence_parts import audio_frames, check_scan, norm64, scan_input, shaken, small, weights
from torch import Tensor

from hear_ptsed.sequence import DEFAULTS, build_sequence_model, selective_scan

KINDS = list(DEFAULTS)
STACKS = [kind for kind in KINDS if not kind.startswith("bi")]


def attention64(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    """Head by head, with the rotation as a multiplication of complex numbers."""
    length, dim = x.shape[1:]
    size = dim // len(w["to_gates.bias"])
    u = norm64(x, w["norm.gamma"])
    q, k, v = (u @ w["to_qkv.weight"].T).split(dim, -1)
    gates = torch.sigmoid(u @ w["to_gates.weight"].T + w["to_gates.bias"])
    rates = torch.tensor([10000 ** (-2 * i / size) for i in range(size // 2)]).double()
    turn = torch.exp(1j * torch.arange(length).double()[:, None] * rates)
    heads = []
    for head in range(dim // size):
        part = slice(head * size, (head + 1) * size)
        pairs = [torch.complex(z[..., part][..., ::2], z[..., part][..., 1::2]) for z in (q, k)]
        q_turned, k_turned = (z * turn for z in pairs)
        scores = (q_turned @ k_turned.conj().transpose(1, 2)).real / math.sqrt(size)
        heads.append(scores.softmax(-1) @ v[..., part] * gates[..., head : head + 1])
    return torch.cat(heads, -1) @ w["to_out.0.weight"].T


def scan64(delta: Tensor, x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    state, outputs = torch.zeros(len(x), *a.shape, dtype=x.dtype), []
    for t in range(x.shape[1]):
        state = (delta[:, t, :, None] * a).exp() * state
        state = state + (delta[:, t] * x[:, t])[..., None] * b[:, t, None]
        outputs.append((state * c[:, t, None]).sum(-1))
    return torch.stack(outputs, 1)


def mamba64(u: Tensor, w: dict[str, Tensor]) -> Tensor:
    x, z = (u @ w["in_proj.weight"].T).chunk(2, -1)
    taps = w["conv1d.weight"][:, 0]
    past = torch.cat([torch.zeros_like(x[:, :3]), x], 1)
    x = w["conv1d.bias"] + sum(past[:, j : j + x.shape[1]] * taps[:, j] for j in range(4))
    x = x * torch.sigmoid(x)
    rank = w["dt_proj.weight"].shape[1]
    p, b, c = (x @ w["x_proj.weight"].T).split((rank, 16, 16), -1)
    delta = torch.log1p(torch.exp(p @ w["dt_proj.weight"].T + w["dt_proj.bias"]))
    s = scan64(delta, x, -w["A_log"].exp(), b, c) + w["D"] * x
    return (s * z * torch.sigmoid(z)) @ w["out_proj.weight"].T


@pytest.mark.parametrize("kind", ("attention", "transformer"))
def test_attention_and_transformer_equal_their_formulae(kind):
    model, x = shaken(small(kind)), audio_frames()
    w = weights(model)
    want = x.double() @ w["0.weight"].T + w["0.bias"]
    for i in range(2):
        if kind == "attention":
            want = want + attention64(want, weights(model, f"1.layers.{i}."))
            continue
        want = want + attention64(want, weights(model, f"1.layers.{i}.0."))
        net = weights(model, f"1.layers.{i}.1.net.")
        u = norm64(want, net["0.gamma"]) @ net["1.weight"].T + net["1.bias"]
        u = u * 0.5 * (1 + torch.erf(u / math.sqrt(2)))
        want = want + u @ net["4.weight"].T + net["4.bias"]
    if kind == "transformer":
        want = norm64(want, w["1.norm.gamma"])
    torch.testing.assert_close(model(x).double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bidirectional", (False, True))
def test_mamba_equals_its_recurrence_frame_by_frame(bidirectional):
    model, x = shaken(small("mamba", layers=2, bidirectional=bidirectional)), audio_frames()
    w = weights(model)
    want = x.double() @ w["0.weight"].T + w["0.bias"]
    for i in range(2):
        u = want / (want.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        u = u * w[f"1.layers.{i}.norm.weight"]
        y = mamba64(u, weights(model, f"1.layers.{i}.mixer."))
        if bidirectional:
            back = mamba64(u.flip(1), weights(model, f"1.layers.{i}.mixer_reverse."))
            y = (y + back.flip(1)) / 2
        want = want + y
    torch.testing.assert_close(model(x).double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", (1, 7, 8, 9, 250, 251))
def test_the_chunked_scan_and_its_gradients_are_those_of_the_recurrence(length):
    check_scan(selective_scan, scan64, [z.requires_grad_() for z in scan_input(length)])


def test_the_scan_never_keeps_the_states_of_the_whole_sequence():
    tensors = [z.requires_grad_() for z in scan_input(250, inner=64)]
    kept: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return saved

    all_states = 2 * 250 * 64 * 16 * 4  # bytes of one (B, T, M, N) tensor
    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        scan64(*tensors)
    assert sum(kept.values()) > 2 * all_states  # the measure sees what the plain loop keeps
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        selective_scan(*tensors)
    assert sum(kept.values()) < all_states / 2

    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for z in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(z, Tensor):
                    largest = max(largest, z.untyped_storage().nbytes())
            return out

    with Watch():
        selective_scan(*tensors).sum().backward()
    assert largest <= all_states / 10


def test_the_scan_stays_in_float32_under_bfloat16_autocast():
    tensors = scan_input(30)
    want = selective_scan(*tensors)
    with torch.autocast("cpu", torch.bfloat16):
        got = selective_scan(*tensors)
        half = selective_scan(*(z.bfloat16() for z in tensors))
    assert torch.equal(got, want)
    assert half.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_autocast_stays_near_float32(kind):
    model, x = small(kind), audio_frames()
    want = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        got = model(x)
    assert (got - want).norm() < 0.02 * want.norm()


def test_mamba_sees_no_later_frame_unless_it_is_bidirectional():
    x = audio_frames()
    changed = x.clone()
    changed[:, 20:] += 1
    for bidirectional in (False, True):
        model = shaken(small("mamba", bidirectional=bidirectional))
        differs = (model(x) - model(changed)).abs().amax((0, 2)) > 1e-6
        assert differs[20:].all()
        assert differs[:20].any() == bidirectional


@pytest.mark.parametrize("length", (1, 7, 250, 251))
@pytest.mark.parametrize("kind", KINDS)
def test_every_length_keeps_its_frames_and_has_the_declared_width(kind, length):
    model = small(kind)
    assert model.out_dim == (64 if kind.startswith("bi") else 32)
    y = model(audio_frames(length))
    assert y.shape == (2, length, model.out_dim)
    assert y.isfinite().all()


@pytest.mark.parametrize("options", [{"kind": k} for k in KINDS] + [{"bidirectional": True}])
def test_gradients_reach_every_parameter(options):
    model = small(**{"kind": "mamba", **options}).train()
    model(audio_frames()).square().sum().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]


RNN_KEYS = {
    f"rnn.{kind}_{side}_l{layer}{way}"
    for kind in ("weight", "bias")
    for side in ("ih", "hh")
    for layer in (0, 1)
    for way in ("", "_reverse")
}
ATTENTION_KEYS = {"norm.gamma", "pos_encoding.freqs", "to_qkv.weight", "to_gates.weight"}
ATTENTION_KEYS |= {"to_gates.bias", "to_out.0.weight"}
FEED_FORWARD_KEYS = {f"net.{name}" for name in ("0.gamma", "1.weight", "1.bias")}
FEED_FORWARD_KEYS |= {"net.4.weight", "net.4.bias"}
MIXER_KEYS = {"in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight", "A_log", "D"}
MIXER_KEYS |= {"dt_proj.weight", "dt_proj.bias", "out_proj.weight"}
HYBRID_KEYS = {f"1.{name}.weight" for name in ("to_qkv", "to_out", "rnn.to_out")}
HYBRID_KEYS |= {f"1.rnn.{way}_minGRU.to_hidden_and_gate.weight" for way in ("forward", "backward")}
HYBRID_KEYS |= {"0.gamma", "1.rnn_out_norm.gamma", "1.attn_out_norm.gamma", "2.gamma"}
HYBRID_KEYS |= {f"3.{layer}.{name}" for layer in (0, 2) for name in ("weight", "bias")}
MAMBA2_KEYS = {"0.in_proj.weight", "0.conv1d.weight", "0.conv1d.bias", "0.dt_bias", "0.A_log"}
MAMBA2_KEYS |= {"0.D", "0.out_proj.weight", "1.weight", "1.bias"}
TCN_KEYS = {
    f"network.{block}.conv{conv}.{name}"
    for block in range(5)
    for conv in (1, 2)
    for name in ("bias", "weight_g", "weight_v")
}
PROJECTION = {"0.weight", "0.bias"}
KEYS = {
    "bigru": RNN_KEYS,
    "bilstm": RNN_KEYS | {"embedding.weight", "embedding.bias"},
    "attention": PROJECTION | {f"1.layers.{i}.{k}" for i in (0, 1) for k in ATTENTION_KEYS},
    "transformer": PROJECTION
    | {"1.norm.gamma"}
    | {f"1.layers.{i}.0.{k}" for i in (0, 1) for k in ATTENTION_KEYS}
    | {f"1.layers.{i}.1.{k}" for i in (0, 1) for k in FEED_FORWARD_KEYS},
    "mamba": PROJECTION
    | {"1.layers.0.norm.weight"}
    | {f"1.layers.0.mixer.{k}" for k in MIXER_KEYS},
    "hybrid": PROJECTION
    | {"1.norm.gamma"}
    | {f"1.layers.{i}.{k}" for i in (0, 1) for k in HYBRID_KEYS},
    "mamba2": PROJECTION
    | {"1.weight", "1.bias"}
    | {f"2.layers.{i}.{k}" for i in (0, 1) for k in MAMBA2_KEYS},
    "tcn": PROJECTION | {f"1.layers.{i}.{k}" for i in (0, 1) for k in TCN_KEYS},
}


@pytest.mark.parametrize("kind", KINDS)
def test_keys_are_those_of_the_published_layout(kind):
    assert set(small(kind).state_dict()) == KEYS[kind]


@pytest.mark.parametrize("kind", STACKS)
def test_the_projection_has_no_keys_where_the_widths_agree(kind):
    assert set(small(kind, in_dim=32).state_dict()) == KEYS[kind] - PROJECTION


def test_shapes_and_start_values_are_those_of_the_specification():
    state = small("transformer").state_dict()
    assert state["1.layers.0.0.to_qkv.weight"].shape == (96, 32)
    assert state["1.layers.0.0.to_gates.weight"].shape == (4, 32)
    assert state["1.layers.0.1.net.1.weight"].shape == (128, 32)
    assert torch.allclose(
        state["1.layers.0.0.pos_encoding.freqs"], torch.tensor([1.0, 0.1, 0.01, 0.001])
    )
    assert state["1.layers.0.1.net.1.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    assert not state["0.bias"].any()

    state = small("mamba").state_dict()
    mixer = {k.removeprefix("1.layers.0.mixer."): v for k, v in state.items()}
    assert mixer["conv1d.weight"].shape == (64, 1, 4)
    assert mixer["x_proj.weight"].shape == (2 + 32, 64)
    assert torch.allclose(mixer["A_log"].exp(), torch.arange(1.0, 17).expand(64, 16))
    assert mixer["dt_proj.weight"].abs().max() <= 2**-0.5
    step = F.softplus(mixer["dt_proj.bias"])
    assert 0.000999 < step.min() and step.max() < 0.1001


# millions of parameters at a backbone width of 768: a row per dim, a column per number of layers
TABLE = {
    "bigru": "1.58 2.76 3.94 / 3.94 8.66 13.39 / 11.02 29.91 48.80 / 34.63 110.15 185.67",
    "transformer": "0.99 1.78 2.57 / 3.55 6.70 9.85 / 13.39 25.99 38.58 / 51.94 102.30 152.66",
    "attention": "0.46 0.73 0.99 / 1.45 2.50 3.55 / 4.99 9.19 13.40 / 18.37 35.17 51.96",
    "mamba": "0.63 / 2.09 / 7.45 / 28.02",
}


def count(kind: str, **options) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build_sequence_model(kind, 768, **options).parameters())


@pytest.mark.parametrize("kind", TABLE)
def test_parameter_counts_are_those_of_the_published_table(kind):
    for dim, row in zip((256, 512, 1024, 2048), TABLE[kind].split(" / "), strict=True):
        for layers, millions in enumerate(row.split(), 1):
            got = count(kind, dim=dim, layers=layers) / 1e6
            assert got == pytest.approx(float(millions), abs=0.00501), (dim, layers)


def test_default_rnns_have_the_teachers_parameter_counts():
    assert count("bigru") == 110_149_632
    assert count("bilstm") == 163_647_488


@pytest.mark.filterwarnings("ignore:The tensor attributes self.rnn", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_exported(kind):
    model, x = small(kind, layers=1), audio_frames(20)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x + 1), model(x + 1))


@pytest.mark.parametrize("kind", ("transformer", "tcn"))
def test_dropout_acts_in_training_only(kind):
    model, x = small(kind), audio_frames()
    assert torch.equal(model(x), model(x))
    assert not torch.equal(model.train()(x), model(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "rnn"}, "kind is 'rnn'; it must be 'bigru', 'bilstm', 'attention'"),
        ({"kind": "attention", "dim": 40}, "dim of attention is 40; .* divisible by 16"),
        ({"kind": "transformer", "dim": 12}, "dim of transformer is 12; with 4 .* divisible by 8"),
        ({"kind": "hybrid", "dim": 20}, "dim of hybrid is 20; with 8 heads .* divisible by 8"),
        ({"kind": "mamba2", "dim": 104}, "dim of mamba2 is 104; without heads .* divisible by 32"),
        ({"kind": "mamba2", "dim": 9, "heads": 4}, "twice the dim of mamba2 is 18; with 4 heads"),
        ({"kind": "tcn", "heads": 4}, "heads is an option of attention, .*; leave it out for tcn"),
        ({"kind": "hybrid", "heads": 0}, "heads is 0; .* greater than or equal to 1"),
        ({"kind": "mamba", "dim": 0}, "dim is 0; .* greater than or equal to 1"),
        ({"kind": "bigru", "layers": 0}, "layers is 0; .* greater than or equal to 1"),
        ({"kind": "bigru", "dropout": 1.0}, "dropout is 1.0; it must be less than 1"),
        ({"kind": "bilstm", "layers": 1, "dropout": 0.1}, "acts between layers"),
        ({"kind": "mamba", "dropout": 0.1}, "mamba has no dropout"),
        ({"kind": "hybrid", "dropout": 0.1}, "hybrid has no dropout"),
        ({"kind": "mamba2", "bidirectional": True}, "option of mamba; leave it out for mamba2"),
        ({"kind": "bigru", "bidirectional": True}, "option of mamba"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        build_sequence_model(**{"in_dim": 24, **options})
    assert "\n" not in str(error.value)
