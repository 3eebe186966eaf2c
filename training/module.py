"""One training run as a LightningModule: batches to loss, evaluation over all devices."""

import logging
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from hear_ptsed.model import SEDModel
from training import optim
from training.augment import Targets, augment, per_db, wavmix
from training.data.annotations import Events
from training.data.batch import Batch, ClipSet, loader
from training.data.sampling import AUGMENT, MODEL, EvalPicks, Picks, Plan, TrainPicks, torch_seed
from training.evaluate import SECONDS_OF, Scores, frame_logits, windows
from training.recipe import Recipe, as_dict
from training.targets import clip_targets, frame_targets

log = logging.getLogger(__name__)


class Training(lightning.LightningModule):
    """A model in training.

    Random numbers of a step depend on the seed, the step and the device's rank alone, so the state
    of a run is its weights, its optimiser and its step.

    Args:
        events: of the evaluation clips, merged.
        teachers: models that hear every batch; empty for pseudo labels from files, or none.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: SEDModel,
        train: ClipSet,
        evaluation: ClipSet | None = None,
        events: Events | None = None,
        teachers: Sequence[SEDModel] = (),
    ):
        super().__init__()
        self.recipe, self.model = recipe, model
        self.clips, self.evaluation, self.events = train, evaluation, events
        self.teachers = tuple(teachers)  # not registered: no part of the checkpoint
        epoch_clips = min(recipe.sampling.epoch_clips, len(train))
        self.plan = Plan(
            len(train),
            epoch_clips,
            recipe.optim.epochs,
            recipe.optim.batch,
            recipe.optim.accumulate,
            recipe.optim.part_batches,
        )
        optim.schedule(0, self.plan.steps, recipe.optim)  # refuses a warm-up beyond the run
        self.per_db = per_db(model.frontend)
        self.register_buffer("annotated", torch.from_numpy(train.annotated), persistent=False)
        self.register_buffer("taught", _taught(train), persistent=False)
        self.register_buffer("bad_step", torch.tensor(-1), persistent=False)
        self.ema = None
        if recipe.optim.ema:
            average = get_ema_multi_avg_fn(recipe.optim.ema)
            self.ema = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
            self.ema.requires_grad_(False)
        self.unreadable: dict[str, str] = {}  # of the training clips so far
        self.missed: dict[str, str] = {}  # of the evaluation clips, last time
        self.scores: Scores | None = None
        self.result: dict[str, Any] = {}

    @property
    def scored_model(self) -> SEDModel:
        """What is evaluated and exported: the averaged weights if there are any."""
        return self.model if self.ema is None else self.ema.module

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what turns the weights into a model again."""
        checkpoint["recipe"] = as_dict(self.recipe)
        checkpoint["classes"] = self.clips.classes
        checkpoint["unreadable"] = self.unreadable

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the recipe's own learning rates and the like, which the state would undo."""
        self.unreadable = dict(checkpoint["unreadable"])
        fresh = self.configure_optimizers()
        schedule, saved = fresh["lr_scheduler"]["scheduler"], checkpoint["lr_schedulers"][0]
        factor = schedule.lr_lambdas[0](saved["last_epoch"])
        saved["base_lrs"] = schedule.base_lrs
        groups = checkpoint["optimizer_states"][0]["param_groups"]
        for old, new in zip(groups, fresh["optimizer"].param_groups, strict=True):
            old |= {key: value for key, value in new.items() if key != "params"}
            old["lr"] = new["initial_lr"] * factor

    # Loading

    def train_dataloader(self) -> DataLoader:
        sampling, data = self.recipe.sampling, self.recipe.data
        weights = self.clips.weights(sampling.offset) if sampling.balanced else None
        picks = TrainPicks(
            self.plan,
            weights,
            sampling.replacement,
            self.recipe.run.seed,
            self.recipe.augment.wavmix_p,
            self.recipe.augment.wavmix_partner,
            self.trainer.global_step * self.plan.accumulate,
            self.global_rank,
            self.trainer.world_size,
        )
        return loader(self.clips, picks, data.workers, self.device.type == "cuda")

    def val_dataloader(self) -> DataLoader | list:
        if self.evaluation is None:
            return []
        picks = EvalPicks(
            len(self.evaluation),
            self.recipe.evaluation.batch,
            self.global_rank,
            self.trainer.world_size,
        )
        workers = min(self.recipe.data.workers, 4)
        return loader(self.evaluation, picks, workers, self.device.type == "cuda")

    # Training

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        seeds = (self.recipe.run.seed, AUGMENT, batch["step"], self.global_rank)
        draw = torch.Generator().manual_seed(torch_seed(*seeds))
        # The network's own noise: dropout, layer drop, jitter of the mel range.
        torch.manual_seed(torch_seed(seeds[0], MODEL, *seeds[2:]))
        self._note_unreadable(batch)
        with torch.no_grad():
            spec, targets = self.inputs(batch, draw)
        loss = self.loss(spec, targets)
        with torch.no_grad():  # without waiting for the device; looked at when saving or logging
            fresh = ~loss.isfinite() & (self.bad_step < 0)
            self.bad_step = torch.where(fresh, batch["step"], self.bad_step)
        self.log("train/loss", loss.detach(), prog_bar=True, sync_dist=True)
        return loss

    def inputs(self, batch: Batch, draw: torch.Generator) -> tuple[Tensor, Targets]:
        """Augmented spectrograms of a batch and what the model shall answer."""
        audio, options = windows(batch), self.recipe.augment
        partner = batch["partner"]
        size, rows, classes = len(partner), len(audio), len(self.clips.classes)
        targets = self._targets(batch, rows, classes)
        own = Targets(*(None if t is None else t[:size] for t in targets))
        if options.wavmix_p:
            others = Targets(*(None if t is None else t[partner] for t in targets))
            mixed = partner != torch.arange(size, device=partner.device)
            audio, own = wavmix(
                audio[:size], own, audio[partner], others, mixed, draw, options.wavmix_mean
            )
        if self.teachers:
            own = own._replace(soft=self._taught_by_ear(audio))
        spec = self.model.frontend(audio)
        return augment(spec, own, options, draw, self.per_db)

    def _targets(self, batch: Batch, rows: int, classes: int) -> Targets:
        known = self.annotated[batch["source"]] & batch["ok"][:, None]
        if self.recipe.data.labels == "weak":
            weak = clip_targets(batch["events"], rows, classes)
            return Targets(None, weak, None, known.float())
        strong = frame_targets(batch["events"], rows, classes)
        soft = None
        if "pseudo" in batch:
            # Clips and classes without pseudo labels learn from the hard label alone.
            soft = strong.clone()
            taught = self.taught >= 0
            soft[:, taught] = torch.where(
                batch["has_pseudo"][:, None, None],
                batch["pseudo"].float().sigmoid()[:, self.taught[taught]],
                strong[:, taught],
            )
        return Targets(strong, None, soft, known.float())

    def _taught_by_ear(self, audio: Tensor) -> Tensor:
        logits = [teacher.to(audio.device)(audio).strong.float() for teacher in self.teachers]
        return torch.stack(logits).mean(0).sigmoid()

    def loss(self, spec: Tensor, targets: Targets) -> Tensor:
        """Mean binary cross-entropy against (1 - weight) * label + weight * pseudo label.

        Which equals the mix of two cross-entropies, because each is linear in its target.
        Elements that nobody annotated count as 0.
        """
        output = self.model.detect(spec)
        if self.recipe.data.labels == "weak":
            logits, target, known = output.weak, targets.weak, targets.known
        else:
            logits, target, known = output.strong, targets.strong, targets.known[..., None]
            if targets.soft is not None:
                target = target.lerp(targets.soft, self.recipe.distill.weight)
        # Mixed with a clip that is not annotated for a class, none of its labels is sure.
        known = (known > 0.999).float()
        return F.binary_cross_entropy_with_logits(logits.float(), target, weight=known)

    def optimizer_step(self, *arguments: Any, **keywords: Any) -> None:
        super().optimizer_step(*arguments, **keywords)
        if self.ema is not None:
            self.ema.update_parameters(self.model)

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.global_step % self.recipe.run.log_every_steps == 0:
            self.refuse_bad()

    def refuse_bad(self) -> None:
        """Stop if a loss or the weights became NaN or infinite, naming the clips of that batch."""
        step, what = int(self.bad_step), "the loss of"
        if step < 0 and not get_total_norm(self.model.parameters()).isfinite():
            step, what = self.trainer.global_step * self.plan.accumulate - 1, "a weight after"
        if step >= 0:
            picks: Picks = self.trainer.train_dataloader.sampler.at(step)
            keys = ", ".join(self.clips.keys[i] for i in picks.clips[: len(picks.partner)][:8])
            raise FloatingPointError(
                f"{what} micro step {step} is not finite (clips {keys}, …); the last "
                "checkpoint is from before: resume with a lower optim.lr, optim.clip_norm=1 or "
                "optim.precision=32-true"
            )

    def share_unreadable(self) -> None:
        """Let all devices know which clips one of them could not read."""
        if self.trainer.world_size > 1:
            parts: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, (self.unreadable, self.missed))
            for unreadable, missed in parts:
                self.unreadable |= unreadable
                self.missed |= missed

    def _note_unreadable(self, batch: Batch) -> None:
        for key, reason in batch["unreadable"]:
            if key not in self.unreadable:
                log.warning("unreadable, left out: %s", reason)
            self.unreadable[key] = reason
        allowed = self.recipe.data.max_unreadable * len(self.clips)
        if len(self.unreadable) > allowed:
            raise RuntimeError(
                f"{len(self.unreadable)} of {len(self.clips)} clips are unreadable, more than "
                f"data.max_unreadable = {self.recipe.data.max_unreadable:g} allows; the first: "
                + next(iter(self.unreadable.values()))
            )

    def configure_optimizers(self) -> dict[str, Any]:
        options = self.recipe.optim
        optimizer = optim.optimizer(optim.groups(self.model, options), options)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: optim.schedule(min(step, self.plan.steps), self.plan.steps, options),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Evaluation

    def on_validation_epoch_start(self) -> None:
        options = self.recipe.evaluation
        self.scores = Scores(
            self.evaluation,
            self.events,
            self.recipe.data.labels,
            options.median,
            options.batch if options.loss_mean == "batches" else 1,
        )
        self.missed = {}

    def validation_step(self, batch: Batch, _index: int) -> None:
        self.missed |= dict(batch["unreadable"])
        model = self.scored_model
        strong, weak = frame_logits(model, windows(batch), self.recipe.data.labels)
        rows, classes = len(strong), strong.shape[1]
        target = clip_targets(batch["events"], rows, classes)
        if self.recipe.data.labels == "strong":
            labels = frame_targets(batch["events"], rows, classes)
            loss = F.binary_cross_entropy_with_logits(strong, labels, reduction="none")
        else:
            loss = F.binary_cross_entropy_with_logits(weak, target, reduction="none")
        seconds = batch[SECONDS_OF[self.recipe.evaluation.durations]]
        parts = (batch["clip"], batch["ok"], seconds, self.scores.filtered(strong))
        gathered = self.all_gather((*parts, weak, target, loss.flatten(1).mean(1)))
        if self.trainer.is_global_zero:
            if self.trainer.world_size > 1:
                gathered = tuple(part.flatten(0, 1) for part in gathered)
            self.scores.add(*gathered)

    def on_validation_epoch_end(self) -> None:
        self.refuse_bad()
        result, failure = {}, None
        if self.trainer.is_global_zero:
            try:
                final = self.trainer.global_step >= self.plan.steps
                result = self.scores.result(self.recipe.evaluation.bootstrap if final else 0)
            except Exception as error:  # the others wait for an answer
                failure = error
        result, message = self.trainer.strategy.broadcast((result, failure and str(failure)))
        if failure is not None:
            raise failure
        if message:
            raise RuntimeError(f"evaluation failed on the first device: {message}")
        self.result = result | {"step": self.trainer.global_step}
        for name in ("loss", "psds1_macro", "psds1", "pauroc", "map"):
            if name in result:
                self.log(
                    f"val/{name}", result[name], prog_bar=name == "psds1_macro", sync_dist=True
                )

    @property
    def target_metric(self) -> str:
        """What the best checkpoint is chosen by."""
        return "psds1_macro" if "psds1_macro" in self.result else "map"


def _taught(clips: ClipSet) -> Tensor:
    """For each class its column in the pseudo labels, -1 for classes that they lack."""
    if clips.pseudo is None:
        return torch.empty(0, dtype=torch.long)
    column = {name: c for c, name in enumerate(clips.pseudo.classes)}
    return torch.tensor([column.get(name, -1) for name in clips.classes])
