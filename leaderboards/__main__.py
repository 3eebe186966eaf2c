"""The command line: `python -m leaderboards build | compare | submit`."""

import argparse
import sys
from pathlib import Path

from hear_ptsed.errors import printable, run_command


def run_build(args: argparse.Namespace) -> int:
    from leaderboards import site
    from leaderboards.collect import collect
    from leaderboards.pictures import figures_of_site

    collected = collect(args.results, leave_out=args.out)
    for rejected in collected.rejected:
        print(f"rejected {rejected.file}: {rejected.reason}", file=sys.stderr)
    index = site.build_site(collected, args.out)
    if args.figures:
        pictures = figures_of_site(index.parent, args.figures)
        print(f"{len(pictures)} figures in {args.figures}")
    measured = sum(entry.kind == "measured" for entry in collected.entries)
    print(f"{measured} results, {len(collected.rejected)} files rejected")
    print(index)
    return 0


def run_compare(args: argparse.Namespace) -> int:
    from rich.console import Console

    from leaderboards.compare import compare, comparison_tables, picture, verdict
    from leaderboards.pictures import write_picture

    comparison = compare(args.a, args.b, args.metric)
    console = Console()
    for table in comparison_tables(comparison):
        console.print(table)
    print(verdict(comparison))
    if args.out:
        write_picture(*picture(comparison), args.out)
        print(args.out)
    return 0


def run_hear(args: argparse.Namespace) -> int:
    from leaderboards import export, stats
    from leaderboards.collect import collect
    from leaderboards.hear import beside_published, hear_rows
    from leaderboards.pages import Names

    collected = collect(args.results)
    for rejected in collected.rejected:
        print(f"rejected {rejected.file}: {rejected.reason}", file=sys.stderr)
    cells = stats.cells(collected.entries)
    rows, named = hear_rows(cells), Names(cells)
    published = [row for row in rows if row.row.kind == "published"]
    measured = [row for row in rows if row.row.kind == "measured"]
    if not measured:
        raise ValueError(
            "no score of HEAR's tasks under HEAR's protocol (Beehive needs both its folders); "
            "give other results"
        )
    print(export.hear_csv(cells))
    print("\n\n".join(beside_published(row, published, named) for row in measured))
    return 0


def run_submit(args: argparse.Namespace) -> int:
    from leaderboards.submit import problems_of_file

    refused = False
    for path in args.record:
        problems = problems_of_file(path, args.tasks_dir)
        refused |= bool(problems)
        name = printable(str(path), 200)
        print(f"{name}: {'refused' if problems else 'accepted'}")
        for problem in problems:
            print(f"  {problem}")
    return int(refused)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m leaderboards", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sub = commands.add_parser(
        "build",
        help="a site, CSV and Markdown of all results",
        description="Reads records of this suite and heareval's output folders, and adds the "
        "published figures. Files that cannot be used are named, with the reason.",
    )
    sub.add_argument("results", type=Path, nargs="+", help="folders, or result files")
    about = "folder to write; a site built there before is replaced, nothing else ever"
    sub.add_argument("--out", type=Path, required=True, metavar="SITE", help=about)
    about = "folder for each chart as SVG and PDF; needs kaleido (extra `figures`) and a browser"
    sub.add_argument("--figures", type=Path, metavar="DIR", help=about)
    sub.set_defaults(run=run_build)

    sub = commands.add_parser(
        "compare",
        help="the difference of two modules on one task, with its 95 %% interval",
        description="Differences are A less B, over the same resampled test clips.",
    )
    for name in ("a", "b"):
        sub.add_argument(
            name, type=Path, metavar=name.upper(), help="record, or folder of one module's seeds"
        )
    sub.add_argument("--metric", help="default: the primary one of the task")
    about = "also as a chart: .html, or .svg, .pdf, .png with kaleido (extra `figures`)"
    sub.add_argument("--out", type=Path, metavar="FILE", help=about)
    sub.set_defaults(run=run_compare)

    sub = commands.add_parser(
        "hear",
        help="rows in the form of the public HEAR leaderboard, and HEAR's normalised score",
        description="Each row among the published models, over the tasks that it has.",
    )
    sub.add_argument("results", type=Path, nargs="+", help="folders, or result files")
    sub.set_defaults(run=run_hear)

    sub = commands.add_parser(
        "submit", help="check records of somebody else; exit code 1 if one is refused"
    )
    sub.add_argument("record", type=Path, nargs="+", metavar="FILE")
    about = "task folders: scores of events are computed again from the events in the record"
    sub.add_argument("--tasks-dir", type=Path, metavar="DIR", help=about)
    sub.set_defaults(run=run_submit)
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    name, again = f"leaderboards {args.command}", "nothing is left half-written"
    return run_command(name, lambda: args.run(args), args.debug, again)


if __name__ == "__main__":
    sys.exit(main())
