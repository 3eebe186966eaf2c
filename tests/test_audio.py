"""Audio files are read in one way by every command: soxr over blocks; what is cut off is told."""

import io
import logging
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from training_clips import encoded

from hear_ptsed import cli
from hear_ptsed.audio import read_audio
from training.data.annotations import AUDIO_SUFFIXES
from training.data.clips import Unreadable, open_clips

LONG = 1_200_017  # samples, more than a block


def noise(samples: int = LONG, channels: int = 1) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal((samples, channels)).astype(np.float32)


@pytest.mark.parametrize("rate", [1000, 8000, 11025, 22050, 22051, 32000, 44100, 48000, 768000])
def test_reading_by_blocks_gives_exactly_what_resampling_the_whole_file_gives(tmp_path, rate):
    audio = noise(channels=2)
    soundfile.write(tmp_path / "noise.wav", audio, rate, subtype="FLOAT")
    read, duration_s = read_audio(tmp_path / "noise.wav")
    assert duration_s == LONG / rate
    np.testing.assert_array_equal(read.numpy(), soxr.resample(audio.mean(1), rate, 16000))


@pytest.mark.parametrize("channels", [1, 2, 6, 7])
def test_channels_are_averaged_exactly_as_numpy_does(tmp_path, channels):
    audio = noise(1000, channels)
    soundfile.write(tmp_path / "noise.wav", audio, 16000, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "noise.wav")[0].numpy(), audio.mean(1))


@pytest.mark.parametrize(
    ("kind", "coding"),
    [("WAV", "PCM_24"), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)],
)
def test_blocks_of_every_format_join_without_a_seam(tmp_path, kind, coding):
    path = tmp_path / f"noise.{kind.lower()}"
    with soundfile.SoundFile(path, "w", 16000, 2, coding, format=kind) as file:
        for part in np.array_split(noise(channels=2), 100):  # libsndfile's Vorbis likes it so
            file.write(part)
    whole = soundfile.read(path, dtype="float32")[0].mean(1)
    # not equal: a seek, which soundfile does here and there, changes how mpg123 rounds
    np.testing.assert_allclose(read_audio(path)[0].numpy(), whole, atol=2e-7)


@pytest.mark.parametrize("hz", [8400, 9000, 15000, 23000])
def test_a_tone_above_8_khz_is_gone_after_resampling(tmp_path, hz):
    time = np.arange(48000) / 48000
    soundfile.write(tmp_path / "high.wav", 0.9 * np.sin(2 * np.pi * hz * time), 48000)
    assert read_audio(tmp_path / "high.wav")[0][1000:-1000].abs().max() < 1e-4


@pytest.mark.parametrize("rate", [44100, 48000])
def test_what_is_prepared_for_evaluation_is_what_detect_hears_in_16_bits(tmp_path, rate):
    downloads = pytest.importorskip("eval_tasks.tasks.downloads")
    soundfile.write(tmp_path / "in.wav", noise(3 * rate, 2), rate)
    downloads.to_mono(tmp_path / "in.wav", tmp_path / "out.wav", 3.0)
    heard = read_audio(tmp_path / "in.wav")[0].numpy()
    assert len(heard) == 48000
    prepared = soundfile.read(tmp_path / "out.wav", dtype="int16")[0]
    np.testing.assert_array_equal(prepared, np.round(heard * 32768).astype(np.int16))


# Files that hold less than they say.


def container(kind: str, coding: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, noise(64000), 16000, format=kind, subtype=coding)
    return file.getvalue()


CUT = {
    "a.wav": (container("WAV"), "cut off: 64022 of 128044 bytes"),
    "a.aiff": (container("AIFF"), "cut off: 64027 of 128054 bytes"),
    "a.rf64": (container("RF64"), "cut off: 64052 of 128104 bytes"),
    "a.mp3": (container("MP3"), r"cut off: [12]\.\d+ of 4.000 s decoded"),
    "vorbis.ogg": (container("OGG", "VORBIS"), "no end-of-stream page"),
    "opus.ogg": (container("OGG", "OPUS"), "no end-of-stream page"),
}


def detect(*arguments: object) -> int:
    command = ["detect", *arguments, "--model", "frame_mn02", "--untrained"]
    return cli.main([str(argument) for argument in command])


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_is_cut_off_is_told_used_by_detect_and_refused_by_training(
    tmp_path, caplog, name
):
    content, message = CUT[name]
    whole, path = tmp_path / f"whole-{name}", tmp_path / name
    whole.write_bytes(content)
    path.write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        assert detect(whole, "--out", tmp_path / "out") == 0
        assert caplog.text == ""
        assert detect(path, "--out", tmp_path / "out") == 0
    (warning,) = caplog.messages
    assert warning.startswith(f"{path}: ")
    assert re.search(message, warning)
    assert 0.5 < read_audio(path)[1] < 3.5
    if path.suffix[1:] not in AUDIO_SUFFIXES:
        return
    whole.unlink()
    with pytest.raises(Unreadable, match=message):
        open_clips(tmp_path).read(0)


def piped(riff: int, data: int) -> bytes:
    """A whole WAV with the lengths that a program writes which cannot go back to its header."""
    content = bytearray(container("WAV"))
    content[4:8], content[40:44] = struct.pack("<I", riff), struct.pack("<I", data)
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        piped(2**32 - 1, 2**32 - 1),  # ffmpeg
        piped(2**31 - 1, 2**31 - 1 - 36),  # sox
        container("WAV") + b"LIST\x00\x10\x00\x00cut off here",  # behind the samples
        container("OGG") + b"TAG" + bytes(125),
    ],
    ids=["ffmpeg", "sox", "chunk", "tag"],
)
def test_a_whole_file_is_not_called_cut_off(tmp_path, caplog, content):
    path = tmp_path / f"a.{'ogg' if content[:4] == b'OggS' else 'wav'}"
    path.write_bytes(content)
    assert read_audio(path)[1] == 4.0
    assert caplog.text == ""
    assert len(open_clips(tmp_path).read(0)[0]) == 64000


def test_an_mp3_whose_length_nothing_tells_is_told(tmp_path, caplog):
    file = io.BytesIO()
    quieter = noise(128000)[:, 0] * np.linspace(2, 0, 128000)
    soundfile.write(file, quieter, 32000, format="MP3", bitrate_mode="VARIABLE")
    content = file.getvalue()
    (tmp_path / "a.mp3").write_bytes(content[content.find(b"\xff\xfb", 4) :])
    assert read_audio(tmp_path / "a.mp3")[1] < 4
    assert "a.mp3: mp3 of varying bit rate without length header; write it" in caplog.text


def test_less_than_a_sample_at_16_khz_is_refused_in_words(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", noise(1), 48000)
    assert detect(tmp_path / "a.wav") == 1
    assert "a.wav: is too short at 48000 Hz: no sample at 16000 Hz" in capsys.readouterr().err


def test_an_mp3_behind_foreign_bytes_is_heard(tmp_path):
    for name, content in (("a.mp3", encoded(1)), ("b.mp3", b"xyz" * 10 + encoded(1))):
        Path(tmp_path / name).write_bytes(content)
    a, b = (read_audio(tmp_path / name)[0].numpy() for name in ("a.mp3", "b.mp3"))
    np.testing.assert_array_equal(a, b)
