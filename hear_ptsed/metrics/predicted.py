"""Predicted events of the tested clips as a record carries them: base64 of zlib of compact JSON.

The JSON is {file: [[class, start, end], ...]}: the class by its number in the vocabulary, times in
milliseconds, the clips of all folds together.
"""

import base64
import binascii
import json
import zlib
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from hear_ptsed.metrics.checks import Events
from hear_ptsed.schema import Name, check_json

PACKED, UNPACKED = 300_000, 2 << 20  # characters in a record, and bytes of its JSON, at most
EVENTS = 5000  # of a clip: all pairs with the reference are looked at
Number = Annotated[int, Field(strict=True, ge=0)]
Time = Annotated[float, Field(strict=True, ge=0, le=1e12)]
Clips = dict[Name, Annotated[list[tuple[Number, Time, Time]], Field(max_length=EVENTS)]]


def pack_events(events: Events, classes: Sequence[str]) -> str:
    """Events of all tested clips; "" if they do not fit a record."""
    number = {name: k for k, name in enumerate(classes)}
    rows = {
        file: [[number[e["label"]], _shortest(e["start"]), _shortest(e["end"])] for e in of_file]
        for file, of_file in sorted(events.items())
    }
    text = json.dumps(rows, separators=(",", ":")).encode()
    packed = base64.b64encode(zlib.compress(text, 9)).decode()
    fits = len(packed) <= PACKED and len(text) <= UNPACKED
    return packed if fits and max(map(len, rows.values())) <= EVENTS else ""


def unpack_events(packed: str, classes: Sequence[str]) -> Events:
    """What `pack_events` was given; a ValueError says what is wrong."""
    decompressor = zlib.decompressobj()
    try:
        text = decompressor.decompress(base64.b64decode(packed, validate=True), UNPACKED + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"predicted is not zlib in base64 ({error})") from None
    if len(text) > UNPACKED:
        raise ValueError(f"predicted unpacks to more than {UNPACKED >> 20} MiB; that is the limit")
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("predicted is truncated, or goes on after its end")
    clips = check_json(Clips, text, "predicted")
    for file, rows in clips.items():
        for number, start, end in rows:
            if number >= len(classes) or end < start:
                raise ValueError(
                    f"predicted of {file} has class {number} from {start:g} to {end:g} ms; there "
                    f"are {len(classes)} classes, and an event must not end before it begins"
                )
    return {
        file: [{"label": classes[k], "start": start, "end": end} for k, start, end in rows]
        for file, rows in clips.items()
    }


def _shortest(ms: float) -> float | int:
    return int(ms) if ms == int(ms) else float(ms)
