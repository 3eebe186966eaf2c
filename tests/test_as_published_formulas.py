"""Published behaviours against their definitions: labels, sampling, augmentation, optimiser."""

import json

import numpy as np
import pytest
import soundfile
import torch
from conftest import small
from scipy import stats
from scoring_parts import evaluate
from sed_scores_eval import segment_based
from sed_scores_eval.base_modules.scores import create_score_dataframe
from training_parts import ALIKE, Memory, clip_set, seeded, sound

from hear_ptsed import load
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.frontends.mel import ATSTMel
from training import __main__ as command
from training.augment import filter_augment, mixup, time_mask
from training.data.annotations import Events, read_events
from training.data.batch import frames_of
from training.data.clips import open_clips
from training.data.sampling import Plan, TrainPicks, balanced_weights
from training.labels import FrameLabels
from training.optim import groups, optimizer, schedule
from training.recipe import Evaluation, Optim
from training.scores import Scores
from training.targets import Targets

# Steps


def picks(plan: Plan, world: int = 1) -> list[TrainPicks]:
    return [TrainPicks(plan, None, False, seed=3, rank=r, world=world) for r in range(world)]


def test_an_epoch_of_the_public_code_ends_with_what_is_left_of_it():
    for epochs, stream, public in ((300, 619, 900), (500, 1031, 1500)):
        assert Plan(528, 528, epochs, 256, 1).steps == stream
        plan = Plan(528, 528, epochs, 256, 1, part_batches=True)
        assert (plan.steps, plan.epoch_steps) == (public, 3)
    (train_picks,) = picks(Plan(528, 528, 2, 256, 1, part_batches=True))
    sizes = [len(pick.clips) for pick in train_picks]
    assert sizes == [256, 256, 16] * 2
    for first in (0, 3):
        epoch = np.concatenate([train_picks.at(first + i).clips for i in range(3)])
        assert sorted(epoch) == list(range(528))
    assert Plan(103_205, 100_000, 30, 256, 1, part_batches=True).steps == 30 * 391
    (train_picks,) = picks(Plan(103_205, 100_000, 1, 256, 1, part_batches=True))
    assert [len(train_picks.at(step).clips) for step in (0, 389, 390)] == [256, 256, 160]


@pytest.mark.parametrize(("accumulate", "world"), [(4, 1), (1, 8), (2, 4)])
def test_devices_and_parts_share_the_last_batch_of_an_epoch(accumulate, world):
    plan = Plan(100, 100, 2, 32, accumulate, part_batches=True)  # 3 x 32 + 4
    shares = picks(plan, world)
    for epoch in range(2):
        heard = []
        for step in range(epoch * 4 * accumulate, (epoch + 1) * 4 * accumulate):
            parts = [one.at(step).clips for one in shares]
            assert len({len(part) for part in parts}) == 1
            assert len(parts[0]) >= 1
            heard += [int(clip) for part in parts for clip in part]
        assert set(heard) == set(range(100))
        assert len(heard) == 100 + (accumulate * world == 8) * 4  # four clips for eight shares


# Labels


def test_times_through_float32_touch_one_frame_more_at_the_border_of_some():
    onset, offset = np.array([1.4, 0.28, 2.0]), np.array([1.4, 0.28, 2.0]) + 1e-9
    assert frames_of(onset, offset)[0].tolist() == [35, 7, 50]
    assert frames_of(onset, offset, "float32")[0].tolist() == [34, 7, 50]
    assert frames_of(onset - 1, np.array([1.4, 0.28, 2.0]), "float32")[1].tolist() == [35, 8, 50]
    ms = np.arange(10_001) / 1000
    public = ms.astype(np.float32).astype(np.float64) / 0.04
    first, end = frames_of(ms, ms, "float32")
    np.testing.assert_array_equal(first, np.clip(np.floor(public), 0, 250))
    np.testing.assert_array_equal(end, np.clip(np.ceil(public), 0, 250))
    exact = frames_of(ms, ms)
    assert set(exact[0] - first) == set(end - exact[1]) == {0, 1}
    rng = np.random.default_rng(0)
    onset = rng.integers(0, 9000, 100_000) / 1000
    offset = onset + rng.integers(1, 2000, 100_000) / 1000
    frames = [np.subtract(*frames_of(onset, offset, times)).sum() for times in ("exact", "float32")]
    assert frames[1] / frames[0] - 1 == pytest.approx(0.001, abs=2e-4)


