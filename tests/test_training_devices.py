"""Training runs on two devices: they learn as one, as processes and by real commands."""

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SMALL
from training_corpus import CLASSES, EVAL, TRAIN, assert_refused, recipe, start, write_corpus

pytest.importorskip("lightning")

from hear_ptsed.heads import LinearHead  # noqa: E402
from hear_ptsed.model import SEDModel  # noqa: E402
from hear_ptsed.registry import MODELS  # noqa: E402
from training import recipe as config  # noqa: E402
from training.callbacks import Keep  # noqa: E402
from training.fit import make_module, make_trainer, open_data  # noqa: E402
from training.labels import FrameLabels  # noqa: E402
from training.optim import freeze_unused  # noqa: E402

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def without_chance(devices: int) -> dict:
    """Sections without anything that is drawn per device."""
    off = ("wavmix_p", "frame_shift", "mixup_p", "mixstyle_p", "filter_p", "warp_p")
    return {
        "augment": dict.fromkeys(off, 0.0),
        "sampling": {"balanced": False},
        "run": {"devices": devices},
    }


def train_small(words: list[str]) -> int:
    """Train a small transformer, which has no batch norm, and write down which clips it heard."""
    file, notes = map(Path, words)
    options = config.load([file])
    train, scores = open_data(options)
    torch.manual_seed(0)
    backbone = SMALL["atst_frame"]()
    head = LinearHead(backbone.embed_dim, len(CLASSES))
    model = SEDModel(MODELS["atst_frame"].frontend(), backbone, head=head).train()
    freeze_unused(model, FrameLabels())
    module = make_module(options, model, train, scores)
    heard, step = [], module.training_step

    def noted(batch, batch_idx):
        heard.append(batch["clip"].tolist())
        return step(batch, batch_idx)

    module.training_step = noted
    out = Path(options.run.out)
    trainer = make_trainer(options, module, Keep(out, 100, {}, []))
    trainer.fit(module)
    Path(f"{notes}{trainer.global_rank}").write_text(json.dumps(heard))
    return 0


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start_two(*arguments, folder: Path, main=None) -> list:
    """The same command in two processes with the environment that torchrun gives them."""
    names = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "TORCHELASTIC_RUN_ID": "test"}
    names |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    commands = [
        start(
            *arguments,
            log=folder / f"log{rank}",
            main=main,
            **names | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    return [command.wait() for command in commands]


def curve(run: Path) -> dict[str, list[float]]:
    """The columns of the run's log."""
    (file,) = run.glob("logs/csv/*/metrics.csv")
    with file.open(newline="") as text:
        rows = list(csv.DictReader(text))
    names = [name for name in rows[0] if "/" in name]
    return {name: [float(row[name]) for row in rows if row[name]] for name in names}


def test_two_devices_learn_and_score_as_one_and_hear_every_clip_of_an_epoch_once(corpus, tmp_path):
    one = recipe(tmp_path / "one.yaml", corpus, **without_chance(1))
    two = recipe(tmp_path / "two.yaml", corpus, **without_chance(2))
    alone = start(one, tmp_path / "alone", log=tmp_path / "log", main=train_small).wait()
    assert alone.code == 0, alone.text
    for command in start_two(two, tmp_path / "shared", folder=tmp_path, main=train_small):
        assert command.code == 0, command.text

    expected, curves = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert len(expected["train/loss"]) == 6 and len(expected["val/loss"]) == 3
    assert curves.keys() == expected.keys()
    for name, values in expected.items():
        assert curves[name] == pytest.approx(values, rel=1e-4, abs=1e-6), name
    results = [json.loads((tmp_path / run / "last.json").read_text()) for run in ("one", "two")]
    assert results[0]["clips"] == EVAL
    assert results[1]["psds1_macro"] == pytest.approx(results[0]["psds1_macro"], abs=1e-4)
    assert results[0]["psds1_macro"] > 0

    heard = json.loads((tmp_path / "alone0").read_text())
    shared = [json.loads((tmp_path / f"shared{rank}").read_text()) for rank in range(2)]
    assert heard == [first + second for first, second in zip(*shared, strict=True)]
    for epoch in range(3):
        clips = [clip for step in heard[2 * epoch : 2 * epoch + 2] for clip in step]
        assert sorted(clips) == list(range(TRAIN))


def test_a_batch_that_devices_cannot_share_is_refused(corpus, tmp_path):
    file = recipe(tmp_path / "run.yaml", corpus, optim={"batch": 3}, run={"devices": 2})
    first, second = start_two("fit", file, folder=tmp_path)
    assert_refused(first, "optim.batch 3 in 1 parts cannot be shared by 2 devices", "multiple of 2")
    assert second.code == 1


@pytest.mark.parametrize("launcher", [[], ["torch.distributed.run", "--standalone"]])
def test_a_real_command_trains_on_two_devices(corpus, tmp_path, launcher):
    file = recipe(tmp_path / "run.yaml", corpus, optim={"epochs": 1}, run={"devices": 2})
    before = [*launcher, "--nproc-per-node", "2", "-m"] if launcher else []
    command = [sys.executable, "-m", *before, "training", "fit", str(file)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == [str(tmp_path / "run" / "model.pt")]
    assert len(curve(tmp_path / "run")["train/loss"]) == 2
    assert json.loads((tmp_path / "run" / "best.json").read_text())["clips"] == EVAL
