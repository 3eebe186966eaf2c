"""`hear-ptsed export`: a model as an ONNX file."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from hear_ptsed.commands.detector import add_stage, check_model


def add_export(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help="of `hear-ptsed list`, such as atst_frame")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends in .onnx")
    add_stage(sub)
    text = "a file, or hf:OWNER/NAME[@REVISION], instead of the released one"
    sub.add_argument("--checkpoint", type=Path, metavar="FILE", help=text)


def export_command(args: argparse.Namespace) -> None:
    check_model(args)
    if args.checkpoint and args.stage:
        args.parser.error("--stage is of the released file; leave it out with --checkpoint")
    from hear_ptsed.export import export

    facts = asdict(export(args.out, args.model, args.stage, args.checkpoint))
    classes = facts.pop("classes")
    print(json.dumps(facts | {"classes": classes and len(classes)}, indent=1))
