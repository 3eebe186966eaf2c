"""`hear-ptsed` from end to end: real files of many kinds in; events, pictures and messages out."""

import csv
import io
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.image import imread

from hear_ptsed import cli, detect, registry
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.detect import Detector
from hear_ptsed.formats import FORMATS
from hear_ptsed.grid import FRAME, n_frames
from hear_ptsed.plot import BAR, WARNING

TONE_HZ = 1000


def ear(audio: torch.Tensor, progress) -> np.ndarray:
    """A detector with a known answer: level of the 1 kHz tone and of all sound, per frame."""
    n = n_frames(len(audio))
    frames = torch.nn.functional.pad(audio, (0, FRAME))[: n * FRAME].reshape(n, FRAME)
    time = torch.arange(FRAME) / 16000
    tone = (frames * torch.exp(2j * torch.pi * TONE_HZ * time)).mean(1).abs() * 4
    progress(len(audio) / 16000, len(audio) / 16000)
    return torch.stack([tone, frames.std(1) * 4], 1).clamp(0, 1).numpy()


@pytest.fixture
def with_ear(monkeypatch):
    detector = Detector("atst_frame", "strong", "ear.pt", ["Tone, whistle", "Sound"], ear)
    monkeypatch.setattr(detect, "load_detector", lambda *_: detector)


def tone(path: Path, rate: int = 16000, channels: int = 1, seconds: float = 3.0, **options) -> Path:
    """A file with the tone of 1 kHz from 1 to 2 s in every channel."""
    time = np.arange(round(seconds * rate)) / rate
    audio = 0.5 * np.sin(2 * np.pi * TONE_HZ * time) * ((time >= 1) & (time < 2))
    soundfile.write(path, np.repeat(audio[:, None], channels, axis=1), rate, **options)
    return path


def run(*arguments) -> int:
    return cli.main([str(argument) for argument in arguments])


def detect_ear(*arguments) -> int:
    return run("detect", "--model", "atst_frame", *arguments)


def read_tsv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), delimiter="\t"))


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize(
    ("suffix", "channels"),
    [("wav", 1), ("flac", 2), ("ogg", 1), ("mp3", 2), ("wav", 6), ("ogg", 6)],
)
def test_a_tone_is_found_at_its_time_in_every_kind_of_file(
    with_ear, tmp_path, capsys, suffix, channels, rate
):
    if suffix == "mp3" and rate == 96000:
        pytest.skip("MP3 ends at 48 kHz")
    path = tone(tmp_path / f"tone.{suffix}", rate, channels)
    assert detect_ear(path, "--median", 1) == 0
    first, second = read_tsv(capsys.readouterr().out)
    assert {first["event_label"], second["event_label"]} == {"Tone, whistle", "Sound"}
    for event in (first, second):
        assert event["filename"] == str(path)
        assert float(event["onset"]) == pytest.approx(1.0, abs=0.081)
        assert float(event["offset"]) == pytest.approx(2.0, abs=0.081)
        assert 0.5 < float(event["score"]) <= 1


def test_several_files_on_stdout_have_one_header(with_ear, tmp_path, capsys):
    a, b = tone(tmp_path / "a.wav"), tone(tmp_path / "b.wav")
    assert detect_ear(a, b, a) == 0
    rows = read_tsv(capsys.readouterr().out)
    assert [row["filename"] for row in rows] == [str(a), str(a), str(b), str(b)]


def test_the_four_formats_tell_the_same(with_ear, tmp_path):
    path = tone(tmp_path / "a.wav", 44100)
    for name in FORMATS:
        assert detect_ear(path, "--out", tmp_path / "out", "--format", name) == 0
    out = tmp_path / "out"
    rows = read_tsv((out / "a.tsv").read_text())
    expected = [(r["event_label"], float(r["onset"]), float(r["offset"])) for r in rows]
    assert len(expected) == 2

    content = json.loads((out / "a.json").read_text())
    assert (content["file"], content["duration_s"]) == (str(path), 3.0)
    assert (content["model"], content["stage"]) == ("atst_frame", "strong")
    assert (content["checkpoint"], content["untrained"]) == ("ear.pt", False)
    assert [(e["label"], e["onset_s"], e["offset_s"]) for e in content["events"]] == expected

    lines = [line.split("\t") for line in (out / "a.txt").read_text().splitlines()]
    assert [(label, float(start), float(end)) for start, end, label in lines] == expected

    (task,) = json.loads((out / "a.labelstudio.json").read_text())
    assert task["data"] == {"audio": str(path)}
    (prediction,) = task["predictions"]
    assert all(
        (r["type"], r["from_name"], r["to_name"]) == ("labels", "label", "audio")
        and 0.5 < r["score"] <= 1
        for r in prediction["result"]
    )
    values = [region["value"] for region in prediction["result"]]
    assert [(v["labels"][0], v["start"], v["end"]) for v in values] == expected


