"""A run from its recipe to an exported checkpoint: `python -m training fit`."""

import logging
import math
import os
import shutil
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from hear_ptsed import download, interrupt
from hear_ptsed.checkpoints import load_checkpoint, open_checkpoint, save_checkpoint
from hear_ptsed.files import (
    atomic,
    locked,
    null_for_nan,
    remove_stale,
    temporary_beside,
    write_json,
)
from hear_ptsed.frontends.mel import ATSTMel
from hear_ptsed.model import SEDModel
from hear_ptsed.registry import build, row
from training import recipe as config
from training.data.annotations import Events
from training.data.batch import Batch, ClipSet
from training.data.coverage import Coverage
from training.data.pseudo_labels import open_pseudo_labels
from training.data.sources import Opened, class_names
from training.module import Training
from training.optim import freeze_unused
from training.recipe import Recipe
from training.states import read_state, state_to_resume

log = logging.getLogger(__name__)
LAST, BEST = "last.ckpt", "best.ckpt"
# What may differ between a run and its resumption without making it another run.
FREE = ("run", "evaluation", "data.workers", "data.root", "data.max_unreadable")
# What may be changed on the way, with a warning.
STEERED = (
    *("optim.lr", "optim.lr_end", "optim.schedule", "optim.gamma", "optim.warmup_steps"),
    *("optim.epochs", "optim.weight_decay", "optim.betas", "optim.momentum"),
    *("optim.clip_norm", "optim.precision"),
)


class Keep(Callback):
    """Writes last.ckpt and best.ckpt whole or not at all, and the results beside them."""

    def __init__(self, out: Path, every: int, coverage: list[Coverage]):
        self.out, self.every, self.coverage = out, every, coverage
        self.best = -1.0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]

    def on_train_batch_end(self, trainer, module, _output: Any, batch: Batch, _index: int) -> None:
        done = batch["step"] + 1
        due = done % (self.every * module.plan.accumulate) == 0
        # An evaluation at this step saves after it.
        if due and (module.evaluation is None or done % trainer.val_check_batch):
            module.refuse_bad()
            self.save(trainer, module)

    def on_validation_end(self, trainer, module) -> None:
        if trainer.state.fn == "fit":
            self.rate(trainer, module)

    def rate(self, trainer, module) -> None:
        """Save after an evaluation, and keep it as the best one if it is."""
        value = module.result[module.target_metric]
        better = value > self.best
        self.best = max(self.best, value)
        self.save(trainer, module, ["last"] + ["best"] * better)

    def save(self, trainer, module, results: Sequence[str] = ()) -> None:
        """Write last.ckpt, before it what belongs to an evaluation and to the best one."""
        module.share_unreadable()
        temporary = temporary_beside(self.out / LAST)
        try:
            trainer.save_checkpoint(temporary)
            if trainer.is_global_zero:
                _write_coverage(self.out, self.coverage, module)
                for name in results:
                    write_json(self.out / f"{name}.json", null_for_nan(module.result))
                if "best" in results:
                    with atomic(self.out / BEST) as best:
                        _link(temporary, best)
                # Killed any earlier, the run comes here again when it is resumed.
                temporary.replace(self.out / LAST)
        except OSError as error:
            raise OSError(
                f"cannot write {self.out / LAST}: {error.strerror or error}; the checkpoint from "
                "before is still there: make room and resume"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)


class Interruptible(Callback):
    """Lets Ctrl-C end a run between two batches."""

    def on_train_batch_end(self, *_: Any) -> None:
        interrupt.safe_point()

    def on_validation_batch_end(self, *_: Any) -> None:
        interrupt.safe_point()


class Bar(TQDMProgressBar):
    """Lightning's progress bar with clips per second."""

    def __init__(self, batch: int):
        super().__init__(refresh_rate=10)
        self.batch, self.start = batch, (0.0, 0)

    def on_train_start(self, trainer, module) -> None:
        super().on_train_start(trainer, module)
        self.start = (time.monotonic(), trainer.global_step)

    def get_metrics(self, trainer, module) -> dict[str, Any]:
        since, step = self.start
        rate = (trainer.global_step - step) * self.batch / max(time.monotonic() - since, 1e-3)
        return {
            **{k: v for k, v in super().get_metrics(trainer, module).items() if k != "v_num"},
            "clips/s": round(rate, 1),
        }

    def on_train_epoch_start(self, trainer, *arguments: Any) -> None:
        super().on_train_epoch_start(trainer, *arguments)
        self.train_progress_bar.set_description("Training")


def fit(recipe: Recipe, resume: bool = False) -> Path:
    """Train, and write the chosen weights as `model.pt` and `model.safetensors`.

    The run's folder also gets recipe.yaml, coverage.json, last.ckpt and best.ckpt (all of the
    state), last.json and best.json (scores), and the logs.

    A second run in the same folder is refused while this one lasts.

    Args:
        resume: go on from last.ckpt if there is one.
    Returns:
        Path of model.pt.
    """
    out = Path(recipe.run.out).expanduser()
    with locked(out) if _is_first() else nullcontext():
        return _fit(recipe, out, resume)


