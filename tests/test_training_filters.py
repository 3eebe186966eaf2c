"""Augmentations over frequency: random filters, and the warp of mel bands."""

import numpy as np
import pytest
import torch
from conftest import each_model
from scipy import stats
from training_parts import ALIKE, random_batch, seeded

from hear_ptsed.registry import MODELS
from training.augment import (
    filter_augment,
    freq_warp,
    per_db,
)

# Filter


def gains(seed: int, n: int = 64, n_mels: int = 128, **changes) -> np.ndarray:
    """Gains in dB (B, F) of the filters drawn with this seed."""
    return filter_augment(torch.zeros(n, 1, n_mels, 1), seeded(seed), 1.0, 1.0, **changes)[
        :, 0, :, 0
    ].numpy()


def corners(gain: np.ndarray) -> np.ndarray:
    """First and last bin, and those at which the slope of a gain (B, F) changes."""
    bends = np.abs(np.diff(gain, 2)).max(0) > 1e-4
    return np.array([0, *np.flatnonzero(bends) + 1, gain.shape[1] - 1])


@pytest.mark.parametrize("n_mels", [64, 80, 128])
def test_a_filter_has_three_to_five_bands_at_least_six_bins_wide_with_linear_ramps(n_mels):
    counts, widths, ends = [], [], []
    for seed in range(200):
        gain = gains(seed, n=8, n_mels=n_mels)
        at = corners(gain)
        for one in gain:
            np.testing.assert_allclose(one, np.interp(range(n_mels), at, one[at]), atol=1e-4)
        counts.append(len(at) - 1)
        widths.extend(np.diff(at))
        ends.append(gain[:, at])
    assert set(counts) == {3, 4, 5}
    assert min(np.bincount(counts)[3:]) > 45
    assert min(widths) == 6
    assert max(widths) > n_mels // 2
    drawn = np.concatenate([e.ravel() for e in ends])
    assert np.abs(drawn).max() <= 6
    assert stats.kstest(drawn, stats.uniform(-6, 12).cdf).pvalue > ALIKE
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.05


