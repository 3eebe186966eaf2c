"""The GPU check, dry: its command measures on a CPU what it will measure on a card."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("h5py")  # of training.ensemble

ROOT = Path(__file__).parents[1]
CHECK = [sys.executable, str(ROOT / "benchmarks" / "gpu.py")]


def check(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([*CHECK, *words], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_gpu_check_measures_each_precision_and_its_report_can_be_printed_again(tmp_path):
    out, sections = tmp_path / "gpu.json", ["frontends", "eager_networks"]
    words = ["--dry", "--models", "fmn02", "--out", str(out), "--sections", *sections]
    done = check(*words)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert {name: report["sections"][name]["status"] for name in sections} == dict.fromkeys(
        sections, "done"
    )
    rows = {row["precision"]: row for row in report["sections"]["eager_networks"]["rows"]}
    assert rows["float32"]["error"] == rows["tf32"]["error"] < 1e-5 < rows["bfloat16"]["error"]
    assert all(0 < row["windows_per_s"] and 0 < row["share_of_product"] for row in rows.values())
    again = check("--report", str(out))
    assert again.stdout == done.stdout
    assert again.stdout.count("| fmn02 |") == 4


def test_a_section_that_is_out_of_time_is_ended_and_named_and_what_is_left_is_told(tmp_path):
    out, sections = tmp_path / "gpu.json", ["frontends", "eager_networks"]
    done = check("--dry", "--limit", "0.01", "--out", str(out), "--sections", *sections)
    assert done.returncode == 1
    report = json.loads(out.read_text())["sections"]
    assert report["frontends"]["status"].startswith("out of time")
    assert report["eager_networks"]["status"] == "not begun: out of time"
    assert "eager_networks: not begun" in done.stdout


def test_a_section_that_fails_says_why(tmp_path):
    out = tmp_path / "gpu.json"
    done = check("--dry", "--models", "x", "--out", str(out), "--sections", "frontends")
    assert done.returncode == 1
    assert "unknown model 'x'" in json.loads(out.read_text())["sections"]["frontends"]["status"]