def _is_first() -> bool:
    """Whether this is the first process of a run: of torchrun, Slurm or Lightning, or alone."""
    ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return next((int(os.environ[name]) for name in ranks if name in os.environ), 0) == 0


def _fit(recipe: Recipe, out: Path, resume: bool) -> Path:
    checkpoint = _claim(out, recipe, resume)
    train, evaluation, events, coverage = open_data(recipe)
    _say("\n".join(report.text() for report in coverage))
    torch.set_float32_matmul_precision("high")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    model = start_model(recipe, train.classes)
    unused = freeze_unused(model, recipe.data.labels)
    _say(f"not trained, the loss never reaches it: {', '.join(unused) or 'nothing'}")
    teachers = [_teacher(recipe.path(path), train.classes) for path in recipe.distill.teachers]
    module = Training(recipe, model, train, evaluation, events, teachers)
    if recipe.model.compile:
        model.backbone.compile()
    keep = Keep(out, recipe.run.save_every_steps, coverage)
    trainer = make_trainer(recipe, module, keep)
    if trainer.is_global_zero:
        _write_recipe(out, recipe)
        _write_coverage(out, coverage, module)
    try:
        with interrupt.deferred(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec).*")
            trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
            if evaluation is not None and module.result.get("step") != trainer.global_step:
                trainer.validate(module, verbose=False)
                keep.rate(trainer, module)
    except SystemExit:  # what Lightning makes of Ctrl-C and SIGTERM
        raise KeyboardInterrupt from None
    if evaluation is None:
        module.refuse_bad()
        keep.save(trainer, module)
    _say("\n".join(report.text() for report in coverage))
    if evaluation is not None:
        _say(f"best {module.target_metric}: {keep.best:.4f}, more in {out / 'best.json'}")
    if trainer.is_global_zero:
        export(out / (LAST if evaluation is None else BEST), out / "model.pt")
        export(out / (LAST if evaluation is None else BEST), out / "model.safetensors")
    return out / "model.pt"


def open_data(
    recipe: Recipe,
) -> tuple[ClipSet, ClipSet | None, Events | None, list[Coverage]]:
    """Clips to train on, clips to score, merged events of the latter, coverage of both."""
    if not recipe.data.train:
        raise ValueError(
            "the recipe names no data to train on; give data.train, such as "
            "--set 'data.train=[{audio: train.hdf, events: train.tsv}]'"
        )
    opened = Opened.of(recipe.data.train, recipe, unknown="error")
    classes = class_names(recipe, opened.events)
    train = opened.clip_set(classes, recipe.data.labels)
    if recipe.distill.pseudo_labels:
        train.pseudo = open_pseudo_labels([recipe.path(p) for p in recipe.distill.pseudo_labels])
    coverage = opened.coverage(classes)
    if not recipe.data.eval:
        return train, None, None, coverage
    scored = Opened.of(recipe.data.eval, recipe, unknown="keep")
    evaluation = scored.clip_set(classes, recipe.data.labels)
    return train, evaluation, scored.joined(), coverage + scored.coverage(classes)


def start_model(recipe: Recipe, classes: list[str]) -> SEDModel:
    """The network with its first weights; what they do not cover is drawn from the run's seed."""
    options = recipe.model
    with torch.random.fork_rng():
        torch.manual_seed(recipe.run.seed)
        model = _network(recipe, len(classes))
    if options.head_prior is not None:
        for head in (model.head.strong_head, model.head.weak_head):
            torch.nn.init.constant_(
                head.bias, math.log(options.head_prior / (1 - options.head_prior))
            )
    if isinstance(model.frontend, ATSTMel):
        model.frontend.floor = options.decibel_floor
    model.backbone.to(memory_format=torch.channels_last)
    if options.batch_norm_momentum is not None:
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.momentum = options.batch_norm_momentum
    if options.start == "none":
        return model.train()
    if options.start in ("ssl", "weak", "strong"):
        row(options.name, options.start)
        path = download.find(options.name, options.start)
    else:
        path = recipe.path(options.start)
    load_checkpoint(model, path)
    return model.train()


def _network(recipe: Recipe, n_classes: int) -> SEDModel:
    options = recipe.model
    sequence = {"dim": options.dim, "layers": options.layers} if options.sequence_model else {}
    return build(options.name, n_classes, options.sequence_model, options.head, **sequence)


