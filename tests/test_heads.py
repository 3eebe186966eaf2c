"""Heads against computations written out here from their formulae."""

import pytest
import torch
from sequence_parts import audio_frames, shaken, weights

from hear_ptsed.heads import AttentionHead, LinearHead


def test_the_linear_head_gives_logits_of_frames_and_of_the_mean_frame():
    head, x = LinearHead(24, 5, 3), audio_frames()
    strong, weak = head(x)
    w = weights(head)
    want = x.double() @ w["strong_head.weight"].T + w["strong_head.bias"]
    torch.testing.assert_close(strong.double(), want.transpose(1, 2), rtol=1e-5, atol=1e-5)
    want = x.double().mean(1) @ w["weak_head.weight"].T + w["weak_head.bias"]
    torch.testing.assert_close(weak.double(), want, rtol=1e-5, atol=1e-5)
    assert LinearHead(24, 5)(x)[1].shape == (2, 5)


def test_the_attention_head_weighs_frames_by_a_softmax_over_classes():
    head, x = shaken(AttentionHead(24, 5)), audio_frames()
    strong, weak = head(x)
    w = weights(head)
    logits = x.double() @ w["strong_head.weight"].T + w["strong_head.bias"]
    scores = (x.double() @ w["weak_head.weight"].T + w["weak_head.bias"]).exp()
    attention = (scores / scores.sum(2, keepdim=True)).clamp(1e-7, 1)
    p = (attention / (1 + (-logits).exp())).sum(1) / attention.sum(1)
    torch.testing.assert_close(strong.double(), logits.transpose(1, 2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weak.double(), (p / (1 - p)).log(), rtol=1e-4, atol=1e-4)


def test_the_attention_heads_weak_logits_stay_finite_for_certain_scores():
    head = AttentionHead(24, 2)
    with torch.no_grad():
        head.strong_head.weight.zero_()
        head.strong_head.bias.copy_(torch.tensor([200.0, -200.0]))
    weak = head(audio_frames())[1]
    assert weak.isfinite().all()
    assert weak[:, 0].min() > 15 and weak[:, 1].max() < -15


def test_head_keys_are_those_of_the_released_files():
    keys = {"strong_head.weight", "strong_head.bias", "weak_head.weight", "weak_head.bias"}
    assert set(LinearHead(24, 5).state_dict()) == keys
    assert set(AttentionHead(24, 5).state_dict()) == keys


def test_a_head_without_classes_is_refused():
    with pytest.raises(ValueError, match="class counts are 5 and 0"):
        LinearHead(24, 5, 0)
