"""Audio: the only reader of files (soundfile, by blocks), the only resamplers (files: soxr HQ).

What a file's header says is never believed: nothing is allocated from it, and what it promises
beyond what the file holds is told.
"""

import contextlib
import errno
import io
import logging
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import soundfile
import soxr

from hear_ptsed.errors import printable
from hear_ptsed.grid import SAMPLE_RATE

if TYPE_CHECKING:  # importing torch takes seconds
    import torch
    from torch import Tensor
    from torchaudio.transforms import Resample

log = logging.getLogger(__name__)
RATES = 1000, 768_000  # Hz, lowest and highest
BLOCK = 1 << 20  # samples of all channels read at a time
DENSEST = 8192  # samples per byte: no format holds more (FLAC: 65,535 zeros in 10 bytes)
UNKNOWN = 2**63 - 1  # libsndfile's length of a FLAC whose header does not tell it
OGG_PAGE = 27 + 255 + 255 * 255  # bytes at most
CHUNKED = {  # first four bytes: byte order, and the chunk that holds the samples
    b"RIFF": ("little", b"data"),
    b"RF64": ("little", b"data"),
    b"RIFX": ("big", b"data"),
    b"FORM": ("big", b"SSND"),
}


def read_audio(path: Path, rate: int = SAMPLE_RATE) -> "tuple[Tensor, float]":
    """Mono audio (S,) at `rate` Hz, channels averaged, and the duration of the file in seconds.

    The file is read and resampled block by block, which gives what soxr makes of the whole.
    A file that is cut off is used as far as it goes, with a warning.
    """
    with _naming(path), AudioFile(path) as file:
        audio = np.concatenate([*_blocks(path, file, rate)])
    import torch

    return torch.from_numpy(audio), file.samples / file.rate