def make_trainer(recipe: Recipe, module: Training, keep: Keep) -> lightning.Trainer:
    """Lightning's Trainer for a recipe: the whole run is one pass over the stream of clips."""
    options, plan = recipe.run, module.plan
    several = options.devices * options.nodes > 1
    # BEATs drops whole layers at random, whose parameters then get no gradient.
    drops = getattr(module.model.backbone, "layer_drop", 0) > 0
    strategy = DDPStrategy(find_unused_parameters=drops) if several else "auto"
    precision = recipe.optim.precision
    gpu = options.accelerator != "cpu" and torch.cuda.is_available()
    if precision == "auto":
        precision = "bf16-mixed" if gpu else "32-true"
    every = plan.steps_in(recipe.evaluation.every_epochs) * plan.accumulate
    return lightning.Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.nodes,
        strategy=strategy,
        precision=precision,
        max_steps=plan.steps,
        accumulate_grad_batches=plan.accumulate,
        gradient_clip_val=recipe.optim.clip_norm or None,
        check_val_every_n_epoch=None,
        val_check_interval=every,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=options.progress,
        log_every_n_steps=options.log_every_steps,
        logger=[_logger(name, Path(options.out), options) for name in options.loggers] or False,
        callbacks=[keep, Interruptible(), *([Bar(recipe.optim.batch)] if options.progress else [])],
    )


def export(checkpoint: Path, path: Path) -> None:
    """The weights of a run's checkpoint in the released layout, .pt or .safetensors."""
    content, recipe = read_state(checkpoint)
    classes = content["classes"]
    model = _network(recipe, len(classes))
    prefix = "ema.module." if recipe.optim.ema else "model."
    state = content["state_dict"]
    model.load_state_dict(
        {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
    )
    head = "weak_head" if recipe.data.labels == "weak" else "strong_head"
    # The attention head's weak output goes through both.
    heads = ("strong_head", "weak_head") if recipe.model.head == "attention" else (head,)
    save_checkpoint(model, path, classes, heads)


@rank_zero_only
def _say(text: str) -> None:
    log.info(text)


def _claim(out: Path, recipe: Recipe, resume: bool) -> Path | None:
    """The checkpoint to go on from; refuses a folder that holds another run."""
    last = out / LAST
    if _is_first():
        remove_stale(out, alone=True)
    if not last.exists():
        return None
    if not resume and _is_first():
        raise FileExistsError(f"{last} is there: give --resume to go on, or another run.out")
    then = config.as_dict(state_to_resume(last, out / BEST)[1])
    now = config.as_dict(recipe)
    changed = [
        f"{section}.{key}: {then[section].get(key)} then, {value} now"
        for section in now
        for key, value in now[section].items()
        if not {section, f"{section}.{key}"} & set(FREE) and then[section].get(key) != value
    ]
    if then["run"]["seed"] != recipe.run.seed:
        changed.append(f"run.seed: {then['run']['seed']} then, {recipe.run.seed} now")
    steering = [c for c in changed if c.partition(":")[0] not in STEERED]
    if steering:
        raise ValueError(f"{last} is of another run ({'; '.join(steering)}); use another run.out")
    for change in changed:
        log.warning("resumed with another %s", change)
    return last


def _teacher(path: Path, classes: list[str]) -> SEDModel:
    model = open_checkpoint(path)
    if list(model.classes_of("strong", f"the teacher {path}")) != list(classes):
        raise ValueError(f"the teacher {path} has other classes than this run")
    return model.requires_grad_(False)


def _logger(name: str, out: Path, options: config.Run) -> Logger:
    if name == "csv":
        # One version_N for each time a run was started or resumed: it would delete an older file.
        return CSVLogger(out, name="logs/csv", flush_logs_every_n_steps=10)
    if name == "tensorboard":
        return TensorBoardLogger(out, name="logs", version="tensorboard")
    try:
        import wandb  # noqa: F401
    except ImportError:
        raise ImportError(
            "run.loggers has wandb, which is not installed: pip install wandb"
        ) from None
    from lightning.pytorch.loggers import WandbLogger

    return WandbLogger(save_dir=out, name=out.name, project="hear_ptsed")


def _write_recipe(out: Path, recipe: Recipe) -> None:
    with atomic(out / "recipe.yaml") as temporary:
        text = yaml.safe_dump(config.as_dict(recipe), sort_keys=False)
        temporary.write_text(text, encoding="utf-8")


def _write_coverage(out: Path, coverage: list[Coverage], module: Training) -> None:
    """Store the reports with the clips that turned out to be unreadable so far."""
    for clips, reasons in ((module.clips, module.unreadable), (module.evaluation, module.missed)):
        if reasons:
            source = dict(zip(clips.keys, clips.place[:, 0], strict=True))
            for report in coverage:
                there = [str(one.path) in report.sources for one in clips.sources]
                report.add_unreadable({k: why for k, why in reasons.items() if there[source[k]]})
    for i, report in enumerate(coverage):
        report.write(out / f"coverage-{i}.json")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
