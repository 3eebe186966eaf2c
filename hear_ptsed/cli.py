"""The command `hear-ptsed`: list and download models, detect sound events in audio files."""

import argparse
import difflib
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from hear_ptsed import interrupt, list_models
from hear_ptsed.errors import complain, printable, run_command
from hear_ptsed.formats import FORMATS
from hear_ptsed.options import Parser, add_number, add_number_of
from hear_ptsed.registry import MODELS, STAGES, find_row

if TYPE_CHECKING:
    from hear_ptsed.detect import Detection

# Importing torch takes seconds: whatever needs it is imported inside the commands.
THRESHOLD = 0.5
MEDIAN = 9  # frames
Probability = Annotated[float, Field(ge=0, le=1)]
Frames = Annotated[int, Field(ge=1, le=1001)]
Overlap = Annotated[float, Field(ge=0, le=9.96)]
Classes = Annotated[int, Field(ge=1, le=100)]


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    again = "the same command again does only what is missing"
    return run_command(f"hear-ptsed {args.command}", lambda: args.run(args), args.debug, again)


def list_command(args: argparse.Namespace) -> int:
    rows = [row for row in list_models() if args.family in (None, row.family.lower())]
    if args.json:
        listed = [row._asdict() | {"stage": row.stage or "-"} for row in rows]
        print(json.dumps(listed, indent=1))
        return 0
    table = [("MODEL", "STAGES", "PARAMETERS", "DIM", "AT HAND")]
    models = [[*files] for _, files in groupby(rows, key=lambda row: row.model)]
    for files in models:
        stages = ", ".join(row.stage or "-" for row in files)
        cached = ", ".join(row.stage for row in files if row.cached and row.stage)
        if all(row.cached for row in files):
            cached = "yes"
        size, dim = f"{files[0].parameters / 1e6:.1f} M", str(files[0].dim)
        table.append((files[0].model, stages, size, dim, cached or "-"))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    header, *lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]
    print(header)
    for family, members in groupby(zip(models, lines, strict=True), lambda pair: pair[0][0].family):
        print(f"{family}:", *(line for _, line in members), sep="\n")
    print(f"Each stage is a module, such as {rows[0].module}; --json names modules and files.")
    return 0


def download_command(args: argparse.Namespace) -> int:
    if args.all == bool(args.modules):
        args.parser.error("give either modules or --all")
    from hear_ptsed.checkpoints import download

    known = {row.module.rpartition(".")[2]: row for row in list_models()}
    names = [module.removeprefix("hear_ptsed.plugins.") for module in args.modules] or list(known)
    for name in names:
        if name not in known:
            args.parser.error(f"unknown module {name!r}; known: {', '.join(known)}")
    failed = 0
    for name in dict.fromkeys(names):
        row = known[name]
        try:
            path = download.find(row.model, row.stage)
        except Exception as error:
            failed += 1
            complain(f"hear-ptsed {args.command}", error, args.debug, name)
        else:
            print(f"{name}\t{path}", flush=True)
    return int(failed > 0)


def detect_command(args: argparse.Namespace) -> int:
    if args.decoder == "sebb" and (args.median_of or args.median != MEDIAN):
        args.parser.error("--median and --median-of are not of --decoder sebb, which filters none")
    if args.boxes is not None and args.decoder != "sebb":
        args.parser.error("--boxes needs --decoder sebb")
    if args.boxes is not None and args.threshold != THRESHOLD:
        args.parser.error("--boxes has thresholds of its own; --threshold-of sets that of a class")
    if args.plot and args.out is None:
        args.parser.error("--plot needs --out DIR, the folder for the pictures")
    try:
        find_row(args.model)
    except ValueError as error:
        args.parser.error(str(error))
    jobs = plan(args, [FORMATS[args.format].suffix, *([".png"] if args.plot else [])])
    todo = [
        (file, targets)
        for file, targets in jobs
        if args.force or not targets or not all(map(os.path.exists, targets))
    ]
    failed: list[str] = []
    readable = [job for job in todo if is_file(args, job[0], failed)]  # before a model is fetched
    if readable:
        run_detector(args, readable, failed)
    if failed and len(todo) > 1:  # again, since the first complaint may be out of sight
        print(f"{len(failed)} of {len(todo)} files failed:", file=sys.stderr)
        print("".join(f"  {line}\n" for line in failed), end="", file=sys.stderr)
    if args.out:
        done, kept = len(todo) - len(failed), len(jobs) - len(todo)
        again = " (--force does them again)" if kept else ""
        print(f"{args.out}: {done} done, {kept} kept{again}, {len(failed)} failed", file=sys.stderr)
    return int(len(failed) > 0)