def test_events_of_no_length_are_one_frame_off_the_grid_and_none_on_it(tmp_path):
    file = tmp_path / "events.tsv"
    file.write_text(
        "filename\tonset\toffset\tevent_label\n"
        "x0.wav\t1.01\t1.01\ta\nx0.wav\t2.0\t2.0\ta\nx0.wav\t3.0\t3.1\tb\nx1.wav\t4.5\t4.5\tc\n"
    )
    assert len(read_events(file)) == 1
    kept = read_events(file, zero_length="keep")
    assert len(kept) == 4
    start, end = frames_of(kept.onset_s, kept.offset_s)
    by_onset = dict(zip(kept.onset_s.tolist(), zip(start, end, strict=True), strict=True))
    assert by_onset == {1.01: (25, 26), 2.0: (50, 50), 3.0: (75, 78), 4.5: (112, 113)}
    scored = kept.with_length()  # an evaluation has no use for them
    assert (scored.clips, scored.labels, len(scored)) == (["x0"], ["b"], 1)


def test_frames_that_two_events_of_a_class_share_count_once():
    clips = Memory({f"x{i}": sound(10.0, 16000, i) for i in range(3)}, 16000)
    rows = [("x0", "a", 10, 50), ("x0", "a", 60, 90), ("x0", "b", 0, 1000), ("x1", "a", 0, 400)]
    rows += [("x2", "a", 3990, 4001), ("x2", "a", 4002, 4030), ("x2", "a", 4035, 4041)]
    train = clip_set(clips, events=rows)
    counts = {(0, 0): 3, (0, 1): 25, (1, 0): 10, (2, 0): 3}  # (clip, class): union of frames
    clip, label = np.array(list(counts)).T
    expected = balanced_weights(clip, label, np.array(list(counts.values())), 3, 30.0)
    np.testing.assert_allclose(train.weights(30.0), expected, rtol=1e-12)
    total = {c: sum(n for (_, k), n in counts.items() if k == c) for c in (0, 1)}
    by_hand = 3 * 1000 / (30 + total[0]) + 25 * 1000 / (30 + total[1])
    assert train.weights(30.0)[0] == pytest.approx(by_hand)


def test_the_first_of_several_channels_can_be_read_instead_of_their_mean(tmp_path):
    left, right = 0.5 * np.ones(1600), -0.25 * np.ones(1600)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 16000, subtype="PCM_16")
    clips = open_clips(tmp_path)
    assert set(clips.read(0)[0]) == {4096}
    clips.channels = "first"
    assert set(clips.read(0)[0]) == {16384}


# Spectrograms and their augmentations


def test_a_floor_over_the_batch_makes_a_quiet_clip_depend_on_a_loud_one():
    noise = torch.randn(2, 16000, generator=seeded())
    batch = torch.stack([0.5 * noise[0], 1e-4 * noise[1]])
    per_clip, per_batch = ATSTMel()(batch), ATSTMel(floor="batch")(batch)
    assert torch.equal(per_clip[0], per_batch[0])
    torch.testing.assert_close(ATSTMel(floor="batch")(batch[1:]), per_clip[1:])
    scale = 2 / (50.6842 + 79.6482)
    floor = per_clip[0].max() - 80 * scale
    assert per_clip[1].min() < floor - 5 * scale
    torch.testing.assert_close(per_batch[1], per_clip[1].clamp(min=float(floor)))


def own_shares(share: str) -> np.ndarray:
    """What clips keep of themselves, told by labels that each has alone."""
    n, diagonals = 1500, []  # so many that hardly one is mixed with itself
    for seed in range(4):
        spec, mine = torch.zeros(n, 1, 1, 1), Targets(None, torch.eye(n))
        _, mixed = mixup(spec, mine, seeded(seed), 1.0, 0.2, share)
        diagonals.append(mixed.weak.diagonal().numpy())
    return np.concatenate(diagonals)


