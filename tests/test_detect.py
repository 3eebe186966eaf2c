"""YAMNet's scores in chunks: the same as in one piece."""

import numpy as np
import torch

from hear_ptsed import detect, yamnet


def test_yamnet_in_chunks_scores_as_in_one_piece(monkeypatch):
    monkeypatch.setattr(yamnet, "class_names", lambda wheel: [str(c) for c in range(521)])
    monkeypatch.setattr(detect, "YAMNET_CHUNK", 30)
    detector = detect.load_detector("yamnet", options=detect.Options(untrained=True, device="cpu"))
    audio = torch.randn(70 * 640 + 321, generator=torch.Generator().manual_seed(0)) / 9
    expected = yamnet.load_model(untrained=True).scores_40ms(audio[None])[0].numpy()
    found = detector.score(audio, lambda step_s, total_s: None)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert detector.untrained and len(found) == 71
