"""Sound event bounding boxes (SEBB): scores of frames -> boxes, each with one confidence.

A threshold on frames moves the edges of an event along with the decision; of boxes it only decides
which are kept. The change-detection variant of Ebbers, Germain, Wichern, Le Roux, "Sound Event
Bounding Boxes", Interspeech 2024, https://arxiv.org/abs/2406.04212. What the paper's summaries
leave open is our choice: a clip goes on with zeros, a plateau counts at its middle, a gap's depth
is measured from the stronger of its neighbours, the shallowest gap merges first.

A row is the scores of one class in one clip. All rows are worked on at once.
"""

import heapq
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from hear_ptsed.grid import FRAME_MS

LEAST = 1e-3  # confidence below which a box is none
STEP = 2.0**-30  # scores are rounded to it, which makes float64 sums of 4 million frames exact
CHUNK = 2**20  # frames at once
MANY = 64  # pieces between onset and offset of a row, from which on a heap beats rounds
SMALLEST = 1e-8  # score of a gap that a ratio is made with


class BoxSettings(NamedTuple):
    """How the scores of a class become boxes."""

    filter_s: float = 0.64  # length of the step filter
    merging: Literal["absolute", "relative"] = "relative"  # depth of a gap: difference or ratio
    limit: float = 2.0  # gaps that are less deep are none

    def half(self, hop_ms: int) -> int:
        """Frames of half the filter."""
        return max(1, round(self.filter_s * 1000 / 2 / hop_ms))

    def __str__(self) -> str:
        return f"filter {self.filter_s:g} s, {self.merging} {self.limit:g}"


DEFAULT = BoxSettings()
GRID = tuple(  # the authors' 18, to choose from; usual choices first
    BoxSettings(filter_s, merging, limit)
    for merging, limits in (("relative", (2.0, 3.0, 1.5)), ("absolute", (0.2, 0.15, 0.3)))
    for limit in limits
    for filter_s in (0.64, 0.48, 0.32)
)


class Boxes(NamedTuple):
    """Boxes by row and time; between two of a row lies a frame or more."""

    row: np.ndarray  # (B,)
    first: np.ndarray  # (B,) frame
    stop: np.ndarray  # (B,) frame after the last
    confidence: np.ndarray  # (B,) mean score, at least LEAST

    @classmethod
    def none(cls) -> "Boxes":
        return cls(*(np.zeros(0, np.int64) for _ in range(3)), np.zeros(0))

    def paint(self, n_rows: int, n_frames: int) -> np.ndarray:
        """(n_rows, n_frames): the confidence on the frames of each box, 0 elsewhere."""
        painted = np.zeros((n_rows, n_frames))
        lengths = self.stop - self.first
        begin = self.row * n_frames + self.first - (np.cumsum(lengths) - lengths)
        at = np.repeat(begin, lengths) + np.arange(lengths.sum())
        painted.reshape(-1)[at] = np.repeat(self.confidence, lengths)
        return painted


def boxes_of(
    scores: np.ndarray,
    settings: Sequence[BoxSettings] = (DEFAULT,),
    hop_ms: int = FRAME_MS,
    frames: np.ndarray | None = None,
) -> dict[BoxSettings, Boxes]:
    """The boxes of rows by each of the settings.

    Args:
        scores: (R, T), from 0 to 1 and not smoothed.
        hop_ms: from frame to frame.
        frames: (R,) of each row, the others of T are padding; None: all.
    """
    n_rows, n_frames = scores.shape
    if scores.size and not 0 <= scores.min() <= scores.max() <= 1:
        raise ValueError(
            f"scores from {scores.min():g} to {scores.max():g}; boxes are made of probabilities"
        )
    frames = np.full(n_rows, n_frames) if frames is None else np.asarray(frames)
    parts: dict[BoxSettings, list[Boxes]] = {each: [] for each in settings}
    for live in _chunks(scores, frames):
        y = np.rint(scores[live] / np.float64(STEP)) * STEP
        y[np.arange(n_frames) >= frames[live, None]] = 0
        for each, boxes in _boxes_of_chunk(y, frames[live], settings, hop_ms):
            parts[each].append(boxes._replace(row=live[boxes.row]))
    return {
        each: Boxes(*map(np.concatenate, zip(Boxes.none(), *of_chunks, strict=True)))
        for each, of_chunks in parts.items()
    }


def boxes_by_class(
    scores: np.ndarray, settings: Sequence[BoxSettings], hop_ms: int = FRAME_MS
) -> Boxes:
    """The boxes of one clip, whose rows are classes.

    Args:
        scores: (T, C)
        settings: of each class.
    """
    parts = [Boxes.none()]
    for each in dict.fromkeys(settings):
        of_each = np.flatnonzero([other == each for other in settings])
        boxes = boxes_of(scores[:, of_each].T, [each], hop_ms)[each]
        parts.append(boxes._replace(row=of_each[boxes.row]))
    boxes = Boxes(*map(np.concatenate, zip(*parts, strict=True)))
    order = np.lexsort((boxes.first, boxes.row))
    return Boxes(*(column[order] for column in boxes))


