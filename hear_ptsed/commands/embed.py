"""`hear-ptsed embed`: embeddings of many files, as Parquet."""

import argparse
import sys
from pathlib import Path
from typing import get_args

from hear_ptsed.commands.corpus import (
    Meter,
    add_crew,
    add_inputs,
    crew_of,
    input_files,
    tell_totals,
)
from hear_ptsed.commands.detector import add_model, add_overlap, check_model
from hear_ptsed.grid import FRAME_MS, Hop


def add_embed(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add_inputs(sub)
    add_model(sub)
    add("--out", type=Path, metavar="DIR", required=True, help="write part-<n>.parquet there")
    add("--scene", action="store_true", help="one embedding for each file, the mean of its frames")
    text = f"ms from frame to frame; default: {FRAME_MS}"
    add("--hop", type=int, choices=get_args(Hop), default=FRAME_MS, help=text)
    add_overlap(sub)
    add_crew(sub)


def embed_command(args: argparse.Namespace) -> int:
    check_model(args)
    files, how = [file.absolute() for file in input_files(args)], crew_of(args)
    from hear_ptsed.embed import embed_corpus
    from hear_ptsed.rows import require_pyarrow

    require_pyarrow()
    if args.untrained:
        print(f"{args.model} is untrained: its embeddings mean nothing", file=sys.stderr)
    chosen = {"scene": args.scene, "device": args.device, "how": how}
    chosen |= {
        name: getattr(args, name)
        for name in ("overlap", "precision", "untrained", "hop", "runtime")
    }
    with Meter("hear-ptsed embed", len(files)) as advance:
        totals = embed_corpus(
            files, args.out, args.model, args.stage, args.checkpoint, advance=advance, **chosen
        )
    return tell_totals(args, totals)
