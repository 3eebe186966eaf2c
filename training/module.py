"""One training run as a LightningModule: batches to loss, evaluation over all devices."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from hear_ptsed.grid import WINDOW_FRAMES
from hear_ptsed.model import Output, SEDModel
from training import optim
from training.augment import augment, per_db, wavmix
from training.data.batch import Batch, ClipSet, loader, windows
from training.data.sampling import AUGMENT, EXTRA, MODEL, Picks, Plan, TrainPicks, torch_seed
from training.guards import FiniteGuard, UnreadableGuard
from training.labels import LABELS
from training.recipe import Augment, Data, Distill, Extra, Optim, Sampling
from training.scores import Scores
from training.targets import Targets

EVALUATION_WORKERS = 4  # loader processes at most
NO_AUGMENTATION = Augment(
    wavmix_p=0.0, frame_shift=0.0, mixup_p=0.0, mixstyle_p=0.0, filter_p=0.0, warp_p=0.0
)


class Training(lightning.LightningModule):
    """A model in training.

    Random numbers of a step depend on the seed, the step and the device's rank alone, so the state
    of a run is its weights, its optimiser and its step.

    Args:
        data, sampling, augment_options, distill, extra, optim_options: sections of the recipe.
        scores: of the evaluation clips; None to evaluate nothing.
        teachers: models that hear every batch; empty for pseudo labels from files, or none.
    """

    def __init__(
        self,
        model: SEDModel,
        clips: ClipSet,
        data: Data,
        sampling: Sampling,
        augment_options: Augment,
        distill: Distill,
        extra: Extra,
        optim_options: Optim,
        seed: int,
        scores: Scores | None = None,
        teachers: Sequence[SEDModel] = (),
    ):
        super().__init__()
        self.model, self.clips, self.scores, self.seed = model, clips, scores, seed
        self.data, self.sampling, self.distill, self.extra = data, sampling, distill, extra
        self.optim_options, self.augment_options = optim_options, augment_options
        self.teachers = tuple(teachers)  # not registered: no part of the checkpoint
        self.labels = LABELS[data.labels]
        self.plan = self._plan(clips)
        self.weights = clips.weights(sampling.offset) if sampling.balanced else None
        optim.schedule(0, self.plan.steps, optim_options)  # refuses a warm-up beyond the run
        self.per_db = per_db(model.frontend)
        self.teachers_per_db = [per_db(teacher.frontend) for teacher in teachers]
        self.register_buffer("annotated", torch.from_numpy(clips.annotated), persistent=False)
        column = torch.from_numpy(clips.pseudo_column)
        self.register_buffer("pseudo_column", column, persistent=False)
        self.ema = None
        if optim_options.ema:
            average = get_ema_multi_avg_fn(optim_options.ema)
            self.ema = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
            self.ema.requires_grad_(False)
        self.finite = FiniteGuard()
        n_clips = len(clips) + (0 if clips.extra is None else len(clips.extra))
        self.unreadable = UnreadableGuard(n_clips, data.max_unreadable)
        self.missed: dict[str, str] = {}  # evaluation clips that could not be read, last time
        self.result: dict[str, Any] = {}
        self.started = (0.0, 0)  # time in s and step of this process's first step

    @property
    def scored_model(self) -> SEDModel:
        """What is evaluated and exported: the averaged weights if there are any."""
        return self.model if self.ema is None else self.ema.module

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["unreadable"] = self.unreadable.reasons

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.unreadable.reasons = dict(checkpoint["unreadable"])

    # Training

    def train_dataloader(self) -> DataLoader:
        options, place = self.augment_options, (self.global_rank, self.trainer.world_size)
        picks = TrainPicks(
            self.plan,
            self.weights,
            self.sampling.replacement,
            self.seed,
            options.wavmix_p,
            options.wavmix_partner,
            self.trainer.global_step * self.plan.accumulate,
            *place,
            self._extra_picks(*place),
        )
        return loader(self.clips, picks, self.data.workers, self.device.type == "cuda")

    def _plan(self, clips: ClipSet) -> Plan:
        options, epoch_clips = self.optim_options, min(self.sampling.epoch_clips, len(clips))
        sizes = options.epochs, options.batch, options.accumulate, options.part_batches
        return Plan(len(clips), epoch_clips, *sizes)

    def _extra_picks(self, rank: int, world: int) -> TrainPicks | None:
        """Of the clips that only teachers label: each once in an epoch of theirs."""
        if (clips := self.clips.extra) is None:
            return None
        weights, seed = None, torch_seed(self.seed, EXTRA)
        if self.extra.balanced:
            weights = clips.weights(self.extra.offset * WINDOW_FRAMES)
        return TrainPicks(self._plan(clips), weights, False, seed, rank=rank, world=world)

    def on_train_start(self) -> None:
        self.started = (time.monotonic(), self.trainer.global_step)

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """The loss of a micro step, a scalar, on a batch with audio (R, S); see ClipSet."""
        numbers = (batch["step"], self.global_rank)
        draw = torch.Generator().manual_seed(torch_seed(self.seed, AUGMENT, *numbers))
        # The network's own noise: dropout, layer drop, jitter of the mel range.
        torch.manual_seed(torch_seed(self.seed, MODEL, *numbers))
        self.unreadable.watch(batch)
        with torch.no_grad():
            given = [self.inputs(batch, draw)]
            if "extra" in batch:
                self.unreadable.watch(batch["extra"])
                given.append(self.extra_inputs(batch["extra"], draw))
        loss = self.loss(*given)
        self.finite.watch(loss, batch["step"])
        self.log("train/loss", loss.detach(), prog_bar=True, sync_dist=True)
        return loss

    def inputs(self, batch: Batch, draw: torch.Generator) -> tuple[Tensor, Targets]:
        """Augmented spectrograms (B, 1, F, T) of a batch, and what the model shall answer."""
        audio, options = windows(batch), self.augment_options
        annotated = self.annotated[batch["source"]] & batch["ok"][:, None]
        targets = self.labels.targets(batch, annotated, self.pseudo_column)
        if options.wavmix_p:
            audio, targets = wavmix(audio, targets, batch["partner"], draw, options.wavmix_mean)
        return self._augmented(audio, targets, options, draw)

    def extra_inputs(self, batch: Batch, draw: torch.Generator) -> tuple[Tensor, Targets]:
        """The same of clips that only the teachers label."""
        options = replace(
            NO_AUGMENTATION, mixup_p=self.extra.mixup_p, mixup_alpha=self.extra.mixup_alpha
        )
        readable = batch["ok"][:, None].expand(-1, len(self.clips.classes))
        targets = Targets(None, known=readable.float())
        spec, targets = self._augmented(windows(batch), targets, options, draw)
        return spec, Targets(targets.soft, known=targets.known)

    def _augmented(
        self, audio: Tensor, targets: Targets, options: Augment, draw: torch.Generator
    ) -> tuple[Tensor, Targets]:
        """Augmented spectrograms (B, 1, F, T) of audio (B, 160000), and targets, also soft ones."""
        hear, begin = self.distill.teachers_hear, draw.get_state()
        if self.teachers and hear == "audio":
            targets = targets._replace(soft=self._answers(audio, lambda spec, _: spec))
        spec = self.model.frontend(audio)
        n_frames = spec.shape[-1]

        def augment_alike(spec: Tensor, per_db: float) -> Tensor:
            same = torch.Generator()
            same.set_state(begin)
            return augment(spec, targets, options, same, per_db, n_frames)[0]

        spec, answers = augment(spec, targets, options, draw, self.per_db)
        if self.teachers and hear == "augmented":
            answers = answers._replace(soft=self._answers(audio, augment_alike))
        return spec, answers

    def _answers(self, audio: Tensor, change: Callable[[Tensor, float], Tensor]) -> Tensor:
        """Probabilities (B, C, 250) of the teachers' mean logits for audio (B, 160000).

        Args:
            change: of each teacher's spectrograms; gets also their rise per dB.
        """
        logits = []
        for teacher, rise in zip(self.teachers, self.teachers_per_db, strict=True):
            spec = teacher.to(audio.device).frontend(audio)
            logits.append(teacher.detect(change(spec, rise)).strong.float())
        return torch.stack(logits).mean(0).sigmoid()

    def loss(
        self, labelled: tuple[Tensor, Targets], extra: tuple[Tensor, Targets] | None = None
    ) -> Tensor:
        """A scalar, of spectrograms (B, 1, F, T) and what the model shall answer.

        With extra clips, whose share of the soft targets' weight w is x, it is
        (1 - w) BCE(labels) + w ((1 - x) BCE(soft targets) + x BCE(soft targets of extra clips)).
        """
        spec, targets = labelled
        weight = self.distill.weight
        if extra is None:
            return self.labels.loss(self.model.detect(spec), targets, weight)
        output = self.model.detect(torch.cat([spec, extra[0]]))
        first, others = (
            Output(*(None if part is None else part[rows] for part in output))
            for rows in (slice(len(spec)), slice(len(spec), None))
        )
        of_extra = weight * self.extra.weight
        share = (weight - of_extra) / (1 - of_extra)
        loss = self.labels.loss(first, targets, share)
        return (1 - of_extra) * loss + of_extra * self.labels.loss(others, extra[1], 1.0)

    def configure_optimizers(self) -> dict[str, Any]:
        options, steps = self.optim_options, self.plan.steps
        optimizer = optim.optimizer(optim.groups(self.model, options), options)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: optim.schedule(min(step, steps), steps, options)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(self, *arguments: Any, **keywords: Any) -> None:
        super().optimizer_step(*arguments, **keywords)
        if self.ema is not None:
            self.ema.update_parameters(self.model)

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.global_step % self.trainer.log_every_n_steps == 0:
            self.refuse_bad()
        start_s, start_step = self.started
        clips = (self.trainer.global_step - start_step) * self.plan.batch
        self.log("clips_per_s", clips / max(time.monotonic() - start_s, 1e-3), prog_bar=True)

    def refuse_bad(self) -> None:
        """Stop if a loss or the weights became NaN or infinite, naming the clips of that batch."""
        last = self.trainer.global_step * self.plan.accumulate - 1
        if (bad := self.finite.first_bad(self.model, last)) is not None:
            step, what = bad
            picks: Picks = self.trainer.train_dataloader.sampler.at(step)
            keys = ", ".join(self.clips.keys[i] for i in picks.clips[: len(picks.partner)][:8])
            raise FloatingPointError(
                f"{what} micro step {step} is not finite (clips {keys}, …); the last checkpoint is "
                "from before: start a new run from it (`python -m training export`, model.start) "
                "with a lower optim.lr, optim.clip_norm=1 or optim.precision=32-true"
            )

    def report_unreadable(self) -> None:
        """Enter the clips that any device could not read in the coverage reports."""
        if self.trainer.world_size > 1:
            parts: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, (self.unreadable.reasons, self.missed))
            for unreadable, missed in parts:
                self.unreadable.reasons |= unreadable
                self.missed |= missed
        self.clips.report_unreadable(self.unreadable.reasons)
        if self.scores is not None:
            self.scores.clips.report_unreadable(self.missed)

    # Evaluation

    def val_dataloader(self) -> DataLoader | list:
        if self.scores is None:
            return []
        workers = min(self.data.workers, EVALUATION_WORKERS)
        pin = self.device.type == "cuda"
        return self.scores.loader(workers, pin, self.global_rank, self.trainer.world_size)

    def on_validation_epoch_start(self) -> None:
        self.scores.clear()
        self.missed = {}

    def validation_step(self, batch: Batch, _index: int) -> None:
        self.missed |= dict(batch["unreadable"])
        gathered = self.all_gather(self.scores.score_batch(self.scored_model, batch))
        if self.trainer.is_global_zero:
            if self.trainer.world_size > 1:
                gathered = tuple(part.flatten(0, 1) for part in gathered)
            self.scores.add(*gathered)

    def on_validation_epoch_end(self) -> None:
        self.refuse_bad()
        result, failure = {}, None
        if self.trainer.is_global_zero:
            try:
                is_last = self.trainer.global_step >= self.plan.steps
                result = self.scores.result(intervals=is_last)
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
                show = name == self.scores.primary
                self.log(f"val/{name}", result[name], prog_bar=show, sync_dist=True)