def _chunks(scores: np.ndarray, frames: np.ndarray) -> Iterator[np.ndarray]:
    """Rows that can have a box, as many at a time as make CHUNK frames."""
    if not scores.size:
        return
    reaches = scores.max(1) >= LEAST
    if (frames < scores.shape[1]).any():
        reaches &= frames > 0
    live = np.flatnonzero(reaches)
    step = max(1, CHUNK // scores.shape[1])
    for first in range(0, len(live), step):
        yield live[first : first + step]


def _boxes_of_chunk(
    y: np.ndarray, frames: np.ndarray, settings: Sequence[BoxSettings], hop_ms: int
) -> Iterator[tuple[BoxSettings, Boxes]]:
    """Each of the settings with its boxes; y (R, T) is 0 beyond the frames (R,) of a row."""
    for half in {each.half(hop_ms): None for each in settings}:
        strip = Strip(y, half)
        pieces = strip.pieces(frames)
        for merging in ("absolute", "relative"):
            same = [e for e in settings if e.half(hop_ms) == half and e.merging == merging]
            merged = pieces
            # The order of merging does not depend on the limit: a lower one only ends it earlier.
            for each in sorted(same, key=lambda each: each.limit):
                merged = strip.merge(merged, merging, each.limit)
                yield each, strip.boxes(merged)


class Pieces(NamedTuple):
    """From an onset to an offset each, by row and time, their borders as places of a `Strip`."""

    row: np.ndarray  # (S,)
    on: np.ndarray  # (S,)
    off: np.ndarray  # (S,)

    def take(self, which: np.ndarray) -> "Pieces":
        return Pieces(*(column[which] for column in self))


class Strip:
    """The frames of all rows behind each other, and zeros between them.

    Args:
        y: (R, T), multiples of STEP.
        half: frames of half the step filter.
    """

    def __init__(self, y: np.ndarray, half: int):
        self.half = half
        self.width = y.shape[1] + half
        self.y = np.zeros(half + y.shape[0] * self.width)
        self.y[half:].reshape(len(y), self.width)[:, : y.shape[1]] = y
        self.sums = np.append(0.0, np.cumsum(self.y))  # (M + 1,), before each border

    def mean(self, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Of the frames between borders."""
        return (self.sums[stop] - self.sums[start]) / (stop - start)

    def change(self, border: np.ndarray) -> np.ndarray:
        """Sum of the half filter behind borders less that before them."""
        at, half = self.sums, self.half
        return (at[border + half] - at[border]) - (at[border] - at[border - half])

    def slopes(self, frames: np.ndarray) -> np.ndarray:
        """(R, W) int8: whether the change rises or falls from a border to the next.

        It rises behind the last border of a row, (R,) frames from the first.
        """
        y, half = self.y, self.half
        n = len(y) - half
        after = np.append(y[2 * half :], np.zeros(half))
        ends, middle = after + y[:n], 2 * y[half:]
        slopes = np.subtract(ends > middle, ends < middle, dtype=np.int8)
        slopes = slopes.reshape(len(frames), self.width)
        slopes[np.arange(self.width) > frames[:, None]] = 0
        slopes[np.arange(len(frames)), frames] = 1
        return slopes

    def pieces(self, frames: np.ndarray) -> Pieces:
        """From each onset to its offset: extrema of the change that take turns."""
        slopes = self.slopes(frames).reshape(-1)
        begins = slopes[1:] != slopes[:-1]
        begins[self.width - 1 :: self.width] = True  # of a row
        begin = np.append(0, np.flatnonzero(begins) + 1)  # of each run of equal slopes
        end = np.append(begin[1:], len(slopes))
        sloping = slopes[begin] != 0
        begin, end = begin[sloping], end[sloping]
        slope, row = slopes[begin], begin // self.width
        new_row = np.append(True, row[1:] != row[:-1])
        before = np.append(0, slope[:-1])
        before[new_row] = 1
        plateau = np.where(new_row, row * self.width, np.append(0, end[:-1]))
        turns = slope != before
        border = (plateau[turns] + begin[turns]) // 2 + self.half
        onset, row = slope[turns] < 0, row[turns]
        change = self.change(border)
        kept = np.where(onset, change > 0, change < 0)
        best = _best_of_runs(onset[kept], np.abs(change[kept]))
        row, border = row[kept][best], border[kept][best]
        # Frames are not negative: the first extremum of a row is an onset, its last an offset.
        return Pieces(row[::2], border[::2], border[1::2])

    def depths(self, pieces: Pieces, merging: str, at: np.ndarray) -> np.ndarray:
        """Of the gaps behind pieces at some places."""
        _, on, off = pieces
        means = self.mean(on[at], off[at]), self.mean(on[at + 1], off[at + 1])
        return _depth(np.maximum(*means), self.mean(off[at], on[at + 1]), merging)

    def merge(self, pieces: Pieces, merging: str, limit: float) -> Pieces:
        """Without shallow gaps: the shallowest of each row goes first, of equal ones the first."""
        counts = np.bincount(pieces.row)
        many = counts > MANY
        finished = [
            self._merge_row(pieces.take(pieces.row == row), merging, limit)
            for row in np.flatnonzero(many)
        ]
        pieces = pieces.take(~many[pieces.row])
        depths = np.full(len(pieces.row), np.inf)  # of the gap behind each; the last has none
        gaps = np.flatnonzero(pieces.row[1:] == pieces.row[:-1])
        depths[gaps] = self.depths(pieces, merging, gaps)
        while len(depths):
            starts = np.flatnonzero(np.append(True, pieces.row[1:] != pieces.row[:-1]))
            least = np.minimum.reduceat(depths, starts)
            lengths = np.diff(starts, append=len(depths))
            active = np.repeat(least < limit, lengths)
            finished.append(pieces.take(~active))
            pieces, depths = pieces.take(active), depths[active]
            run = np.repeat(np.arange(len(starts)), lengths)[active]
            at = np.flatnonzero(depths == least[run])
            at = at[np.append(True, run[at[1:]] != run[at[:-1]])[: len(at)]]
            pieces, depths = self._merge_at(at, pieces, depths, merging)
        merged = Pieces(*map(np.concatenate, zip(pieces, *finished, strict=True)))
        return merged.take(np.lexsort((merged.on, merged.row)))

    def _merge_at(
        self, at: np.ndarray, pieces: Pieces, depths: np.ndarray, merging: str
    ) -> tuple[Pieces, np.ndarray]:
        """The pieces at some places and behind them are one; of a row it is one place or none."""
        pieces.off[at], depths[at] = pieces.off[at + 1], np.inf
        kept = np.ones(len(depths), bool)
        kept[at + 1] = False
        pieces, depths = pieces.take(kept), depths[kept]
        at = at - np.arange(len(at))
        gaps = np.concatenate([at[at > 0] - 1, at[at + 1 < len(depths)]])
        gaps = gaps[pieces.row[gaps] == pieces.row[gaps + 1]]
        depths[gaps] = self.depths(pieces, merging, gaps)
        return pieces, depths

    def _merge_row(self, pieces: Pieces, merging: str, limit: float) -> Pieces:
        """`merge` of one row."""
        row, on, off = pieces
        off, gaps = off.copy(), np.arange(len(row) - 1)
        depths = [*self.depths(pieces, merging, gaps).tolist(), np.inf]
        after, before = [*range(1, len(row) + 1)], [*range(-1, len(row) - 1)]
        alive = np.ones(len(row), bool)
        heap = [(depth, i) for i, depth in enumerate(depths) if depth < limit]
        heapq.heapify(heap)
        while heap:
            depth, i = heapq.heappop(heap)
            if not alive[i] or depths[i] != depth:
                continue
            j = after[i]
            off[i], after[i], alive[j] = off[j], after[j], False
            if after[i] < len(row):
                before[after[i]] = i
            for left in (before[i], i):
                if left < 0:
                    continue
                right, depths[left] = after[left], np.inf
                if right < len(row):
                    pair = np.array([left, right])
                    top = self.mean(on[pair], off[pair]).max()
                    depths[left] = _depth(top, self.mean(off[left], on[right]), merging)
                if depths[left] < limit:
                    heapq.heappush(heap, (depths[left], left))
        return Pieces(row[alive], on[alive], off[alive])

    def boxes(self, pieces: Pieces) -> Boxes:
        row, on, off = pieces
        confidence = self.mean(on, off)
        start = row * self.width + self.half
        boxes = Boxes(row, on - start, off - start, confidence)
        return Boxes(*(column[confidence >= LEAST] for column in boxes))


def _depth(top: np.ndarray, gap: np.ndarray, merging: str) -> np.ndarray:
    """Of gaps with mean scores `gap` beside pieces of at most `top`."""
    return top - gap if merging == "absolute" else top / np.maximum(gap, SMALLEST)


def _best_of_runs(kind: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Of each run of one kind, the place of the greatest size, the first of equal ones."""
    if not len(kind):
        return np.zeros(0, np.int64)
    starts = np.flatnonzero(np.append(True, kind[1:] != kind[:-1]))
    lengths = np.diff(starts, append=len(kind))
    run = np.repeat(np.arange(len(starts)), lengths)
    at = np.flatnonzero(size == np.maximum.reduceat(size, starts)[run])
    return at[np.append(True, run[at[1:]] != run[at[:-1]])]
