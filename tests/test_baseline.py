"""The DCASE 2023 baseline set-up: front-end, network, mean teacher, and runs on a small folder."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from crnn_by_hand import network_by_hand
from scipy.ndimage import median_filter
from tones import write_tones
from torch import nn

from eval_tasks.fit import loop, mean_teacher
from eval_tasks.fit.crnn import CRNN, scaled
from eval_tasks.fit.features import features
from eval_tasks.fit.recipe import recipe
from eval_tasks.fit.trainer import Context
from eval_tasks.plugin import Plugin
from eval_tasks.tasks.base import Split, Task, open_task
from hear_ptsed.metrics.decoding import Decoding

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ("high", "low")
PARTS = {"train": 6, "valid": 3, "test": 3, "weak": 10, "unlabelled": 4}
LOGMEL = Plugin("eval_tasks.logmel")
SPLIT = Split(("train",), "valid", "test")
TINY = ("optim.batch=2", "fit.weak_batch=2", "fit.unlabelled_batch=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Clips of 10 s with a tone of 3 s in each."""
    clips = {part: [10.0] * count for part, count in PARTS.items()}
    tone = {"first_s": (0.5, 5.0), "length_s": (3.0, 3.0), "every_s": 10.0, "names": "{i}.wav"}
    root = tmp_path_factory.mktemp("tasks")
    return write_tones(root / TASK.folder, clips, {"high": 3000.0, "low": 300.0}, **tone)


TASK = Task(
    name="tones",
    title="Tones",
    folder="tones-v1-small",
    about="",
    metrics=("segment_1s_er", "psds1"),
    decoding=Decoding(0, 0),
    select="loss",
    labels=("strong", "weak", "unlabelled"),
)


@pytest.fixture(scope="module")
def data(folder):
    return open_task(TASK, folder)


@pytest.fixture(scope="module")
def clips(data, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    embedded = [features(data, name, LOGMEL, cache, progress=False) for name in PARTS]
    return {
        one.part.name: [mean_teacher.EmbeddedClip(one, file) for file in one.part.files]
        for one in embedded
    }


def context(data, folder, numbers) -> Context:
    """To train it in a folder, beside the cache of embeddings."""
    return Context(
        data=data,
        split=SPLIT,
        plugin=LOGMEL,
        protocol="mean-teacher",
        recipe=numbers,
        folder=folder / "run",
        cache=folder,
        seed=0,
        device="cpu",
        progress=False,
    )


def numbers(*settings):
    return recipe(TASK, "mean-teacher", (*TINY, *settings))


def problem(clips, options, seed=0, **sizes):
    """A small network on the folder's clips."""
    torch.manual_seed(seed)
    small = {"filters": (2, 2, 2, 2, 2, 2, 3), "units": 2} | sizes
    student = CRNN(len(CLASSES), 128, **small)
    return mean_teacher.MeanTeacher(student, TASK, clips, SPLIT, options, seed=seed, device="cpu")


def test_every_64_ms_frame_that_an_event_touches_is_a_target(data):
    part = data.parts["train"]
    events = [("low", 64.0, 128.0), ("low", 200.0, 257.0), ("high", 0.0, 1.0)]
    events += [("high", 9900.0, 10000.0), ("high", 9990.0, 10000.0)]
    events = [dict(zip(("label", "start", "end"), event, strict=True)) for event in events]
    targets = mean_teacher.targets(replace(part, events={"a": events}), "a")
    assert targets.shape == (2, 156)
    assert np.flatnonzero(targets[0]).tolist() == [0, 154, 155]
    assert np.flatnonzero(targets[1]).tolist() == [1, 3, 4]


def test_scores_at_40_ms_are_those_at_the_frames_centres():
    scores = mean_teacher.at_centres(np.arange(156)[:, None], 20 + 40 * np.arange(250))[:, 0]
    assert scores.tolist() == [min(int((0.02 + 0.04 * k) / 0.064), 155) for k in range(250)]
    borders = 40 * (np.flatnonzero(np.diff(scores)) + 1)
    assert np.abs(borders - 64 * np.arange(1, 156)).max() <= 20


def test_the_weak_clips_are_split_as_pandas_does():
    for n in (5, 10, 157, 1578):
        table = pd.DataFrame({"filename": [f"Y{i}.wav" for i in range(n)]})
        train = table.sample(frac=0.9, random_state=42)
        valid = table.drop(train.index)
        split = mean_teacher.weak_split(table["filename"].tolist())
        assert split == (train["filename"].tolist(), valid["filename"].tolist())
    assert [len(clips) for clips in split] == [1420, 158]


def test_macro_f1_counts_classes_that_occur_or_are_predicted():
    labels = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0]], np.uint8)
    predicted = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 1, 0, 0]], bool)
    assert mean_teacher.macro_f1(predicted, labels) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert mean_teacher.macro_f1(predicted[:, 2:3], labels[:, 2:3]) == 0.0


