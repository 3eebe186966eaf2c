"""Front-ends: constants, lengths, independence of autocast and of batch mates."""

import math

import pytest
import torch
from conftest import each_model
from deterministic import waveform

from hear_ptsed.frontends.kaldi import mel_bank
from hear_ptsed.registry import MODELS

FRAMES = {  # of 10 s and of 3.7 s
    "atst_frame": (1001, 371),
    "beats": (998, 368),
    "fpasst": (1000, 370),
    "m2d": (1001, 371),
    "asit": (998, 368),
    "fmn02": (1000, 370),
    "fmn04": (1000, 370),
    "frame_mn06": (1000, 370),
    "frame_mn10": (1000, 370),
}
SILENCE = {
    "atst_frame": -0.54504,
    "beats": -2.3917,
    "fpasst": -2.32362,
    "m2d": -2.1053,
    "asit": -1.27759,
    "fmn02": -2.32362,
    "fmn04": -2.32362,
    "frame_mn06": -2.32362,
    "frame_mn10": -2.32362,
}


def frontend(name: str):
    return MODELS[name].frontend().eval()


@each_model
def test_lengths_and_silence_are_the_published_ones(name):
    net = frontend(name)
    assert tuple(net(torch.zeros(1, n)).shape[-1] for n in (160_000, 59_200)) == FRAMES[name]
    silence = net(torch.zeros(1, 16_000))
    torch.testing.assert_close(silence, torch.full_like(silence, SILENCE[name]), atol=1e-4, rtol=0)


@each_model
def test_a_quiet_clip_looks_the_same_beside_a_loud_one(name):
    net = frontend(name)
    quiet = torch.from_numpy(waveform(2.0)) * 1e-3
    loud = torch.from_numpy(waveform(2.0, seed=3))
    torch.testing.assert_close(
        net(torch.stack([quiet, loud]))[0], net(quiet[None])[0], atol=1e-6, rtol=0
    )


@each_model
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_touch_the_features(name, dtype):
    net = frontend(name)
    audio = torch.from_numpy(waveform(1.0))[None]
    with torch.autocast("cpu", dtype):
        got = net(audio)
    assert got.dtype == torch.float32 and torch.equal(got, net(audio))


@each_model
def test_front_ends_store_nothing(name):
    assert not frontend(name).state_dict()


def test_banks_have_the_published_fingerprints():
    atst = frontend("atst_frame").bank
    assert math.isclose(atst.sum(), 484.49695, abs_tol=1e-3)
    assert math.isclose(atst.max(), 0.99943, abs_tol=1e-5)
    assert (atst > 0).sum() == 970
    assert (atst[4:8, 0] > 0).all() and math.isclose(atst[5, 0], 0.630170, abs_tol=1e-6)
    asit = frontend("asit").bank
    assert math.isclose(asit.sum(), 252.6105, abs_tol=1e-3)
    assert (asit > 0).sum() == 504 and not asit[3].any()
    assert not mel_bank(0.0, 7000.0)[0].any()  # fPaSST's first filter lies between two bins
    m2d = frontend("m2d").bank
    assert math.isclose(m2d.max(), 0.027206, abs_tol=1e-6) and (m2d.sum(1) > 0).all()


def test_windows_differ_where_the_published_models_differ():
    periodic, symmetric = frontend("fpasst").window, frontend("frame_mn10").window
    assert periodic[-1] > 0 and symmetric[-1] == 0


def test_the_mel_range_moves_in_training_only():
    net = frontend("fpasst")
    audio = torch.from_numpy(waveform(1.0))[None]
    still = net(audio)
    torch.manual_seed(0)
    first, second = net.train()(audio), net(audio)
    assert not torch.allclose(first, second)
    assert torch.equal(net.eval()(audio), still)


def test_a_full_scale_sine_peaks_in_its_band():
    time = torch.arange(16_000) / 16_000
    sine = torch.sin(2 * math.pi * 1000 * time)[None]
    spec = frontend("atst_frame")(sine)[0, 0]
    assert math.isclose(spec.max(), 0.9616, abs_tol=1e-3)
