"""Which clips make which batch."""

from itertools import islice

import numpy as np
import pytest

from training.data.sampling import EvalPicks, Picks, Plan, TrainPicks, balanced_weights

PLAN = Plan(clips=103, epoch_clips=103, epochs=3, batch=12, accumulate=1)


def train_picks(plan: Plan = PLAN, weights=None, replacement=True, seed=0, **options) -> TrainPicks:
    return TrainPicks(plan, weights, replacement, seed, **options)


def own(picks: Picks) -> np.ndarray:
    """The clips of the batch, without those mixed in."""
    return picks.clips[: len(picks.partner)]


def mixed(picks: Picks) -> np.ndarray:
    """Which clips of the batch get another mixed in."""
    return picks.partner != np.arange(len(picks.partner))


def assert_equal(a: Picks, b: Picks) -> None:
    assert a.step == b.step
    for x, y in zip(a[1:], b[1:], strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("partner", ["dataset", "batch"])
@pytest.mark.parametrize("balanced", [False, True])
def test_a_run_resumed_at_any_step_draws_the_same_clips(balanced, partner):
    weights = np.arange(1.0, 104) if balanced else None
    options = {"weights": weights, "wavmix_p": 0.5, "partner": partner}
    undisturbed = list(train_picks(**options))
    assert [picks.step for picks in undisturbed] == list(range(PLAN.micro_steps))
    assert len(train_picks(**options)) == PLAN.micro_steps
    for start in (0, 1, 8, 9, 17, PLAN.micro_steps - 1, PLAN.micro_steps):
        resumed = list(train_picks(**options, start=start))
        assert len(resumed) == PLAN.micro_steps - start
        for a, b in zip(undisturbed[start:], resumed, strict=True):
            assert_equal(a, b)
    backwards = train_picks(**options)
    for step in (20, 3, 9, 0):
        assert_equal(backwards.at(step), undisturbed[step])


def test_seeds_draw_different_clips_and_epochs_different_orders():
    first = np.concatenate([own(picks) for picks in train_picks()])
    other = np.concatenate([own(picks) for picks in train_picks(seed=1)])
    assert (first != other).mean() > 0.9
    assert (first[:103] != first[103:206]).mean() > 0.9


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_devices_share_the_batches_of_one_device(world, accumulate):
    weights = np.linspace(1, 2, 103)
    plan = Plan(103, 103, 2.5, 12, accumulate)
    for given in (None, weights):
        whole = list(train_picks(plan, given, wavmix_p=0.4))
        parts = [
            list(train_picks(plan, given, wavmix_p=0.4, rank=rank, world=world))
            for rank in range(world)
        ]
        assert {len(part) for part in parts} == {plan.micro_steps}
        for step, alone in enumerate(whole):
            shared = [part[step] for part in parts]
            np.testing.assert_array_equal(np.concatenate([own(p) for p in shared]), own(alone))
            both = np.concatenate([mixed(p) for p in shared])
            np.testing.assert_array_equal(both, mixed(alone))
            partners = np.concatenate([p.clips[len(p.partner) :] for p in shared])
            np.testing.assert_array_equal(partners, alone.clips[len(alone.partner) :])


@pytest.mark.parametrize("accumulate", [2, 3, 4])
def test_parts_of_a_batch_hold_the_clips_of_the_whole(accumulate):
    whole, cut = train_picks(), train_picks(Plan(103, 103, 3, 12, accumulate))
    assert cut.plan.steps == PLAN.steps
    for step in range(PLAN.steps):
        parts = [own(cut.at(step * accumulate + i)) for i in range(accumulate)]
        np.testing.assert_array_equal(np.concatenate(parts), own(whole.at(step)))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("clips", "batch"), [(60, 12), (103, 12), (7, 12), (11, 6)])
