"""What `hear-ptsed stream` does: audio as it comes in, events as JSON lines out.

Lines have a `kind`: start (the model), begin and end of an event, behind (windows were left out to
catch up), stop. Events are told twice, by frames that are provisional (`final` false: of the newest
window alone, within about a hop) and by final ones, as `hear-ptsed detect` finds them (10 s later).
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any, BinaryIO, TextIO

import numpy as np
import torch

from hear_ptsed import events, interrupt
from hear_ptsed.audio import RATES, read_blocks, resample_blocks
from hear_ptsed.detect import Detector
from hear_ptsed.grid import FRAMES_PER_SECOND, SAMPLE_RATE, WINDOW_FRAMES, WINDOW_S
from hear_ptsed.schema import setting, settings
from hear_ptsed.stream import Block, Stream

AHEAD = WINDOW_FRAMES  # pieces of 40 ms that are read while a window is computed
Message = dict[str, Any]
Batch = tuple[np.ndarray, float]  # samples (S,) at 16 kHz, seconds since the first of them came


@settings
class StreamOptions:
    """How often a stream is heard, and what standard input is: 16-bit PCM, little endian."""

    hop_s: float = setting(
        1.0, "seconds from window to window, a multiple of 0.04", ge=0.04, le=WINDOW_S
    )
    rate: int = setting(SAMPLE_RATE, "Hz of standard input", ge=RATES[0], le=RATES[1])
    channels: int = setting(1, "channels of standard input, interleaved", ge=1, le=64)


class Listener:
    """A detector that hears a stream and tells in lines what begins and ends."""

    def __init__(
        self,
        detector: Detector,
        hop_s: float,
        threshold: float | Sequence[float] = events.THRESHOLD,
        median: int | Sequence[int] = events.MEDIAN,
    ):
        self.detector = detector
        self.stream = Stream(detector.score.logits, hop_s)
        self._decoders = {
            final: events.Decoder(detector.classes, threshold, median) for final in (False, True)
        }

    def start(self) -> Message:
        names = ("model", "stage", "checkpoint", "untrained")
        facts = {name: getattr(self.detector, name) for name in names}
        return {"kind": "start", **facts, "hop_s": self.stream.hop_s}

    def feed(self, samples: np.ndarray, catch_up: bool = False) -> list[Message]:
        """Samples (S,) at 16 kHz; see Stream.feed."""
        dropped = self.stream.dropped
        lines = self._decode(self.stream.feed(torch.from_numpy(samples), catch_up))
        if new := self.stream.dropped - dropped:
            time_s = round(self._duration_s, 6)
            lines.append({"kind": "behind", "time_s": time_s, "dropped_windows": new})
        return lines

    def finish(self) -> list[Message]:
        if not self.stream.samples:
            raise ValueError("standard input holds no samples; give 16-bit PCM, little endian")
        lines = self._decode(self.stream.finish())
        for final, decoder in self._decoders.items():
            lines += self._tell(decoder.finish(self._duration_s), final)
        facts = {"duration_s": self._duration_s, "dropped_windows": self.stream.dropped}
        return [*lines, {"kind": "stop", **facts}]

    @property
    def _duration_s(self) -> float:
        return self.stream.samples / SAMPLE_RATE

    def _decode(self, blocks: list[Block]) -> list[Message]:
        lines = []
        for _, logits, final in blocks:
            edges = self._decoders[final].feed(logits.sigmoid().numpy())
            lines += self._tell(edges, final)
        return lines

    def _tell(self, edges: list[events.Edge], final: bool) -> list[Message]:
        lines = []
        for edge in edges:
            kind = "begin" if edge.offset_s is None else "end"
            numbers = {
                name: round(value, 6)
                for name, value in edge._asdict().items()
                if name != "label" and value is not None
            }
            lines.append({"kind": kind, "label": edge.label, **numbers, "final": final})
        return lines


def stream_events(
    audio: Path | BinaryIO,
    detector: Detector,
    options: StreamOptions,
    out: TextIO,
    threshold: float | Sequence[float] = events.THRESHOLD,
    median: int | Sequence[int] = events.MEDIAN,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Write the lines of a file, or of live PCM: 16-bit, little endian, unbuffered.

    A file is heard at the speed of the machine. Of what comes live, windows are left out when it
    falls behind; when even that is not enough, no more is read until there is room.
    After Ctrl-C the events so far are ended before KeyboardInterrupt is raised.
    """
    listener = Listener(detector, options.hop_s, threshold, median)
    if isinstance(audio, Path):
        batches: Iterable[Batch] = ((block, 0.0) for block in read_blocks(audio))
    else:
        batches = arriving(read_pcm(audio, options.rate, options.channels), clock)

    def write(lines: list[Message]) -> None:
        out.writelines(json.dumps(line) + "\n" for line in lines)
        out.flush()

    with interrupt.deferred():
        write([listener.start()])
        for samples, late_s in batches:
            write(listener.feed(samples, catch_up=late_s > options.hop_s))
            try:
                interrupt.safe_point()
            except KeyboardInterrupt:
                break  # deferred() raises it again
        write(listener.finish())


def read_pcm(stream: BinaryIO, rate: int, channels: int) -> Iterator[np.ndarray]:
    """16-bit PCM, little endian, as mono pieces (S,) at 16 kHz, of 40 ms or a little less or more.

    Raises:
        ValueError if it is a file with a header.
    """
    return resample_blocks(_pcm_pieces(stream, rate, channels), rate)


def _pcm_pieces(stream: BinaryIO, rate: int, channels: int) -> Iterator[np.ndarray]:
    sample = 2 * channels  # bytes
    size = rate // FRAMES_PER_SECOND * sample
    checked = False
    while piece := _read(stream, size):
        if not checked and piece[:4] in (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"FORM"):
            raise ValueError(
                "standard input is an audio file; give its path, or bare samples: "
                "ffmpeg -i FILE -f s16le -ac 1 -ar 16000 - | hear-ptsed stream … -"
            )
        checked = True
        whole = piece[: len(piece) // sample * sample]
        samples = np.frombuffer(whole, "<i2").reshape(-1, channels) / np.float32(2**15)
        yield samples.mean(1)


def _read(stream: BinaryIO, size: int) -> bytes:
    """So many bytes; fewer only at the end."""
    parts, missing = [], size
    while missing and (part := stream.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def arriving(
    pieces: Iterator[np.ndarray], clock: Callable[[], float] = time.monotonic
) -> Iterator[Batch]:
    """All that has come in since the last batch, as one batch.

    A thread reads at most AHEAD pieces ahead.
    """
    ahead: Queue[np.ndarray | Exception | None] = Queue(AHEAD)
    Thread(target=_read_ahead, args=(pieces, ahead), daemon=True).start()
    begun_s, samples = None, 0
    while True:
        came = [ahead.get(), *(ahead.get() for _ in range(ahead.qsize()))]
        now_s = clock()
        batch = [piece for piece in came if isinstance(piece, np.ndarray)]
        if batch:
            audio = np.concatenate(batch)
            begun_s = now_s - len(batch[0]) / SAMPLE_RATE if begun_s is None else begun_s
            yield audio, now_s - begun_s - samples / SAMPLE_RATE
            samples += len(audio)
        if isinstance(came[-1], Exception):
            raise came[-1]
        if came[-1] is None:
            return


def _read_ahead(pieces: Iterator[np.ndarray], ahead: Queue) -> None:
    try:
        for piece in pieces:
            ahead.put(piece)
    except Exception as error:
        ahead.put(error)
    else:
        ahead.put(None)
