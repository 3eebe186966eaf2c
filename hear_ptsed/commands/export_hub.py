"""`hear-ptsed export-hub`: released weights as a folder for the Hugging Face Hub."""

import argparse
from pathlib import Path


def add_export_hub(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("module", metavar="MODULE", help="such as beats_strong")
    sub.add_argument("folder", type=Path, metavar="DIR", help="a new one")


def export_hub_command(args: argparse.Namespace) -> None:
    from hear_ptsed.card import FREE
    from hear_ptsed.hub import export_folder

    card = export_folder(args.module, args.folder)
    print(f"{args.folder}: a model with its card. {card.terms}")
    begin = "To" if card.known_licence in FREE else "If you may pass them on, to"
    print(f"{begin} publish it: hf upload OWNER/NAME {args.folder}")
