"""Augmentations: their statistics, and what they do to spectrograms, labels and pseudo-labels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from training_parts import ALIKE, random_batch, seeded

from training.augment import (
    Targets,
    augment,
    filter_augment,
    frame_shift,
    freq_warp,
    mixstyle,
    mixup,
    time_mask,
    wavmix,
)

DEFAULTS = {"frame_shift": 0.125, "mixup_p": 0.3, "mixup_alpha": 0.2, "mixstyle_p": 0.3}
DEFAULTS |= {"mixstyle_alpha": 0.4, "time_mask": 0.2, "time_mask_pseudo": True, "filter_p": 0.8}
DEFAULTS |= {"filter_db": 6.0, "filter_mode": "log", "warp_p": 0.8, "warp_min": 0.6}
DEFAULTS |= {"mixup_share": "folded", "time_mask_end": True}


def options(**changes) -> SimpleNamespace:
    return SimpleNamespace(**DEFAULTS | changes)


def all_of_them(spec: torch.Tensor, targets: Targets, seed: int, p: float = 1.0, **changes):
    chosen = {"mixup_p": p, "mixstyle_p": p, "filter_p": p, "warp_p": p}
    return augment(spec, targets, options(**chosen | changes), seeded(seed), 0.05)


def folded_beta(a: float):
    """Distribution function of the lesser share, min(x, 1 - x) for x from Beta(a, a)."""
    return lambda share: 2 * stats.beta(a, a).cdf(share)


def shares_and_partners(mixed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of (B, B) rows made from the unit matrix: clips that were mixed, their partner and share."""
    off = mixed * (1 - np.eye(len(mixed)))
    assert ((off > 0).sum(1) <= 1).all()
    rows = np.flatnonzero(off.max(1))
    partners = off.argmax(1)[rows]
    np.testing.assert_allclose(mixed.sum(1), 1, atol=1e-6)
    return rows, partners, off[rows, partners].astype(float)


# Mixing of audio


def wavmix_batch(n: int, mixed: torch.Tensor | None = None):
    """Clips and behind them partners, whose shares the mixture shows; own label 1, partner's 0."""
    own = torch.tensor([1.0, -1, 0, 0]).repeat(n, 1) + 3.0
    partner = torch.tensor([0.0, 0, 1, -1]).repeat(n, 1) - 5.0
    frames, clip = torch.ones(n, 2, 250), torch.ones(n, 2)
    ones = Targets(frames, clip, frames * 0.5, clip)
    rows = torch.arange(n)
    return (
        torch.cat([own, partner]),
        ones.map(lambda target: torch.cat([target, torch.zeros_like(target)])),
        rows + n if mixed is None else torch.where(mixed, rows + n, rows),
    )


def test_wavmix_draws_folded_beta_weights_and_mixes_audio_and_targets_alike():
    audio, targets = wavmix(*wavmix_batch(2000), seeded())
    own, partner = audio[:, 0].double().numpy(), audio[:, 2].double().numpy()
    np.testing.assert_allclose(own + partner, 1, atol=1e-5)
    np.testing.assert_allclose(audio.mean(-1), 0, atol=1e-6)
    assert own.min() >= 0.5
    cdf = folded_beta(2)
    assert cdf(0.2) == pytest.approx(2 * (3 * 0.2**2 - 2 * 0.2**3))
    assert stats.kstest(partner, cdf).pvalue > ALIKE
    strong, weak, soft, known = (t.numpy() for t in targets)
    np.testing.assert_allclose(strong, np.broadcast_to(own[:, None, None], strong.shape), atol=1e-5)
    np.testing.assert_allclose(weak, np.broadcast_to(own[:, None], weak.shape), atol=1e-5)
    np.testing.assert_allclose(soft, strong / 2, atol=1e-6)
    np.testing.assert_array_equal(known, weak)


def test_wavmix_leaves_targets_of_unmixed_clips_and_removes_every_mean():
    mixed = torch.tensor([True, False] * 3)
    rows, given, partner = wavmix_batch(6, mixed)
    audio, targets = wavmix(rows, given, partner, seeded())
    for got, rows_of_target in zip(targets, given, strict=True):
        want = rows_of_target[:6]
        assert torch.equal(got[~mixed], want[~mixed])
        assert (got[mixed] < want[mixed]).all()
    torch.testing.assert_close(audio[~mixed], rows[:6][~mixed] - 3.0)
    assert audio.mean(-1).abs().max() < 1e-6


