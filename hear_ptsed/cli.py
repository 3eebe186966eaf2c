"""The command `hear-ptsed`: list and download models, detect sound events."""

import argparse
import sys

from hear_ptsed import __version__
from hear_ptsed.commands.detect import add_detect, detect_command
from hear_ptsed.commands.embed import add_embed, embed_command
from hear_ptsed.commands.export import add_export, export_command
from hear_ptsed.commands.export_hub import add_export_hub, export_hub_command
from hear_ptsed.commands.models import add_download, add_list, download_command, list_command
from hear_ptsed.commands.stream import add_stream, stream_command
from hear_ptsed.errors import run_command
from hear_ptsed.options import Parser

COMMANDS = {  # name -> options, function, help
    "list": (add_list, list_command, "the table of models and stages"),
    "download": (add_download, download_command, "fetch released checkpoints"),
    "detect": (add_detect, detect_command, "sound events of audio files"),
    "export": (add_export, export_command, "a model as an ONNX file"),
    "embed": (add_embed, embed_command, "embeddings of audio files, as Parquet"),
    "export-hub": (add_export_hub, export_hub_command, "released weights as a folder for the Hub"),
    "stream": (add_stream, stream_command, "sound events of live audio, as JSON lines"),
}
MORE = {
    "detect": "Sound events of audio files of any length, sample rate and channel count. "
    "Without --out they are printed.",
    "export": "A model with its front-end, sequence model and heads as an ONNX file, checked "
    "against torch. It prints what the file says of itself. Needs the extra onnx.",
    "embed": "Embeddings of audio files, every 40 ms or one for each file; see docs/corpus.md.",
    "export-hub": "The released weights of a module as a folder for the Hugging Face Hub: "
    "model.safetensors, config.json and a model card. Needs the extra hub.",
}


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    again = "the same command again does only what is missing"
    if args.command == "stream":
        again = "the events so far have ended"
    return run_command(f"hear-ptsed {args.command}", lambda: args.run(args), args.debug, again)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="hear-ptsed", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    text = "show the traceback of a failure"
    parser.add_argument("--debug", action="store_true", help=text)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=text)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (add_options, run, about) in COMMANDS.items():
        sub = commands.add_parser(name, parents=[shared], help=about, description=MORE.get(name))
        add_options(sub)
        sub.set_defaults(run=run, parser=sub)
    return parser


if __name__ == "__main__":
    sys.exit(main())
