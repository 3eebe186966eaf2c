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
KEPT = ("best", "best_step", "step", "history", "seconds")  # of a training, beside its weights
downstream_schedule = partial(optim.schedule, published_warmup=optim.DOWNSTREAM_WARMUP)


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
        """The loss of a batch, of shape (); the model is in training mode and under autocast."""

    def after_step(self, step: int) -> None:
        """Called when the optimiser has moved."""

    def validate(self) -> dict[str, float]:
        """Scores on the validation part, the one to choose by first: higher is better."""


def train_problem(
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
    training = TrainingRun(problem, recipe, folder / STATE, seed)
    first, saved = training.now["step"], time.monotonic()
    bar = tqdm(total=problem.steps, initial=first, unit="step", disable=not progress, leave=False)
    with SummaryWriter(folder / "logs", purge_step=first) as board, bar, interrupt.deferred():
        steps = range(first, 0 if training.now["ended"] else problem.steps)
        for step, batch in zip(steps, problem.batches(first), strict=False):
            interrupt.safe_point()
            training.make_step(step, batch)
            bar.update()
            done = step + 1
            if done % training.check_every and done < problem.steps:
                continue
            numbers = training.check(step)
            bar.set_postfix({name: f"{number:.4g}" for name, number in numbers.items()})
            for name, number in numbers.items():
                board.add_scalar(name, number, done)
            last = training.now["ended"] or done == problem.steps
            if last or time.monotonic() - saved >= save_every_s:
                training.save()
                saved = time.monotonic()
            if last:
                break
    problem.model.load_state_dict(training.now["best_model"])
    return {key: training.now[key] for key in KEPT}


class TrainingRun:
    """A problem in training: its optimiser, and what a state of it holds.

    Args:
        path: of the state; the training goes on from it if it exists.
    """

    def __init__(self, problem: Problem, recipe: Recipe, path: Path, seed: int):
        self.problem, self.recipe, self.path, self.seed = problem, recipe, path, seed
        downstream_schedule(0, problem.steps, recipe.optim)  # refuses a warm-up beyond the run
        self.device = next(problem.model.parameters()).device
        self.optimizer = optim.optimizer(problem.groups(), recipe.optim)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        float16 = recipe.fit.precision == "16-mixed"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=float16)
        self.now: dict[str, Any] = {"step": 0, "best": -math.inf, "history": [], "seconds": 0.0}
        self.now |= {"best_step": 0, "best_model": None, "ended": False}
        if path.exists():
            self._load()
        self.check_every = max(1, round(recipe.fit.check_every_epochs * problem.epoch_steps))
        self.started = time.monotonic() - self.now["seconds"]
        self.total_loss = torch.zeros((), device=self.device)
        self.bad_step = torch.tensor(-1, device=self.device)  # the first without a finite loss

    def make_step(self, step: int, batch: Any) -> None:
        """Move the weights once."""
        model, o = self.problem.model, self.recipe.optim
        factor = downstream_schedule(step, self.problem.steps, o)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        model.train()
        torch.manual_seed(torch_seed(self.seed, MODEL, step))
        with autocast(self.recipe.fit.precision, self.device):
            loss = self.problem.loss(batch, step)
        # Without waiting for the device; looked at before the next validation.
        first_bad = ~loss.detach().isfinite() & (self.bad_step < 0)
        self.bad_step = torch.where(first_bad, step, self.bad_step)
        self.scaler.scale(loss).backward()
        if o.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), o.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.problem.after_step(step)
        self.total_loss += loss.detach()

    def check(self, step: int) -> dict[str, float]:
        """Validate behind a step, and remember the weights if they are the best so far.

        Returns:
            Mean loss since the last validation, learning rate, scores.
        """
        if (bad_step := int(self.bad_step)) >= 0:
            raise FloatingPointError(
                f"the loss is not finite at step {bad_step}; lower optim.lr, or set "
                "optim.clip_norm=1 or fit.precision=32-true"
            )
        done = step + 1
        loss = float(self.total_loss) / ((step % self.check_every) + 1)
        self.total_loss.zero_()
        self.problem.model.eval()
        with autocast(self.recipe.fit.precision, self.device), torch.no_grad():
            scores = self.problem.validate()
        self._keep_best(next(iter(scores.values())), done)
        since = (done - self.now["best_step"]) / self.check_every
        patience = self.recipe.fit.patience
        self.now |= {"step": done, "ended": bool(patience) and since >= patience}
        self.now |= {"seconds": time.monotonic() - self.started}
        self.now["history"].append({"step": done, "loss": loss, **scores})
        rate = downstream_schedule(step, self.problem.steps, self.recipe.optim) * max(self.rates)
        return {"loss": loss, "lr": rate, **scores}

    def _keep_best(self, score: float, done: int) -> None:
        score = -math.inf if math.isnan(score) else score
        # Without any score yet, the latest weights are the best guess.
        if score > self.now["best"] or self.now["best"] == -math.inf:
            weights = self.problem.model.state_dict()
            self.now |= {"best": score, "best_step": done}
            self.now["best_model"] = {k: v.detach().cpu().clone() for k, v in weights.items()}

    def save(self) -> None:
        """Write the state."""
        content = self.now | {"scaler": self.scaler.state_dict()}
        content |= {"model": self.problem.model.state_dict()}
        content |= {"optimizer": self.optimizer.state_dict()}
        with atomic(self.path) as temporary:
            torch.save(content, temporary)

    def _load(self) -> None:
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch has many ways to say that a file is damaged
            raise ValueError(
                f"{self.path} cannot be read ({type(error).__name__}); delete it to begin again"
            ) from error
        self.problem.model.load_state_dict(content.pop("model"))
        self.optimizer.load_state_dict(content.pop("optimizer"))
        if scaler := content.pop("scaler", None):
            self.scaler.load_state_dict(scaler)
        self.now = content
        log.info("going on from step %d of %d", self.now["step"], self.problem.steps)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """What a precision of `Fit` means on a device."""
    low = precision.endswith("-mixed") or (precision == "auto" and device.type == "cuda")
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=low)
