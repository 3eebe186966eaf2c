"""`hear-ptsed stream` without its command line: files and live PCM in, JSON lines out."""

import io
import json
import pickle
import signal
import time

import numpy as np
import pytest
import soundfile
import torch

from hear_ptsed import interrupt, live, registry
from hear_ptsed.audio import read_audio, read_blocks
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.detect import DetectorOptions, detect, load_detector
from hear_ptsed.events import Decoder, decode
from hear_ptsed.grid import FRAME
from hear_ptsed.live import StreamOptions, arriving, read_pcm, stream_events

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file of frame_mn02 whose two classes come and go with the sound."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoints") / "mine.pt"
    model = registry.build("frame_mn02", n_classes=2).train()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # statistics of the one batch that comes
    audio = torch.from_numpy(np.stack([sound(10.0), sound(10.0)[::-1]])) / 32768
    with torch.no_grad():
        model(audio)
        logits = model.eval()(audio).strong[0]
        scale = 2 / logits.std(1)
        model.head.strong_head.weight *= scale[:, None]
        model.head.strong_head.bias.sub_(logits.mean(1)).mul_(scale)
    save_checkpoint(model, path, classes=["Owl", "Fox"])
    return path


def detector(checkpoint, **options):
    options = DetectorOptions(device="cpu", batch=1, **options)
    return load_detector("frame_mn02", checkpoint=checkpoint, options=options)


def sound(seconds: float, rate: int = 16000) -> np.ndarray:
    """Bursts of noise, int16."""
    draw = np.random.default_rng(0).standard_normal(round(seconds * rate))
    bursts = np.sin(np.arange(len(draw)) * 2.1 / rate) > 0
    return (draw * np.where(bursts, 5000, 20)).astype("<i2")


class Pipe(io.BytesIO):
    """Gives a few bytes at a time, as pipes do."""

    def read(self, size=-1):
        return super().read(min(size, 1000))


def lines_of(audio, checkpoint, hop_s=2.0, **options) -> list[dict]:
    out = io.StringIO()
    made = StreamOptions(hop_s=hop_s, **options)
    stream_events(audio, detector(checkpoint), made, out, *DECODING, clock=lambda: 0.0)
    return [json.loads(line) for line in out.getvalue().splitlines()]


DECODING = [0.5, 0.48], [9, 5]  # thresholds and medians of the two classes


def ended(lines: list[dict]) -> list[tuple]:
    finals = [line for line in lines if line["kind"] == "end" and line["final"]]
    keys = ("onset_s", "offset_s", "label", "score")
    return sorted(tuple(line[key] for key in keys) for line in finals)


def detected(path, checkpoint, hop_s=2.0) -> list[tuple]:
    whole = detect(path, detector(checkpoint, overlap=10 - hop_s), *DECODING)
    return sorted((e.onset_s, e.offset_s, e.label, round(e.score, 6)) for e in whole.events)


def test_a_wav_and_pcm_give_the_events_that_detect_finds(checkpoint, tmp_path):
    samples = sound(23.1)
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    expected = detected(tmp_path / "a.wav", checkpoint)
    assert len(expected) > 4 and {label for *_, label, _ in expected} == {"Owl", "Fox"}
    for audio in (tmp_path / "a.wav", Pipe(samples.tobytes())):
        first, *lines, last = lines_of(audio, checkpoint)
        assert ended(lines) == [pytest.approx(event, abs=1e-6) for event in expected]
        facts = {"model": "frame_mn02", "stage": "strong", "checkpoint": "mine.pt"}
        assert first == {"kind": "start", **facts, "untrained": False, "hop_s": 2.0}
        assert last == {"kind": "stop", "duration_s": 23.1, "dropped_windows": 0}


def test_another_rate_and_channels_are_heard_as_detect_hears_them(checkpoint, tmp_path):
    samples = np.stack([sound(14.0, 44100), sound(14.0, 44100)[::-1]], 1)
    soundfile.write(tmp_path / "a.flac", samples, 44100)
    expected = detected(tmp_path / "a.flac", checkpoint)
    assert expected
    pcm = Pipe(samples.tobytes() + b"\0")  # cut off within a sample
    for audio in (tmp_path / "a.flac", pcm):
        lines = lines_of(audio, checkpoint, rate=44100, channels=2)
        assert ended(lines) == [pytest.approx(event, abs=1e-4) for event in expected]


def test_every_event_begins_before_it_ends_and_is_told_provisionally_first(checkpoint):
    lines = lines_of(Pipe(sound(20.0).tobytes()), checkpoint)
    provisional = [line for line in lines if line.get("final") is False]
    assert lines.index(provisional[0]) < min(i for i, line in enumerate(lines) if line.get("final"))
    open_events = set()
    for line in lines[1:-1]:
        key = line["label"], line["onset_s"], line["final"]
        if line["kind"] == "begin":
            open_events.add(key)
        else:
            open_events.remove(key)
            assert line["offset_s"] > line["onset_s"] and 0.4 < line["score"] < 1
    assert not open_events