def loss_by_hand(student, teacher, batch, spec, consistency):
    def entropy(p, y):
        return -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()

    _, embeddings, strong, weak = (x.double().numpy() for x in batch)
    frames, whole = network_by_hand(student, spec, embeddings)
    frames_t, whole_t = teacher
    known = entropy(frames[:1], strong) + entropy(whole[1:2], weak)
    return known + consistency * (
        ((frames - frames_t) ** 2).mean() + ((whole - whole_t) ** 2).mean()
    )


def test_a_training_step_is_that_of_the_formulae(clips):
    settings = ("optim.batch=1", "fit.weak_batch=1", "fit.unlabelled_batch=1")
    settings += ("augment.mixup_p=0", "optim.epochs=100", "optim.warmup_steps=20")
    ours = problem(clips, numbers(*settings), dropout=0.0)
    ours.model.double().train()
    step = 15
    batch = next(ours.batches(step))
    spec = scaled(ours.mel(batch.audio)).double()
    ours.mel = nn.Identity()
    for p in ours.model["teacher"].parameters():
        p.data.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    weights = [
        {k: v.numpy().copy() for k, v in ours.model[name].state_dict().items()}
        for name in ("student", "teacher")
    ]
    consistency = 2 * math.exp(-5 * (1 - 15 / 20) ** 2)
    teacher = network_by_hand(weights[1], spec.numpy(), batch.embeddings.double().numpy())
    want = loss_by_hand(weights[0], teacher, batch, spec.numpy(), consistency)
    magnitude = 10 ** (spec * 1.5 - 0.5)  # comes out as `spec` of `scaled`
    as_doubles = mean_teacher.Batch(magnitude, *(x.double() for x in batch[1:]))
    loss = ours.loss(as_doubles, step)
    assert loss.item() == pytest.approx(want, rel=1e-5)
    loss.backward()
    assert all(p.grad is None for p in ours.model["teacher"].parameters())
    parameters = dict(ours.model["student"].named_parameters())
    for name, place in (
        ("cnn.1.conv.weight", (0, 1, 1, 2)),
        ("cnn.6.linear.weight", (1, 0)),
        ("fusion.weight", (2, 40)),
        ("rnn.rnn.weight_hh_l0_reverse", (1, 1)),
        ("head.strong_head.bias", (0,)),
        ("head.weak_head.weight", (1, 2)),
    ):
        sides = []
        for change in (1e-5, -1e-5):
            moved = weights[0] | {name: weights[0][name].copy()}
            moved[name][place] += change
            sides.append(loss_by_hand(moved, teacher, batch, spec.numpy(), consistency))
        slope = (sides[0] - sides[1]) / 2e-5
        assert parameters[name].grad[place].item() == pytest.approx(slope, rel=1e-3, abs=1e-7), name


def test_the_teacher_follows_the_student_by_the_published_average(clips):
    ours = problem(clips, numbers())
    student, teacher = ours.model["student"], ours.model["teacher"]
    for step, decay in ((0, 0.0), (1, 0.5), (9, 0.9), (5000, 0.999)):
        before = [p.clone() for p in teacher.parameters()]
        for p in student.parameters():
            p.data.normal_()
        ours.after_step(step)
        for new, old, p in zip(teacher.parameters(), before, student.parameters(), strict=True):
            torch.testing.assert_close(new, decay * old + (1 - decay) * p, rtol=1e-5, atol=1e-6)


def test_mixing_stays_inside_the_strong_and_inside_the_weak_clips(clips):
    ours = problem(clips, numbers("augment.mixup_p=1"))
    mel = torch.eye(8)[:, None, :, None]  # each clip is one of eight bands
    strong, weak = torch.eye(3)[:, :, None].expand(3, 3, 4), torch.eye(3)
    mixed_mel, frames, whole = ours.mixed(mel, strong, weak, torch.Generator().manual_seed(0))
    mixed_mel = mixed_mel[:, 0, :, 0]
    for part, labels in ((slice(0, 3), frames[:, :, 0]), (slice(3, 6), whole)):
        torch.testing.assert_close(mixed_mel[part, part], labels)
        torch.testing.assert_close(mixed_mel[part].sum(1), torch.ones(3))
        assert not torch.equal(labels, torch.eye(3))
    assert torch.equal(mixed_mel[6:], torch.eye(8)[6:])


