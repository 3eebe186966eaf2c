"""`hear-ptsed stream` as a user calls it: a file, standard input, and what is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from pydantic import TypeAdapter

from hear_ptsed import cli
from hear_ptsed.commands import detector, stream
from hear_ptsed.events import MEDIAN, THRESHOLD
from hear_ptsed.live import StreamOptions

MODEL = ["--model", "fmn02", "--untrained", "--threshold", "0.3"]


@pytest.fixture
def samples() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal(16000 * 3) * 3000).astype("<i2")


def lines_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_standard_input_tells_what_the_file_tells(tmp_path, capsys, samples):
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, 16000)
    assert cli.main(["stream", str(path), *MODEL]) == 0
    of_file = lines_of(capsys.readouterr().out)
    command = [sys.executable, "-m", "hear_ptsed.cli", "stream", *MODEL]
    done = subprocess.run(command, input=samples.tobytes(), capture_output=True, check=True)
    assert [line["kind"] for line in of_file][:: len(of_file) - 1] == ["start", "stop"]
    final = [line for line in lines_of(done.stdout.decode()) if line.get("final")]
    assert final and final == [line for line in of_file if line.get("final")]
    assert b"untrained: its events mean nothing" in done.stderr


def test_wrong_options_are_refused_before_a_model_is_opened(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["stream", "-", "--model", "best"])
    assert "unknown model 'best'" in capsys.readouterr().err
    assert cli.main(["stream", str(tmp_path), *MODEL, "--hop-s", "0.05"]) == 1
    assert "0.05" in capsys.readouterr().err
    assert cli.main(["stream", str(tmp_path / "none.wav"), *MODEL]) == 1
    assert "none.wav" in capsys.readouterr().err.splitlines()[-1]


def test_options_are_those_of_what_runs():
    assert (detector.MEDIAN, detector.THRESHOLD) == (MEDIAN, THRESHOLD)
    parsed = cli.build_parser().parse_args(["stream", "-", *MODEL])
    defaults = StreamOptions()
    assert (parsed.hop_s, parsed.rate, parsed.channels) == (
        *(defaults.hop_s, defaults.rate, defaults.channels),
    )
    for kind, name in ((stream.Hop, "hop_s"), (stream.Rate, "rate"), (stream.Channels, "channels")):
        bounds = TypeAdapter(kind).json_schema()
        for value in (bounds["minimum"], bounds["maximum"]):
            assert getattr(StreamOptions(**{name: value}), name) == value