def test_wavmix_as_published_keeps_the_mean_of_unmixed_clips():
    mixed = torch.tensor([True, False] * 3)
    rows, targets, partner = wavmix_batch(6, mixed)
    fixed, _ = wavmix(rows, targets, partner, seeded())
    published, _ = wavmix(rows, targets, partner, seeded(), remove_mean="mixed")
    assert torch.equal(published[mixed], fixed[mixed])
    assert torch.equal(published[~mixed], rows[:6][~mixed])


# Shift in time


def test_frame_shift_is_a_truncated_normal_of_an_eighth_of_the_clip():
    n = 4000
    spec, strong = torch.zeros(n, 1, 1, 1000), torch.zeros(n, 1, 250)
    spec[..., 500], strong[..., 125] = 1.0, 1.0
    spec, (strong, _, soft, _) = frame_shift(spec, Targets(strong, soft=strong * 0.5), seeded())
    shift = spec[:, 0, 0].argmax(-1).numpy() - 500
    assert np.std(shift) == pytest.approx(125, rel=0.02)
    spread = shift + np.random.default_rng(0).uniform(0, 1, n) * np.sign(shift)  # undo int()
    assert stats.kstest(spread[shift != 0], stats.norm(0, 125).cdf).pvalue > ALIKE
    assert (spec.sum((1, 2, 3)) == 1).all()
    want = (125 + np.round(shift / 4)) % 250  # NumPy rounds half to even
    np.testing.assert_array_equal(strong[:, 0].argmax(-1), want)
    np.testing.assert_array_equal(soft[:, 0].argmax(-1), want)


def test_frame_shift_cuts_the_fraction_of_its_draw_towards_zero():
    n = 4000
    spec, strong = torch.zeros(n, 1, 1, 1000), torch.zeros(n, 1, 250)
    spec[..., 500] = 1.0
    spec, _ = frame_shift(spec, Targets(strong), seeded(), 0.002)  # a deviation of 2 frames
    shift = spec[:, 0, 0].argmax(-1).numpy() - 500
    inside = stats.norm(0, 2).cdf([-3, -2, -1, 1, 2, 3])
    shares = np.diff(inside, prepend=0, append=1)  # below -2, -2, -1, 0, 1, 2, above 2
    counts = np.bincount(shift.clip(-3, 3) + 3, minlength=7)
    assert stats.chisquare(counts, shares * n).pvalue > ALIKE