def test_mixing_as_the_small_students_leaves_any_share_of_a_clip():
    whole, folded = own_shares("whole"), own_shares("folded")
    assert whole.min() < 0.01 < 0.99 < whole.max()
    assert whole.mean() == pytest.approx(0.5, abs=0.03)  # of Beta(0.2, 0.2); a few draws gave 0.54
    assert folded.min() >= 0.5
    assert folded.mean() == pytest.approx(0.91, abs=0.01)
    inside = (whole > 1e-3) & (whole < 1 - 1e-3)  # float32 rounds what is nearer to the ends
    low, high = stats.beta(0.2, 0.2).cdf([1e-3, 1 - 1e-3])
    uniform = (stats.beta(0.2, 0.2).cdf(whole[inside]) - low) / (high - low)
    assert stats.kstest(uniform, "uniform").pvalue > ALIKE


@pytest.mark.parametrize("n_mels", [64, 80, 128])
def test_a_filter_as_published_holds_the_gain_of_an_edge_for_two_bins(n_mels):
    counts, widths = set(), []
    for seed in range(100):
        flat = torch.ones(4, 1, n_mels, 1)
        factor = filter_augment(flat, seeded(seed), 1.0, 1.0, mode="reference")[:, 0, :, 0]
        gain = 20 * factor.double().log10().numpy()
        held = np.abs(np.diff(gain)).max(0) < 1e-5  # in all clips: their edges are shared
        edges = [0, *(np.flatnonzero(held) + 1), n_mels]
        counts.add(len(edges) - 1)
        widths += list(np.diff(edges))
        for first, end in zip(edges[:-1], edges[1:], strict=True):
            ramp = np.linspace(gain[:, first], gain[:, end - 1], end - first, axis=1)
            np.testing.assert_allclose(gain[:, first:end], ramp, atol=1e-4)
        assert np.abs(gain).max() <= 6 + 1e-4
    assert counts == {3, 4, 5}
    assert min(widths) == 6


def test_a_published_time_mask_never_reaches_the_last_frame():
    ends = {True: set(), False: set()}
    spec, targets = torch.ones(1, 1, 2, 1000), Targets(torch.ones(1, 1, 250))
    for end, frames in ends.items():
        for seed in range(2000):
            _, masked = time_mask(spec, targets, seeded(seed), 1.0, end=end)
            frames.add(int((masked.strong[0, 0] == 0).nonzero().max()))
    assert max(ends[True]) == 249
    assert max(ends[False]) == 248


# Optimiser


def test_the_top_block_of_a_small_student_learns_at_the_full_rate():
    model = small("frame_mn06")
    for start, top in ((0, 1.0), (1, 0.9)):
        optim = Optim(lr=6e-3, layer_decay=0.9, layer_decay_from=start)
        param_groups = groups(model, optim)
        rates = {id(p): group["lr"] / 6e-3 for group in param_groups for p in group["params"]}
        names = {name: rates[id(p)] for name, p in model.named_parameters()}
        of = {n: {r for key, r in names.items() if f"features.{n}." in key} for n in range(17)}
        for depth, rate in of.items():
            assert list(rate) == [pytest.approx(top * 0.9 ** (16 - depth))]
        assert {r for key, r in names.items() if key.startswith("head.")} == {1.0}
        assert len({group["name"] for group in param_groups}) == len(param_groups)
    assert 0.9**16 == pytest.approx(0.185, abs=5e-4)


@pytest.mark.parametrize(("name", "decay"), [("adamw", 0.01), ("adam", 0.0)])
def test_vectors_decay_under_adamw_and_not_under_adam(name, decay):
    model = small("beats")
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optim = Optim(name=name, lr=0.1, vector_decay=0.01)
    optimizer(groups(model, optim), optim).step()
    for key, parameter in model.named_parameters():
        shrunk = 1 - 0.1 * decay if parameter.ndim < 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[key] * shrunk)
    assert any(p.ndim < 2 and p.any() for p in before.values())


def test_the_published_exponential_schedule_has_no_warm_up():
    optim = Optim(schedule="exp", warmup_steps=0)
    for step in (0, 1, 391, 11_730):
        assert schedule(step, 11_730, optim) == pytest.approx(0.999996**step)


