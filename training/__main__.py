"""The command line: `python -m training fit | evaluate | pseudo-label | pack | export`."""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from hear_ptsed.errors import few, printable, run_command
from hear_ptsed.options import Parser, add_fields, add_number, describe_unknown, list_given
from training.recipe import (
    Batch,
    Data,
    Decay,
    Frames,
    Recipe,
    Resamples,
    Workers,
    explain,
    list_kinds,
    load,
)

NOTES = """\
Several recipes can be given, then options; the later wins. A recipe is a kind, or a yaml of one's
own with differences from the defaults below. Beside the kinds, published.csv has the command of
every published row.

TEXT is taken as it stands, all else is yaml: a LIST is '[a, b]' or '[{audio: train.hdf}]'; null is
none, where a field takes it.

On several GPUs: --run.devices 8, started plainly or by torchrun --nproc-per-node 8 -m training
fit …; on several nodes also --run.nodes N, under torchrun or Slurm's srun.
The run's folder is run.out; its model.pt is what hear_ptsed.load and the plug-ins take."""


def fit(args: argparse.Namespace) -> None:
    recipe = load(args.recipe, list_given(args))
    if args.print:
        print(explain(recipe), end="")
        return
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from training.fit import fit

    path = fit(recipe, args.resume)
    rank_zero_only(print)(path)


def evaluate(args: argparse.Namespace) -> int:
    from hear_ptsed.files import null_for_nan
    from training.evaluate import Scoring, evaluate
    from training.recipe import Evaluation, Source

    evaluation = Evaluation(
        batch=args.batch, median=args.median, bootstrap=args.bootstrap, durations=args.durations
    )
    options = Scoring(args.weak, evaluation, args.workers, args.device)
    result = evaluate(
        args.checkpoint,
        [Source(audio=audio, events=args.events) for audio in args.audio],
        options,
        names=args.names,
        model=args.model,
        out=args.out,
        task=args.task,
        name=args.name,
        command=args.again,
    )
    shown = {k: v for k, v in result.items() if k not in ("per_class", "coverage")}
    print(json.dumps(null_for_nan(shown), indent=1))
    reasons: dict[str, str] = {}
    for part in result["coverage"]:
        reasons |= part["unreadable"]
    return _exit_code(reasons, sum(part["used"] for part in result["coverage"]))


def pseudo_label(args: argparse.Namespace) -> int:
    from hear_ptsed.detect import DetectorOptions
    from training.data.annotations import read_events
    from training.data.clips import open_clips
    from training.ensemble import write_pseudo_labels

    keys = None if args.events is None else set(read_events(args.events, unknown="keep").clips)
    report = write_pseudo_labels(
        args.checkpoint,
        [open_clips(path) for path in args.audio],
        args.out,
        keys=keys,
        options=DetectorOptions(batch=args.batch, precision=args.precision, device=args.device),
    )
    print(json.dumps(report, indent=1))
    return _exit_code(report["unreadable"], report["found"])


def _exit_code(unreadable: Mapping[str, str], clips: int) -> int:
    """The exit code of a job that went on past unreadable clips: 1 for more than is tolerated."""
    if len(unreadable) <= Data().max_unreadable * clips:
        return 0
    named = [printable(f"{name} ({reason})", 300) for name, reason in unreadable.items()]
    text = f"{len(unreadable)} of {clips} clips are unreadable: {few(named, 3)}"
    print(f"{text}; replace or leave out these files", file=sys.stderr)
    return 1


def pack(args: argparse.Namespace) -> None:
    from training.data.annotations import read_events, read_names
    from training.data.clips import open_clips
    from training.data.pack import pack

    names = None if args.names is None else read_names(args.names)
    events = None
    if args.events is not None:
        events = read_events(args.events, names=names, unknown="keep")
    report = pack(
        [open_clips(path) for path in args.audio],
        events,
        args.out,
        workers=args.workers,
        max_unreadable=args.max_unreadable,
        all_clips=args.all,
        progress=True,
    )
    print(report.text())


def export(args: argparse.Namespace) -> None:
    from training.fit import export

    export(args.checkpoint, args.out)
    print(args.out)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m training", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_fit, _add_evaluate, _add_pseudo_label, _add_pack, _add_export):
        add(commands)
    return parser