@each_model
@torch.no_grad()
def test_a_filter_in_the_log_domain_is_the_front_end_of_a_louder_sound(name):
    frontend = MODELS[name].frontend().eval()
    noise = 0.1 * torch.randn(1, 16000, generator=seeded())
    spec, rise = frontend(noise), per_db(frontend)
    gain = gains(3, n=1, n_mels=spec.shape[2])[0]
    filtered = filter_augment(spec, seeded(3), 1.0, rise)
    heard = np.flatnonzero(spec[0, 0].std(-1))  # some lowest bands hold no frequency of the FFT
    assert len(heard) > len(gain) - 10
    for i in heard[:: len(heard) // 8]:
        louder = frontend(noise * float(10 ** (gain[i] / 20)))
        error = (filtered - louder)[0, 0, i].abs() / rise  # in dB
        assert error.median() < 1e-2
    assert np.abs(gain[heard]).max() > 1


def test_front_ends_rise_per_decibel_as_their_normalisation_says():
    log = np.log(10) / 10  # of an energy, per dB
    want = {"atst_frame": 2 / (50.6842 + 79.6482), "beats": log / (2 * 6.55582)}
    want |= {"m2d": log / 4.2, "asit": log / (2 * 4.5689974)}
    want |= {"fpasst": log / 5, "frame_mn06": log / 5}
    for name, value in want.items():
        frontend = MODELS[name].frontend().train()
        assert per_db(frontend) == pytest.approx(value, rel=1e-4)
        assert frontend.training


def test_a_filter_as_published_scales_the_normalised_spectrogram():
    spec, _ = random_batch()
    flat = torch.ones(len(spec), 1, 64, 1)
    factor = filter_augment(flat, seeded(5), 1.0, 0.05, db=4.0, mode="reference")
    assert 10**0.1 < factor.max() <= 10**0.2
    got = filter_augment(spec, seeded(5), 1.0, 0.05, db=4.0, mode="reference")
    torch.testing.assert_close(got, spec * factor, rtol=1e-5, atol=0)
    gain = gains(5, n=len(spec), n_mels=64, db=4.0)
    assert 2 < np.abs(gain).max() <= 4
    log = filter_augment(spec, seeded(5), 1.0, 0.05, db=4.0)
    np.testing.assert_allclose(log, spec.numpy() + 0.05 * gain[:, None, :, None], atol=1e-5)


# Frequency warp


def cropped(seed: int, n_mels: int, **changes) -> tuple[int, int]:
    """First and last mel bin of the range that is stretched with this seed."""
    ramp = torch.arange(float(n_mels))[None, None, :, None].expand(1, 1, -1, 2)
    ends = freq_warp(ramp, seeded(seed), 1.0, **changes)[0, 0, [0, -1], 0]
    return round(ends[0].item()), round(ends[1].item())


def cubic(values: np.ndarray, n_out: int) -> np.ndarray:
    """Cubic convolution (a = -0.75) of the first axis, ends to ends, edges repeated."""

    def kernel(d):
        d, a = np.abs(d), -0.75
        inner = (a + 2) * d**3 - (a + 3) * d**2 + 1
        return np.where(d <= 1, inner, np.where(d < 2, a * (d**3 - 5 * d**2 + 8 * d - 4), 0))

    n_in = len(values)
    at = np.arange(n_out) * (n_in - 1) / (n_out - 1)
    taps = np.floor(at)[:, None] + np.arange(-1, 3)  # (out, 4)
    weights = kernel(at[:, None] - taps)
    return np.einsum("ok,ok...->o...", weights, values[taps.clip(0, n_in - 1).astype(int)])


def test_a_warp_stretches_ranges_of_sixty_to_a_hundred_percent_at_any_place():
    ranges = np.array([cropped(seed, 128) for seed in range(800)])
    low, height = ranges[:, 0], ranges[:, 1] - ranges[:, 0] + 1
    spread = height + np.random.default_rng(0).uniform(0, 1, len(height))  # undo int()
    assert stats.kstest(spread, stats.uniform(0.6 * 128, 0.4 * 128).cdf).pvalue > ALIKE
    assert low.min() == 0
    assert ranges[:, 1].max() == 127
    free = 128 - height
    place = (low + np.random.default_rng(1).uniform(0, 1, len(low))) / (free + 1)
    assert stats.kstest(place, stats.uniform().cdf).pvalue > ALIKE
    assert min(b - a + 1 for a, b in (cropped(s, 128, least=0.9) for s in range(50))) >= 115


def test_a_warp_is_a_cubic_interpolation_over_frequency_only():
    spec, _ = random_batch()
    for seed in range(3):
        low, high = cropped(seed, 64)
        want = cubic(spec[:, 0, low : high + 1].double().numpy().swapaxes(0, 1), 64).swapaxes(0, 1)
        got = freq_warp(spec, seeded(seed), 1.0)
        assert got.dtype == torch.float32
        np.testing.assert_allclose(got[:, 0], want, atol=1e-4)


def test_a_warp_keeps_a_flat_spectrum_and_moves_a_peak():
    torch.testing.assert_close(
        freq_warp(torch.full((2, 1, 64, 50), 1.5), seeded(), 1.0), torch.full((2, 1, 64, 50), 1.5)
    )
    for seed in range(30):
        low, high = cropped(seed, 128)
        peak = (low + high) // 2
        spec = torch.zeros(1, 1, 128, 7)
        spec[:, :, peak, 3] = 1.0
        warped = freq_warp(spec, seeded(seed), 1.0)[0, 0]
        moved = (peak - low) * 127 / (high - low)
        assert abs(warped[:, 3].argmax().item() - moved) <= 1
        assert warped[:, [0, 1, 2, 4, 5, 6]].abs().max() < 1e-5
