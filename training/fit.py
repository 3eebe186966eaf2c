"""A run from its recipe to an exported checkpoint: `python -m training fit`.

All else in this package takes sections of a recipe or what is made of them.
"""

import logging
import math
import os
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import lightning
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from hear_ptsed import interrupt, load
from hear_ptsed.checkpoints import download, load_checkpoint, save_checkpoint
from hear_ptsed.files import atomic, locked, remove_stale
from hear_ptsed.frontends.mel import ATSTMel
from hear_ptsed.model import SEDModel
from hear_ptsed.registry import MODELS, STAGES, build
from training.callbacks import BEST, LAST, Interruptible, Keep
from training.data.batch import ClipSet
from training.data.coverage import Coverage
from training.data.pseudo_labels import PseudoLabels
from training.data.sources import class_names, open_extra, open_sources
from training.labels import LABELS
from training.module import Training
from training.optim import freeze_unused
from training.recipe import Data, Recipe, Run, as_dict
from training.scores import Scores
from training.states import read_state, state_to_resume

log = logging.getLogger(__name__)
log_once = rank_zero_only(log.info)
# Sections and fields that may differ between a run and its resumption, all but run.seed.
FREE_TO_CHANGE = ("run", "evaluation", "data.workers", "data.root", "data.max_unreadable")


def fit(recipe: Recipe, resume: bool = False) -> Path:
    """Train, and write the chosen weights as `model.pt` and `model.safetensors`.

    The run's folder also gets recipe.yaml, coverage-0.json and so on (one for each annotation),
    last.ckpt and best.ckpt (all of the state), last.json and best.json (scores), and the logs.

    A second run in the same folder is refused while this one lasts.

    Args:
        resume: go on from last.ckpt if there is one.
    Returns:
        Path of model.pt.
    """
    out = Path(recipe.run.out).expanduser()
    with locked(out) if _is_first_process() else nullcontext():
        return _fit(recipe, out, resume)


def _is_first_process() -> bool:
    """Whether this is the first process of a run: of torchrun, Slurm or Lightning, or alone."""
    ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return next((int(os.environ[name]) for name in ranks if name in os.environ), 0) == 0


def _fit(recipe: Recipe, out: Path, resume: bool) -> Path:
    checkpoint = _checkpoint_to_resume(out, recipe, resume)
    clips, scores = open_data(recipe)
    sets = clips, clips.extra, None if scores is None else scores.clips
    coverage = [report for clip_set in sets if clip_set for report in clip_set.coverage]
    _log_coverage(coverage)
    torch.set_float32_matmul_precision("high")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    model = start_model(recipe, clips.classes)
    unused = freeze_unused(model, LABELS[recipe.data.labels])
    teachers = [_teacher(name, recipe.data, clips.classes) for name in recipe.distill.teachers]
    module = make_module(recipe, model, clips, scores, teachers)
    log_once("not trained, the loss never reaches it: %s", ", ".join(unused) or "nothing")
    if recipe.model.compile:
        model.backbone.compile()
    facts = {"recipe": as_dict(recipe), "classes": clips.classes}
    keep = Keep(out, recipe.run.save_every_steps, facts, coverage)
    trainer = make_trainer(recipe, module, keep)
    if trainer.is_global_zero:
        with atomic(out / "recipe.yaml") as temporary:
            text = yaml.safe_dump(as_dict(recipe), sort_keys=False)
            temporary.write_text(text, encoding="utf-8")
        keep.write_coverage()
    try:
        with interrupt.deferred(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec).*")
            trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
            if scores is not None and module.result.get("step") != trainer.global_step:
                trainer.validate(module, verbose=False)
                keep.save_scored(trainer, module)
    except SystemExit:  # what Lightning makes of Ctrl-C and SIGTERM
        raise KeyboardInterrupt from None
    if scores is None:
        module.refuse_bad()
        keep.save(trainer, module)
    _log_coverage(coverage)
    if scores is not None:
        log_once("best %s: %.4f, more in %s", scores.primary, keep.best, out / "best.json")
    if trainer.is_global_zero:
        for name in ("model.pt", "model.safetensors"):
            export(out / (LAST if scores is None else BEST), out / name)
    return out / "model.pt"


