"""The GPU check, whole: `python benchmarks/gpu.py --out gpu.json`, under 8 minutes on a card.

Sections, each in a process of its own that is ended when its time is up: the card; `pytest -m gpu`;
the backbones in bfloat16, TF32 and float32 (windows per second, share of what a large matrix
product of the same type reaches on this card, memory, error against float32); BEATs' biased
attention, as a mask by each kernel of torch and by flex_attention; front-ends against the CPU;
training steps with batches at hand and from the loader; pseudo labels; and, in what time is left,
the backbones compiled. frame_mn10 and fmn10 are the same network: their difference is the noise.
Weights are random. The file is written after every row, so that a run that is cut leaves what it
has; `--report gpu.json` prints it as tables.

Needs torch for CUDA, a C compiler (for torch.compile), 2 GB of /dev/shm for loaders, no download:
    pip install -e '.[training,plot,dev]' -c constraints.txt
Where there is no network: an image with torch, torchaudio, Lightning, h5py, PyYAML, pandas, SciPy,
matplotlib, pytest and hypothesis needs but wheels of pydantic, soundfile and soxr with what they
need, and PYTHONPATH=. instead of the installation.
`--dry` takes the same way in tiny sizes on a CPU.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from hear_ptsed.files import write_json

BUDGET_S = {  # section: seconds at most, in this order; what all leave is the last one's
    "card": 25,
    "tests": 70,
    "eager_networks": 110,
    "attention": 75,
    "frontends": 30,
    "training_steps": 70,
    "pseudo_labels": 60,
    "compiled_networks": 460,
}
MODELS = ("frame_mn10", "fmn10", "atst_frame", "beats", "fpasst", "m2d", "asit")
FEWER = {  # sections that do not need all of them
    "training_steps": ("frame_mn10", "atst_frame", "beats"),
    "pseudo_labels": ("atst_frame", "beats", "fpasst", "m2d", "asit"),
}
Report = dict[str, Any]


class Section:
    """One section in a process of its own."""

    def __init__(self, name: str, words: list[str]):
        self.name = name
        script = Path(__file__).with_name("gpu_sections.py")
        self.command = [sys.executable, str(script), name, *words]
        self.out_of_time = False

    def run(self, report: Report, out: Path, budget_s: float) -> None:
        """Enter the rows in the report and its file, and how it ended."""
        begun_s = time.monotonic()
        section: Report = {"status": "cut off", "seconds": 0.0, "rows": []}
        report["sections"][self.name] = section
        with tempfile.TemporaryFile("w+") as log:
            code = self._collect(section, report, out, budget_s, log)
            log.seek(0)
            last = (log.read().strip().splitlines() or ["no message"])[-1]
        if self.out_of_time:
            section["status"] = f"out of time: {budget_s:.0f} s"
        else:
            section["status"] = f"failed: {last}" if code else "done"
        section["seconds"] = round(time.monotonic() - begun_s, 1)
        write_json(out, report)

    def _collect(
        self, section: Report, report: Report, out: Path, budget_s: float, log: Any
    ) -> int:
        """Rows as they come; the exit code."""
        process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )

        def end() -> None:
            self.out_of_time = True
            os.killpg(process.pid, signal.SIGKILL)  # workers of loaders and compilers, too

        timer = threading.Timer(budget_s, end)
        timer.start()
        try:
            for line in process.stdout:
                section["rows"].append(json.loads(line))
                write_json(out, report)
            return process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:  # Ctrl-C
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def tables(report: Report) -> str:
    """The report in Markdown."""
    parts = []
    for name, section in report["sections"].items():
        parts.append(f"## {name}: {section['status']}, {section['seconds']:.0f} s\n")
        columns = list(dict.fromkeys(key for row in section["rows"] for key in row))
        if columns:
            lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
            for row in section["rows"]:
                lines.append("| " + " | ".join(cell(row.get(key, "")) for key in columns) + " |")
            parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def cell(value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value).replace("|", "\\|")
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="print it and do no more")
    parser.add_argument("--sections", nargs="+", choices=BUDGET_S, default=list(BUDGET_S))
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--limit", type=float, default=460, help="seconds of all sections")
    parser.add_argument("--dry", action="store_true", help="tiny sizes, on the CPU")
    args = parser.parse_args()
    if args.report is not None:
        print(tables(json.loads(args.report.read_text(encoding="utf-8"))))
        return 0
    begun_s, report = time.monotonic(), {"dry": args.dry, "sections": {}}
    for name in args.sections:
        left_s = args.limit - (time.monotonic() - begun_s)
        if left_s <= 0:
            status = "not begun: out of time"
            report["sections"][name] = {"status": status, "seconds": 0.0, "rows": []}
            write_json(args.out, report)
            continue
        models = [m for m in args.models if m in FEWER.get(name, args.models)] or args.models[:1]
        words = ["--models", *models, *(["--dry"] if args.dry else [])]
        Section(name, words).run(report, args.out, min(left_s, BUDGET_S[name]))
        section = report["sections"][name]
        print(f"{name}: {section['status']}, {len(section['rows'])} rows", file=sys.stderr)
    print(tables(report))
    return int(any(section["status"] != "done" for section in report["sections"].values()))


if __name__ == "__main__":
    sys.exit(main())
