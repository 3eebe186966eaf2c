"""The HEAR functions: lengths, windows, timestamps, precision, bad input; all plug-ins."""

import importlib
import inspect
import shutil

import numpy as np
import pytest
import torch
from conftest import GOLDEN, NETWORKS, each_model, published, released_weights, small
from deterministic import waveform

from hear_ptsed import hear, list_models
from hear_ptsed.grid import FRAME, WINDOW, n_frames, timestamps
from hear_ptsed.hear import (
    HearModel,
    Options,
    get_scene_embeddings,
    get_timestamp_embeddings,
    load_model,
)
from hear_ptsed.plugins import frame_mn06_strong
from hear_ptsed.registry import MODELS, RELEASES, Row
from hear_ptsed.sequence import build_sequence_model
from hear_ptsed.windows import over_windows


def frame_means(audio: torch.Tensor) -> torch.Tensor:
    """A model that describes each frame by its own samples: (N, 160000) -> (N, 250, 1)."""
    return audio.unflatten(1, (-1, FRAME)).mean(2, keepdim=True)


def noise(seconds: float, clips: int = 1) -> torch.Tensor:
    return (
        torch.randn(clips, round(seconds * 16000), generator=torch.Generator().manual_seed(0)) / 9
    )


def test_every_length_up_to_25_s_has_the_promised_frames_and_timestamps():
    edges = (319, 320, 959, 960, WINDOW - 320, WINDOW - 1, WINDOW, WINDOW + 319, WINDOW + 320)
    for n in (1, 2, *edges, 2 * WINDOW, 399_999, 400_000):
        frames = over_windows(torch.zeros(1, n), frame_means)
        assert frames.shape == (1, max(1, (n + 320) // 640), 1)
    for n in range(1, 400_001, 7):
        last = timestamps(n_frames(n))[-1]
        assert n < 320 or last <= n / 16 < last + 40
    assert timestamps(30_000)[-1] == 1_199_980  # 20 minutes, exact


@pytest.mark.parametrize("seconds", [0.001, 0.3, 3.7, 10.0, 10.01, 25.0])
@pytest.mark.parametrize("overlap", [0.0, 5.0, 9.0])
def test_windows_put_every_frame_at_its_place(seconds, overlap):
    audio = noise(seconds, clips=2)
    total = n_frames(audio.shape[1])
    padded = torch.nn.functional.pad(audio, (0, max(0, total * FRAME - audio.shape[1])))
    want = padded[:, : total * FRAME].unflatten(1, (-1, FRAME)).mean(2)
    got = over_windows(audio, frame_means, overlap, batch=3)[..., 0]
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_the_default_is_consecutive_10_s_windows_with_a_padded_last_one():
    model = HearModel(small("beats"))
    audio = noise(25.0, clips=2)
    got, centres = get_timestamp_embeddings(audio, model)
    pieces = torch.nn.functional.pad(audio, (0, 5 * 16000)).split(WINDOW, dim=1)
    want = torch.cat([model.model.embed(piece) for piece in pieces], dim=1)[:, :625]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    assert got.dtype == centres.dtype == torch.float32 and centres.shape == (2, 625)


def test_overlapping_windows_leave_no_seams():
    calls = iter(torch.randn(99, generator=torch.Generator().manual_seed(0)))

    def disagreeing(audio: torch.Tensor) -> torch.Tensor:
        """Each window has an opinion of its own, constant over its 10 s."""
        return torch.stack([next(calls).expand(250, 1) for _ in audio])

    seams = over_windows(torch.zeros(1, 35 * 16000), disagreeing, 0.0)[0, :, 0].diff().abs()
    smooth = over_windows(torch.zeros(1, 35 * 16000), disagreeing, 5.0)[0, :, 0].diff().abs()
    assert seams.max() > 0.5 and smooth.max() < 0.05


def test_an_hour_goes_through_in_windows_of_one_batch():
    sizes = []

    def counting(audio: torch.Tensor) -> torch.Tensor:
        sizes.append(len(audio))
        return frame_means(audio)

    over_windows(torch.zeros(1, 3600 * 16000), counting, batch=8)
    assert sum(sizes) == 360 and max(sizes) == 8


@torch.no_grad()
def test_a_clip_embeds_the_same_alone_in_a_batch_and_beside_a_loud_one():
    for name in NETWORKS:
        model = HearModel(small(name))
        quiet, loud = noise(4.0) * 0.01, noise(4.0).flip(1) * 8
        alone, _ = get_timestamp_embeddings(quiet, model)
        both, _ = get_timestamp_embeddings(torch.cat([loud, quiet]), model)
        limit = 1e-5 * max(1.0, alone.abs().max().item())
        assert (both[1:] - alone).abs().max() < limit, name


@torch.no_grad()
def test_scene_embeddings_are_the_mean_of_the_real_frames():
    model = HearModel(small("m2d"))
    audio = noise(2.0, clips=3)
    frames, _ = get_timestamp_embeddings(audio, model)
    torch.testing.assert_close(get_scene_embeddings(audio, model), frames.mean(1))
    assert model.scene_embedding_size == model.timestamp_embedding_size == frames.shape[2]


@pytest.mark.parametrize("name", ["atst_frame", "beats", "fpasst", "m2d", "asit"])
def test_bfloat16_embeddings_are_within_2_percent(name):
    audio = torch.from_numpy(waveform(10.0))[None]
    model = published(name)
    exact = HearModel(model)(audio)
    published.cache_clear()  # the next line casts the weights in place
    low = HearModel(model, Options(precision="bfloat16"))(audio)
    assert low.dtype == torch.float32
    assert 0 < (low - exact).norm() / exact.norm() < 2e-2


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_gives_the_same_embeddings():
    audio = noise(21.0)
    want, _ = get_timestamp_embeddings(audio, HearModel(small("atst_frame")))
    compiled = HearModel(small("atst_frame"), Options(compile=True, batch=2))
    for length in (len(audio[0]), 30_000):  # three windows in two batches, one window
        got, _ = get_timestamp_embeddings(audio[:, :length], compiled)
        assert got.shape[1] == n_frames(length)
        if length == len(audio[0]):
            torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_frame_mn_stays_in_float32():
    model, audio = small("frame_mn06"), noise(1.0)
    exact = HearModel(model)(audio)
    assert torch.equal(HearModel(model, Options(precision="bfloat16"))(audio), exact)


def test_embedding_switches_training_and_gradients_off():
    model = HearModel(small("beats")).train()
    frames, _ = get_timestamp_embeddings(noise(1.0), model)
    assert not frames.requires_grad and not model.training


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (
            torch.zeros(1, 2, 16000),
            r"expected \(clips, samples\).*: average channels by audio.mean",
        ),
        (torch.zeros(0), "not empty"),
        (np.zeros(16000, np.int16), "torch.int16; expected floating-point.*audio / 32768"),
        (torch.zeros(1, 0), "not empty"),
        (torch.zeros(0, 16000), "not empty"),
        (torch.zeros(1, 16000, dtype=torch.int16), "torch.int16; expected floating-point"),
        (torch.tensor([[0.0, 1.0], [0.0, float("nan")]]), "NaN or infinite samples in clip 1"),
        (torch.tensor([[float("inf")]]), "NaN or infinite samples in clip 0"),
    ],
)
def test_bad_audio_is_refused(audio, message):
    with pytest.raises(ValueError, match=message):
        get_timestamp_embeddings(audio, HearModel(small("frame_mn06")))
    with pytest.raises(ValueError, match=message):
        get_scene_embeddings(audio, HearModel(small("frame_mn06")))


