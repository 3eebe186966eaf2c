"""Sound event bounding boxes of one row, step by step as they are described, in exact fractions."""

from fractions import Fraction

from hear_ptsed.boxes import LEAST, STEP, BoxSettings


def slow_boxes(scores, settings: BoxSettings, hop_ms: int = 40):
    """[(first, stop, confidence)] of scores (T,)."""
    y = [Fraction(round(float(score) / STEP)) * Fraction(STEP) for score in scores]
    n = len(y)
    half = max(1, round(settings.filter_s * 1000 / 2 / hop_ms))
    change = [
        sum(y[k : k + half], Fraction(0)) - sum(y[max(0, k - half) : k], Fraction(0))
        for k in range(n + 1)
    ]
    extrema = _alternating(_extrema(change), change)
    segments = [(on, off) for (on, _), (off, _) in zip(extrema[::2], extrema[1::2], strict=True)]
    while len(segments) > 1:
        depths = []
        for (a, b), (c, d) in zip(segments, segments[1:], strict=False):
            top, gap = max(_mean(y, a, b), _mean(y, c, d)), _mean(y, b, c)
            relative = settings.merging == "relative"
            depths.append(top / max(gap, 1e-8) if relative else top - gap)
        shallowest = min(depths)
        if shallowest >= settings.limit:
            break
        i = depths.index(shallowest)
        segments[i : i + 2] = [(segments[i][0], segments[i + 1][1])]
    boxes = [(a, b, _mean(y, a, b)) for a, b in segments]
    return [box for box in boxes if box[2] >= LEAST]


def _mean(y, start, stop):
    return float(sum(y[start:stop])) / (stop - start)


def _extrema(change):
    """Borders of onsets (True) and offsets (False) in time, plateaus at their middle."""
    extrema, first = [], 0
    for last in range(len(change)):
        if last + 1 < len(change) and change[last + 1] == change[first]:
            continue
        sides = [change[k] for k in (first - 1, last + 1) if 0 <= k < len(change)]
        value = change[first]
        if value > 0 and all(side < value for side in sides):
            extrema.append(((first + last) // 2, True))
        if value < 0 and all(side > value for side in sides):
            extrema.append(((first + last) // 2, False))
        first = last + 1
    return extrema


def _alternating(extrema, change):
    kept = []
    for border, onset in extrema:
        if kept and kept[-1][1] == onset:
            if abs(change[border]) > abs(change[kept[-1][0]]):
                kept[-1] = border, onset
        else:
            kept.append((border, onset))
    return kept