def open_data(recipe: Recipe) -> tuple[ClipSet, Scores | None]:
    """Clips to train on, and what collects the scores of those to evaluate, if there are any."""
    data = recipe.data
    if not data.train:
        raise ValueError(
            "the recipe names no data to train on; give data.train, such as "
            "--data.train '[{audio: train.hdf, events: train.tsv}]'"
        )
    labels, pseudo = LABELS[data.labels], None
    opened = open_sources(data.train, data, labels, unknown="error")
    classes = class_names(data, opened.annotations)
    if recipe.distill.pseudo_labels:
        pseudo = PseudoLabels(*map(data.path, recipe.distill.pseudo_labels))
    train = opened.clip_set(classes, pseudo)
    if recipe.extra.clips:
        train = replace(train, extra=open_extra(recipe.extra.clips, data))
    if not data.eval:
        return train, None
    opened = open_sources(data.eval, data, labels, unknown="keep")
    events = opened.merged_events()
    return train, Scores(opened.clip_set(classes), events, labels, recipe.evaluation)


def make_module(
    recipe: Recipe,
    model: SEDModel,
    clips: ClipSet,
    scores: Scores | None = None,
    teachers: Sequence[SEDModel] = (),
) -> Training:
    """The run of a recipe, from a model and opened data."""
    sections = recipe.data, recipe.sampling, recipe.augment, recipe.distill, recipe.extra
    return Training(model, clips, *sections, recipe.optim, recipe.run.seed, scores, teachers)


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
    if options.start in STAGES:
        load_checkpoint(model, download.find(options.name, options.start))
    elif options.start != "none":
        load_checkpoint(model, recipe.data.path(options.start))
    return model.train()


def _network(recipe: Recipe, n_classes: int) -> SEDModel:
    options = recipe.model
    sequence = {"dim": options.dim, "layers": options.layers} if options.sequence_model else {}
    return build(options.name, n_classes, options.sequence_model, options.head, **sequence)


def make_trainer(recipe: Recipe, module: Training, keep: Keep) -> lightning.Trainer:
    """Lightning's Trainer for a recipe: the whole run is one pass over the stream of clips."""
    options, plan = recipe.run, module.plan
    strategy, precision = "auto", recipe.optim.precision
    if options.devices * options.nodes > 1:
        # BEATs drops whole layers at random, whose parameters then get no gradient.
        drops = getattr(module.model.backbone, "layer_drop", 0) > 0
        strategy = DDPStrategy(find_unused_parameters=drops)
    if precision == "auto":
        gpu = options.accelerator != "cpu" and torch.cuda.is_available()
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
        callbacks=[keep, Interruptible()],
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
    heads = ["strong_head", "weak_head"]
    if recipe.model.head != "attention":  # whose weak output goes through both
        heads = [f"{LABELS[recipe.data.labels].head}_head"]
    save_checkpoint(model, path, classes, heads)


def _log_coverage(coverage: Sequence[Coverage]) -> None:
    log_once("%s", "\n".join(report.text() for report in coverage))


def _checkpoint_to_resume(out: Path, recipe: Recipe, resume: bool) -> Path | None:
    """The checkpoint to go on from, if any; refuses a folder that holds another run."""
    last = out / LAST
    if _is_first_process():
        remove_stale(out, alone=True)
    if not last.exists():
        return None
    if not resume and _is_first_process():
        raise FileExistsError(f"{last} is there: give --resume to go on, or another run.out")
    if changes := _changes(state_to_resume(last, out / BEST)[1], recipe):
        raise ValueError(
            f"{last} is of another run ({'; '.join(changes)}); use another run.out, where a new "
            f"run may start from these weights: python -m training export {last} FILE.pt, then "
            "model.start=FILE.pt"
        )
    return last


def _changes(then: Recipe, now: Recipe) -> list[str]:
    """What makes `now` another run than `then`, with both values."""
    old, new = as_dict(then), as_dict(now)
    changes = []
    for section, fields in new.items():
        for key, value in fields.items():
            field, before = f"{section}.{key}", old[section][key]
            free = field != "run.seed" and (section in FREE_TO_CHANGE or field in FREE_TO_CHANGE)
            if value != before and not free:
                changes.append(f"{field}: {before} then, {value} now")
    return changes


def _teacher(name: str, data: Data, classes: list[str]) -> SEDModel:
    """A model by its name, as it was released, or the path of its checkpoint; not trained."""
    released = name in MODELS
    model = load(name, stage="strong") if released else load(checkpoint=data.path(name))
    if list(model.classes_of("strong", f"the teacher {name}")) != list(classes):
        raise ValueError(f"the teacher {name} has other classes than this run")
    return model.requires_grad_(False)


def _logger(name: str, out: Path, options: Run) -> Logger:
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
