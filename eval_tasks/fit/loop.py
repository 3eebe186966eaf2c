"""The one training loop of all downstream protocols: deterministic, resumable, keeps the best."""

import logging
import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from eval_tasks.fit.recipe import Recipe
from hear_ptsed import interrupt
from hear_ptsed.files import atomic, remove_stale
from training import optim
from training.data.sampling import MODEL, torch_seed

log = logging.getLogger(__name__)
STATE = "state.pt"
schedule = partial(optim.schedule, published_warmup=optim.DOWNSTREAM_WARMUP)


class Problem(Protocol):
    """What is trained: its batches and losses are functions of the seed and the step alone."""

    model: nn.Module  # everything that is saved, on its device
    steps: int  # of the optimiser
    epoch_steps: float

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups with their learning rates."""

    def batches(self, first: int) -> Iterator[Any]:
        """What `loss` takes, for steps from `first` on."""

    def loss(self, batch: Any, step: int) -> Tensor:
        """A scalar; the model is in training mode and under autocast."""

    def after_step(self, step: int) -> None:
        """Called when the optimiser has moved."""

    def validate(self) -> dict[str, float]:
        """Scores on the validation part, the one to choose by first: higher is better."""


def fit(
    problem: Problem,
    recipe: Recipe,
    folder: Path,
    *,
    seed: int,
    progress: bool = True,
    save_every_s: float = 60.0,
) -> dict[str, Any]:
    """Train, and leave the best weights in the model.

    A run that was killed goes on from the last state in `folder` and ends at the same weights; the
    last state stays, so that what follows the training can be killed, too.

    Args:
        save_every_s: least time between two states; one is written after a validation only.
    Returns:
        `best` (its score), `best_step`, `step`, `history` [{step, loss, scores}], `seconds`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale(folder)
    o, model = recipe.optim, problem.model
    schedule(0, problem.steps, o)  # refuses a warm-up beyond the run
    optimizer = optim.optimizer(problem.groups(), o)
    rates = [group["lr"] for group in optimizer.param_groups]
    now: dict[str, Any] = {"step": 0, "best": -math.inf, "history": [], "seconds": 0.0}
    now |= {"best_step": 0, "best_model": None, "ended": False}
    if (folder / STATE).exists():
        now = _load(folder / STATE, model, optimizer)
        log.info("going on from step %d of %d", now["step"], problem.steps)
    every = max(1, round(recipe.fit.check_every_epochs * problem.epoch_steps))
    device = next(model.parameters()).device
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.fit.precision == "16-mixed")
    scaler.load_state_dict(now.get("scaler") or scaler.state_dict())
    started, saved = time.monotonic() - now["seconds"], time.monotonic()
    bar = tqdm(
        total=problem.steps, initial=now["step"], unit="step", disable=not progress, leave=False
    )
    with SummaryWriter(folder / "logs", purge_step=now["step"]) as board, bar, interrupt.deferred():
        total, bad = torch.zeros((), device=device), torch.tensor(-1, device=device)
        steps = range(now["step"], 0 if now["ended"] else problem.steps)
        for step, batch in zip(steps, problem.batches(now["step"]), strict=False):
            interrupt.safe_point()
            factor = schedule(step, problem.steps, o)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            model.train()
            torch.manual_seed(torch_seed(seed, MODEL, step))
            with autocast(recipe.fit.precision, device):
                loss = problem.loss(batch, step)
            # Without waiting for the device; looked at before the next validation.
            bad = torch.where(~loss.detach().isfinite() & (bad < 0), step, bad)
            scaler.scale(loss).backward()
            if o.clip_norm:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), o.clip_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            problem.after_step(step)
            total += loss.detach()
            bar.update()
            done = step + 1
            if done % every and done < problem.steps:
                continue
            if (step_of_it := int(bad)) >= 0:
                raise FloatingPointError(
                    f"the loss is not finite at step {step_of_it}; lower optim.lr, or set "
                    "optim.clip_norm=1 or fit.precision=32-true"
                )
            mean = float(total) / ((step % every) + 1)
            total.zero_()
            with autocast(recipe.fit.precision, device):
                scores = _check(problem, now, done, mean, board, factor * max(rates))
            bar.set_postfix({"loss": f"{mean:.4f}", **{k: f"{v:.3f}" for k, v in scores.items()}})
            since = (done - now["best_step"]) / every
            now["ended"] = bool(recipe.fit.patience) and since >= recipe.fit.patience
            now |= {"seconds": time.monotonic() - started, "scaler": scaler.state_dict()}
            if time.monotonic() - saved >= save_every_s or now["ended"] or done == problem.steps:
                _save(folder / STATE, now, model, optimizer)
                saved = time.monotonic()
            if now["ended"]:
                break
    model.load_state_dict(now["best_model"])
    keys = ("best", "best_step", "step", "history", "seconds")
    return {key: now[key] for key in keys}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """What a precision of `Fit` means on a device."""
    low = precision.endswith("-mixed") or (precision == "auto" and device.type == "cuda")
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=low)


def _check(
    problem: Problem, now: dict, done: int, loss: float, board: SummaryWriter, rate: float
) -> dict[str, float]:
    """Validate, and remember the weights if they are the best so far."""
    problem.model.eval()
    with torch.no_grad():
        scores = problem.validate()
    value = next(iter(scores.values()))
    value = -math.inf if math.isnan(value) else value
    # Without any score yet, the latest weights are the best guess.
    if value > now["best"] or now["best"] == -math.inf:
        state = problem.model.state_dict()
        now |= {"best": value, "best_step": done}
        now["best_model"] = {k: v.detach().cpu().clone() for k, v in state.items()}
    now["step"] = done
    now["history"].append({"step": done, "loss": loss, **scores})
    for name, number in {"loss": loss, "lr": rate, **scores}.items():
        board.add_scalar(name, number, done)
    return scores


def _save(path: Path, now: dict, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    content = now | {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with atomic(path) as temporary:
        torch.save(content, temporary)


def _load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has many ways to say that a file is damaged
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}); delete it to begin again"
        ) from error
    model.load_state_dict(content.pop("model"))
    optimizer.load_state_dict(content.pop("optimizer"))
    return content
