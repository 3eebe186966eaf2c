"""The command line: `python -m eval_tasks validate | heareval | prepare | demo`."""

import argparse
import sys
import traceback
from pathlib import Path

HEAREVAL_NOTES = """\
Runs heareval 2021.1.3 as it is; all options after 'embeddings' or 'predictions' are heareval's own
('--help' there lists them).

Finished tasks are skipped, whatever the options are: delete the embedding task folder to compute
it again, its prediction-done.json to train again. Embeddings are kept per module and
--model-options; the file given with --model is not part of the folder's name.
Training logs and checkpoints go to ./logs, or into the embedding folder if its path is absolute."""


def validate(args: argparse.Namespace, _rest: list[str]) -> int:
    from eval_tasks import hear_tools

    hear_tools.validate(args.module, args.model, args.device, args.untrained)
    print("Looks good!")
    return 0


def heareval(args: argparse.Namespace, rest: list[str]) -> int:
    from eval_tasks import hear_tools

    return hear_tools.heareval(args.runner, rest)


def prepare(args: argparse.Namespace, _rest: list[str]) -> int:
    from eval_tasks import small

    options = {"seed": args.seed, "size": args.size, "synthetic": args.synthetic}
    folder = small.prepare(args.task, args.tasks_dir, force=args.force, **options)
    print(folder)
    return 0


def demo(args: argparse.Namespace, _rest: list[str]) -> int:
    from eval_tasks import demo

    demo.main(args.out)
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval_tasks", description=__doc__)
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

    sub = commands.add_parser("prepare", help="build a task folder")
    sub.add_argument("task", choices=["office", "piano", "scenes"])
    sub.add_argument("--tasks-dir", type=Path, default=Path("tasks"), metavar="DIR")
    sub.add_argument("--seed", type=int, default=0, metavar="N")
    sub.add_argument("--size", choices=["demo", "full"], default="demo")
    sub.add_argument("--synthetic", action="store_true", help="computed sounds, nothing fetched")
    sub.add_argument("--force", action="store_true", help="build again what is there already")
    sub.set_defaults(run=prepare)

    sub = commands.add_parser("demo", help="validate and score several models on one small task")
    sub.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR")
    sub.set_defaults(run=demo)
    return parser


def one_line(error: Exception) -> str:
    """The message on one line, with the type where a message alone says too little."""
    text = " ".join(str(error).split())
    if not text:  # a bare assert in heareval: its source line is all there is
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{frame.line} ({Path(frame.filename).name}, line {frame.lineno})"
    elif isinstance(error, (ValueError, RuntimeError, OSError, ImportError)):
        return text
    return f"{type(error).__name__}: {text}"


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest and args.command != "heareval":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return args.run(args, rest)
    except KeyboardInterrupt:
        print("interrupted; the same command again redoes only unfinished parts", file=sys.stderr)
    except Exception as error:
        if args.debug:
            raise
        print(f"eval_tasks {args.command}: {one_line(error)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
