"""Streams: the frames of the whole, piece by piece, in memory that does not grow."""

import gc
from functools import partial
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import each_model, small

import hear_ptsed
from hear_ptsed.hear import HearModel, Options, get_timestamp_embeddings
from hear_ptsed.stream import Stream
from hear_ptsed.windows import frame_weights, mean_of_windows, over_windows

pytestmark = pytest.mark.usefixtures("one_thread")


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) / 9


def hearing_all(windows: torch.Tensor) -> torch.Tensor:
    """A model whose frames depend on all of the window and on their place: (N, 250, 2)."""
    frames = windows.unflatten(1, (250, 640))
    level = frames.std(2) + windows.std(1, keepdim=True)
    return torch.stack([level, frames.mean(2).cumsum(1) * torch.arange(250)], 2)


def pieces(audio: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    """Audio cut into pieces of these sizes, over and over."""
    cut, first = [], 0
    while first < len(audio):
        cut.append(audio[first : first + sizes[len(cut) % len(sizes)]])
        first += len(cut[-1])
    return cut


def streamed(stream: Stream, audio: list[torch.Tensor], **options) -> dict[bool, torch.Tensor]:
    """All provisional (False) and all final frames, of which none may be missing or come twice."""
    blocks = [block for piece in audio for block in stream.feed(piece, **options)]
    blocks += stream.finish()
    joined = {}
    for kind in (False, True):
        frames = [block for block in blocks if block.final == kind]
        assert all(a.first + len(a.frames) == b.first for a, b in pairwise(frames))
        assert not frames or frames[0].first == 0
        joined[kind] = torch.cat([block.frames for block in frames]) if frames else None
    return joined


@each_model
def test_final_frames_of_every_backbone_are_those_of_the_whole_to_the_last_bit(name):
    sizes = torch.randint(1, 70_000, (9,), generator=torch.Generator().manual_seed(1)).tolist()
    network = small(name)
    for hop_s, samples, cut in ((2.4, 13 * 16000 + 411, sizes), (5, 60_001, [640])):
        audio = noise(samples)

        def logits(windows):
            with torch.no_grad():
                return network(windows).strong.mT

        expected = over_windows(audio[None], logits, 10 - hop_s, batch=1)[0]
        assert torch.equal(streamed(Stream(network, hop_s), pieces(audio, cut))[True], expected)
    options = Options(overlap=7.6, batch=1)
    plugin = HearModel(network, options).eval()
    audio = noise(12 * 16000, seed=2)
    expected = get_timestamp_embeddings(audio[None], plugin)[0][0]
    assert torch.equal(streamed(Stream(plugin, 2.4), pieces(audio, [16_000]))[True], expected)


@pytest.mark.parametrize("hop_s", [0.4, 1, 2.4, 5, 9.96, 10])
@pytest.mark.parametrize("sizes", [[640], [1, 319, 7, 40_001], [100_000], [1_000_000]])
def test_final_frames_do_not_depend_on_pieces_and_lengths(hop_s, sizes):
    borders = [1, 319, 320, 960, 159_680, 160_000, 160_319, 160_320, 175_999, 250_123]
    for samples in borders:
        audio = noise(samples)
        expected = over_windows(audio[None], hearing_all, 10 - hop_s, batch=1)[0]
        frames = streamed(Stream(hearing_all, hop_s), pieces(audio, sizes))
        assert torch.equal(frames[True], expected), samples


def test_the_smallest_hop_gives_the_frames_of_the_whole():
    audio = noise(180_001)
    expected = over_windows(audio[None], hearing_all, 9.96, batch=1)[0]
    assert torch.equal(streamed(Stream(hearing_all, 0.04), [audio])[True], expected)


def test_frames_come_within_a_hop_and_final_ones_10_s_after_they_sounded():
    stream, hop_s = Stream(hearing_all, 1), 1.0
    came_s = {False: {}, True: {}}
    for piece in pieces(noise(25 * 16000), [160]):
        for block in stream.feed(piece):
            for frame in range(block.first, block.first + len(block.frames)):
                came_s[block.final][frame] = stream.samples / 16000
    assert len(came_s[False]) == 625 and len(came_s[True]) == 375
    for frame, time_s in came_s[False].items():
        assert 0 <= time_s - (frame + 1) / 25 < hop_s
    for frame, time_s in came_s[True].items():
        assert time_s - (frame + 0.5) / 25 == pytest.approx(10)


def test_provisional_frames_are_those_of_the_newest_window():
    audio = noise(13 * 16000)
    frames = streamed(Stream(hearing_all, 2), pieces(audio, [999]))[False]
    assert len(frames) == 300  # 12 s
    padded = torch.nn.functional.pad(audio[:96_000], (0, 64_000))  # 6 s, the third window
    assert torch.equal(frames[100:150], hearing_all(padded[None])[0, 100:150])
    last = hearing_all(audio[32_000:192_000][None])[0]
    assert torch.equal(frames[250:], last[200:])


def test_what_is_dropped_to_catch_up_is_counted_and_the_rest_blended():
    heard = []

    def model(windows):
        heard.append(windows.clone())
        return hearing_all(windows)

    audio = noise(60 * 16000)
    stream = Stream(model, 1)
    frames = streamed(stream, [audio[:320_000], audio[320_000:]], catch_up=True)[True]
    whole = [w for w in heard if w[0, -1]]
    starts = [start for start in range(0, 1251) for w in whole if w[0, 0] == audio[start * 640]]
    assert starts == [0, 250, 500, 750, 1000, 1250]
    assert stream.dropped == 60 - len(heard)
    expected = mean_of_windows(audio[None], hearing_all, starts, frame_weights(True), batch=1)
    assert torch.equal(frames, expected[0])
    stream = Stream(hearing_all, 1)
    expected = over_windows(audio[None], hearing_all, 9, batch=1)[0]
    assert torch.equal(streamed(stream, pieces(audio, [16_000]), catch_up=True)[True], expected)
    assert stream.dropped == 0


def held_bytes() -> int:
    gc.collect()
    tensors = (x for x in gc.get_objects() if type(x) is torch.Tensor)
    # those of oneDNN, which other tests may have left, have no storage
    return sum(x.untyped_storage().nbytes() for x in tensors if x.layout is torch.strided)


def test_memory_does_not_grow():
    stream, sizes = Stream(hearing_all, 1), []
    for second in range(300):
        stream.feed(noise(16_000, seed=second))
        if second in (20, 299):
            sizes.append(held_bytes())
    assert sizes[0] == sizes[1]


@pytest.mark.slow
def test_an_hour_in_pieces_is_the_hour_in_one_in_bounded_memory():
    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    model = HearModel(small("frame_mn06"), Options(overlap=5, batch=1)).eval()
    stream, frames, used_mb = Stream(model, 5), sha256(), []
    for second in range(3600):
        for block in stream.feed(noise(16_000, seed=second)):
            if block.final:
                frames.update(block.frames.numpy().tobytes())
        used_mb.append(resident_mb())
    for block in stream.finish():
        frames.update(block.frames.numpy().tobytes())
    assert max(used_mb[300:]) < max(used_mb[:300]) + 10
    audio = torch.cat([noise(16_000, seed=second) for second in range(3600)])
    expected = get_timestamp_embeddings(audio[None], model)[0][0]
    assert frames.hexdigest() == sha256(expected.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("hop_s", [0, -1, 0.03, 0.05, 10.04, float("nan")])
def test_a_hop_that_is_no_number_of_frames_is_refused(hop_s):
    with pytest.raises(ValueError, match="allowed are multiples of 0.04 up to 10"):
        Stream(hearing_all, hop_s)


def test_what_cannot_be_streamed_is_refused():
    stream = Stream(hearing_all)
    for wrong, text in (
        (noise(9)[None], r"shape \(1, 9\); expected a tensor"),
        (noise(9).numpy(), "samples are a ndarray"),
        (noise(9) * torch.nan, "NaN"),
        (torch.zeros(9, dtype=torch.int16), "divide integers"),
    ):
        with pytest.raises(ValueError, match=text):
            stream.feed(wrong)
    assert stream.feed(torch.empty(0)) == stream.finish() == []
    for call in (partial(stream.feed, noise(9)), stream.finish):
        with pytest.raises(ValueError, match="has ended"):
            call()
    with pytest.raises(ValueError, match="every 20 ms"):
        Stream(HearModel(small("frame_mn06"), Options(hop=20)))


def test_yamnet_needs_no_windows():
    network = hear_ptsed.load("yamnet", stage=None, seed=0)
    network.head.strong_head.weight.data *= 100
    plugin = HearModel(network)
    for samples in (1, 4000, 30_000, 16_000 * 3, 50_123):
        audio = noise(samples)
        logits = network(audio[None]).strong[0].mT
        assert samples == 1 or logits.std(0).mean() > 0.1
        for hop_s, sizes in ((0.4, [3001]), (1, [640, 1]), (10, [99_999])):
            frames = streamed(Stream(network, hop_s), pieces(audio, sizes))
            assert frames[True].shape == logits.shape
            torch.testing.assert_close(frames[True], logits, atol=1e-4, rtol=1e-4)
        embeddings = get_timestamp_embeddings(audio[None], plugin)[0][0]
        frames = streamed(Stream(plugin), [audio])[True]
        torch.testing.assert_close(frames, embeddings, atol=1e-5, rtol=1e-4)
    stream = Stream(network, 0.4)
    kinds = [(b.first, len(b.frames), b.final) for b in stream.feed(noise(16_000))]
    assert kinds == [(0, 10, False), (10, 10, False), (0, 7, True)]
