"""Depths of parameters, parameter groups, optimizers and schedules."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import each_model, small
from torch import nn

from hear_ptsed.backbones.frame_mn import FrameMN
from hear_ptsed.heads import LinearHead
from hear_ptsed.model import SEDModel
from hear_ptsed.registry import MODELS, trainable
from hear_ptsed.sequence import DEFAULTS as DEFAULT_OPTIONS
from hear_ptsed.sequence import build_sequence_model
from training.optim import groups, optimizer, schedule

DEFAULTS = {"name": "adamw", "lr": 1e-3, "lr_end": 1e-5, "weight_decay": 0.05, "betas": (0.9, 0.99)}
DEFAULTS |= {"momentum": 0.9, "schedule": "cosine", "gamma": 0.99, "warmup_steps": 10}
DEFAULTS |= {"vector_decay": 0.0, "layer_decay_from": 1, "lr_above": None}

# Sizes of the published groups, from the bottom to the top: tensors, or numbers.
TENSORS = {
    "atst_frame": [15, *[11] * 10, 13],
    "fpasst": [25, *[12] * 10, 14],
    "asit": [16, *[12] * 10, 14],
}
NUMBERS = {
    "beats": [12_339_348, *[7_088_404] * 11],
    "m2d": [7_524_864, *[7_087_872] * 10, 7_089_408],  # the frozen pair of statistics is no weight
}


def options(**changes) -> SimpleNamespace:
    return SimpleNamespace(**DEFAULTS | {"layer_decay": 1.0} | changes)


def full(name: str) -> SEDModel:
    """The published size, without memory for its weights."""
    with torch.device("meta"):
        backbone = MODELS[name].backbone()
        return SEDModel(nn.Identity(), backbone, head=LinearHead(backbone.embed_dim, 447))


@each_model
def test_every_parameter_of_a_backbone_has_a_depth_and_every_depth_has_parameters(name):
    for backbone in (small(name).backbone, full(name).backbone):
        depths = [backbone.depth_of(key) for key, _ in backbone.named_parameters()]
        assert set(depths) == set(range(backbone.depth))


@pytest.mark.parametrize("name", TENSORS)
def test_transformers_group_as_many_tensors_as_published(name):
    backbone = full(name).backbone
    depths = [backbone.depth_of(key) for key, _ in backbone.named_parameters()]
    assert np.bincount(depths).tolist() == TENSORS[name]


@pytest.mark.parametrize("name", NUMBERS)
def test_transformers_group_as_many_numbers_as_published(name):
    backbone = full(name).backbone
    sizes = [0] * backbone.depth
    for key, parameter in backbone.named_parameters():
        sizes[backbone.depth_of(key)] += parameter.numel()
    assert sizes == NUMBERS[name]


def test_the_ends_of_a_backbone_train_with_its_first_and_last_block():
    bottom = {
        "atst_frame": ["mask_embed", "pos_embed", "patch_embed.patch_embed.weight"],
        "beats": [
            "patch_embedding.weight",
            "layer_norm.weight",
            "post_extract_proj.bias",
            "encoder.pos_conv.0.weight_g",
            "encoder.layer_norm.bias",
            "encoder.relative_attention_bias.weight",
            "encoder.layers.0.fc1.weight",
        ],
        "fpasst": ["conv_in_1.weight", "dist_token", "time_new_pos_embed", "blocks.0.norm1.bias"],
        "m2d": ["cls_token", "pos_embed", "patch_embed.proj.weight"],
        "asit": ["cls_token", "pos_embed", "patch_embed.proj.bias"],
        "frame_mn10": ["features.0.0.weight"],
    }
    top = {
        "atst_frame": ["norm_frame.weight", "blocks.11.mlp.fc1.bias"],
        "beats": ["encoder.layers.11.final_layer_norm.weight"],
        "fpasst": ["norm.weight"],
        "m2d": ["norm.bias"],
        "asit": ["norm.bias"],
        "frame_mn10": ["features.16.0.weight"],
    }
    for name in bottom:
        backbone = full(name).backbone
        known = dict(backbone.named_parameters())
        for key in bottom[name] + top[name]:
            assert key in known
            assert backbone.depth_of(key) == (0 if key in bottom[name] else backbone.depth - 1)


@each_model
@pytest.mark.parametrize("layer_decay", [1.0, 0.8])
def test_every_parameter_is_in_exactly_one_group(name, layer_decay):
    model = small(name)
    param_groups = groups(model, options(layer_decay=layer_decay))
    parameters = [id(p) for group in param_groups for p in group["params"]]
    assert sorted(parameters) == sorted(id(p) for p in model.parameters())
    assert len({group["name"] for group in param_groups}) == len(param_groups)
    assert layer_decay != 1.0 or [g["name"] for g in param_groups] == ["all_undecayed", "all"]


@each_model
def test_learning_rates_fall_by_one_factor_per_depth_from_the_top(name):
    model = full(name)
    param_groups = groups(model, options(layer_decay=0.9, lr=2e-3))
    rates = {id(p): group["lr"] for group in param_groups for p in group["params"]}
    n_depths = 17 if "mn" in name else 12
    seen = set()
    for key, parameter in model.named_parameters():
        exponent = 0  # heads
        if key.startswith("backbone."):
            numbers = [int(part) for part in key.split(".") if part.isdigit()]
            inside = any(f".{part}." in key for part in ("blocks", "encoder.layers", "features"))
            last = ".norm." in key or ".norm_frame." in key
            depth = numbers[0] if inside else n_depths - 1 if last and "blocks" not in key else 0
            exponent = n_depths - depth
        assert rates[id(parameter)] == pytest.approx(2e-3 * 0.9**exponent), key
        seen.add(exponent)
    assert seen == set(range(n_depths + 1))


def test_a_sequence_model_learns_at_the_rate_of_the_heads():
    model = small("atst_frame")
    model.sequence = build_sequence_model("bigru", 24, dim=8)
    param_groups = groups(model, options(layer_decay=0.5))
    rates = {id(p): group["lr"] for group in param_groups for p in group["params"]}
    assert {rates[id(p)] for p in model.sequence.parameters()} == {DEFAULTS["lr"]}


@pytest.mark.parametrize("decay", [1.0, 0.9])
@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("kind", [None, *DEFAULT_OPTIONS])
def test_above_the_backbone_learning_rates_are_what_they_are_said_to_be(kind, start, decay):
    """EfficientSED: lr 0.9^k, k = 0 at features.16; sequence model and heads another rate."""
    model = small("frame_mn06")
    if kind is not None:
        width = model.backbone.embed_dim
        model.sequence = build_sequence_model(kind, width, dim=64, layers=1)
    rates = {"lr": 6e-3, "lr_above": 8e-4}
    param_groups = groups(model, options(**rates, layer_decay=decay, layer_decay_from=start))
    of = {id(p): group["lr"] for group in param_groups for p in group["params"]}
    assert len(of) == sum(len(group["params"]) for group in param_groups)
    for key, parameter in model.named_parameters():
        rate = 8e-4
        if key.startswith("backbone."):
            block = int(key.split("features.")[1].split(".")[0])
            rate = 6e-3 * decay ** (16 - block + start)
        assert of[id(parameter)] == pytest.approx(rate), key
    names = {group["name"].removesuffix("_undecayed") for group in param_groups}
    below = {"backbone"} if decay == 1.0 else {f"depth{i}" for i in range(17)}
    assert names == {"head"} | below
    assert len({group["name"] for group in param_groups}) == len(param_groups)


def test_frozen_parameters_are_left_out():
    model = small("beats")
    model.backbone.requires_grad_(False)
    param_groups = groups(model, options(layer_decay=0.5))
    assert [g["name"] for g in param_groups] == ["head_undecayed", "head"]


@each_model
@pytest.mark.parametrize("layer_decay", [1.0, 0.9])
def test_a_step_without_gradients_shrinks_matrices_and_leaves_vectors_alone(name, layer_decay):
    model = small(name)
    optim = options(layer_decay=layer_decay)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    param_groups = groups(model, optim)
    rates = {id(p): group["lr"] for group in param_groups for p in group["params"]}
    optimizer(param_groups, optim).step()
    for key, parameter in model.named_parameters():
        shrunk = 1 - rates[id(parameter)] * optim.weight_decay if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[key] * shrunk, rtol=1e-6, atol=0)
        assert parameter.ndim > 1 or torch.equal(parameter, before[key])


def test_what_a_module_exempts_from_decay_never_decays():
    model = small("atst_frame")
    model.sequence = build_sequence_model("mamba", 24, dim=16, bidirectional=True)
    model.head = LinearHead(16, 5)
    param_groups = groups(model, options())
    decay = {id(p): group["weight_decay"] for group in param_groups for p in group["params"]}
    exempt = [p for key, p in model.named_parameters() if key.endswith((".A_log", ".D"))]
    assert len(exempt) == 4
    assert exempt[0].ndim == 2
    assert {decay[id(p)] for p in exempt} == {0.0}
    assert decay[id(model.sequence[1].layers[0].mixer.in_proj.weight)] == 0.05


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_optimizers_take_the_steps_of_their_definition(name):
    optim = options(name=name, weight_decay=0.0 if name == "adam" else 0.1)
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(3, 2)), rng.normal(size=(4, 3, 2))
    weight = nn.Parameter(torch.from_numpy(start.copy()))
    group = {"name": "all", "params": [weight], "lr": 0.01, "weight_decay": optim.weight_decay}
    steps = optimizer([group], optim)
    x, m, v = start.copy(), 0.0, 0.0
    for t, gradient in enumerate(gradients, 1):
        weight.grad = torch.from_numpy(gradient.copy())
        steps.step()
        if name == "sgd":
            m = 0.9 * m + gradient + 0.1 * x
            x = x - 0.01 * m
        else:
            x = x * (1 - 0.01 * optim.weight_decay)
            m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
            x = x - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
    np.testing.assert_allclose(weight.detach().numpy(), x, rtol=1e-10)


def test_adam_with_weight_decay_and_unknown_names_are_refused():
    weight = [{"params": [nn.Parameter(torch.zeros(1))]}]
    with pytest.raises(ValueError, match="weight_decay 0.1 with adam, .* use adamw"):
        optimizer(weight, options(name="adam", weight_decay=0.1))
    with pytest.raises(ValueError, match="unknown optimizer 'lion'; known: adam, adamw, sgd"):
        optimizer(weight, options(name="lion"))
    with pytest.raises(ValueError, match="unknown schedule 'step'; known: cosine"):
        schedule(0, 100, options(schedule="step"))


def test_schedules_warm_up_linearly_and_fall_as_defined():
    steps = np.arange(101)
    after = (steps - 10) / 90
    falling = {
        "cosine": np.cos(np.pi / 2 * after) ** 2,
        "linear": (1e-3 + after * (1e-5 - 1e-3)) / 1e-3,
        "exp": 0.99 ** (steps - 10.0),
        "constant": np.ones(101),
    }
    for name, values in falling.items():
        want = np.where(steps < 10, steps / 10, values)
        got = [schedule(step, 100, options(schedule=name)) for step in steps.tolist()]
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_without_warm_up_the_first_step_has_the_full_rate():
    for name in ("cosine", "linear", "exp", "constant", "ramp"):
        assert schedule(0, 5, options(schedule=name, warmup_steps=0)) == 1.0


def test_a_ramp_warms_up_exponentially_and_stays():
    ramp = options(schedule="ramp")
    got = [schedule(step, 100, ramp) for step in (0, 5, 9, 10, 50, 100)]
    np.testing.assert_allclose(got, [np.exp(-5), np.exp(-1.25), np.exp(-0.05), 1, 1, 1])


def test_the_published_schedule_never_ends_its_warm_up_in_thirty_epochs():
    published = options(schedule="published", warmup_steps=5000)
    assert schedule(30 * 391, 30 * 391, published) == pytest.approx(0.5865)
    factors = [schedule(step, 120 * 391, published) for step in range(120 * 391 + 1)]
    assert np.argmax(factors) // 391 == 51
    assert factors[-1] == pytest.approx(0.0, abs=1e-12)
    assert schedule(20_000, 20_000, published) == 1.0


def test_a_warm_up_as_long_as_the_run_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="warmup_steps 100 in a run of 100 .* lower warmup_steps"):
        schedule(0, 100, options(warmup_steps=100))
    assert schedule(99, 100, options(warmup_steps=99)) == 1.0


def test_each_group_keeps_its_share_of_the_scheduled_rate():
    model, optim = small("frame_mn06"), options(layer_decay=0.9)
    steps = optimizer(groups(model, optim), optim)
    first = [group["lr"] for group in steps.param_groups]
    rate = torch.optim.lr_scheduler.LambdaLR(steps, lambda step: schedule(step, 40, optim))
    for step in range(40):
        want = np.array(first) * schedule(step, 40, optim)
        np.testing.assert_allclose([group["lr"] for group in steps.param_groups], want)
        steps.step()
        rate.step()
    assert max(group["lr"] for group in steps.param_groups) == pytest.approx(0.0, abs=1e-12)


def test_every_model_is_covered_by_the_published_group_sizes():
    frame_mn = {name for name in trainable() if isinstance(full(name).backbone, FrameMN)}
    assert set(trainable()) == TENSORS.keys() | NUMBERS.keys() | frame_mn
    for name in frame_mn:  # its groups are the 17 entries of one nn.Sequential
        assert full(name).backbone.depth == 17