# Scores


def test_an_eleventh_segment_is_negative_and_scores_zero_as_in_the_public_evaluation():
    rng = np.random.default_rng(1)
    clips = [f"Y{i:03}" for i in range(60)]
    logits = rng.normal(-5, 0.3, (60, 1, 250))
    rows = [(clip, "a", 2.0, 5.0) for clip in clips]
    logits[:, 0, 50:125] += 0.3
    events = Events.from_columns(*zip(*rows, strict=True))
    heard = np.full(60, 10.0)
    whole = np.where(np.arange(60) % 20 == 0, 10.00984, heard)
    results = {}
    for name, seconds in {"heard": heard, "whole": whole}.items():
        results[name] = evaluate(logits, clips, ["a"], events, seconds)
        tables = {
            clip: create_score_dataframe(logits[i].T, np.arange(251) * 0.04, ["a"])
            for i, clip in enumerate(clips)
        }
        spans = {clip: [(2.0, 5.0, "a")] for clip in clips}
        durations = dict(zip(clips, seconds.tolist(), strict=True))
        area, _ = segment_based.auroc(tables, spans, durations, segment_length=1.0, max_fpr=0.1)
        assert results[name].scores["pauroc"] == pytest.approx(area["a"], abs=1e-9)
    assert 0.002 < results["heard"].scores["pauroc"] - results["whole"].scores["pauroc"]
    told = {name: result.conventions["pauroc"] for name, result in results.items()}
    assert "durations of at most the 10 s of scores" in told["heard"]
    assert "durations of whole clips: a segment behind the 10 s of scores" in told["whole"]


def test_an_evaluation_says_which_durations_it_used(tmp_path, capsys):
    audio = tmp_path / "audio"
    audio.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        samples = 0.1 * rng.standard_normal(320_001 if i else 160_000)
        soundfile.write(audio / f"{i}.wav", samples, 32000, subtype="PCM_16")
    rows = "".join(f"{i}.wav\t1.0\t{2 + i}.0\t{'ab'[i % 2]}\n" for i in range(3))
    (tmp_path / "events.tsv").write_text("filename\tonset\toffset\tevent_label\n" + rows)
    save_checkpoint(
        load("frame_mn02", stage=None, n_classes=2, seed=0), tmp_path / "model.pt", ["a", "b"]
    )
    results = {}
    for durations in ("heard", "whole"):
        options = ["--durations", durations, "--workers", "0", "--device", "cpu", "--events"]
        options += [str(tmp_path / "events.tsv"), "--audio", str(audio)]
        assert command.main(["evaluate", str(tmp_path / "model.pt"), *options]) == 0
        results[durations] = json.loads(capsys.readouterr().out)
    assert "at most the 10 s" in results["heard"]["convention"]["pauroc"]
    assert "whole clips" in results["whole"]["convention"]["pauroc"]
    assert results["heard"]["clips"] == results["whole"]["clips"] == 3


def test_a_published_validation_loss_is_the_mean_of_the_means_of_batches():
    clips = Memory({f"x{i}": sound(10.0, 16000, i) for i in range(5)}, 16000)
    evaluation = clip_set(clips, events=[(f"x{i}", "a", 0, 900) for i in range(5)])
    events = Events.from_columns([f"x{i}" for i in range(5)], ["a"] * 5, np.zeros(5), np.ones(5))
    losses = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    for size, unreadable, want in ((1, [], 6.2), (2, [], 23.5 / 3), (2, [2, 3], 17.5 / 2)):
        options = Evaluation(median=1, batch=size, loss_mean="batches")
        scores = Scores(evaluation, events, FrameLabels(), options)
        strong = scores.filtered(torch.zeros(5, 5, 250))
        ok = torch.tensor([i not in unreadable for i in range(5)])
        seconds, weak = torch.full((5,), 10.0), torch.zeros(5, 5)
        loss = torch.from_numpy(losses)
        scores.add(torch.arange(5), ok, seconds, strong, weak, weak, loss)
        assert scores.result()["loss"] == pytest.approx(want)