def halved(path: Path) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def bad_files(folder: Path) -> list[tuple[str, Path]]:
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.mp3").write_text("no audio at all\n" * 100)
    (folder / "headerless.raw").write_bytes(bytes(100))
    soundfile.write(folder / "no_samples.wav", np.zeros(0), 16000)
    samples = np.zeros(16000)
    samples[8000] = np.nan
    soundfile.write(folder / "nan.wav", samples, 16000, subtype="FLOAT")
    (folder / "folder.wav").mkdir()
    return [
        ("no such file", folder / "missing.wav"),
        ("not readable as audio", folder / "empty.wav"),
        ("not readable as audio", folder / "text.mp3"),
        ("not readable as audio", halved(tone(folder / "cut.flac", 44100, seconds=9))),
        ("samplerate must be specified", folder / "headerless.raw"),
        ("holds no samples", folder / "no_samples.wav"),
        ("NaN or infinite sample at 0.500 s", folder / "nan.wav"),
        ("is a folder", folder / "folder.wav"),
    ]


def test_a_bad_file_is_named_on_one_line_and_the_others_are_done(with_ear, tmp_path, capsys):
    for i, (message, bad) in enumerate(bad_files(tmp_path)):
        good = tone(tmp_path / f"good{i}.wav")
        assert detect_ear(bad, good, "--out", tmp_path / "out") == 1
        complaint, count, again, summary = capsys.readouterr().err.splitlines()
        assert str(bad) in complaint and message in complaint
        assert count == "1 of 2 files failed:" and again.strip() in complaint
        assert "1 done, 0 kept, 1 failed" in summary
        assert [p.name for p in sorted((tmp_path / "out").iterdir())][-1] == f"good{i}.tsv"


def test_finished_files_are_kept_until_forced(with_ear, tmp_path, capsys, monkeypatch):
    paths = [tone(tmp_path / f"{name}.wav") for name in "abc"]
    out = tmp_path / "out"
    assert detect_ear(*paths[:2], "--out", out, "--plot") == 0
    (out / "b.png").unlink()  # as if interrupted here
    (out / "a.tsv").write_text("mine")
    capsys.readouterr()

    done = []
    original = detect.detect
    monkeypatch.setattr(
        detect, "detect", lambda p, *rest: done.append(p.stem) or original(p, *rest)
    )
    assert detect_ear(*paths, "--out", out, "--plot") == 0
    assert done == ["b", "c"]
    assert "2 done, 1 kept (--force does them again), 0 failed" in capsys.readouterr().err
    assert (out / "a.tsv").read_text() == "mine"
    assert sorted(p.name for p in out.iterdir()) == [
        f"{n}.{s}" for n in "abc" for s in ("png", "tsv")
    ]

    assert detect_ear(*paths, "--out", out, "--force") == 0
    assert (out / "a.tsv").read_text() != "mine"


