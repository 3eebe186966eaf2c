"""`hear-ptsed detect`: sound events of files."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from hear_ptsed import interrupt
from hear_ptsed.commands.corpus import (
    Meter,
    add_crew,
    add_inputs,
    crew_of,
    input_files,
    tell_totals,
)
from hear_ptsed.commands.detector import (
    MEDIAN,
    THRESHOLD,
    add_decoding,
    add_model,
    add_overlap,
    check_model,
    open_detector,
    thresholds_and_medians,
)
from hear_ptsed.errors import complain, printable
from hear_ptsed.formats import FORMATS
from hear_ptsed.options import add_number

if TYPE_CHECKING:
    from hear_ptsed.detect import Detection

PARQUET = "parquet"
Classes = Annotated[int, Field(ge=1, le=100)]


def add_detect(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add_inputs(sub)
    add_model(sub)
    add("--out", type=Path, metavar="DIR", help="write <stem>.tsv etc. there")
    text = "default: tsv; parquet: a row for each file, in parts that --jobs make at once"
    add("--format", choices=[*FORMATS, PARQUET], default="tsv", help=text)
    add("--plot", action="store_true", help="draw <stem>.png: spectrogram, scores and events")
    add_number(add, "--top", Classes, 12, "classes in the plot")
    add("--force", action="store_true", help="write again what is there already")
    add_decoding(sub)
    text = "what makes events of scores: a median filter, or bounding boxes (SEBB), whose edges no "
    add("--decoder", choices=["median", "sebb"], default="median", help=text + "threshold moves")
    text = "record of `python -m eval_tasks run --decoder sebb`: the boxes and thresholds it chose "
    add("--boxes", type=Path, metavar="RECORD", help=text + "for each class")
    add_overlap(sub)
    add_crew(sub)


def detect_command(args: argparse.Namespace) -> int:
    if args.decoder == "sebb" and (args.median_of or args.median != MEDIAN):
        args.parser.error("--median and --median-of are not of --decoder sebb, which filters none")
    if args.boxes is not None and args.decoder != "sebb":
        args.parser.error("--boxes needs --decoder sebb")
    if args.boxes is not None and args.threshold != THRESHOLD:
        args.parser.error("--boxes has thresholds of its own; --threshold-of sets that of a class")
    if args.plot and args.out is None:
        args.parser.error("--plot needs --out DIR, the folder for the pictures")
    check_model(args)
    if args.format == PARQUET:
        return detect_to_parquet(args)
    if args.jobs > 1 or args.ray_address is not None:
        args.parser.error("--jobs and --ray-address are of --format parquet")
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


def detect_to_parquet(args: argparse.Namespace) -> int:
    """All files to rows; see hear_ptsed.corpus."""
    if args.out is None:
        args.parser.error("--format parquet needs --out DIR, the folder for its parts")
    if args.plot or args.force:
        args.parser.error("--plot and --force are of the other formats; delete the folder instead")
    files, how = [file.absolute() for file in input_files(args)], crew_of(args)
    from hear_ptsed import detect
    from hear_ptsed.rows import require_pyarrow

    require_pyarrow()
    detector = open_detector(args, args.overlap)
    chosen = detect.EventRule(*decoding(args, detector.classes))
    with Meter("hear-ptsed detect", len(files)) as advance:
        totals = detect.detect_corpus(files, args.out, detector, chosen, how, advance)
    return tell_totals(args, totals)


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
    files = input_files(args)
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

    detector = open_detector(args, args.overlap)
    threshold, median, boxes = decoding(args, detector.classes)
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

    threshold, median = thresholds_and_medians(args, classes)
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
