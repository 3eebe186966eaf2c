"""`hear-ptsed stream`: sound events of live audio, as JSON lines."""

import argparse
import sys
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hear_ptsed.commands.detector import (
    add_decoding,
    add_model,
    check_model,
    open_detector,
    thresholds_and_medians,
)
from hear_ptsed.grid import SAMPLE_RATE
from hear_ptsed.options import add_number

Hop = Annotated[float, Field(ge=0.04, le=10)]
Rate = Annotated[int, Field(ge=1000, le=768_000)]
Channels = Annotated[int, Field(ge=1, le=64)]


def add_stream(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    text = "a file; without one, or with -, standard input: 16-bit PCM, little endian"
    add("audio", nargs="?", type=Path, default=Path("-"), metavar="AUDIO", help=text)
    add_model(sub)
    add_number(add, "--hop-s", Hop, 1.0, "seconds from window to window, a multiple of 0.04")
    add_number(add, "--rate", Rate, SAMPLE_RATE, "Hz of standard input")
    add_number(add, "--channels", Channels, 1, "channels of standard input, interleaved")
    add_decoding(sub)


def stream_command(args: argparse.Namespace) -> None:
    check_model(args)
    from hear_ptsed import live

    options = live.StreamOptions(hop_s=args.hop_s, rate=args.rate, channels=args.channels)
    detector = open_detector(args)
    how = thresholds_and_medians(args, detector.classes)
    if str(args.audio) != "-":
        live.stream_events(args.audio, detector, options, sys.stdout, *how)
        return
    # Unbuffered: a thread may still wait in it when the command ends.
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as audio:
        live.stream_events(audio, detector, options, sys.stdout, *how)
