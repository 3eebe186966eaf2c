"""A step of fine-tuning against its definition, computed in float64 behind the backbone."""

import copy
import json

import numpy as np
import pytest
import soundfile
import torch
from conftest import each_model, small
from finetune_parts import CLASSES, OFF, TASK, numbers, tones_folder
from torch import Tensor
from torch.utils.data import default_convert
from training_parts import network

from eval_tasks.fit import loop
from eval_tasks.fit.finetune import AudioBatches, FineTuning
from eval_tasks.fit.recipe import Recipe
from eval_tasks.tasks.base import open_task
from hear_ptsed.heads import HEADS
from hear_ptsed.model import SEDModel
from hear_ptsed.registry import MODELS
from training.data.sampling import MODEL, torch_seed
from training.labels import ClipLabels, FrameLabels
from training.optim import freeze_unused

pytestmark = pytest.mark.usefixtures("one_thread")

STEP = 5  # at which nothing is dropped in a whole layer
LINEAR = ("atst_frame", "beats", "fpasst", "m2d", "asit", "frame_mn02")
WEAK = ("atst_frame", "frame_mn02")  # batch norm hears both kinds of clips at once


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Clips shorter and longer than 10 s; events that begin and end on the centre of a frame."""
    folder = tmp_path_factory.mktemp("step") / "tones"
    tones_folder(
        folder, {"train": [10.0, 7.31, 23.0], "valid": [5.0], "test": [5.0], "weak": [9, 12]}
    )
    labels = json.loads((folder / "train.json").read_text())
    labels["1.wav"] += [
        {"label": "low", "start": 20.0, "end": 60.0},
        {"label": "high", "start": 20.001, "end": 59.999},
        {"label": "middle", "start": 7200.0, "end": 9000.0},
    ]
    (folder / "train.json").write_text(json.dumps(labels))
    return open_task(TASK, folder)


def problem_of(data, net: SEDModel, recipe: Recipe) -> FineTuning:
    weak = [data.parts["weak"]] if recipe.fit.weak_batch else []
    batches = AudioBatches([data.parts["train"]], weak, recipe, seed=0)
    return FineTuning(net, TASK, data.parts["valid"], batches, recipe)


def net_of(name: str, head: str) -> SEDModel:
    net = network(name)
    net.head = HEADS[head](net.backbone.embed_dim, len(CLASSES))
    freeze_unused(net, ClipLabels() if head == "attention" else FrameLabels())
    return net.train()


def labels_by_hand(data, crop: np.ndarray) -> tuple[Tensor, Tensor]:
    """Labels (C, 250) and real frames (250,) of a crop, found by its audio."""
    for file, events in json.loads((data.folder / "train.json").read_text()).items():
        audio = soundfile.read(data.folder / "16000" / "train" / file, dtype="float32")[0]
        real = (len(audio) + 320) // 640
        padded = np.pad(audio, (0, max(0, 160000 - len(audio))))
        for first in range(max(0, real - 250) + 1):
            if not np.array_equal(padded[640 * first : 640 * first + 160000], crop):
                continue
            target = torch.zeros(3, 250, dtype=torch.float64)
            for event in events:
                for k in range(250):
                    centre = 20 + 40 * (first + k)
                    if event["start"] <= centre < event["end"] + 0.0001:
                        target[CLASSES.index(event["label"]), k] = 1
            return target, torch.arange(250) + first < real
    raise AssertionError("no clip holds this crop on the grid of 40 ms")


def pooled_by_hand(frames: Tensor) -> Tensor:
    n = frames.shape[1]
    if n >= 250:
        means = [frames[:, k * n // 250 : -(-(k + 1) * n // 250)].mean(1) for k in range(250)]
        return torch.stack(means, 1)
    at = torch.tensor([max(0.0, (k + 0.5) * n / 250 - 0.5) for k in range(250)])
    left = at.long()
    share = (at - left)[None, :, None].double()
    return frames[:, left] * (1 - share) + frames[:, (left + 1).clamp(max=n - 1)] * share


def loss_by_hand(data, net: SEDModel, batch: dict) -> Tensor:
    kinds = [kind for kind in ("strong", "weak") if kind in batch]
    spec = torch.cat([net.frontend(batch[kind]["audio"]) for kind in kinds])
    frames = pooled_by_hand(net.backbone(spec).double())
    parts = dict(net.head.named_parameters())
    w, b, v, c = (
        parts[f"{head}.{what}"].double()
        for head in ("strong_head", "weak_head")
        for what in ("weight", "bias")
    )
    p = 1 / (1 + torch.exp(-(frames @ w.T + b)))  # (B, 250, C)
    n = len(batch["strong"]["audio"])
    total, count = 0.0, 0
    for i, crop in enumerate(batch["strong"]["audio"].numpy()):
        target, real = labels_by_hand(data, crop)
        y, q = target.T[real], p[i][real]
        total = total - (y * q.log() + (1 - y) * (1 - q).log()).sum()
        count += y.numel()
    loss = total / count
    if "weak" in batch:
        scores = torch.exp(frames[n:] @ v.T + c)
        share = (scores / scores.sum(-1, keepdim=True)).clamp(1e-7, 1)
        q = (p[n:] * share).sum(1) / share.sum(1)
        y = batch["weak"]["labels"].double()
        loss = loss - (y * q.log() + (1 - y) * (1 - q).log()).mean()
    return loss


def gradients(net: SEDModel, loss: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("name", "setup"), [(n, "linear") for n in LINEAR] + [(n, "weak") for n in WEAK]
)
def test_loss_and_gradients_equal_their_definition(data, name, setup):
    protocol = "weak-finetuned" if setup == "weak" else "finetuned"
    weak = ["fit.weak_batch=1"] if setup == "weak" else []
    recipe = numbers(*OFF, "optim.batch=2", *weak, protocol=protocol)
    net = net_of(name, "attention" if setup == "weak" else "linear")
    problem = problem_of(data, net, recipe)
    batch = default_convert(problem.audio[STEP])
    assert [len(rows["audio"]) for rows in batch.values()] == [2, 1][: len(batch)]
    assert not batch["strong"]["known"].all()

    torch.manual_seed(torch_seed(0, MODEL, STEP))
    expected = loss_by_hand(data, net, batch)
    wanted = gradients(net, expected)
    torch.manual_seed(torch_seed(0, MODEL, STEP))
    loss = problem.loss(batch, STEP)
    got = gradients(net, loss)

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    trained = {n for n, p in net.named_parameters() if p.requires_grad}
    assert set(got) == set(wanted) == trained
    assert ("head.weak_head.weight" in trained) == (setup == "weak")
    largest = max(float(g.abs().max()) for g in wanted.values())
    assert largest > 1e-4
    for key, gradient in wanted.items():
        # Some are 0 but for rounding: a shift before a batch norm, keys of an attention.
        allowed = 1e-4 * float(gradient.abs().max()) + 1e-8 * largest
        assert float((got[key] - gradient).abs().max()) <= allowed, key


@pytest.mark.parametrize("above", [1e-3, 4e-3])
@pytest.mark.parametrize("name", ["atst_frame", "frame_mn02"])
def test_one_update_is_adamw_with_layer_wise_rates(data, tmp_path, name, above):
    given = ["optim.lr=1e-3", "optim.weight_decay=0.1", "optim.layer_decay=0.5", "optim.batch=1"]
    given += [f"optim.lr_above={above}"] if above != 1e-3 else []
    recipe = numbers(*OFF, *given)
    net = net_of(name, "linear")
    before = copy.deepcopy(net)
    problem = problem_of(data, net, recipe)
    problem.validate = lambda: {"score": 1.0}
    problem.steps = 1
    loop.train_problem(problem, recipe, tmp_path, seed=0, progress=False)

    same = problem_of(data, before, recipe)
    torch.manual_seed(torch_seed(0, MODEL, 0))
    step_gradients = gradients(before, same.loss(default_convert(same.audio[0]), 0))
    after = dict(net.named_parameters())
    blocks = before.backbone.depth
    for key, parameter in before.named_parameters():
        if key not in step_gradients:
            assert torch.equal(after[key], parameter), key
            continue
        k = exponent(key, blocks)
        rate = 1e-3 * 0.5**k if k else above
        decay = 0.1 if parameter.ndim > 1 else 0.0
        g = step_gradients[key].double()
        # Both means of the first step are the gradient's own.
        moved = parameter.double() * (1 - rate * decay) - rate * g / (g.abs() + 1e-8)
        torch.testing.assert_close(after[key].double(), moved, rtol=1e-6, atol=1e-7, msg=key)


def exponent(key: str, blocks: int) -> int:
    """k-th block from the top: k; norm behind the blocks: 1; all before them: the lowest's."""
    if not key.startswith("backbone."):
        return 0
    parts = key.split(".")[1:]
    if parts[:2] == ["encoder", "layers"]:
        return blocks - int(parts[2])
    if parts[0] in ("blocks", "features"):
        return blocks - int(parts[1])
    return 1 if parts[0] in ("norm", "norm_frame") else blocks


@each_model
def test_every_parameter_learns_once_at_the_rate_of_its_block_and_vectors_never_decay(data, name):
    with torch.device("meta"):
        backbone = MODELS[name].backbone()
        head = HEADS["attention"](backbone.embed_dim, len(CLASSES))
    net = SEDModel(MODELS[name].frontend(), backbone, head=head)
    recipe = numbers("optim.lr=1e-2", "optim.weight_decay=0.3", protocol="weak-finetuned")
    blocks = 17 if "mn" in name else 12
    named = {id(p): (key, p) for key, p in net.named_parameters() if p.requires_grad}
    seen, exponents = [], set()
    for group in problem_of(data, net, recipe).groups():
        for parameter in group["params"]:
            key, _ = named[id(parameter)]
            seen.append(id(parameter))
            k = exponent(key, blocks)
            exponents.add(k)
            assert group["lr"] == pytest.approx(1e-2 * 0.5**k), key
            assert group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0.0), key
    assert sorted(seen) == sorted(named)
    assert exponents == set(range(blocks + 1))


def test_the_small_networks_have_the_depths_of_the_large_ones():
    assert {name: small(name).backbone.depth for name in ("beats", "frame_mn02")} == {
        "beats": 2,
        "frame_mn02": 17,
    }
