"""A batch over many files goes on after bad ones, and says which and why at its end."""

import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from training_clips import encoded

from hear_ptsed import cli
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.registry import build
from training.__main__ import main as training


def wav(rate: int, channels: int = 1, data: bytes = bytes(2000)) -> bytes:
    sizes = struct.pack("<I", 16), struct.pack("<I", len(data))
    form = struct.pack(
        "<HHIIHH",
        1,
        channels,
        rate,
        rate * 2 * channels & 0xFFFFFFFF,
        2 * channels & 0xFFFF,
        16,
    )
    head = b"WAVEfmt " + sizes[0] + form + b"data" + sizes[1]
    return b"RIFF" + struct.pack("<I", len(head) + len(data)) + head + data


def flac(samples: int) -> bytes:
    """A second of sound whose header claims another length."""
    content = bytearray(encoded(1, rate=44100, kind="FLAC"))
    content[21:26] = (content[21] >> 4 << 36 | samples).to_bytes(5, "big")
    return bytes(content)


def mp3(frames: int) -> bytes:
    content = bytearray(encoded(1, rate=44100))
    at = max(content.find(b"Xing"), content.find(b"Info"))
    content[at + 8 : at + 12] = frames.to_bytes(4, "big")
    return bytes(content)


BAD = {  # file: what it holds, and what is said of it
    "1hz.wav": (wav(1), "its header says 1 Hz; rates from 1000 to 768000 Hz can be read"),
    "4hz.wav": (wav(4), "its header says 4 Hz"),
    "8hz.wav": (wav(8), "its header says 8 Hz"),
    "5mhz.wav": (wav(5_000_077), "its header says 5000077 Hz"),
    "2ghz.wav": (wav(2**31 - 1), "its header says 2147483647 Hz"),
    "long.flac": (flac(2**36 - 1), "its header says 68719476735 samples, more than"),
    "endless.flac": (flac(0), "its header does not say how long it is"),
    "longer.mp3": (mp3(2**32 - 1), "its header says 4947802321860 samples, more"),
    "channels.wav": (wav(16000, 65535, bytes(2**18)), "not readable as audio"),
    "empty.wav": (b"", "not readable as audio"),
    "text.ogg": (b"OggS, or so", "not readable as audio"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Bad files, a pipe and a folder among three good ones, one of them with 1,024 channels."""
    path = tmp_path_factory.mktemp("files")
    for name, (content, _) in BAD.items():
        (path / name).write_bytes(content)
    os.mkfifo(path / "pipe.wav")
    (path / "folder.wav").mkdir()
    for name in ("0.wav", "z.wav"):
        (path / name).write_bytes(encoded(1, kind="WAV"))
    soundfile.write(path / "wide.wav", np.zeros((1600, 1024)), 16000)
    return path


REASONS = {name: reason for name, (_, reason) in BAD.items()} | {
    "pipe.wav": "is no regular file but a pipe or device",
    "folder.wav": "is a folder",
}
GOOD = {"0", "wide", "z"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "model.pt"
    save_checkpoint(build("frame_mn02", n_classes=2), path, classes=["Dog", "Owl"])
    return path


def run(*arguments: object) -> int:
    """hear-ptsed detect, with random weights."""
    command = ["detect", *arguments, "--model", "frame_mn02", "--untrained", "--threshold", 0.1]
    return cli.main([str(argument) for argument in command])


def test_detect_goes_on_and_says_at_its_end_which_files_failed_and_why(folder, tmp_path, capsys):
    files = sorted(folder.iterdir())
    assert run(*files, "--out", tmp_path) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    *_, count = (i for i, line in enumerate(error.splitlines()) if line == "13 of 16 files failed:")
    *lines, summary = error.splitlines()[count + 1 :]
    assert summary == f"{tmp_path}: 3 done, 0 kept, 13 failed"
    said = {Path(line.strip().partition(": ")[0]).name: line for line in lines}
    assert said.keys() == REASONS.keys()
    assert all(line.startswith("  ") and REASONS[name] in line for name, line in said.items())
    assert {path.stem for path in tmp_path.iterdir()} == GOOD


def test_nothing_but_bad_names_is_told_before_a_model_is_fetched(folder, tmp_path, capsys):
    names = [folder / "pipe.wav", tmp_path / "none.wav", tmp_path / ("x" * 300), tmp_path]
    command = ["detect", *map(str, names), "--model", "atst_frame", "--checkpoint", "none.pt"]
    assert cli.main(command) == 1
    lines = capsys.readouterr().err.splitlines()
    reasons = ("is no regular file", "no such file", "file name too long", "is a folder")
    assert lines[4] == "4 of 4 files failed:" and len(lines) == 9
    for line, name, reason in zip(lines[5:], names, reasons, strict=True):
        assert line.startswith(f"  {name}: {reason}")


def test_pack_goes_on_and_its_report_says_which_and_why(folder, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["pack", "--audio", str(folder), "--out", str(out), "--workers", "1"]
    assert training([*command, "--max-unreadable", "0.9"]) == 0
    assert "13 unreadable" in capsys.readouterr().out
    unreadable = json.loads((out / "coverage.json").read_text())["unreadable"]
    assert {f"{name}" for name in unreadable} == {Path(name).stem for name in REASONS}
    assert all(reason in unreadable[Path(name).stem] for name, reason in REASONS.items())
    with np.load(out / "index.npz") as index:
        assert {Path(name).stem for name in index["names"]} == GOOD

    assert training([*command[:4], str(tmp_path / "strict")]) == 1
    error = capsys.readouterr().err
    assert "13 of 16 clips (81.25%) are unreadable, more than the 1.00% allowed: 1hz (its" in error
    assert "Traceback" not in error


def test_pseudo_label_and_evaluate_end_with_1_where_clips_are_unreadable(
    folder, checkpoint, tmp_path, capsys
):
    labels, result, table = (tmp_path / name for name in ("a.h5", "result.json", "events.tsv"))
    command = ["pseudo-label", str(checkpoint), "--audio", str(folder), "--device", "cpu"]
    assert training([*command, "--out", str(labels)]) == 1
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert (report["written"], len(report["unreadable"])) == (3, 13)
    assert "13 of 16 clips are unreadable: 1hz (its header says 1 Hz;" in output.err

    rows = [f"{Path(name).stem}\t0.1\t0.5\tDog\n" for name in ("0.wav", "z.wav", *REASONS)]
    table.write_text("filename\tonset\toffset\tevent_label\n" + "".join(rows))
    command = ["evaluate", str(checkpoint), "--audio", str(folder), "--events", str(table)]
    assert training([*command, "--device", "cpu", "--workers", "0", "--out", str(result)]) == 1
    error = capsys.readouterr().err
    assert "13 of 15 clips are unreadable: 1hz (1hz.wav: its header says 1 Hz;" in error
    record = json.loads(result.read_text())
    assert "13 of them unreadable" in record["coverage"]
    assert all(reason in record["unreadable"][Path(n).stem] for n, reason in REASONS.items())


def test_preparing_for_evaluation_names_every_bad_clip(folder, tmp_path):
    downloads = pytest.importorskip("eval_tasks.tasks.downloads")
    pairs = [(path, tmp_path / path.name) for path in sorted(folder.iterdir())]
    cut = tmp_path / "cut.wav"
    cut.write_bytes(encoded(1, kind="WAV")[:-1000])
    results = downloads.convert([*pairs, (cut, tmp_path / "new.wav")], 1.0, 1, "clips")
    faults = {Path(r.partition(": ")[0]).name: r for r in results if isinstance(r, str)}
    assert faults.keys() == {*REASONS, "cut.wav"}
    assert all(reason in faults[name] for name, reason in REASONS.items())
    assert faults["cut.wav"] == f"{cut}: cut off: 63044 of 64044 bytes"
    assert {path.stem for path in tmp_path.iterdir()} == {*GOOD, "cut"}


# Names.

TAB, LINE, LATIN, STRANGE = "a\tb.wav", "a\nb.wav", os.fsdecode(b"gr\xfcn.wav"), "a$\\frac$ñ.wav"


@pytest.fixture
def named(tmp_path) -> list[Path]:
    for name in (TAB, LINE, LATIN, STRANGE):
        (tmp_path / name).write_bytes(encoded(1, kind="WAV"))
    return [tmp_path / name for name in (TAB, LINE, LATIN, STRANGE)]


def test_tsv_refuses_names_that_would_break_it_and_json_holds_every_name(named, tmp_path, capsys):
    assert run(*named, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    for name in ("a\\tb.wav", "a\\nb.wav"):
        assert f"{name} holds a tab or line break, which this format cannot hold" in error
    written = {path.name: path.read_text("utf-8") for path in (tmp_path / "out").iterdir()}
    assert written.keys() == {f"{Path(name).stem}.tsv" for name in (LATIN, STRANGE)}
    for text in written.values():
        header, *rows = text.splitlines()
        assert rows and all(row.count("\t") == header.count("\t") == 5 for row in rows)
    assert "/gr\\udcfcn.wav\t" in written[f"{Path(LATIN).stem}.tsv"]

    for form, suffix in (("json", ".json"), ("labelstudio", ".labelstudio.json")):
        assert run(*named, "--out", tmp_path / form, "--format", form, "--plot") == 0
        for path in named:
            text = (tmp_path / form / f"{path.stem}{suffix}").read_text("utf-8")
            content = json.loads(text)
            file = content["file"] if form == "json" else content[0]["data"]["audio"]
            assert os.fsencode(file) == os.fsencode(path)


@pytest.mark.parametrize("form", ["tsv", "json"])
def test_a_stdout_that_cannot_encode_a_name_gets_it_escaped(named, form):
    command = [sys.executable, "-m", "hear_ptsed.cli", "detect", *map(str, named[2:])]
    options = ["--model", "frame_mn02", "--untrained", "--threshold", "0.1", "--format", form]
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    result = subprocess.run([*command, *options], capture_output=True, text=True, env=env)
    assert result.returncode == 0 and "Traceback" not in result.stderr
    if form == "tsv":
        assert {line.partition("\t")[0] for line in result.stdout.splitlines()[1:]} == {
            str(named[2]).replace("\udcfc", "\\udcfc"),
            str(named[3]).replace("ñ", "\\xf1"),
        }
    else:
        objects = io.StringIO(result.stdout).read().replace("}\n{", "}\0{").split("\0")
        assert [json.loads(text)["file"] for text in objects] == [str(path) for path in named[2:]]


def test_pack_keeps_names_that_are_no_utf_8(named, tmp_path):
    out = tmp_path / "out"
    (tmp_path / os.fsdecode(b"\xe9.wav")).write_bytes(b"")
    command = ["pack", "--audio", str(tmp_path), "--out", str(out), "--max-unreadable", "0.5"]
    other = tmp_path.parent / f"{tmp_path.name}-out"
    assert training([*command[:4], str(other), *command[5:]]) == 0
    report = json.loads((other / "coverage.json").read_text("utf-8"))
    assert list(report["unreadable"]) == ["\udce9"]
    with np.load(other / "index.npz") as index:
        assert set(index["names"]) == {TAB, LINE, LATIN, STRANGE}
