"""The CRNN of the DCASE 2023 baseline in NumPy and float64, written from its description."""

import numpy as np
from scipy.signal import correlate2d


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def correlated(channels, filters):
    return sum(correlate2d(c, k, "valid") for c, k in zip(channels, filters, strict=True))


def network_by_hand(w, spec, embeddings):
    """Logits of frames and probabilities of clips in training mode without dropout, in float64."""
    x = spec  # (B, C, F, T)
    for i, (rows, columns) in enumerate([(2, 2), (2, 2), *[(2, 1)] * 5]):
        p = f"cnn.{i}."
        kernel, padded = w[p + "conv.weight"], np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        x = np.stack([[correlated(clip, filters) for filters in kernel] for clip in padded])
        x = x + w[p + "conv.bias"][:, None, None]
        mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
        x = (x - mean) / np.sqrt(variance + 0.001)
        x = x * w[p + "norm.weight"][:, None, None] + w[p + "norm.bias"][:, None, None]
        linear = np.einsum("oi,bift->boft", w[p + "linear.weight"], x)
        x = (linear + w[p + "linear.bias"][:, None, None]) * sigmoid(x)
        x = x[:, :, : x.shape[2] // rows * rows, : x.shape[3] // columns * columns]
        b, c, f, t = x.shape
        x = x.reshape(b, c, f // rows, rows, t // columns, columns).mean((3, 5))
    n, length = x.shape[3], embeddings.shape[1]
    spans = [(i * length // n, -(-(i + 1) * length // n)) for i in range(n)]
    pooled = np.stack([embeddings[:, a:b].mean(1) for a, b in spans], 1)
    x = np.concatenate([x[:, :, 0].transpose(0, 2, 1), pooled], 2)
    x = x @ w["fusion.weight"].T + w["fusion.bias"]
    for layer in (0, 1):
        both = []
        for end in (f"l{layer}", f"l{layer}_reverse"):
            backwards = end.endswith("reverse")
            w_in, w_state = w[f"rnn.rnn.weight_ih_{end}"], w[f"rnn.rnn.weight_hh_{end}"]
            given = x @ w_in.T + w[f"rnn.rnn.bias_ih_{end}"]
            h, out = np.zeros((len(x), w_state.shape[1])), [None] * n
            for t in range(n - 1, -1, -1) if backwards else range(n):
                r, z, new = np.split(given[:, t], 3, 1)
                hr, hz, hn = np.split(h @ w_state.T + w[f"rnn.rnn.bias_hh_{end}"], 3, 1)
                gate = sigmoid(z + hz)
                h = (1 - gate) * np.tanh(new + sigmoid(r + hr) * hn) + gate * h
                out[t] = h
            both.append(np.stack(out, 1))
        x = np.concatenate(both, 2)
    strong = sigmoid(x @ w["head.strong_head.weight"].T + w["head.strong_head.bias"])
    attention = np.exp(x @ w["head.weak_head.weight"].T + w["head.weak_head.bias"])
    attention = (attention / attention.sum(2, keepdims=True)).clip(1e-7, 1)
    return strong.transpose(0, 2, 1), (strong * attention).sum(1) / attention.sum(1)
