"""Reading audio block by block and scoring in chunks: the same as in one piece."""

import numpy as np
import pytest
import soundfile
import torch
from test_cli import halved, tone
from torchaudio.functional import resample

from hear_ptsed import detect, yamnet
from hear_ptsed.detect import read_audio


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_reading_by_blocks_gives_what_resampling_the_whole_file_gives(tmp_path, monkeypatch, rate):
    audio = 0.2 * np.random.default_rng(rate).standard_normal((3 * rate + 17, 2))
    soundfile.write(tmp_path / "noise.wav", audio, rate, subtype="FLOAT")
    monkeypatch.setattr(detect, "BLOCK", 5000)
    found, duration_s = read_audio(tmp_path / "noise.wav")
    mono = torch.from_numpy(audio.astype(np.float32).mean(1))
    whole = resample(mono, rate, 16000, resampling_method="sinc_interp_kaiser", **detect.KAISER)
    assert duration_s == len(audio) / rate
    assert len(found) == -(-len(audio) * 16000 // rate)
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=0)


def test_a_tone_above_8_khz_is_gone_after_resampling(tmp_path):
    time = np.arange(48000) / 48000
    soundfile.write(tmp_path / "high.wav", 0.9 * np.sin(2 * np.pi * 9000 * time), 48000)
    assert read_audio(tmp_path / "high.wav")[0][1000:-1000].abs().max() < 1e-4


def test_a_file_that_ends_early_is_used_up_to_there_with_a_warning(tmp_path, caplog):
    path = halved(tone(tmp_path / "cut.mp3", 44100, seconds=20))
    audio, duration_s = read_audio(path)
    assert 9 < duration_s < 11 and len(audio) == pytest.approx(duration_s * 16000, abs=1)
    assert audio.abs().max() < 0.6
    assert "cut.mp3: ends after" in caplog.text and "says 20.0" in caplog.text


def test_yamnet_in_chunks_scores_as_in_one_piece(monkeypatch):
    monkeypatch.setattr(yamnet, "class_names", lambda wheel: [str(c) for c in range(521)])
    monkeypatch.setattr(detect, "YAMNET_CHUNK", 30)
    detector = detect.load_detector("yamnet", options=detect.Options(untrained=True, device="cpu"))
    audio = torch.randn(70 * 640 + 321, generator=torch.Generator().manual_seed(0)) / 9
    expected = yamnet.load_model(untrained=True).scores_40ms(audio[None])[0].numpy()
    found = detector.score(audio, lambda step_s, total_s: None)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert detector.untrained and len(found) == 71