def test_a_changed_sample_rate_is_refused():
    model = HearModel(small("frame_mn06"))
    model.sample_rate = 44100
    with pytest.raises(ValueError, match="set to 44100; the model takes 16000 Hz only"):
        get_scene_embeddings(noise(1.0), model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 50}, "unknown step; known: overlap, batch, precision, compile, untrained"),
        ({"hop": 50}, "hop is 50; it must be 40, 20 or 10"),
        ({"overlap": 10}, "overlap is 10; it must be less than or equal to 9.96"),
        ({"overlap": -1}, "overlap is -1; it must be greater than or equal to 0"),
        ({"batch": 0}, "batch is 0; it must be greater than or equal to 1"),
        ({"precision": "float16"}, "precision is 'float16'; it must be 'float32' or 'bfloat16'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_model("frame_mn06", "strong", **options)


def test_untrained_models_need_no_file_and_are_always_the_same(tmp_path):
    first, second = (load_model("frame_mn06", "strong", untrained=True) for _ in range(2))
    audio = noise(1.0)
    assert torch.equal(first(audio), second(audio))
    with pytest.raises(ValueError, match="exclude each other"):
        load_model("frame_mn06", "strong", str(tmp_path / "x.pt"), untrained=True)


def test_every_model_and_stage_has_its_plug_in():
    rows = list_models()
    assert len(rows) == 53 and len({row.module for row in rows}) == 53
    for row in rows:
        module = importlib.import_module(row.module)
        assert module.load_model.func is hear.load_model
        assert module.load_model.args == (row.model, row.stage)
        assert inspect.signature(module.load_model).parameters["model_file_path"].default == ""
        assert module.get_timestamp_embeddings is get_timestamp_embeddings
        assert module.get_scene_embeddings is get_scene_embeddings


@pytest.mark.parametrize("name", MODELS)
def test_the_facts_of_a_row_are_those_of_the_network(name):
    row = MODELS[name]
    with torch.device("meta"):
        backbone = row.backbone()
        parts = [backbone]
        if row.sequence is not None:
            parts.append(build_sequence_model(in_dim=backbone.embed_dim, **row.sequence))
    assert sum(p.numel() for part in parts for p in part.parameters()) == row.parameters
    assert (parts[-1].out_dim if row.sequence else backbone.embed_dim) == row.dim
    if isinstance(row, Row):
        batch_norm = any(isinstance(layer, torch.nn.BatchNorm2d) for layer in backbone.modules())
        assert row.batch_norm == batch_norm


def test_the_list_states_the_published_sizes():
    sizes = {
        row.model: (row.parameters, row.dim)
        for row in list_models()
        if row.family != "EfficientSED"  # see test_family
    }
    assert sizes == {
        "atst_frame": (85_419_264, 768),
        "beats": (90_311_792, 768),
        "fpasst": (88_421_632, 768),
        "m2d": (85_492_992, 3840),
        "asit": (85_482_240, 768),
        "frame_mn06": (1_099_184, 576),
        "frame_mn10": (2_971_664, 960),
        "yamnet": (3_195_456, 1024),
    }


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_model
def test_models_follow_the_device_of_the_audio(name):
    audio = noise(12.0, clips=2)
    model = HearModel(small(name))
    want, _ = get_timestamp_embeddings(audio, model)
    got, centres = get_timestamp_embeddings(audio.cuda(), model.cuda())
    assert got.is_cuda and centres.is_cuda
    torch.testing.assert_close(got.cpu(), want, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_a_plug_in_loads_a_released_file_and_gives_the_public_models_embeddings(
    clips, tmp_path, monkeypatch
):
    golden = np.load(GOLDEN / "frame_mn06.npz")["embedding"]
    torch.save(released_weights(published("frame_mn06")), tmp_path / "frame_mn06.pt")
    monkeypatch.setenv("HEAR_PTSED_CHECKPOINTS", str(tmp_path))
    monkeypatch.setenv("HEAR_PTSED_CACHE", str(tmp_path / "cache"))
    for model in (
        frame_mn06_strong.load_model(),
        frame_mn06_strong.load_model(str(tmp_path / "frame_mn06.pt"), overlap=2.0),
    ):
        frames, _ = frame_mn06_strong.get_timestamp_embeddings(clips, model)
        error = (frames[:, ::10] - torch.from_numpy(golden)).abs().max()
        assert error < 5e-5 * np.abs(golden).max()


def test_a_plug_in_without_a_file_or_a_network_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("HEAR_PTSED_CACHE", str(tmp_path))
    monkeypatch.delenv("HEAR_PTSED_CHECKPOINTS", raising=False)
    monkeypatch.setitem(RELEASES, "PretrainedSED", "http://127.0.0.1:9/")  # nobody listens
    with pytest.raises(ConnectionError, match=r"put the file at .*M2D_weak\.pt or into") as caught:
        load_model("m2d", "weak")
    assert "\n" not in str(caught.value) and "$HEAR_PTSED_CHECKPOINTS" in str(caught.value)