def _add_fit(commands: argparse._SubParsersAction) -> None:
    sub = commands.add_parser(
        "fit",
        help="train",
        usage="%(prog)s RECIPE... [--data DIR] [--SECTION.FIELD VALUE ...] [--resume] [--print]",
        description=NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    known = f"a kind ({', '.join(list_kinds())}), or the path of a yaml file"
    sub.add_argument("recipe", nargs="+", metavar="RECIPE", help=known)
    sub.add_argument(
        "--data",
        dest="data.root",
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="short for --data.root",
    )
    sub.add_argument("--resume", action="store_true", help="go on from run.out/last.ckpt, if any")
    sub.add_argument("--print", action="store_true", help="print the complete recipe, no training")
    sub.set_defaults(run=fit, fields=add_fields(sub, Recipe))


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    sub = commands.add_parser("evaluate", help="PSDS1, segment pAUROC and mAP of a checkpoint")
    sub.add_argument("checkpoint", type=Path)
    _add_audio(sub)
    sub.add_argument("--model", help="for released files: its name, if it cannot be told")
    sub.add_argument("--weak", action="store_true", help="score the weak head, applied per frame")
    sub.add_argument(
        "--task",
        choices=["strong_labels", "audioset_strong"],
        default="strong_labels",
        help="audioset_strong: the annotation is the official evaluation set, says whoever gives "
        "this; only such results stand beside published ones. default strong_labels",
    )
    add_number(sub.add_argument, "--median", Frames, 9, "frames of 40 ms")
    sub.add_argument(
        "--durations",
        choices=["heard", "whole"],
        default="heard",
        help="of clips over 10 s: the 10 s that are heard (default), or whole, as published",
    )
    add_number(sub.add_argument, "--bootstrap", Resamples, 0, "resamples for 95 % intervals")
    add_number(sub.add_argument, "--workers", Workers, 2, "loader processes")
    _add_device(sub, batch=32)
    sub.add_argument("--out", type=Path, metavar="FILE", help="Write the record of the evaluation.")
    sub.add_argument(
        "--name",
        default="",
        help="What to call the model in the record: records of one name belong together.",
    )
    sub.set_defaults(run=evaluate)


def _add_pseudo_label(commands: argparse._SubParsersAction) -> None:
    sub = commands.add_parser(
        "pseudo-label",
        help="ensemble pseudo labels: the mean of the checkpoints' logits, as an HDF5 file",
        description="Under torchrun or Slurm the clips are shared by all processes. Interrupted, "
        "the same command goes on.",
    )
    sub.add_argument("checkpoint", type=Path, nargs="+")
    _add_audio(sub)
    sub.add_argument("--out", type=Path, required=True, metavar="FILE")
    sub.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    _add_device(sub, batch=32)
    sub.set_defaults(run=pseudo_label)


def _add_pack(commands: argparse._SubParsersAction) -> None:
    sub = commands.add_parser("pack", help="16 kHz shards that load at no cost")
    _add_audio(sub)
    sub.add_argument("--out", type=Path, required=True, metavar="DIR")
    sub.add_argument("--all", action="store_true", help="also clips without events")
    add_number(sub.add_argument, "--workers", Workers, 2, "processes")
    add_number(sub.add_argument, "--max-unreadable", Decay, 0.01, "share of the clips")
    sub.set_defaults(run=pack)


def _add_export(commands: argparse._SubParsersAction) -> None:
    sub = commands.add_parser("export", help="weights of a run's .ckpt as .pt or .safetensors")
    sub.add_argument("checkpoint", type=Path)
    sub.add_argument("out", type=Path)
    sub.set_defaults(run=export)


def _add_audio(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--audio", nargs="+", required=True, help="HDF5 files, HF directories, folders, shards"
    )
    sub.add_argument("--events", metavar="FILE", help="annotation, if the audio source has none")
    sub.add_argument("--names", metavar="FILE", help="AudioSet ids and names beyond the 447")


def _add_device(sub: argparse.ArgumentParser, batch: int) -> None:
    sub.add_argument("--device", help="cpu, cuda …; default: a GPU if there is one")
    add_number(sub.add_argument, "--batch", Batch, batch, "windows of 10 s")


def main(argv: list[str] | None = None) -> int:
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("training").setLevel(logging.INFO)
    parser = build_parser()
    argv = sys.argv[1:] if argv is None else argv
    args, rest = parser.parse_known_args(argv)
    if rest:
        parser.error(describe_unknown(rest[0], getattr(args, "fields", ())))
    args.again = shlex.join(["python", "-m", "training", *argv])
    again = "the same command goes on" + " with --resume" * (args.command == "fit")
    return run_command(f"training {args.command}", lambda: args.run(args), args.debug, again)


if __name__ == "__main__":
    sys.exit(main())
