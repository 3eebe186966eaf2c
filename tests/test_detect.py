"""YAMNet's scores in chunks: the same as in one piece."""

from dataclasses import replace

import numpy as np
import torch

import hear_ptsed
from hear_ptsed import detect
from hear_ptsed.registry import MODELS
from hear_ptsed.yamnet import network


def test_yamnet_in_chunks_scores_as_in_one_piece(monkeypatch):
    names = [str(c) for c in range(521)]
    row = replace(MODELS["yamnet"], class_names=lambda: names)
    monkeypatch.setitem(MODELS, "yamnet", row)
    monkeypatch.setattr(network, "CHUNK_FRAMES", 30)
    detector = detect.load_detector(
        "yamnet", options=detect.DetectorOptions(untrained=True, device="cpu")
    )
    audio = torch.randn(70 * 640 + 321, generator=torch.Generator().manual_seed(0)) / 9
    model = hear_ptsed.load("yamnet", stage=None, seed=0)
    expected = model(audio[None]).strong[0].T.sigmoid().numpy()
    scores = detector.score(audio, lambda step_s, total_s: None)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert detector.untrained and len(scores) == 71 and detector.classes == names