def read_blocks(path: Path, rate: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
    """The audio that `read_audio` gives, block by block: memory does not grow with the file."""
    with _naming(path), AudioFile(path) as file:
        yield from _blocks(path, file, rate)


def _blocks(path: Path, file: "AudioFile", rate: int) -> Iterator[np.ndarray]:
    samples = 0
    for block in resample_blocks(file.blocks(), file.rate, rate):
        samples += len(block)
        yield block
    if not samples:
        raise ValueError(f"is too short at {file.rate} Hz: no sample at {rate} Hz")
    if shortfall := file.shortfall():
        name = printable(str(path), 1000)
        log.warning("%s: %s; what can be read of it is used", name, shortfall)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors inside name the file."""
    try:
        yield
    except OSError as error:
        raise type(error)(f"{path}: {reason(error)}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def resampled(blocks: Iterable[np.ndarray], rate: float, new_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Consecutive mono blocks (S,) at `rate` Hz, float32 or float64, as one array at `new_rate`."""
    return np.concatenate([*resample_blocks(blocks, rate, new_rate)])


def resample_blocks(
    blocks: Iterable[np.ndarray], rate: float, new_rate: int = SAMPLE_RATE
) -> Iterator[np.ndarray]:
    """The same, each block as soon as it comes."""
    blocks = iter(blocks)
    first = next(blocks, None)
    if first is None:
        return
    if rate == new_rate:
        yield from chain([first], blocks)
        return
    stream = soxr.ResampleStream(rate, new_rate, 1, first.dtype.name, "HQ")
    for block in chain([first], blocks):
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(first[:0], last=True)


def to_16k(audio: "Tensor", rate: int) -> "Tensor":
    """(..., S) float32 at `rate` Hz to 16 kHz on its device, by the kernel that the published
    checkpoints were trained with: torchaudio's, which is not that of `read_audio`.
    """
    return audio if rate == SAMPLE_RATE else _kernel(rate, audio.device)(audio)


@cache
def _kernel(rate: int, device: "torch.device") -> "Resample":
    from torchaudio.transforms import Resample

    # A ratio of large numbers would need a kernel of gigabytes; common rates stay exact.
    ratio = Fraction(rate, SAMPLE_RATE).limit_denominator(1000)
    return Resample(*ratio.as_integer_ratio(), resampling_method="sinc_interp_kaiser").to(device)


def check_file(path: Path) -> None:
    """Raise an OSError for what is no regular file; a pipe, for example, would never end."""
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder; name audio files, or a folder of some")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "is no regular file but a pipe or device; save it as a file")


def reason(error: OSError) -> str:
    """What an OSError says, without its number and file name."""
    return (error.strerror or str(error)).lower()


class AudioFile(contextlib.AbstractContextManager):
    """One audio file, opened and checked; `blocks` reads it, after which `shortfall` is known.

    What is `cut` off by its header is known before.

    Args:
        source: a path, or the bytes of a file.
        name: of the file whose bytes these are; its suffix counts where they do not tell the kind.

    Raises:
        OSError for what cannot be opened, ValueError for what is not audio; neither names the file.
    """

    def __init__(self, source: Path | bytes, name: str = ""):
        self.samples = 0  # read so far, of each channel
        self._whole = True  # whether the blocks were read to the end
        with contextlib.ExitStack() as stack:
            if isinstance(source, bytes):
                self._stream: BinaryIO = stack.enter_context(io.BytesIO(source))
            else:
                check_file(source)
                self._stream = stack.enter_context(Path(source).open("rb", buffering=0))
            self._size = self._stream.seek(0, io.SEEK_END)
            self.cut = _cut_chunk(self._stream, self._size) or _cut_ogg(self._stream, self._size)
            self._by_name = False
            self._file = self._open(source, name, stack)
            self.rate: int = self._file.samplerate
            self.channels: int = self._file.channels
            self._check_header()
            self._close = stack.pop_all()

    def __exit__(self, *exception: object) -> None:
        self._close.close()

    @property
    def form(self) -> tuple[str, str, int, int, int]:
        """Format, coding, channels, rate and length as libsndfile understands the header."""
        file = self._file
        return file.format, file.subtype, file.channels, file.samplerate, file.frames

    def blocks(
        self, dtype: str = "float32", limit: int | None = None, channels: str = "mean"
    ) -> Iterator[np.ndarray]:
        """Mono (S,) at `rate`, up to a `limit` of samples.

        Args:
            channels: "mean" averages them, "first" takes the first alone.

        Raises:
            ValueError where it cannot be decoded, for a sample that is not finite, and for none.
        """
        step = max(1, BLOCK // self.channels)
        while step := step if limit is None else min(step, limit - self.samples):
            # Not soundfile's blocks(): they end in uninitialised memory where a file ends early.
            try:
                block = self._file.read(step, dtype=dtype, always_2d=True)
            except soundfile.LibsndfileError as error:
                raise _not_audio(error.error_string) from error
            if not len(block):
                break
            first = channels == "first" or self.channels == 1
            # mean(1) takes twenty times as long; up to seven channels it gives the same.
            mono = block[:, 0] if first else sum(block.T) / self.channels
            if not np.isfinite(float(mono.min()) + float(mono.max())):
                second = (self.samples + np.isfinite(mono).argmin()) / self.rate
                raise ValueError(f"NaN or infinite sample at {second:.3f} s; repair the file")
            self.samples += len(mono)
            yield mono
        else:
            self._whole = False
        if not self.samples:
            raise ValueError("holds no samples")

    def shortfall(self) -> str | None:
        """In what the file is less than it says, once its blocks have been read."""
        if self.cut or not self._whole:
            return self.cut
        if self.samples < self._file.frames:
            read_s, promised_s = self.samples / self.rate, self._file.frames / self.rate
            return f"cut off: {read_s:.3f} of {promised_s:.3f} s decoded"
        # Without a length header libsndfile guesses an MP3's length from its first frame and
        # stops there, far too early if the bit rate varies.
        early = not self._by_name and self._stream.tell() < 0.9 * self._size
        if early and self._file.format in ("MP3", "MPEG"):
            return "mp3 of varying bit rate without length header; write it again with ffmpeg"
        return None

    def _open(
        self, source: Path | bytes, name: str, stack: contextlib.ExitStack
    ) -> soundfile.SoundFile:
        self._stream.seek(0)
        plain = isinstance(source, bytes)
        try:
            handle = self._stream if plain else self._stream.fileno()
            return stack.enter_context(soundfile.SoundFile(handle, closefd=False))
        except soundfile.LibsndfileError as error:
            text = error.error_string
        # libsndfile takes an MP3 with bytes before the first frame only from a file named .mp3.
        self._by_name = True
        if plain:
            suffix = Path(name).suffix.lower()
            copy = stack.enter_context(tempfile.NamedTemporaryFile(suffix=suffix))
            copy.write(source)
            copy.flush()
        try:
            file = soundfile.SoundFile(copy.name if plain else os.fsencode(source))
        except soundfile.LibsndfileError as error:
            raise _not_audio(text) from error
        except TypeError as error:  # a file without header, such as .raw
            raise _not_audio(str(error)) from error
        return stack.enter_context(file)

    def _check_header(self) -> None:
        low, high = RATES
        if not low <= self.rate <= high:
            raise ValueError(
                f"its header says {self.rate} Hz; rates from {low} to {high} Hz can be read"
            )
        if self._file.frames == UNKNOWN:
            raise ValueError("its header does not say how long it is; write it again with ffmpeg")
        if self._file.frames > DENSEST * self._size:
            raise ValueError(
                f"its header says {self._file.frames} samples, more than {self._size} bytes can "
                "hold; the file is damaged"
            )


def _not_audio(text: str) -> ValueError:
    return ValueError(
        f"not readable as audio ({text}); give WAV, FLAC, OGG, MP3 or another format of libsndfile"
    )


def _cut_chunk(stream: BinaryIO, size: int) -> str | None:
    """Whether the samples of a WAV or AIFF go on past the end; libsndfile mends this silently."""
    stream.seek(0)
    order, samples = CHUNKED.get(stream.read(4), (None, None))
    if order is None:
        return None
    at, long = 12, None  # `long` is the length that RF64 gives in 64 bits
    for _ in range(1000):  # chunks
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8:
            break
        length = int.from_bytes(head[4:], order)
        if head[:4] == b"ds64":
            long = int.from_bytes(stream.read(16)[8:], order)
        elif head[:4] == samples:
            # Written to a pipe, a WAV says about 2 or 4 GB.
            piped = length >= 2**32 - 2**16 or 2**31 - 2**16 <= length <= 2**31
            end = at + 8 + (length if long is None else long)
            cut = end > size and (long is not None or not piped)
            return f"cut off: {size} of {end} bytes" if cut else None
        at += 8 + length + length % 2
    return None


def _cut_ogg(stream: BinaryIO, size: int) -> str | None:
    """Whether an OGG lacks its last page, which alone tells how long it was."""
    stream.seek(0)
    if stream.read(4) != b"OggS":
        return None
    stream.seek(max(0, size - 2 * OGG_PAGE))
    tail = stream.read()
    page = tail[tail.rfind(b"OggS\0") :]
    lengths = page[27 : 27 + page[26]] if len(page) > 26 else b""
    whole = len(page) > 26 and len(page) >= 27 + page[26] + sum(lengths)
    if whole and page[5] & 4:  # end of stream
        return None
    return (
        "has no end-of-stream page: cut off, or never closed by its recorder; if it is complete, "
        "write it again with ffmpeg"
    )
