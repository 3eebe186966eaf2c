"""What it costs to start, to load a model and to plot: `python benchmarks/startup.py now=.`.

Processor seconds of fresh processes, least of the repeats, for source trees in turn: give the tree
before a change, that after it and a copy of the latter as a control, such as `before=../old now=.
copy=../copy`. Each loads files of random weights that the first of them wrote.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MODELS = ("frame_mn10", "fmn10_tf256", "atst_frame", "beats", "fpasst", "m2d", "asit")
WRITE = """
import sys
from hear_ptsed import load
from hear_ptsed.checkpoints import save_checkpoint
for name in sys.argv[2:]:
    save_checkpoint(load(name, stage=None, seed=0), f"{sys.argv[1]}/{name}.pt")
"""
LIST = "from hear_ptsed import cli; cli.main(['list'])"
HELP = "from hear_ptsed import cli; cli.main(['detect', '--help'])"
IMPORT = "import hear_ptsed.hear, hear_ptsed.checkpoints.load"
LOAD = """
import sys, time
import hear_ptsed.checkpoints.load
from hear_ptsed import hear
start = time.process_time()
hear.load_model(sys.argv[1], "strong", sys.argv[2])
print(time.process_time() - start, file=sys.stderr)
"""
PLOT = """
import sys, time
from pathlib import Path
import numpy as np, torch
from hear_ptsed import plot
from hear_ptsed.detect import Detection, Detector
from hear_ptsed.events import Event
from hear_ptsed.labels import load_labels
classes = load_labels()
draw = np.random.default_rng(0)
scores = draw.random((250, len(classes)), dtype=np.float32) ** 4
events = [Event(classes[7 * i], i, i + 0.5) for i in range(9)]
audio = torch.from_numpy(draw.standard_normal(160_000, dtype=np.float32)) / 9
detector = Detector("beats", "strong", "", classes, None)
detection = Detection("a.wav", 10.0, detector, events, scores, audio)
times = []
for _ in range(6):
    start = time.process_time()
    plot.save(detection, Path(sys.argv[1]))
    times.append(time.process_time() - start)
print(min(times[1:]), file=sys.stderr)
"""


def run(tree: Path, code: str, *arguments: str) -> float:
    """Processor seconds of a process with the package of a tree; what it measured itself, if it
    says so in its last line.
    """
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    before = os.times()
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=True
    )
    after = os.times()
    whole = after.children_user - before.children_user
    whole += after.children_system - before.children_system
    *_, last = ["", *done.stderr.splitlines()]
    try:
        return float(last)
    except ValueError:
        return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trees", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    trees = {
        name: Path(folder).resolve() for name, _, folder in (t.partition("=") for t in args.trees)
    }
    with tempfile.TemporaryDirectory() as folder:
        run(next(iter(trees.values())), WRITE, folder, *args.models)
        steps = {"list": (LIST,), "detect --help": (HELP,), "import": (IMPORT,)}
        for name in args.models:
            steps[f"load {name}"] = (LOAD, name, f"{folder}/{name}.pt")
        steps["plot of 10 s"] = (PLOT, f"{folder}/plot.png")
        print(f"| processor seconds | {' | '.join(trees)} |")
        print("|---" * (len(trees) + 1) + "|")
        for step, command in steps.items():
            least = dict.fromkeys(trees, float("inf"))
            for _ in range(args.repeats):
                for name, tree in trees.items():
                    least[name] = min(least[name], run(tree, *command))
            cells = " | ".join(f"{seconds:.2f}" for seconds in least.values())
            print(f"| {step} | {cells} |", flush=True)
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