def test_inputs_with_one_stem_do_not_overwrite_each_other(with_ear, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    names = ["x/a.wav", "x/a.flac", "y/a.wav", "y/b.wav"]
    paths = [tone(tmp_path / name) for name in names]
    assert detect_ear(*paths, "--out", tmp_path / "out") == 0
    written = {p.name: read_tsv(p.read_text())[0]["filename"] for p in (tmp_path / "out").iterdir()}
    assert written == {
        "x_a.wav.tsv": str(paths[0]),
        "x_a.flac.tsv": str(paths[1]),
        "y_a.wav.tsv": str(paths[2]),
        "b.tsv": str(paths[3]),
    }


def test_thresholds_and_filters_by_class_take_names_with_commas(with_ear, tmp_path, capsys):
    path = tone(tmp_path / "a.wav")
    whistle, sound = ("--threshold-of", "Tone, whistle"), ("--threshold-of", "Sound")
    for options, labels in (
        (["--threshold", 1, *sound, 0.1], ["Sound"]),
        ([*whistle, 1, *sound, 0.1], ["Sound"]),
        ([*whistle, 0.1, *sound, 1], ["Tone, whistle"]),
        ([*sound, 0.1, *sound, 1, *whistle, 0.1], ["Tone, whistle"]),  # the last one counts
        (["--threshold", 1], []),
    ):
        assert detect_ear(path, *options) == 0
        assert [row["event_label"] for row in read_tsv(capsys.readouterr().out)] == labels
    assert detect_ear(path, "--median", 1, "--median-of", "Sound", 101) == 0
    assert [row["event_label"] for row in read_tsv(capsys.readouterr().out)] == ["Tone, whistle"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["detect", "--model", "beats"], "give AUDIO"),
        (["detect", "a.wav"], "--model"),
        (["detect", "a.wav", "--model", "resnet"], "unknown model 'resnet'; known: atst_frame"),
        (["detect", "a.wav", "--model", "beats", "--plot"], "--out"),
        (["detect", "a.wav", "--model", "beats", "--overlap", "10"], "0 <= N <= 9.96"),
        (["detect", "a.wav", "--model", "beats", "--threshold", "1.5"], "0 <= N <= 1"),
        (["detect", "a.wav", "--model", "beats", "--threshold", "Speech"], "0 <= N <= 1"),
        (["detect", "a.wav", "--model", "beats", "--median", "0"], "1 <= N <= 1001"),
        (["detect", "a.wav", "--model", "beats", "--median", "2.5"], "1 <= N <= 1001"),
        (["detect", "a.wav", "--model", "beats", "--boxes", "a.json"], "--decoder sebb"),
        (
            ["detect", "a.wav", "--model", "beats", "--decoder", "sebb", "--median", "5"],
            "--median and --median-of are not of --decoder sebb",
        ),
        (
            "detect a --model beats --decoder sebb --boxes b --threshold 0.3".split(),
            "--boxes has thresholds of its own; --threshold-of sets that of a class",
        ),
        (["detect", "a.wav", "--model", "beats", "--top", "0"], "1 <= N <= 100"),
        (
            ["detect", "a.wav", "--model", "beats", "--threshold-of", "Sound", "nan"],
            "--threshold-of: 'nan'; give 0 <= N <= 1",
        ),
        (["detect", "a.wav", "--model", "beats", "--median-of", "Sound"], "2 arguments"),
        (
            ["detect", "a.wav", "--model", "beats", "--untrained", "--checkpoint", "b"],
            "not allowed",
        ),
        (["download"], "either modules or --all"),
        (["download", "beats_strong", "--all"], "either modules or --all"),
        (["download", "beats_sleepy"], "unknown module 'beats_sleepy'; known: atst_frame_ssl"),
        ([], "COMMAND"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_is_allowed(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_class_is_answered_with_near_ones(with_ear, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        detect_ear(tone(tmp_path / "a.wav"), "--threshold-of", "Tone whistle", 0.2)
    assert stop.value.code == 2
    assert "unknown class 'Tone whistle'; near to it: Tone, whistle" in capsys.readouterr().err


def test_ctrl_c_ends_with_one_line_and_130(tmp_path, monkeypatch, capsys):
    def interrupt(audio, progress):
        raise KeyboardInterrupt

    detector = Detector("beats", "strong", "x.pt", ["a"], interrupt)
    monkeypatch.setattr(detect, "load_detector", lambda *_: detector)
    assert detect_ear(tone(tmp_path / "a.wav"), "--out", tmp_path / "out") == 130
    assert capsys.readouterr().err.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_a_noted_ctrl_c_stops_within_a_file_and_no_other_is_begun(tmp_path, monkeypatch, capsys):
    begun = []

    def score(audio, progress):
        begun.append(len(audio))
        signal.raise_signal(signal.SIGINT)  # noted
        progress(1.0, 3.0)
        raise AssertionError("it went on")

    detector = Detector("beats", "strong", "x.pt", ["a"], score)
    monkeypatch.setattr(detect, "load_detector", lambda *_: detector)
    # A shell's background jobs begin with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        files = [tone(tmp_path / f"{name}.wav") for name in "ab"]
        assert detect_ear(*files, "--out", tmp_path / "out") == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(begun) == 1 and list((tmp_path / "out").iterdir()) == []
    assert "interrupted" in capsys.readouterr().err


def test_the_traceback_comes_only_with_debug_which_stands_anywhere(tmp_path, capsys):
    command = ["detect", tone(tmp_path / "a.wav"), "--model", "frame_mn06", "--checkpoint", "no.pt"]
    assert run(*command) == 1
    plain = capsys.readouterr().err
    assert plain.count("\n") == 1 and "no.pt" in plain
    for debug in (["--debug", *command], [*command, "--debug"]):
        assert run(*debug) == 1
        assert "Traceback" in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A file of frame_mn06 as our training writes it, with two classes of its own."""
    torch.manual_seed(0)
    model = registry.build("frame_mn06", n_classes=2)
    torch.nn.init.constant_(model.head.strong_head.bias, 3.0)
    path = tmp_path_factory.mktemp("checkpoints") / "mine.pt"
    save_checkpoint(model, path, classes=["Owl", "Fox"])
    return path


def test_a_checkpoint_brings_its_own_classes(trained, tmp_path, capsys):
    path = tone(tmp_path / "a.wav", 22050, seconds=12.0)
    command = ["detect", path, "--model", "frame_mn06", "--checkpoint", trained, "--format", "json"]
    assert run(*command, "--overlap", 5, "--device", "cpu", "--precision", "bfloat16") == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["checkpoint"], content["untrained"]) == ("mine.pt", False)
    assert {event["label"] for event in content["events"]} == {"Owl", "Fox"}
    assert max(event["offset_s"] for event in content["events"]) == 12.0
    assert 0.8 < content["events"][0]["score"] < 1


def test_a_checkpoint_without_event_head_is_refused(tmp_path, capsys):
    path = tmp_path / "backbone.pt"
    save_checkpoint(registry.build("frame_mn06", n_classes=None), path)
    command = ["detect", tone(tmp_path / "a.wav"), "--model", "frame_mn06", "--checkpoint", path]
    assert run(*command) == 1
    assert "has no trained strong head" in capsys.readouterr().err


def test_a_model_without_released_files_runs_with_a_file_of_its_own(tmp_path, capsys):
    path = tmp_path / "small.pt"
    save_checkpoint(registry.build("frame_mn02", n_classes=2), path, classes=["Owl", "Fox"])
    command = ["detect", tone(tmp_path / "a.wav"), "--model", "frame_mn02", "--format", "json"]
    assert run(*command, "--checkpoint", path) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint"] == "small.pt"
    assert run(*command, "--untrained") == 0
    assert run(*command) == 1
    assert "frame_mn02 has no 'strong' stage; it has no released" in capsys.readouterr().err


def test_a_released_file_without_event_head_is_refused_before_it_is_fetched(tmp_path, capsys):
    assert run("detect", tone(tmp_path / "a.wav"), "--model", "beats", "--stage", "weak") == 1
    assert "the released weak checkpoint of beats has no event head" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_one_line(tmp_path, capsys):
    command = ["detect", tone(tmp_path / "a.wav"), "--model", "frame_mn06", "--untrained"]
    assert run(*command, "--device", "warp") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "device 'warp' cannot be used here" in error


def test_a_clip_of_20_ms_works_and_every_output_says_untrained(tmp_path, capsys):
    path = tmp_path / "tiny.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(320), 16000)
    command = ["detect", path, "--model", "frame_mn06", "--untrained", "--threshold", 0.1]
    out = tmp_path / "out"
    for name in FORMATS:
        assert run(*command, "--out", out, "--format", name) == 0
        assert "untrained" in capsys.readouterr().err
    assert len(list(out.iterdir())) == 4
    for file in out.iterdir():
        assert "untrained" in file.read_text()
    events = json.loads((out / "tiny.json").read_text())["events"]
    assert events and all((e["onset_s"], e["offset_s"]) == (0, 0.02) for e in events)


def columns_of(picture: np.ndarray, colour: str) -> np.ndarray:
    """Columns that hold pixels of a colour, in fractions of the width."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    hits = (np.abs(picture - wanted) < 0.02).all(2).any(0)
    return np.flatnonzero(hits) / picture.shape[1]


@pytest.mark.parametrize("seconds", [2.5, 10.0, 200.0])
def test_the_picture_shows_the_sound_the_scores_and_the_events(with_ear, tmp_path, seconds):
    tone(tmp_path / "a.wav", seconds=seconds)
    assert detect_ear(tmp_path / "a.wav", "--out", tmp_path, "--plot") == 0
    picture = imread(tmp_path / "a.png")[..., :3]
    assert picture.shape[1] == 1500 and 350 < picture.shape[0] < 700
    bars = columns_of(picture, BAR)
    assert 0 < bars.max() - bars.min() == pytest.approx(1 / seconds, rel=0.25, abs=0.005)
    assert len(np.unique((picture * 255).astype(int).reshape(-1, 3), axis=0)) > 300
    assert len(columns_of(picture, WARNING)) == 0


def test_the_picture_of_nothing_has_no_bars_and_says_untrained(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(320), 16000)
    command = ["detect", tmp_path / "a.wav", "--model", "frame_mn06", "--untrained", "--plot"]
    assert run(*command, "--threshold", 1, "--top", 30, "--out", tmp_path) == 0
    picture = imread(tmp_path / "a.png")[..., :3]
    assert len(columns_of(picture, BAR)) == 0 and len(columns_of(picture, WARNING)) > 20
    assert picture.shape[0] > 1000  # thirty readable rows
