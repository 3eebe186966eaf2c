"""`hear-ptsed list` and `hear-ptsed download`."""

import argparse
import json
from itertools import groupby

from hear_ptsed import list_models
from hear_ptsed.errors import complain
from hear_ptsed.registry import MODELS


def add_list(sub: argparse.ArgumentParser) -> None:
    families = list(dict.fromkeys(row.family.lower() for row in MODELS.values()))
    sub.add_argument("--family", type=str.lower, choices=families, help="only models of this one")
    sub.add_argument("--json", action="store_true", help="print JSON")


def add_download(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("modules", nargs="*", metavar="MODULE", help="such as beats_strong")
    sub.add_argument("--all", action="store_true", help="every module of the list")


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
