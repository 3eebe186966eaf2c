"""One training step against its definition, and some steps of the real Trainer."""

from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from conftest import each_model, small
from torch import Tensor
from training_parts import (
    CLASSES,
    STEP,
    audio_by_hand,
    batch_of,
    clip_set,
    network,
    pseudo_file,
    random_logits,
    source,
    table,
    training,
)

from hear_ptsed.model import SEDModel
from training.callbacks import Keep
from training.data.sampling import AUGMENT, MODEL, torch_seed
from training.fit import make_trainer
from training.labels import LABELS, FrameLabels
from training.module import Training
from training.optim import freeze_unused
from training.recipe import from_dict

pytestmark = pytest.mark.usefixtures("one_thread")

# The independent computation, in float64 behind the backbone


def labels_by_hand(events, keys) -> Tensor:
    target = torch.zeros(len(keys), len(CLASSES), 250, dtype=torch.float64)
    for key, name, onset, offset in events:
        for k in range(250):
            if onset < 40 * (k + 1) and offset > 40 * k:
                target[keys.index(key), CLASSES.index(name), k] = 1
    return target


def pooled_by_hand(frames: Tensor) -> Tensor:
    n = frames.shape[1]
    if n >= 250:
        return torch.stack(
            [frames[:, k * n // 250 : -(-(k + 1) * n // 250)].mean(1) for k in range(250)], 1
        )
    at = [max(0.0, (k + 0.5) * n / 250 - 0.5) for k in range(250)]
    left, right = [int(x) for x in at], [min(int(x) + 1, n - 1) for x in at]
    share = torch.tensor([x - int(x) for x in at], dtype=frames.dtype)[None, :, None]
    return frames[:, left] * (1 - share) + frames[:, right] * share


def gru_by_hand(rnn: torch.nn.GRU, frames: Tensor) -> Tensor:
    weights = {name: p.double() for name, p in rnn.named_parameters()}
    for layer in range(rnn.num_layers):
        ways = []
        for suffix in ("", "_reverse"):
            w_i, w_h, b_i, b_h = (
                weights[f"{kind}_l{layer}{suffix}"]
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            given = (frames.flip(1) if suffix else frames) @ w_i.T + b_i
            state, states = frames.new_zeros(len(frames), rnn.hidden_size), []
            for t in range(frames.shape[1]):
                (i_r, i_z, i_n), (h_r, h_z, h_n) = (
                    given[:, t].chunk(3, -1),
                    (state @ w_h.T + b_h).chunk(3, -1),
                )
                reset, update = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
                state = (1 - update) * torch.tanh(i_n + reset * h_n) + update * state
                states.append(state)
            ways.append(torch.stack(states[::-1] if suffix else states, 1))
        frames = torch.cat(ways, -1)
    return frames


def frames_by_hand(model: SEDModel, audio: Tensor) -> Tensor:
    torch.manual_seed(torch_seed(0, MODEL, STEP, 0))  # dropout and the jitter of the mel range
    frames = pooled_by_hand(model.backbone(model.frontend(audio)).double())
    return frames if model.sequence is None else gru_by_hand(model.sequence.rnn, frames)


def strong_by_hand(model: SEDModel, audio: Tensor) -> Tensor:
    head = model.head.strong_head
    logits = torch.einsum("btd,cd->bct", frames_by_hand(model, audio), head.weight.double())
    return logits + head.bias.double()[:, None]


def bce(logits: Tensor, target: Tensor) -> Tensor:
    s = logits.sigmoid()
    return -(target * s.log() + (1 - target) * (1 - s).log())


def gradients(model: SEDModel, loss: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    loss.backward()
    return {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def assert_same_step(module: Training, batch: dict, expected: Tensor) -> None:
    """Loss and every gradient, to 1e-5 of the largest entry of its tensor."""
    loss = module.training_step(batch, 0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    wanted, got = gradients(module.model, expected), gradients(module.model, loss)
    largest = max(float(g.abs().max()) for g in wanted.values() if g is not None)
    assert largest > 1e-4
    for name, gradient in wanted.items():
        assert (gradient is None) == (got[name] is None), name
        if gradient is not None:
            # Some are 0 but for rounding: a shift before a batch norm, keys of an attention.
            allowed = 1e-5 * float(gradient.abs().max()) + 1e-8 * largest
            assert float((got[name] - gradient).abs().max()) <= allowed, name


@each_model
@pytest.mark.parametrize("weight", [0.0, 0.9, 1.0])
def test_loss_and_gradients_equal_their_definition(name, weight, tmp_path):
    memory = source(32000 if weight else 16000, n=2)
    events, logits = table(memory.keys), random_logits(memory.keys)
    pseudo = pseudo_file(tmp_path / "p.h5", logits) if weight else None
    train = clip_set(memory, events=events, pseudo=pseudo)
    module = training(network(name), train, weight=weight)
    batch = batch_of(train)
    z = strong_by_hand(module.model, audio_by_hand(memory))
    soft = torch.from_numpy(np.stack(list(logits.values()))).double().sigmoid()
    hard = labels_by_hand(events, memory.keys)
    expected = weight * bce(z, soft).mean() + (1 - weight) * bce(z, hard).mean()
    assert_same_step(module, batch, expected)


@pytest.mark.parametrize("name", ["atst_frame", "beats", "asit", "frame_mn06"])
def test_a_teacher_with_bigru_learns_by_its_definition(name):
    memory = source(n=2)
    events = table(memory.keys)
    module = training(network(name, sequence=True), clip_set(memory, events=events))
    z = strong_by_hand(module.model, audio_by_hand(memory))
    expected = bce(z, labels_by_hand(events, memory.keys)).mean()
    assert_same_step(module, batch_of(module.clips), expected)


@each_model
def test_clip_labels_teach_the_mean_frame(name):
    memory = source(n=2)
    events = table(memory.keys)[:6]
    train = clip_set(memory, events=events, labels="weak")
    module = training(network(name), train, data={"labels": "weak"})
    head = module.model.head.weak_head
    mean = frames_by_hand(module.model, audio_by_hand(memory)).mean(1)
    z = torch.einsum("bd,cd->bc", mean, head.weight.double()) + head.bias.double()
    target = torch.zeros(2, 5, dtype=torch.float64)
    for key, name_, *_ in events:
        target[memory.keys.index(key), CLASSES.index(name_)] = 1
    assert_same_step(module, batch_of(train), bce(z, target).mean())


def test_clips_and_classes_without_pseudo_labels_learn_from_hard_labels(tmp_path):
    memory = source(n=3)
    events = table(memory.keys)
    logits = random_logits(["x0", "x2"], classes=3)
    pseudo = pseudo_file(tmp_path / "p.h5", logits, ["d", "b", "unknown here"])
    train = clip_set(memory, events=events, pseudo=pseudo)
    module = training(network("atst_frame"), train, weight=0.9)
    hard = labels_by_hand(events, memory.keys)
    soft = hard.clone()
    for row, key in ((0, "x0"), (2, "x2")):
        for column, name in enumerate("db"):
            p = torch.from_numpy(logits[key][column]).double().sigmoid()
            soft[row, CLASSES.index(name)] = p
    z = strong_by_hand(module.model, audio_by_hand(memory))
    expected = 0.9 * bce(z, soft).mean() + 0.1 * bce(z, hard).mean()
    assert_same_step(module, batch_of(train), expected)


def test_classes_that_a_source_does_not_annotate_teach_nothing():
    all_of_it, some = source(prefix="x", n=2), source(prefix="y", n=2)
    keys = all_of_it.keys + some.keys
    events = table(all_of_it.keys) + table(some.keys, classes=["a", "c"])
    train = clip_set(all_of_it, some, events=events, annotated=[None, ["c", "a"]])
    module = training(network("atst_frame"), train)
    audio = torch.cat([audio_by_hand(all_of_it), audio_by_hand(some)])
    losses = bce(strong_by_hand(module.model, audio), labels_by_hand(events, keys))
    losses[2:, [1, 3, 4]] = 0
    assert_same_step(module, batch_of(train), losses.mean())
    loss = module.training_step(batch_of(train, rows=[2, 3]), 0)
    bias = gradients(module.model, loss)["head.strong_head.bias"]
    assert (bias != 0).tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("how", ["wavmix", "mixup"])
def test_a_mixture_teaches_only_what_both_clips_annotate(how):
    full, part = source(prefix="x", n=1), source(prefix="y", n=1)
    events = [("x0", "a", 0, 9999), ("x0", "b", 0, 9999), ("y0", "c", 0, 9999)]
    train = clip_set(full, part, events=events, annotated=[None, ["a", "c"]])
    option = {"wavmix_p": 1.0} if how == "wavmix" else {"mixup_p": 1.0, "mixup_alpha": 2.0}
    module = training(network("atst_frame"), train, augment=option)
    seen = set()
    for step in range(8):
        batch = batch_of(train, partner=[1, 1] if how == "wavmix" else None) | {"step": step}
        draw = torch.Generator().manual_seed(torch_seed(0, AUGMENT, step, 0))
        spec, targets = module.inputs(batch, draw)
        share = 1 - float(targets.strong[0, 0, 0])  # of the partner in the first clip
        mixed = share > 0
        seen.add(mixed)
        losses = bce(module.model.detect(spec).strong.double(), targets.strong.double())
        losses[1, [1, 3, 4]] = 0
        if mixed:
            losses[0, [1, 3, 4]] = 0
            rest = targets.strong[0, 1:, 0].tolist()
            assert rest == pytest.approx([1 - share, share, 0, 0], abs=1e-6)
        loss = module.training_step(batch, 0)
        assert loss.item() == pytest.approx(losses.mean().item(), rel=1e-5)
    assert seen == ({True} if how == "wavmix" else {True, False})


def test_unreadable_clips_teach_nothing_and_too_many_stop_the_run():
    memory = source(n=3)
    memory.audio[1] = None
    events = table(memory.keys)
    train = clip_set(memory, events=events)
    module = training(network("atst_frame"), train, data={"max_unreadable": 0.4})
    memory.audio[1] = np.zeros(1, np.int16)
    audio = audio_by_hand(memory)
    memory.audio[1] = None
    losses = bce(strong_by_hand(module.model, audio), labels_by_hand(events, memory.keys))
    losses[1] = 0
    assert_same_step(module, batch_of(train), losses.mean())
    assert module.unreadable.reasons == {"x1": "x1: cut off"}
    strict = training(network("atst_frame"), train, data={"max_unreadable": 0.3})
    with pytest.raises(RuntimeError, match="1 of 3 clips are unreadable.*0.3 allows.*x1: cut off"):
        strict.training_step(batch_of(train), 0)


def test_online_teachers_equal_their_pseudo_labels_in_a_file(tmp_path):
    memory = source(n=2)
    events = table(memory.keys)
    teachers = [network("frame_mn06").eval(), network("asit").eval()]
    for teacher in teachers:
        torch.nn.init.normal_(teacher.head.strong_head.weight, std=0.5)
    train = clip_set(memory, events=events)
    online = training(network("atst_frame"), train, teachers=teachers, weight=0.9)
    assert not any(teacher.training for teacher in teachers)
    assert not any(key.startswith("teacher") for key in online.state_dict())
    with torch.no_grad():
        logits = sum(t(audio_by_hand(memory)).strong for t in teachers) / 2
    z = strong_by_hand(online.model, audio_by_hand(memory))
    hard = labels_by_hand(events, memory.keys)
    soft = logits.double().sigmoid()
    expected = 0.9 * bce(z, soft).mean() + 0.1 * bce(z, hard).mean()
    assert_same_step(online, batch_of(train), expected)
    assert soft.std() > 0.1
    pseudo = pseudo_file(tmp_path / "p.h5", dict(zip(memory.keys, logits, strict=True)))
    stored = clip_set(memory, events=events, pseudo=pseudo)
    offline = training(network("atst_frame"), stored, weight=0.9)
    targets = offline.inputs(batch_of(stored), torch.Generator())[1]
    torch.testing.assert_close(targets.soft.double(), soft, rtol=0, atol=1e-3)  # float16 logits
    loss = offline.training_step(batch_of(stored), 0)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)


def run(tmp_path: Path, model: str, steps: int = 2, watch=None, **optim) -> tuple[Training, dict]:
    """A few real steps of the Trainer; the module and its first weights."""
    memory = source(n=4)
    train = clip_set(memory, events=table(memory.keys))
    options = {"name": "sgd", "lr": 0.1, "schedule": "constant", "epochs": steps, "batch": 4}
    settings = {"accelerator": "cpu", "loggers": [], "progress": False}
    sections = {"optim": options | optim, "data": {"workers": 0}, "run": settings}
    module = training(small(model), train, **sections)
    freeze_unused(module.model, FrameLabels())
    before = {key: value.clone() for key, value in module.model.state_dict().items()}
    trainer = make_trainer(from_dict(sections), module, Keep(tmp_path, 10**9, {}, []))
    trainer.callbacks += [watch] if watch else []
    trainer.fit(module)
    assert trainer.global_step == steps
    return module, before


def test_parts_of_a_batch_one_after_another_equal_the_whole_batch(tmp_path):
    whole, before = run(tmp_path, "atst_frame")
    parts, _ = run(tmp_path, "atst_frame", accumulate=2)
    other = parts.model.state_dict()
    for key, value in whole.model.state_dict().items():
        torch.testing.assert_close(other[key], value, rtol=0, atol=1e-6)
    change = whole.model.head.strong_head.weight - before["head.strong_head.weight"]
    assert change.abs().max() > 1e-3


class Watch(lightning.Callback):
    """Remembers the weights after every batch."""

    def __init__(self):
        self.states = []

    def on_train_batch_end(self, trainer, module, *_):
        self.states.append({k: v.clone() for k, v in module.model.state_dict().items()})


@pytest.mark.parametrize("accumulate", [1, 2])
def test_averaged_weights_follow_their_recursion_at_every_optimiser_step(tmp_path, accumulate):
    watch = Watch()
    module, _ = run(
        tmp_path, "frame_mn02", steps=3, watch=watch, ema=0.8, lr=1.0, accumulate=accumulate
    )
    states = watch.states[accumulate - 1 :: accumulate]
    assert len(states) == 3
    got, moved = module.scored_model.state_dict(), 0
    for key, last in states[-1].items():
        if last.is_floating_point():
            average = states[0][key].double()
            for state in states[1:]:
                average = 0.8 * average + 0.2 * state[key].double()
            torch.testing.assert_close(got[key].double(), average, rtol=1e-5, atol=1e-6)
            moved += not torch.allclose(got[key], last, rtol=1e-3, atol=1e-3)
    assert moved > 10
    assert any(key.startswith("ema.") for key in module.state_dict())


@each_model
def test_an_adamw_step_decays_matrices_and_never_vectors(name, tmp_path):
    free, before = run(tmp_path, name, steps=1, name="adamw")
    decayed, _ = run(tmp_path, name, steps=1, name="adamw", weight_decay=0.5)
    for key, parameter in decayed.model.named_parameters():
        decay = 0.1 * 0.5 * (parameter.requires_grad and parameter.ndim > 1)
        expected = free.model.get_parameter(key) - decay * before[key]
        torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-6, msg=key)


@each_model
@pytest.mark.parametrize("labels", ["strong", "weak"])
def test_exactly_the_parameters_without_a_gradient_are_frozen(name, labels):
    memory = source(n=2)
    train = clip_set(memory, events=table(memory.keys), labels=labels)
    module = training(network(name), train, data={"labels": labels})
    step_gradients = gradients(module.model, module.training_step(batch_of(train), 0))
    assert freeze_unused(module.model, LABELS[labels]) == [
        n for n, g in step_gradients.items() if g is None
    ]
    assert module.model.training
    frozen = [n for n, p in module.model.named_parameters() if not p.requires_grad]
    assert frozen == [n for n, g in step_gradients.items() if g is None]
    assert f"head.{'weak' if labels == 'strong' else 'strong'}_head.bias" in frozen
    again = gradients(module.model, module.training_step(batch_of(train), 0))
    assert [n for n, g in again.items() if g is None] == frozen
