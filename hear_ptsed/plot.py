"""One picture of a detection: spectrogram, scores of the top classes, events."""

import math
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import Z_RLE

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchaudio.transforms import MelSpectrogram

from hear_ptsed.detect import Detection
from hear_ptsed.errors import printable
from hear_ptsed.grid import FRAME, FRAMES_PER_SECOND, SAMPLE_RATE, SPEC_HOP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

COLUMNS = 1500  # of a heat map at least, if there are so many frames
N_MELS = 128
FLOOR_DB = -70, -20  # range of the darkest colour
TICKS_KHZ = (0.25, 0.5, 1, 2, 4, 8)
INK, PALE, BAR, WARNING = "#222222", "#767676", "#0072B2", "#D55E00"  # Okabe and Ito's colours
ROW_INCHES, DPI = 0.25, 100
WIDTH, TOP, BOTTOM = 1500, 26.5, 47.5  # pixels, as the next ones: of the picture, outside of axes
LEAST_LEFT, RIGHT = 64.8, 1402.5  # edges of the axes
BAR_LEFT, BAR_WIDTH = 1426.7, 9.5  # of the colour bars
NAME_GAP_POINTS = 3.5  # between the names of rows and the axes


def save(detection: Detection, path: Path, top: int = 12) -> None:
    """Draw a PNG, 1500 pixels wide, with the `top` classes: those with events first, by score."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"a plot needs matplotlib: pip install matplotlib ({error})") from error

    classes = detection.detector.classes
    shown, rows = _choose(detection, top)
    heights = [2.6, ROW_INCHES * len(shown), ROW_INCHES * max(len(rows), 2)]

    figure = Figure(figsize=(WIDTH / DPI, sum(heights) + 1.5), dpi=DPI)
    FigureCanvasAgg(figure)
    top_axes = figure.add_subplot()
    axes = [top_axes, *(figure.add_subplot(sharex=top_axes) for _ in heights[1:])]
    bars = [figure.add_subplot() for _ in heights[1:]]
    image = _draw_spectrogram(axes[0], detection.audio)
    figure.colorbar(image, cax=bars[0], label="dB")
    image = _draw_scores(axes[1], detection.scores[:, shown], [classes[c] for c in shown])
    figure.colorbar(image, cax=bars[1], label="score", ticks=[0, 0.5, 1])
    _draw_events(axes[2], detection, rows)
    _label_time(axes, detection.duration_s)
    _write_title(axes[0], detection)
    _lay_out(axes, bars, heights)
    figure.savefig(path, format="png", pil_kwargs={"compress_type": Z_RLE})


def _lay_out(axes: list["Axes"], bars: list["Axes"], heights: list[float]) -> None:
    """Put axes below each other, beside the names of their rows, and bars beside the first ones.

    The layout engines of matplotlib draw the whole figure once more to find the same places.
    """
    renderer = axes[0].figure.canvas.get_renderer()
    widest = max(name.get_window_extent(renderer).width for name in axes[1].texts)
    left = max(LEAST_LEFT, widest + 9)
    gaps = [18, 36 if axes[2].get_title("right") else 17, BOTTOM]
    height = axes[0].figure.bbox.height
    free, above = height - TOP - sum(gaps), TOP
    for share, gap, part, bar in zip(heights, gaps, axes, [*bars, None], strict=True):
        below = above + free * share / sum(heights)
        y, part_height = 1 - below / height, (below - above) / height
        part.set_position((left / WIDTH, y, (RIGHT - left) / WIDTH, part_height))
        if bar is not None:
            bar.set_position((BAR_LEFT / WIDTH, y, BAR_WIDTH / WIDTH, part_height))
        above = below + gap


def _choose(detection: Detection, top: int) -> tuple[list[int], list[str]]:
    """Indices of the classes to show, those with events in front by time; names of the latter."""
    classes = detection.detector.classes
    onsets = {event.label: event.onset_s for event in reversed(detection.events)}
    peaks = detection.scores.max(0)
    ranked = sorted(range(len(classes)), key=lambda c: (classes[c] not in onsets, -peaks[c]))
    shown = sorted(ranked[:top], key=lambda c: onsets.get(classes[c], math.inf))
    return shown, [classes[c] for c in shown if classes[c] in onsets]


def log_mel(audio: Tensor) -> np.ndarray:
    """Mel spectrogram of audio (S,) in decibels below its loudest cell, (128, columns).

    A column is the mean of as many spectrogram frames as leave about 1500 columns.
    """
    hops = max(1, len(audio) // SPEC_HOP // COLUMNS)  # per column
    column = hops * SPEC_HOP  # samples
    sizes = {"n_fft": 1024, "win_length": FRAME, "hop_length": SPEC_HOP, "n_mels": N_MELS}
    mel = MelSpectrogram(SAMPLE_RATE, **sizes, pad_mode="constant")
    blocks = []
    for block in audio.split(256 * column):  # bounds memory on long audio
        block = F.pad(block, (0, -len(block) % column))
        blocks.append(mel(block)[:, :-1].unflatten(1, (-1, hops)).mean(2))
    power = torch.cat(blocks, 1)
    return (10 * (power / power.max().clamp(min=1e-12)).clamp(min=1e-12).log10()).numpy()


def _draw_spectrogram(axes: "Axes", audio: Tensor) -> "AxesImage":
    decibel = log_mel(audio)
    seconds = len(audio) / SAMPLE_RATE
    image = axes.imshow(
        decibel,
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, N_MELS),
        cmap="magma",
        vmin=float(np.clip(np.percentile(decibel, 10), *FLOOR_DB)),  # shows weak sounds over noise
        vmax=0,
    )

    def mel(hertz: float) -> float:
        return math.log1p(hertz / 700)

    axes.set_yticks(
        [N_MELS * mel(1000 * k) / mel(SAMPLE_RATE / 2) for k in TICKS_KHZ],
        [f"{k:g}" for k in TICKS_KHZ],
    )
    axes.set_ylabel("frequency in kHz")
    return image


def _draw_scores(axes: "Axes", scores: np.ndarray, names: list[str]) -> "AxesImage":
    """Heat map (T, rows); of long recordings the highest score in each column, so none is lost."""
    pool = max(1, len(scores) // COLUMNS)
    padded = np.pad(scores, ((0, -len(scores) % pool), (0, 0)))
    image = axes.imshow(
        padded.reshape(-1, pool, len(names)).max(1).T,
        aspect="auto",
        interpolation="nearest",
        extent=(0, len(padded) / FRAMES_PER_SECOND, len(names), 0),
        cmap="cividis",
        vmin=0,
        vmax=1,
    )
    axes.hlines(np.arange(1, len(names)), *axes.get_xlim(), color="white", linewidth=0.6)
    _label_rows(axes, names)
    return image


def _draw_events(axes: "Axes", detection: Detection, rows: list[str]) -> None:
    for row, name in enumerate(rows):
        bars = [(e.onset_s, e.offset_s - e.onset_s) for e in detection.events if e.label == name]
        # The edge keeps an event visible that is narrower than a pixel.
        axes.broken_barh(bars, (row + 0.18, 0.64), color=BAR, edgecolor=BAR, linewidth=1)
    axes.set_ylim(max(len(rows), 2), 0)
    _label_rows(axes, rows)
    for name in ("top", "right"):
        axes.spines[name].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.hlines(np.arange(len(rows)) + 0.5, 0, detection.duration_s, color="#eeeeee", zorder=0)
    axes.set_axisbelow(True)
    hidden = len({event.label for event in detection.events}) - len(rows)
    if not rows:
        axes.text(0.5, 0.5, "no events", transform=axes.transAxes, ha="center", color=PALE)
    elif hidden:
        axes.set_title(
            f"events of {hidden} more classes are not shown", loc="right", color=PALE, fontsize=10
        )


def _label_rows(axes: "Axes", names: list[str]) -> None:
    """Names where labels of ticks would be; ticks take five times as long to draw."""
    short = [name if len(name) <= 36 else name[:35].rstrip(", (") + "…" for name in names]
    place, _, _ = axes.get_yaxis_text1_transform(NAME_GAP_POINTS)
    align = {"ha": "right", "va": "center_baseline", "transform": place}
    for row, name in enumerate(short):
        axes.text(0, row + 0.5, name, **align)
    axes.set_yticks([])


def _label_time(axes: list["Axes"], duration_s: float) -> None:
    for upper in axes[:-1]:
        upper.tick_params(axis="x", labelbottom=False)
    axes[-1].set_xlim(0, duration_s)
    if duration_s <= 120:
        axes[-1].set_xlabel("time in s")
        return
    step = next(s for s in (15, 30, 60, 120, 300, 600, 1800, 3600, 1e9) if duration_s / s <= 15)
    ticks = np.arange(0, duration_s, step)
    axes[-1].set_xticks(ticks, [f"{int(t) // 60}:{int(t) % 60:02d}" for t in ticks])
    axes[-1].set_xlabel("time in min:s")


def _write_title(axes: "Axes", detection: Detection) -> None:
    name = printable(Path(detection.file).name, 100)
    count = f"{len(detection.events)} event{'s' * (len(detection.events) != 1)}"
    axes.set_title(
        f"{name}  ·  {detection.detector.name}  ·  {count}",
        loc="left",
        fontsize=13,
        color=INK,
        parse_math=False,  # a name may hold $
    )
    if detection.detector.untrained:
        axes.set_title("untrained: random weights", loc="right", color=WARNING, weight="bold")