@pytest.mark.parametrize("n_frames", [998, 1000, 1001])
def test_sound_and_label_stay_together_when_shifted(n_frames):
    n = 2000
    at = torch.from_numpy(np.random.default_rng(0).integers(0, n_frames, n))
    spec, strong = torch.zeros(n, 1, 1, n_frames), torch.zeros(n, 1, 250)
    spec[torch.arange(n), 0, 0, at] = 1.0
    strong[torch.arange(n), 0, (at // 4).clamp(max=249)] = 1.0
    spec, (strong, *_) = frame_shift(spec, Targets(strong), seeded(1), 0.3)
    sound = spec[:, 0, 0].argmax(-1) // 4
    apart = (sound - strong[:, 0].argmax(-1)).abs()
    assert torch.minimum(apart, 250 - apart).max() <= 1
    assert (sound != at // 4).float().mean() > 0.9


def test_frame_shift_rolls_every_clip_by_its_own_amount_and_keeps_labels_of_clips():
    spec, targets = random_batch()
    shifted, (strong, weak, soft, known) = frame_shift(spec, targets, seeded())
    assert weak is targets.weak
    assert known is targets.known
    amounts = set()
    for i in range(len(spec)):
        row = spec[i, 0, 0]
        rolls = [k for k in range(1000) if torch.equal(shifted[i, 0, 0], row.roll(k))]
        assert len(rolls) == 1
        assert torch.equal(shifted[i], spec[i].roll(rolls[0], -1))
        k = rolls[0] - 1000 * (rolls[0] > 500)
        amounts.add(k)
        label_roll = int(np.round(k / 4))
        assert torch.equal(strong[i], targets.strong[i].roll(label_roll, -1))
        assert torch.equal(soft[i], targets.soft[i].roll(label_roll, -1))
    assert len(amounts) == len(spec)


# Mixup and mixstyle


def test_mixup_draws_folded_beta_weights_and_mixes_spectrograms_and_targets_alike():
    n = 1500
    unit = torch.eye(n)
    targets = Targets(unit[:, :, None], unit, unit[:, :, None] * 0.5, 1 - unit)
    spec, (strong, weak, soft, known) = mixup(unit[:, None, :, None], targets, seeded(), p=1.0)
    rows, partners, share = shares_and_partners(spec[:, 0, :, 0].numpy())
    assert len(rows) > n - 100  # the rest is its own partner, or has a share of almost nothing
    assert len(set(partners)) == len(partners)
    assert share.max() <= 0.5
    assert stats.kstest(share, folded_beta(0.2)).pvalue > ALIKE
    torch.testing.assert_close(strong, spec[:, 0])
    torch.testing.assert_close(weak, spec[:, 0, :, 0])
    torch.testing.assert_close(soft, spec[:, 0] / 2)
    torch.testing.assert_close(known, 1 - weak)


def test_mixed_targets_stay_probabilities():
    spec, targets = random_batch()
    certain = Targets(*(torch.ones_like(t) for t in targets))
    for seed in range(20):
        _, mixed = mixup(spec, certain, seeded(seed), p=1.0)
        assert all(t.max() <= 1 for t in mixed)


def test_mixstyle_mixes_mean_and_deviation_of_each_band_with_another_clip():
    n, n_frames = 300, 12
    rng = np.random.default_rng(0)
    shape = rng.normal(size=(n, n, n_frames)) * rng.uniform(0.1, 3, (n, n, 1))
    x = shape - shape.mean(-1, keepdims=True) + np.eye(n)[:, :, None]  # means: unit matrix
    spec = torch.from_numpy(x)[:, None]
    got = mixstyle(spec, seeded(), p=1.0)[:, 0].numpy()
    rows, partners, share = shares_and_partners(got.mean(-1).round(7))
    assert len(rows) > n - 15
    assert share.max() <= 0.5
    assert stats.kstest(share, folded_beta(0.4)).pvalue > ALIKE
    mean, deviation = x.mean(-1), np.sqrt(x.var(-1, ddof=1) + 1e-6)
    own, c = 1 - share[:, None], share[:, None]
    new_mean = own * mean[rows] + c * mean[partners]
    new_deviation = own * deviation[rows] + c * deviation[partners]
    normal = (x[rows] - mean[rows][..., None]) / deviation[rows][..., None]
    want = normal * new_deviation[..., None] + new_mean[..., None]
    np.testing.assert_allclose(got[rows], want, atol=1e-5)


# Time mask


@pytest.mark.parametrize("n_frames", [998, 1000, 1001])
def test_a_time_mask_blanks_sound_labels_and_pseudo_labels_together(n_frames):
    spec, targets = random_batch(n_frames, n=2)
    spec = spec[:, :, :4]
    ones = Targets(*(torch.ones_like(t) for t in targets))
    widths, starts = [], []
    for seed in range(200):
        masked, (strong, weak, soft, known) = time_mask(spec, ones, seeded(seed), 0.1)
        blank = np.flatnonzero((strong == 0).all(1).all(0))
        widths.append(len(blank))
        starts.append(blank[0])
        np.testing.assert_array_equal(blank, np.arange(blank[0], blank[0] + len(blank)))
        want = spec.clone()
        want[..., 4 * blank[0] : 4 * (blank[-1] + 1)] = 0
        assert torch.equal(masked, want)
        assert torch.equal(strong, soft)
        assert strong.sum() == strong.numel() * (1 - len(blank) / 250)
        assert (weak is ones.weak) and (known is ones.known)
    assert set(widths) == set(range(12, 25))
    assert min(starts) < 10
    assert max(s + w for s, w in zip(starts, widths, strict=True)) > 240


def test_a_time_mask_as_published_leaves_the_pseudo_labels():
    spec, targets = random_batch()
    fixed = time_mask(spec, targets, seeded(), 0.2)
    published = time_mask(spec, targets, seeded(), 0.2, pseudo=False)
    assert torch.equal(published[0], fixed[0])
    assert torch.equal(published[1].strong, fixed[1].strong)
    assert published[1].soft is targets.soft
    assert not torch.equal(fixed[1].soft, targets.soft)


@pytest.mark.parametrize("ratio", [0.01, 0.05, -0.1, 1.1])
def test_a_time_mask_without_a_width_to_draw_is_refused(ratio):
    spec, targets = random_batch()
    with pytest.raises(ValueError, match=rf"at most {ratio} of the clip; it must be 0 \(off\)"):
        time_mask(spec, targets, seeded(), ratio)


# All of them


@pytest.mark.parametrize(
    "change",
    [
        lambda spec, targets, g: mixup(spec, targets, g, p=0.3)[0],
        lambda spec, targets, g: mixstyle(spec, g, p=0.3),
        lambda spec, targets, g: filter_augment(spec, g, 0.3, 0.05),
        lambda spec, targets, g: freq_warp(spec, g, 0.3),
    ],
    ids=["mixup", "mixstyle", "filter_augment", "freq_warp"],
)
def test_probabilities_are_drawn_once_per_batch(change):
    spec, targets = random_batch(n_frames=8, n=2)
    generator = seeded()
    changed = [change(spec, targets, generator) is not spec for _ in range(500)]
    assert stats.binomtest(sum(changed), 500, 0.3).pvalue > ALIKE


def test_nothing_changes_where_all_is_switched_off():
    spec, targets = random_batch()
    got, labels = all_of_them(spec, targets, 0, p=0.0, frame_shift=0.0, time_mask=0.0)
    assert torch.equal(got, spec)
    for a, b in zip(labels, targets, strict=True):
        assert torch.equal(a, b)


def test_augmentations_run_in_the_published_order():
    spec, targets = random_batch()
    got, labels = all_of_them(spec, targets, 0)
    g = seeded()
    want, expected = frame_shift(spec, targets, g, 0.125)
    want, expected = mixup(want, expected, g, 1.0, 0.2)
    want = mixstyle(want, g, 1.0, 0.4)
    want, expected = time_mask(want, expected, g, 0.2)
    want = freq_warp(filter_augment(want, g, 1.0, 0.05, 6.0), g, 1.0, 0.6)
    assert torch.equal(got, want)
    assert all(torch.equal(a, b) for a, b in zip(labels, expected, strict=True))


def test_every_option_of_the_recipe_counts():
    spec, targets = random_batch()
    base = all_of_them(spec, targets, 0)
    changes = {"frame_shift": 0.2, "mixup_alpha": 2.0, "mixstyle_alpha": 2.0, "time_mask": 0.9}
    changes |= {"time_mask_pseudo": False, "filter_db": 3.0, "filter_mode": "reference"}
    changes |= {"warp_min": 0.95, "mixup_p": 0, "mixstyle_p": 0, "filter_p": 0, "warp_p": 0}
    changes |= {"mixup_share": "whole", "time_mask_end": False}
    assert changes.keys() == DEFAULTS.keys()
    for name, value in changes.items():
        got = all_of_them(spec, targets, 0, **{name: value})
        pairs = zip((got[0], *got[1]), (base[0], *base[1]), strict=True)
        same = [torch.equal(a, b) for a, b in pairs]
        assert not all(same), name


def test_inputs_are_left_alone_and_the_generator_alone_decides():
    spec, targets = random_batch()
    audio, rows, partner = wavmix_batch(4, torch.tensor([True, False, True, True]))
    tensors = [spec, *targets, audio, *rows, partner]
    before = [t.clone() for t in tensors]
    torch.manual_seed(1)
    first = all_of_them(spec, targets, 0)
    wave = wavmix(audio, rows, partner, seeded())
    torch.manual_seed(2)
    again = all_of_them(spec, targets, 0)
    other = all_of_them(spec, targets, 1)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(wave[0], wavmix(audio, rows, partner, seeded(), remove_mean="all")[0])
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize("n_frames", [998, 1000, 1001])
def test_shapes_and_types_stay(n_frames):
    spec, targets = random_batch(n_frames)
    half = Targets(*(t.half() for t in targets))
    for given in (targets, half, Targets(targets.strong), Targets(None, targets.weak)):
        got, labels = all_of_them(spec, given, 0)
        assert (got.shape, got.dtype) == (spec.shape, spec.dtype)
        assert got.isfinite().all()
        for a, b in zip(labels, given, strict=True):
            assert (a is b is None) or (a.shape, a.dtype) == (b.shape, b.dtype)


def test_a_batch_is_augmented_alike_whatever_targets_it_has():
    spec, targets = random_batch()
    want, every = all_of_them(spec, targets, 0)
    for name in Targets._fields:
        only = Targets(**{"strong": None, name: getattr(targets, name)})
        got, labels = all_of_them(spec, only, 0)
        assert torch.equal(got, want)
        assert torch.equal(getattr(labels, name), getattr(every, name))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_never_waited_for_and_gives_the_numbers_of_the_cpu():
    def run(device: str) -> list[torch.Tensor]:
        def move(targets: Targets) -> Targets:
            return Targets(*(t.to(device) for t in targets))

        spec, targets = random_batch()
        audio, rows, partner = wavmix_batch(4, torch.tensor([True, False, True, True]))
        spec, audio, partner = spec.to(device), audio.to(device), partner.to(device)
        targets, rows = move(targets), move(rows)
        torch.cuda.set_sync_debug_mode("error")
        try:
            spec, targets = all_of_them(spec, targets, 0)
            audio, rows = wavmix(audio, rows, partner, seeded())
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return [t.cpu() for t in (spec, *targets, audio, *rows)]

    for got, want in zip(run("cuda"), run("cpu"), strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
