"""Parameter groups, optimizer and learning-rate schedule."""

import math
from typing import Any, Literal, Protocol

import torch

from hear_ptsed.model import SEDModel
from hear_ptsed.windows import WINDOW

SCHEDULES = ("cosine", "linear", "exp", "constant", "ramp", "published")
PUBLISHED_WARMUP = 20_000  # steps, which the public code sets whatever its option says


class Options(Protocol):
    """What these functions read."""

    name: Literal["adam", "adamw", "sgd"]
    lr: float
    lr_end: float
    weight_decay: float
    betas: tuple[float, float]
    momentum: float
    schedule: Literal["cosine", "linear", "exp", "constant", "ramp", "published"]
    gamma: float
    warmup_steps: int
    layer_decay: float


def groups(model: SEDModel, optim: Options) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate and weight decay, each in exactly one group.

    The k-th depth of the backbone from its top (k = 1, 2, ...) learns at lr * layer_decay ** k,
    heads and sequence model at lr. Vectors, and what a module lists in `no_weight_decay`, never
    decay.
    """
    exempt = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        for name in getattr(module, "no_weight_decay", ())
    }
    backbone, found = model.backbone, {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        k = 0
        if optim.layer_decay != 1.0 and name.startswith("backbone."):
            k = backbone.depth - backbone.depth_of(name.removeprefix("backbone."))
        decays = parameter.ndim >= 2 and name not in exempt
        found.setdefault((k, decays), []).append(parameter)

    def label(k: int) -> str:
        if optim.layer_decay == 1.0:
            return "all"
        return f"depth{backbone.depth - k}" if k else "head"

    return [
        {
            "name": label(k) + ("" if decays else "_undecayed"),
            "params": parameters,
            "lr": optim.lr * optim.layer_decay**k,
            "weight_decay": optim.weight_decay if decays else 0.0,
        }
        for (k, decays), parameters in sorted(found.items(), key=lambda item: item[0])
    ]


def optimizer(groups: list[dict[str, Any]], optim: Options) -> torch.optim.Optimizer:
    """The optimizer over such groups, in its fused form on GPUs."""
    fused = all(p.is_cuda for group in groups for p in group["params"]) or None
    if optim.name == "sgd":
        return torch.optim.SGD(groups, momentum=optim.momentum, fused=fused)
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, betas=tuple(optim.betas), fused=fused)
    if optim.name != "adam":
        raise ValueError(f"unknown optimizer {optim.name!r}; known: adam, adamw, sgd")
    if optim.weight_decay > 0:
        raise ValueError(
            f"weight_decay {optim.weight_decay} with adam, which would scale it by the gradients; "
            "use adamw, or weight_decay 0"
        )
    return torch.optim.Adam(groups, betas=tuple(optim.betas), fused=fused)


def schedule(step: int, total: int, optim: Options) -> float:
    """Factor on the learning rates at an optimizer step, 0 <= step <= total.

    After a linear warm-up from 0: "cosine" falls to 0 and "linear" to lr_end at the last step,
    "exp" is multiplied by gamma at every step, "constant" stays. "ramp" stays, too, but warms up by
    exp(-5 (1 - step / warmup_steps)^2). "published" is a cosine behind 20,000 steps of warm-up
    instead of warmup_steps, longer than some published runs.
    """
    if optim.schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {optim.schedule!r}; known: {', '.join(SCHEDULES)}")
    published = optim.schedule == "published"
    warmup = PUBLISHED_WARMUP if published else optim.warmup_steps
    if warmup >= total and not published:
        raise ValueError(
            f"warmup_steps {warmup} in a run of {total} optimizer steps, which would never reach "
            "its full learning rate; lower warmup_steps or train longer"
        )
    since = step - warmup
    if since < 0:
        return math.exp(-5 * (since / warmup) ** 2) if optim.schedule == "ramp" else step / warmup
    if optim.schedule == "exp":
        return optim.gamma**since
    progress = min(1.0, since / max(1, total - warmup))
    if optim.schedule == "linear":
        return 1 - progress * (1 - optim.lr_end / optim.lr)
    if optim.schedule in ("constant", "ramp"):
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * progress))


def freeze_unused(model: SEDModel, labels: str) -> list[str]:
    """Exclude the parameters that the loss never reaches; several devices could not agree on them.

    Returns:
        Their names: the other head, and what a backbone needs for self-supervised training only.
    """
    was = model.training
    model.eval()
    with torch.enable_grad():
        output = model(torch.zeros(1, WINDOW, device=next(model.parameters()).device))
        (output.weak if labels == "weak" else output.strong).sum().backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    for name, parameter in model.named_parameters():
        parameter.grad = None
        if name in unused:
            parameter.requires_grad_(False)
    model.train(was)
    return unused
