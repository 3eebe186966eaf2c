"""Parameter groups, optimizer and learning-rate schedule.

The options are a recipe's section `optim`; recipes of downstream tasks have the same one.
"""

import math
from typing import Any

import torch

from hear_ptsed.backbones.base import Backbone
from hear_ptsed.grid import WINDOW
from hear_ptsed.model import SEDModel
from training.labels import Labels
from training.recipe import Optim

SCHEDULES = ("cosine", "linear", "exp", "constant", "ramp", "published")
# Steps of warm-up that the public scripts set, whatever their option says.
AUDIOSET_WARMUP, DOWNSTREAM_WARMUP = 20_000, 4_000
ABOVE = -1  # stands for the power of layer_decay where lr_above is the rate


def groups(model: SEDModel, optim: Optim) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate and weight decay, each in exactly one group.

    Depths of the backbone learn at lr * layer_decay ** k with k = layer_decay_from, ... from its
    top, heads and sequence model at lr_above, without one at lr. Vectors decay by vector_decay, and
    only under adamw; what a module lists in `no_weight_decay` never does.
    """
    exempt = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        for name in getattr(module, "no_weight_decay", ())
    }
    vector_decay = optim.vector_decay if optim.name == "adamw" else 0.0
    decays = {"_undecayed": 0.0, "_vectors": vector_decay, "": optim.weight_decay}
    parts: dict[tuple[int, str], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        k = _power(name, model.backbone, optim)
        kind = "" if parameter.ndim >= 2 else "_vectors" if vector_decay else "_undecayed"
        parts.setdefault((k, "_undecayed" if name in exempt else kind), []).append(parameter)

    return [
        {
            "name": _group_name(k, model.backbone, optim) + kind,
            "params": parts[k, kind],
            "lr": optim.lr_above if k == ABOVE else optim.lr * optim.layer_decay**k,
            "weight_decay": decays[kind],
        }
        for k in sorted({k for k, _ in parts})
        for kind in decays
        if (k, kind) in parts
    ]


def _power(name: str, backbone: Backbone, optim: Optim) -> int:
    """The k of a parameter, see `groups`."""
    if not name.startswith("backbone."):
        return 0 if optim.lr_above is None else ABOVE
    if optim.layer_decay == 1.0:
        return 0
    depth = backbone.depth_of(name.removeprefix("backbone."))
    return optim.layer_decay_from + backbone.depth - 1 - depth


def _group_name(k: int, backbone: Backbone, optim: Optim) -> str:
    """What the parameters of one k are called."""
    apart = optim.lr_above is not None
    if k == ABOVE:
        return "head"
    if optim.layer_decay == 1.0:
        return "backbone" if apart else "all"
    if k == 0 and not apart:
        return "head"
    return f"depth{backbone.depth - 1 + optim.layer_decay_from - k}"


def optimizer(groups: list[dict[str, Any]], optim: Optim) -> torch.optim.Optimizer:
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


def schedule(step: int, total: int, optim: Optim, published_warmup: int = AUDIOSET_WARMUP) -> float:
    """Factor on the learning rates at an optimizer step, 0 <= step <= total.

    After a linear warm-up from 0: "cosine" falls to 0 and "linear" to lr_end at the last step,
    "exp" is multiplied by gamma at every step, "constant" stays. "ramp" stays, too, but warms up by
    exp(-5 (1 - step / warmup_steps)^2). "published" is a cosine behind `published_warmup` steps
    instead of warmup_steps, longer than some published runs; published "exp" runs have none.
    """
    if optim.schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {optim.schedule!r}; known: {', '.join(SCHEDULES)}")
    published = optim.schedule == "published"
    warmup = published_warmup if published else optim.warmup_steps
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


def freeze_unused(model: SEDModel, labels: Labels) -> list[str]:
    """Exclude the parameters that the loss never reaches; several devices could not agree on them.

    Returns:
        Their names: the other head, and what a backbone needs for self-supervised training only.
    """
    in_training = model.training
    model.eval()
    with torch.enable_grad():
        output = model(torch.zeros(1, WINDOW, device=next(model.parameters()).device))
        labels.answer(output).sum().backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    for name, parameter in model.named_parameters():
        parameter.grad = None
        if name in unused:
            parameter.requires_grad_(False)
    model.train(in_training)
    return unused
