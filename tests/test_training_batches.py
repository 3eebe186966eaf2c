"""Labels, crops and sampling rates of a batch."""

import numpy as np
import pytest
import torch
from torch import Tensor
from training_parts import (
    Memory,
    audio_by_hand,
    batch_of,
    clip_set,
    pseudo_file,
    random_logits,
    source,
)

from hear_ptsed.events import median_filter
from training.data.batch import frames_of, windows
from training.scores import median
from training.targets import clip_targets, frame_targets

ROWS = [  # seconds, active frames
    ((0.01, 0.03), [0]),
    ((0.04, 0.08), [1]),
    ((0.039, 0.041), [0, 1]),
    ((0.04, 0.04), []),
    ((0.05, 0.05), [1]),
    ((-1.0, 0.5), range(13)),
    ((9.99, 12.0), [249]),
    ((10.0, 11.0), []),
    ((34 * 0.04, 35 * 0.04), [34]),  # 35 * 0.04 lies above frame 35
    ((8.04, 8.12), [201, 202]),
]


def as_events(rows, labels, times) -> Tensor:
    first, end = frames_of(*np.array(times).T)
    return torch.from_numpy(np.stack([rows, labels, first, end], 1).astype(np.int64))


@pytest.mark.parametrize(("seconds", "frames"), ROWS)
def test_an_event_is_active_in_every_frame_that_it_touches(seconds, frames):
    events = as_events([1], [2], [seconds])
    target = frame_targets(events, 2, 4)
    assert target.nonzero().tolist() == [[1, 2, k] for k in frames]
    assert clip_targets(events, 2, 4).nonzero().tolist() == [[1, 2]]


@pytest.mark.parametrize(
    "time", [lambda k: k * 0.04, lambda k: k / 25, lambda k: float(f"{k}e-2") * 4]
)
def test_each_of_the_251_grid_points_is_exact_however_it_was_computed(time):
    times = np.array([time(k) for k in range(251)])
    assert [frames.tolist() for frames in frames_of(times, times)] == [list(range(251))] * 2


def test_targets_of_random_events_are_those_of_whole_hundredths_of_a_second():
    rng = np.random.default_rng(0)
    rows, labels = rng.integers(6, size=300), rng.integers(5, size=300)
    times = np.sort(np.round(rng.uniform(-1, 11, (300, 2)), 2), 1)
    target = frame_targets(as_events(rows, labels, times), 6, 5).numpy()
    expected = np.zeros((6, 5, 250))
    start = 4 * np.arange(250)  # of the frames
    for row, label, (onset, offset) in zip(rows, labels, np.round(100 * times), strict=True):
        expected[row, label] += (onset < start + 4) & (offset > start)
    np.testing.assert_array_equal(target, expected > 0)
    present = clip_targets(as_events(rows, labels, times), 7, 5).numpy()
    assert {tuple(x) for x in np.argwhere(present)} == set(zip(rows, labels, strict=True))


@pytest.mark.parametrize("size", [1, 2, 3, 6, 9, 12])
def test_the_median_on_the_device_equals_the_library_filter(size):
    scores = np.random.default_rng(size).normal(size=(3, 4, 40)).round(1).astype(np.float32)
    filtered = median(torch.from_numpy(scores), size).numpy()
    for clip, expected in zip(filtered, scores, strict=True):
        np.testing.assert_array_equal(clip.T, median_filter(expected.T, size))


def test_a_crop_of_a_long_clip_moves_sound_and_labels_together(tmp_path):
    rate, beeps = 32000, [(120, 1200), (6000, 6480), (11000, 12360), (15000, 16000)]
    audio = np.zeros(16 * rate, np.int16)
    for onset, offset in beeps:
        audio[onset * rate // 1000 : offset * rate // 1000] = 1000
    train = clip_set(Memory({"x0": audio}, rate), events=[("x0", "b", *ms) for ms in beeps])
    starts = set()
    for crop in (0.0, 0.1, 0.33, 0.5, 0.77, 0.999):
        batch = batch_of(train, crops=[crop])
        loud = batch["audio"].view(250, rate // 25).abs().amax(1) > 0
        target = frame_targets(batch["events"], 1, 5)[0]
        assert target[1].bool().tolist() == loud.tolist()
        assert batch["seconds"].tolist() == [10]
        starts.add(int(loud.nonzero()[0]))
    assert len(starts) > 3
    assert loud[-1]  # the last crop reaches the clip's end
    pseudo = pseudo_file(tmp_path / "p.h5", random_logits(["x0"]))
    train = clip_set(*train.sources, events=[("x0", "b", *ms) for ms in beeps], pseudo=pseudo)
    with_pseudo = batch_of(train, crops=[0.999])  # pseudo labels are of the first 10 s
    np.testing.assert_array_equal(with_pseudo["audio"][0].numpy(), audio[: 10 * rate])


def test_clips_of_several_rates_share_a_batch():
    sources = [source(16000, 2, "x"), source(32000, 2, "y"), source(44100, 1, "z", 7.3)]
    keys = [key for one in sources for key in one.keys]
    train = clip_set(*sources, events=[(key, "a", 0, 500) for key in keys])
    batch = batch_of(train)
    assert batch["rate"] == 16000
    assert batch["seconds"].tolist() == pytest.approx([10, 9, 10, 9, 7.3], abs=1e-4)
    expected = torch.cat([audio_by_hand(one)[:, :160000] for one in sources])
    for got, wanted, seconds in zip(windows(batch), expected, batch["seconds"], strict=True):
        end = int(seconds * 16000)  # behind it the filter rings on if the zeros pass through it
        assert (got - wanted)[:end].abs().max() < 2 / 32768
    alone = batch_of(train, rows=[2, 3])
    assert alone["rate"] == 32000
    torch.testing.assert_close(windows(alone), expected[2:4])