def test_uniform_sampling_hears_every_clip_once_per_epoch(clips, batch, world):
    plan = Plan(clips, clips, 12, batch, 1)
    ranks = [train_picks(plan, rank=rank, world=world) for rank in range(world)]
    steps = zip(*ranks, strict=True)
    stream = np.concatenate([np.concatenate([own(p) for p in step]) for step in steps])
    whole = stream[: len(stream) // clips * clips].reshape(-1, clips)
    assert len(whole) >= 11
    assert (np.sort(whole, 1) == np.arange(clips)).all()


def test_a_shorter_epoch_is_a_random_part_of_the_clips():
    plan = Plan(50, 20, 100, 10, 1)
    epochs = np.concatenate([own(p) for p in train_picks(plan)]).reshape(100, 20)
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    counts = np.bincount(epochs.ravel(), minlength=50)
    assert np.abs(counts - 40).max() < 5 * np.sqrt(100 * 0.4 * 0.6)


def test_a_plan_counts_the_steps_of_fractional_epochs():
    assert Plan(100_000, 100_000, 30, 256, 1).steps == 11719
    assert Plan(103, 103, 0.06, 12, 4).steps == 1
    with pytest.raises(ValueError, match="no step would be made; give optim.epochs 0.116505 or"):
        Plan(103, 103, 0.05, 12, 4).steps  # noqa: B018
    plan = Plan(100, 100, 2.5, 10, 5)
    assert (plan.steps, plan.micro_steps, plan.steps_in(0.5), plan.steps_in(0)) == (25, 125, 5, 1)


def annotation(clips: int = 40, classes: int = 6, events: int = 150, seed: int = 0):
    rng = np.random.default_rng(seed)
    label = np.minimum(rng.geometric(0.5, events) - 1, classes - 1)
    return rng.integers(clips - 2, size=events), label, rng.integers(1, 250, events)


@pytest.mark.parametrize("offset", [0.0, 30.0, 1000.0])
def test_weights_equal_their_formula_on_a_dense_table(offset):
    clip, label, frames = annotation()
    n = np.zeros((40, 6))
    for i, c, k in zip(clip, label, frames, strict=True):
        n[i, c] += k
    expected = np.array([sum(n[i] * 1000 / (offset + n.sum(0))) for i in range(40)])
    weights = balanced_weights(clip, label, frames, 40, offset)
    np.testing.assert_allclose(weights[expected > 0], expected[expected > 0], rtol=1e-12)
    # Clips without events, of which two are the last, can be drawn but practically are not.
    assert (expected[-2:] == 0).all()
    assert (0 < weights[-2:]).all()
    assert (weights[-2:] < 1e-30).all()


def test_balanced_sampling_draws_clips_in_proportion_to_their_weights():
    weights = balanced_weights(*annotation(), 40, 30.0)
    plan = Plan(40, 1000, 40, 20, 1)
    drawn = np.concatenate([own(p) for p in train_picks(plan, weights)])
    assert len(drawn) == 40_000
    expected = weights / weights.sum() * len(drawn)
    likely = expected > 5
    assert likely.sum() > 30
    chi_square = (
        (np.bincount(drawn, minlength=40) - expected)[likely] ** 2 / expected[likely]
    ).sum()
    free = likely.sum() - 1
    assert chi_square < free + 5 * np.sqrt(2 * free)
    uniform = ((np.bincount(drawn, minlength=40) - 1000) ** 2 / 1000).sum()
    assert uniform > 100 * free


def test_balanced_sampling_lifts_the_rarer_half_of_the_classes():
    clip, label, frames = annotation(400, 8, 1500)
    weights = balanced_weights(clip, label, frames, 400, 30.0)
    active = np.zeros((400, 8))
    np.add.at(active, (clip, label), frames)
    rare = active.sum(0).argsort()[:4]
    shares = []
    for given in (None, weights):
        drawn = np.concatenate([own(p) for p in train_picks(Plan(400, 400, 25, 40, 1), given)])
        heard = active[drawn].sum(0)
        shares.append(heard[rare].sum() / heard.sum())
    assert shares[1] > 1.5 * shares[0]


def test_without_replacement_no_clip_comes_twice_and_heavy_ones_come_first():
    weights = np.repeat([1.0, 20.0], 50)
    plan = Plan(100, 90, 20, 10, 1)
    epochs = np.concatenate([own(p) for p in train_picks(plan, weights, replacement=False)])
    epochs = epochs.reshape(20, 90)
    assert all(len(set(epoch)) == 90 for epoch in epochs)
    assert (epochs[:, :30] >= 50).mean() > 0.8
    assert (epochs[:, -30:] >= 50).mean() < 0.2
    with_it = np.concatenate([own(p) for p in train_picks(plan, weights)]).reshape(20, 90)
    assert all(len(set(epoch)) < 90 for epoch in with_it)


def with_extra(part_batches: bool = False, **options) -> TrainPicks:
    """A run of 103 clips beside 103 of 211 extra ones, of which the upper half weigh more."""
    plan, extra = (Plan(clips, 103, 3, 12, 3, part_batches) for clips in (103, 211))
    place = {key: options[key] for key in ("rank", "world") if key in options}
    others = train_picks(extra, np.repeat([1.0, 50.0], [105, 106]), False, seed=5, **place)
    return train_picks(plan, wavmix_p=0.5, extra=others, **options)


@pytest.mark.parametrize("part_batches", [False, True])
def test_a_batch_has_as_many_extra_clips_as_others_at_any_step(part_batches):
    undisturbed = list(with_extra(part_batches))
    resumed = list(with_extra(part_batches, start=8))
    alone = list(train_picks(Plan(103, 103, 3, 12, 3, part_batches), wavmix_p=0.5))
    assert len(undisturbed) == len(alone) == len(resumed) + 8
    for picks, without in zip(undisturbed, alone, strict=True):
        assert picks.extra.step == picks.step
        assert len(own(picks.extra)) == len(own(picks)) == len(picks.extra.clips)
        assert_equal(picks._replace(extra=None), without)
    for picks, again in zip(undisturbed[8:], resumed, strict=True):
        assert_equal(picks.extra, again.extra)


def test_an_extra_clip_comes_once_in_an_epoch_and_devices_share_them():
    undisturbed = list(with_extra())
    epochs = np.concatenate([own(picks.extra) for picks in undisturbed])[: 2 * 103].reshape(2, 103)
    assert all(len(set(epoch)) == 103 for epoch in epochs)
    assert (epochs[:, :50] >= 105).mean() > 0.9
    devices = [own(with_extra(rank=rank, world=2).at(4).extra) for rank in range(2)]
    np.testing.assert_array_equal(np.concatenate(devices), own(undisturbed[4].extra))


def test_wavmix_takes_its_share_of_clips_and_partners_from_the_whole_set():
    weights = np.repeat([1.0, 100.0], [40, 10])  # partners are uniform whatever the weights
    plan = Plan(50, 1000, 20, 50, 1)
    picks = list(train_picks(plan, weights, wavmix_p=0.3))
    share = np.concatenate([mixed(p) for p in picks])
    assert abs(share.mean() - 0.3) < 5 * np.sqrt(0.21 / len(share))
    partners = np.concatenate([p.clips[len(p.partner) :] for p in picks])
    assert len(partners) == share.sum()
    expected = len(partners) / 50
    chi_square = ((np.bincount(partners, minlength=50) - expected) ** 2 / expected).sum()
    assert chi_square < 49 + 5 * np.sqrt(98)
    for one in picks:
        rows = one.partner[mixed(one)]
        assert rows.tolist() == list(range(len(one.partner), len(one.clips)))
    assert not any(mixed(p).any() for p in train_picks(plan, weights))
    assert all(mixed(p).all() for p in train_picks(plan, weights, wavmix_p=1.0))


def test_wavmix_within_the_batch_reads_no_second_clip():
    picks = list(train_picks(wavmix_p=0.5, partner="batch"))
    assert all(len(one.clips) == len(one.partner) == 12 for one in picks)
    share = np.concatenate([mixed(one) for one in picks])
    assert 0.3 < share.mean() < 0.7
    shifts = {
        int((one.partner - np.arange(12))[mixed(one)][0] % 12) for one in picks if mixed(one).any()
    }
    assert len(shifts) > 5


def test_crops_are_uniform_and_one_for_each_clip():
    picks = list(train_picks(Plan(50, 50, 100, 50, 1), wavmix_p=0.5))
    assert all(len(one.crops) == len(one.clips) for one in picks)
    crops = np.concatenate([one.crops for one in picks])
    counts = np.histogram(crops, 10, (0, 1))[0]
    assert np.abs(counts - len(crops) / 10).max() < 5 * np.sqrt(len(crops) * 0.09)


def test_bad_sizes_are_refused_in_one_line():
    with pytest.raises(ValueError, match="12 in 2 parts .* by 4 devices; make it a multiple of 8"):
        train_picks(Plan(103, 103, 3, 12, 2), world=4)
    with pytest.raises(ValueError, match="no clip to train on; see the coverage report"):
        Plan(0, 0, 3, 12, 1)
    for options in ({}, {"weights": np.ones(103), "replacement": False}):
        with pytest.raises(ValueError, match="epochs of 104 of 103 clips.*sampling.epoch_clips"):
            train_picks(Plan(103, 104, 3, 12, 1), **options)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("clips", [1, 8, 9, 24, 25])
def test_evaluation_scores_every_clip_in_as_many_batches_on_every_device(clips, world):
    ranks = [list(EvalPicks(clips, 4, rank, world)) for rank in range(world)]
    assert {len(rank) for rank in ranks} == {len(EvalPicks(clips, 4, 0, world))}
    steps = [np.concatenate([p.clips for p in step]) for step in zip(*ranks, strict=True)]
    stream = np.concatenate(steps)
    np.testing.assert_array_equal(stream[:clips], np.arange(clips))
    assert (stream[clips:] == clips - 1).all()
    assert len(stream) - clips < 4 * world
    for picks in islice(ranks[0], 3):
        assert not picks.crops.any()
        assert picks.step == -1
        assert not mixed(picks).any()
