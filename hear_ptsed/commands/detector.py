"""Options of the commands that have a detector, and the detector that they choose."""

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from hear_ptsed.options import add_number, add_number_of
from hear_ptsed.registry import STAGES, find_row

if TYPE_CHECKING:
    from hear_ptsed.detect import Detector

MEDIAN, THRESHOLD = 9, 0.5  # as hear_ptsed.events has them, which needs NumPy
Probability = Annotated[float, Field(ge=0, le=1)]
Overlap = Annotated[float, Field(ge=0, le=9.96)]
Frames = Annotated[int, Field(ge=1, le=1001)]


def add_model(sub: argparse.ArgumentParser) -> None:
    """The model, its weights and where it runs."""
    add = sub.add_argument
    add("--model", required=True, help="a model of `hear-ptsed list`, such as atst_frame")
    add_stage(sub)
    weights = sub.add_mutually_exclusive_group()
    text = "a file, or hf:OWNER/NAME[@REVISION], instead of the released one"
    weights.add_argument("--checkpoint", type=Path, metavar="FILE", help=text)
    weights.add_argument("--untrained", action="store_true", help="random weights, to try things")
    add("--device", help="cpu, cuda …; default: a GPU if there is one")
    add("--precision", choices=["float32", "bfloat16"], default="float32")
    text = "what computes; on a CPU onnx is faster for CNNs, openvino in bfloat16 for transformers"
    add("--runtime", choices=["torch", "onnx", "openvino"], default="torch", help=text)


def add_stage(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--stage", choices=STAGES, help="of the checkpoint; default: strong")


def add_decoding(sub: argparse.ArgumentParser) -> None:
    """Threshold and median filter."""
    add = sub.add_argument
    add_number(add, "--threshold", Probability, THRESHOLD, "events score above it")
    add_number_of(add, "--threshold-of", Probability, "CLASS", "the same for one class")
    add_number(add, "--median", Frames, MEDIAN, "frames (40 ms) of the median filter")
    add_number_of(add, "--median-of", Frames, "CLASS", "the same for one class")


def add_overlap(sub: argparse.ArgumentParser) -> None:
    text = "seconds that neighbouring windows of 10 s share, 5 is smoothest"
    add_number(sub.add_argument, "--overlap", Overlap, 0.0, text)


def check_model(args: argparse.Namespace) -> None:
    """Refuse a name that is no model's."""
    try:
        find_row(args.model)
    except ValueError as error:
        args.parser.error(str(error))


def open_detector(args: argparse.Namespace, overlap_s: float = 0.0) -> "Detector":
    """The detector that was chosen; that it is untrained is said."""
    from hear_ptsed import detect

    names = ("precision", "untrained", "device", "runtime")
    chosen = {name: getattr(args, name) for name in names}
    options = detect.DetectorOptions(overlap=overlap_s, **chosen)
    detector = detect.load_detector(args.model, args.stage, args.checkpoint, options)
    if detector.untrained:
        print(f"{args.model} is untrained: its events mean nothing", file=sys.stderr)
    return detector


def thresholds_and_medians(
    args: argparse.Namespace, classes: Sequence[str]
) -> tuple[list[float], list[int]]:
    """Of each class."""
    threshold = by_class(args, args.threshold, args.threshold_of, classes)
    return threshold, by_class(args, args.median, args.median_of, classes)


def by_class(
    args: argparse.Namespace, default: float, numbers: dict[str, float], classes: Sequence[str]
) -> list[float]:
    """One number for each class: its own, or the default."""
    for name in numbers:
        if name not in classes:
            near = difflib.get_close_matches(name, classes) or classes[:3]
            args.parser.error(f"unknown class {name!r}; near to it: {'; '.join(near)}")
    return [numbers.get(name, default) for name in classes]
