"""Small sequence models and frames, for tests against formulae."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hear_ptsed.sequence import build_sequence_model


def small(kind: str, in_dim: int = 24, **options) -> nn.Module:
    torch.manual_seed(0)
    return build_sequence_model(kind, in_dim, **{"dim": 32, **options}).eval()


def shaken(model: nn.Module) -> nn.Module:
    """Parameters away from their initial values, so that zeros and ones hide no mistake."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def audio_frames(length: int = 40, dim: int = 24) -> Tensor:
    return torch.randn(2, length, dim, generator=torch.Generator().manual_seed(2))


def weights(model: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    state = {key: value.double() for key, value in model.state_dict().items()}
    return {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}


def norm64(x: Tensor, gamma: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12) * len(gamma) ** 0.5 * gamma


def scan_input(length: int, inner: int = 6, batch: int = 2, dtype=torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = ((batch, length, inner), (batch, length, inner), (inner, 16))
    shapes += ((batch, length, 16),) * 2
    delta, x, a, b, c = (torch.randn(s, generator=generator, dtype=dtype) for s in shapes)
    return [F.softplus(delta), x, -a.exp(), b, c]


def check_scan(scan, reference, ours: list[Tensor]) -> None:
    """A scan and its gradients are those of a plain recurrence in float64."""
    plain = [z.detach().double().requires_grad_() for z in ours]
    got, want = scan(*ours), reference(*plain)
    pull = torch.randn(got.shape, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    got.backward(pull)
    want.backward(pull.double())
    for mine, other in zip(ours, plain, strict=True):
        limit = 1e-5 * float(other.grad.abs().max())
        torch.testing.assert_close(mine.grad.double(), other.grad, rtol=1e-5, atol=limit)