def test_an_event_is_told_while_the_sound_goes_on(checkpoint):
    listener = live.Listener(detector(checkpoint), 1.0, -1.0)  # all is an event
    samples = sound(3.0).astype(np.float32) / 32768
    assert [line["kind"] for line in listener.feed(samples)] == ["begin", "begin"]
    assert listener.feed(samples[:16000]) == []
    assert [line["kind"] for line in listener.finish()].count("end") == 4


def test_who_falls_behind_drops_windows_and_says_so(checkpoint):
    pcm, clock = io.BytesIO(sound(16.0).tobytes()), iter(range(0, 100_000, 100))

    class Slow(io.StringIO):
        """Writes the lines of the first batch only when 10 s more have come in."""

        def flush(self):
            deadline = time.monotonic() + 60
            while pcm.tell() < 320_000 and begun and time.monotonic() < deadline:
                time.sleep(0.001)
            begun.append(True)

    begun = []
    out = Slow()
    options = StreamOptions(hop_s=1.0)
    stream_events(pcm, detector(checkpoint), options, out, clock=lambda: next(clock))
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    behind = [line for line in lines if line["kind"] == "behind"]
    assert behind and all(line["time_s"] <= 16 for line in behind)
    assert sum(line["dropped_windows"] for line in behind) == lines[-1]["dropped_windows"] > 4


def test_no_more_is_read_ahead_than_the_limit():
    read = []

    def pieces():
        for _ in range(3 * live.AHEAD):
            read.append(FRAME)
            yield np.zeros(FRAME, np.float32)

    batches = arriving(pieces())
    taken = len(next(batches)[0]) // FRAME
    limit = taken + live.AHEAD + 1  # and the piece that waits
    deadline = time.monotonic() + 30
    while len(read) < limit and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(read) == limit
    assert taken * FRAME + sum(len(samples) for samples, _ in batches) == 3 * live.AHEAD * FRAME


def test_ctrl_c_ends_the_events_so_far(checkpoint):
    class Pressed(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 16000 * 2 * 12:
                signal.raise_signal(signal.SIGINT)
            return super().read(size)

    out = io.StringIO()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), interrupt.listening():
            pcm = Pressed(sound(12.1).tobytes())
            stream_events(pcm, detector(checkpoint), StreamOptions(), out)
    finally:
        signal.signal(signal.SIGINT, before)
    assert json.loads(out.getvalue().splitlines()[-1])["kind"] == "stop"


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"", "holds no samples"), (b"\0", "holds no samples"), (b"RIFF....WAVE", "give its path")],
)
def test_standard_input_that_is_no_pcm_is_one_line(checkpoint, content, text):
    with pytest.raises(ValueError, match=text) as error:
        lines_of(io.BytesIO(content), checkpoint)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.wav: no such file"):
        lines_of(tmp_path / "a.wav", checkpoint)


@pytest.mark.parametrize("rate", [16000, 44100, 8000])
def test_blocks_of_a_file_are_its_audio(rate, tmp_path):
    samples = np.stack([sound(1_200_000 / 2 / rate, rate)] * 2, 1)  # more than one block
    soundfile.write(tmp_path / "a.wav", samples, rate)
    blocks = [*read_blocks(tmp_path / "a.wav")]
    audio, _ = read_audio(tmp_path / "a.wav")
    assert len(blocks) > 1
    np.testing.assert_array_equal(np.concatenate(blocks), audio)
    if rate == 16000:
        pcm = np.concatenate([*read_pcm(Pipe(samples.tobytes()), rate, 2)])
        np.testing.assert_array_equal(pcm, audio)


def test_scores_piece_by_piece_give_the_events_of_the_whole():
    draw = np.random.default_rng(0)
    classes = ["a", "b", "c"]
    for _ in range(200):
        frames = draw.integers(1, 120)
        walk = draw.normal(0, 0.4, (frames, 3)).cumsum(0)
        scores = (1 / (1 + np.exp(-walk))).astype(np.float32)
        threshold, median = draw.uniform(0, 1, 3), draw.integers(1, 20, 3)
        duration_s = ((frames - 1) * FRAME + draw.integers(320, 960)) / 16000
        decoding = {"threshold": threshold, "median": median}
        expected = decode(scores, classes, **decoding, duration_s=duration_s)
        decoder, edges = Decoder(classes, **decoding), []
        for piece in np.split(scores, np.sort(draw.integers(0, frames, 5))):
            edges += decoder.feed(piece)
        edges += decoder.finish(duration_s)
        begun = [edge[:2] for edge in edges if edge.offset_s is None]
        events = sorted(edge for edge in edges if edge.offset_s is not None)
        assert sorted(begun) == [event[:2] for event in expected]
        assert [event[:3] for event in events] == [event[:3] for event in expected]
        scores_of = [event.score for event in events], [event.score for event in expected]
        np.testing.assert_allclose(*scores_of, rtol=1e-12)


def test_a_decoder_keeps_no_more_than_its_filter_sees():
    decoder, sizes = Decoder(["a", "b"], 0.5, [9, 301]), []
    for _ in range(500):
        decoder.feed(np.tile(np.float32([0.9, 0.1]), (25, 1)))
        sizes.append(len(pickle.dumps(decoder)))
    assert abs(sizes[-1] - sizes[50]) < 100
    assert [edge.offset_s for edge in decoder.finish(500.0)] == [500.0]