def is_file(args: argparse.Namespace, file: Path, failed: list[str]) -> bool:
    """Whether it is a file; if not, that is complained of and noted in `failed`."""
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
    """Detect, and write or print; complaints about files go to `failed`, too."""
    from tqdm import tqdm

    from hear_ptsed import detect

    options = detect.DetectorOptions(
        overlap=args.overlap, precision=args.precision, untrained=args.untrained, device=args.device
    )
    detector = detect.load_detector(args.model, args.stage, args.checkpoint, options)
    threshold, median, boxes = decoding(args, detector.classes)
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
                detection = detect.detect(file, detector, threshold, median, progress, boxes)
                text = FORMATS[args.format].write(detection)
                write(args, detection, text, targets)
        except Exception as error:
            failed.append(complain(f"hear-ptsed {args.command}", error, args.debug, str(file)))
            continue
        if not targets:
            only_rows = args.format == "tsv" and not header
            print(text.partition("\n")[2] if only_rows else text, end="", flush=True)
            header = False


def decoding(args: argparse.Namespace, classes: Sequence[str]) -> tuple[list, list, list | None]:
    """Threshold, median and settings of boxes, of each class; None without boxes."""
    from hear_ptsed.boxes import DEFAULT

    threshold = by_class(args, args.threshold, args.threshold_of, classes)
    median = by_class(args, args.median, args.median_of, classes)
    if args.decoder == "median":
        return threshold, median, None
    if args.boxes is None:
        return threshold, median, [DEFAULT] * len(classes)
    from hear_ptsed.metrics.box_record import read_boxes

    tuned = read_boxes(args.boxes, classes)
    threshold = [
        args.threshold_of.get(name, chosen)
        for name, chosen in zip(classes, tuned.thresholds, strict=True)
    ]
    return threshold, median, [*tuned.events]


def write(args: argparse.Namespace, detection: "Detection", text: str, targets: list[Path]) -> None:
    """Write the files that are not there yet (all with --force)."""
    from hear_ptsed import plot
    from hear_ptsed.files import atomic

    for target in targets:
        if target.exists() and not args.force:
            continue
        with atomic(target) as temporary:
            if target.suffix == ".png":
                plot.save(detection, temporary, args.top)
            else:
                # a name that is no UTF-8 is escaped, as on a terminal
                temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def by_class(
    args: argparse.Namespace, default: float, numbers: dict[str, float], classes: Sequence[str]
) -> list[float]:
    """One number for each class: its own, or the default."""
    for name in numbers:
        if name not in classes:
            near = difflib.get_close_matches(name, classes) or classes[:3]
            args.parser.error(f"unknown class {name!r}; near to it: {'; '.join(near)}")
    return [numbers.get(name, default) for name in classes]


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="hear-ptsed", description=__doc__)
    text = "show the traceback of a failure"
    parser.add_argument("--debug", action="store_true", help=text)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=text)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sub = commands.add_parser("list", parents=[shared], help="the table of models and stages")
    families = list(dict.fromkeys(row.family.lower() for row in MODELS.values()))
    sub.add_argument("--family", type=str.lower, choices=families, help="only models of this one")
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
    add("--model", required=True, help="a model of `hear-ptsed list`, such as atst_frame")
    add("--stage", choices=STAGES, help="of the checkpoint; default: strong")
    weights = sub.add_mutually_exclusive_group()
    weights.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="instead of the released one"
    )
    weights.add_argument("--untrained", action="store_true", help="random weights, to try things")
    add("--out", type=Path, metavar="DIR", help="write <stem>.tsv etc. there")
    add("--format", choices=FORMATS, default="tsv", help="default: tsv")
    add("--plot", action="store_true", help="draw <stem>.png: spectrogram, scores and events")
    add_number(add, "--top", Classes, 12, "classes in the plot")
    add("--force", action="store_true", help="write again what is there already")
    add_number(add, "--threshold", Probability, THRESHOLD, "events score above it")
    add_number_of(add, "--threshold-of", Probability, "CLASS", "the same for one class")
    text = "what makes events of scores: a median filter, or bounding boxes (SEBB), whose edges no "
    add("--decoder", choices=["median", "sebb"], default="median", help=text + "threshold moves")
    text = "record of `python -m eval_tasks run --decoder sebb`: the boxes and thresholds it chose "
    add("--boxes", type=Path, metavar="RECORD", help=text + "for each class")
    add_number(add, "--median", Frames, MEDIAN, "frames (40 ms) of the median filter")
    add_number_of(add, "--median-of", Frames, "CLASS", "the same for one class")
    text = "seconds that neighbouring windows of 10 s share, 5 is smoothest"
    add_number(add, "--overlap", Overlap, 0.0, text)
    add("--device", help="cpu, cuda …; default: a GPU if there is one")
    add("--precision", choices=["float32", "bfloat16"], default="float32")


if __name__ == "__main__":
    sys.exit(main())
