"""The network of the DCASE 2023 baseline, and its mels."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from eval_tasks.fit.crnn import CRNN, FILTERS, Mel, scaled


def test_the_published_network_has_the_parameters_of_its_layers():
    model = CRNN(10, 768)
    cnn = n_in = 0
    for n_in, n_out in zip((1, *FILTERS), FILTERS, strict=False):
        cnn += 9 * n_in * n_out + n_out + 2 * n_out + n_out**2 + n_out
    fusion = 896 * 128 + 128
    gru = 2 * sum(3 * 128 * (size + 128) + 6 * 128 for size in (128, 256))
    assert sum(p.numel() for p in model.parameters()) == cnn + fusion + gru + 2 * (2560 + 10)
    assert sum(p.numel() for p in model.cnn.parameters()) == cnn
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(n.eps, n.momentum) for n in norms} == {(0.001, 0.99)}


def test_ten_seconds_become_626_mel_frames_and_156_scores_whatever_the_embeddings_rate():
    mel = Mel()(torch.randn(2, 160000))
    assert mel.shape == (2, 1, 128, 626)
    model = CRNN(3, 8, (2, 2, 2, 2, 2, 2, 4), 4).eval()
    assert model.cnn(mel).shape == (2, 4, 1, 156)
    for n_frames in (250, 496, 20):
        strong, weak = model(mel, torch.randn(2, n_frames, 8))
        assert (strong.shape, weak.shape) == ((2, 3, 156), (2, 3))


def test_mels_are_those_of_an_independent_computation():
    rng = np.random.default_rng(1)
    audio = 0.1 * rng.normal(size=160000) * np.linspace(0, 1, 160000) ** 4
    n = np.arange(2048)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * n / 2047)
    padded = np.pad(audio, 1024, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2048)[::256]
    magnitude = np.abs(np.fft.rfft(frames * window))  # (626, 1025)
    top = 2595 * math.log10(1 + 8000 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, 130) / 2595) - 1)
    hz = np.linspace(0, 8000, 1025)[:, None]
    low, mid, high = edges[:-2], edges[1:-1], edges[2:]
    bank = np.minimum((hz - low) / (mid - low), (high - hz) / (high - mid)).clip(0)
    mel = magnitude @ bank
    decibel = (20 * np.log10(np.maximum(mel, 1e-5))).clip(-50, 80)
    want = (decibel - decibel.min()) / (decibel.max() - decibel.min())
    mels = Mel()(torch.from_numpy(audio).float()[None])
    np.testing.assert_allclose(mels[0, 0].numpy(), mel.T, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(scaled(mels)[0, 0].numpy(), want.T, atol=1e-4)


def test_each_clip_is_scaled_alone_and_silence_is_zero():
    loud, quiet = torch.rand(1, 1, 4, 5) + 0.1, torch.rand(1, 1, 4, 5) / 100
    both = scaled(torch.cat([loud, quiet]))
    torch.testing.assert_close(both[:1], scaled(loud))
    torch.testing.assert_close(both[1:], scaled(quiet))
    assert both.amax((1, 2, 3)).tolist() == pytest.approx([1, 1])
    assert both.amin((1, 2, 3)).tolist() == [0, 0]
    assert not scaled(torch.zeros(1, 1, 4, 5)).any()