def test_batches_hold_the_three_kinds_in_order_and_depend_on_seed_and_step_alone(clips):
    ours = problem(clips, numbers("optim.epochs=6"))
    assert (ours.epoch_steps, ours.steps) == (3, 18)  # 6 // 2, 9 // 2, 4 // 1
    all_of_them = list(ours.batches(0))
    assert len(all_of_them) == 18
    again = next(problem(clips, numbers("optim.epochs=6")).batches(15))
    for one, other in zip(all_of_them[15], again, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(next(problem(clips, numbers(), seed=1).batches(15)).audio, again.audio)
    weak_train, _ = mean_teacher.weak_split(clips["weak"])
    known, sets = {}, {"train": clips["train"], "weak": weak_train, "un": clips["unlabelled"]}
    for part, part_clips in sets.items():
        known |= {c.part.read(c.file).tobytes(): (part, c) for c in part_clips}
    seen = set()
    for batch in all_of_them:
        rows = [known[audio.numpy().tobytes()] for audio in batch.audio]
        assert [part for part, _ in rows] == ["train"] * 2 + ["weak"] * 2 + ["un"]
        for (_, clip), embedding in zip(rows, batch.embeddings, strict=True):
            assert torch.equal(embedding, clip.features.get(clip.file).float())
        seen |= {clip.file + part for part, clip in rows}
    assert len(seen) == 6 + 9 + 4


def test_a_short_clip_is_padded_to_ten_seconds(clips):
    features, file = clips["test"][0]
    part = replace(features.part, samples={file: 48000})
    short = mean_teacher.EmbeddedClip(replace(features, part=part), file)
    for batch in ([short], [short, clips["test"][1]]):
        audio, embeddings = mean_teacher.read_clips(batch)
        assert (audio.shape[1:], embeddings.shape[1:]) == ((160000,), (250, 128))
        assert torch.equal(embeddings[0, :75], features.get(file)[:75].float())
        assert not embeddings[0, 75:].any()


def test_clips_are_heard_alike_alone_and_together_through_a_median_of_seven_frames(clips):
    ours = problem(clips, numbers())
    student = ours.model.eval()["student"]
    together, whole = ours.detect(student, clips["test"])
    for i, clip in enumerate(clips["test"]):
        alone, own = ours.detect(student, [clip])
        np.testing.assert_allclose(alone[clip.file], together[clip.file], atol=1e-5)
        np.testing.assert_allclose(own[0], whole[i], atol=1e-5)
    audio, embeddings = mean_teacher.read_clips([clip])
    with torch.no_grad():
        scores = student(scaled(ours.mel(audio)), embeddings)[0][0].sigmoid().numpy()
    want = median_filter(scores, (1, 7), mode="reflect")
    np.testing.assert_allclose(
        alone[clip.file], mean_teacher.at_centres(want.T, 20 + 40 * np.arange(250)), atol=1e-6
    )


def test_finer_embeddings_are_heard_whole_and_answered_at_their_centres(clips, data, tmp_path):
    module = Plugin(LOGMEL.name, options={"hop": 20})
    embedded = features(data.with_hop(20), "test", module, tmp_path, progress=False)
    fine = [mean_teacher.EmbeddedClip(embedded, file) for file in embedded.part.files]
    audio, embeddings = mean_teacher.read_clips(fine[:1])
    plain_audio, plain = mean_teacher.read_clips(clips["test"][:1])
    assert torch.equal(audio, plain_audio) and embeddings.shape[1] == 500
    assert torch.equal(embeddings[:, ::2], plain)
    ours = problem(clips, numbers())
    student = ours.model["student"].eval()
    scores = ours.detect(student, fine[:1])[0][fine[0].file]
    coarse = ours.detect(student, [clips["test"][0]])[0][fine[0].file]
    assert scores.shape == (500, 2) and np.abs(scores[::2] - coarse).max() < 0.2


def test_an_epoch_of_the_published_sets_has_59_steps(clips):
    many = {"train": 10_000, "weak": 1_578, "unlabelled": 14_412}
    sets = clips | {part: clips[part][:1] * count for part, count in many.items()}
    ours = problem(sets, recipe(TASK, "mean-teacher"))
    assert (ours.epoch_steps, ours.steps) == (59, 200 * 59)
    assert ours.recipe.optim.warmup_steps == 50 * 59


class Killed(BaseException):
    pass


def test_a_run_that_was_killed_ends_at_the_same_weights(clips, tmp_path, monkeypatch):
    options = numbers("optim.epochs=2", "optim.warmup_steps=4", "fit.check_every_epochs=0.66")
    whole, ours = problem(clips, options), problem(clips, options)
    loop.train_problem(whole, options, tmp_path / "whole", seed=0, progress=False)
    after = ours.after_step

    def dying(step):
        if step == 4:
            raise Killed
        after(step)

    monkeypatch.setattr(ours, "after_step", dying)
    with pytest.raises(Killed):
        loop.train_problem(
            ours, options, tmp_path / "killed", seed=0, progress=False, save_every_s=0
        )
    again = problem(clips, options)
    again.workers = 1  # loader processes change nothing
    fitted = loop.train_problem(again, options, tmp_path / "killed", seed=0, progress=False)
    assert [row["step"] for row in fitted["history"]] == [2, 4, 6]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    assert any(
        not torch.equal(p, q)
        for p, q in zip(*map(nn.Module.parameters, whole.model.values()), strict=True)
    )


def test_student_and_teacher_learn_to_hear_the_tones(clips, tmp_path):
    settings = ("optim.epochs=12", "optim.warmup_steps=6", "optim.lr=0.03", "optim.ema=0.8")
    options = numbers(*settings, "fit.check_every_epochs=3")
    ours = problem(clips, options, filters=(2, 4, 4, 4, 4, 4, 8), units=16, dropout=0.1)
    fitted = loop.train_problem(ours, options, tmp_path, seed=0, progress=False)
    assert fitted["history"][-1]["loss"] < 0.6 * fitted["history"][0]["loss"]
    part = clips["test"][0].part
    for network in ours.model.eval().values():
        detections, _ = ours.detect(network, clips["test"])
        for file, probabilities in detections.items():
            active = part.targets(file) > 0
            assert probabilities[active].mean() > probabilities[~active].mean() + 0.15


def test_a_run_tests_the_teacher_and_reports_the_student(data, tmp_path):
    options = numbers("optim.epochs=0.3", "optim.warmup_steps=0")
    asked = context(data, tmp_path, options)
    outcome = mean_teacher.train_mean_teacher(asked)
    assert outcome.part == "test"
    assert {p.shape for p in outcome.probabilities.values()} == {(250, 2)}
    assert outcome.probabilities.keys() == set(data.parts["test"].files)
    assert outcome.parameters == sum(p.numel() for p in CRNN(2, 128).parameters())
    assert outcome.training["student"].keys() == {"segment_1s_er", "psds1"}
    assert outcome.training["step"] == 1
    assert outcome.seconds_per_minute > 0
    again = mean_teacher.train_mean_teacher(asked)
    # Boxes are made of scores that are not smoothed, and tuned on the validation part.
    rough = mean_teacher.train_mean_teacher(replace(asked, boxes=True))
    assert outcome.valid is None and rough.valid.keys() == set(data.parts["valid"].files)
    for file, probabilities in outcome.probabilities.items():
        assert np.array_equal(again.probabilities[file], probabilities)
        steps = [
            np.abs(np.diff(x, axis=0)).sum() for x in (probabilities, rough.probabilities[file])
        ]
        assert steps[0] < steps[1]


def test_new_heads_begin_at_the_prior_and_the_seed_draws_the_rest():
    one, same, other = (
        mean_teacher.new_student(2, 8, numbers("fit.head_prior=0.1"), s) for s in (1, 1, 2)
    )
    assert one.head.strong_head.bias.sigmoid().tolist() == pytest.approx([0.1, 0.1])
    assert torch.equal(one.fusion.weight, same.fusion.weight)
    assert not torch.equal(one.fusion.weight, other.fusion.weight)


def test_what_the_set_up_cannot_do_is_refused_in_one_line(data, tmp_path):
    def refusal(data, *settings):
        with pytest.raises(ValueError) as error:
            mean_teacher.train_mean_teacher(context(data, tmp_path, numbers(*settings)))
        assert "\n" not in str(error.value)
        return str(error.value)

    def without(part):
        return replace(data, parts={k: v for k, v in data.parts.items() if k != part})

    def changed(name, **changes):
        return replace(data, parts=data.parts | {name: replace(data.parts[name], **changes)})

    assert "no weak.json, which --protocol mean-teacher" in refusal(without("weak"))
    assert "no unlabelled.json, which --protocol mean-teacher" in refusal(without("unlabelled"))
    assert "fit.weak_batch is 0" in refusal(data, "fit.weak_batch=0")
    assert "fit.unlabelled_batch is 0" in refusal(data, "fit.unlabelled_batch=0")
    unused = ("augment.filter_p is 0.5", "optim.weight_decay is 0.1", "optim.vector_decay is 0.1")
    for message in (*unused, "optim.part_batches is True"):
        setting = message.replace(" is ", "=").lower()
        assert f"{message}; with --protocol mean-teacher" in refusal(data, setting)
    assert "warmup_steps 2950 in a run of 600 optimizer steps" in refusal(data)
    few = {f"{i}.wav": 160000 for i in range(4)}
    assert "has 4 clips, too few" in refusal(changed("weak", samples=few))
    longer = changed("test", samples={"0.wav": 161000})
    assert "0.wav is longer than 10 s" in refusal(longer)
    assert not list(tmp_path.rglob("state.pt"))
