"""The commands of `python -m training`: one feeding the next, on computed soundscapes; help."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from training_corpus import recipe, write_corpus

import hear_ptsed
from eval_tasks.tasks import soundscapes
from hear_ptsed.checkpoints import describe
from training import recipe as config
from training.__main__ import main

ROOT = Path(__file__).parents[1]
FIT = ["--model.name=frame_mn02", "--optim.batch=4", "--optim.warmup_steps=1"]
FIT += ["--optim.epochs=1", "--data.workers=0", "--run.progress=false"]
FIT += ["--data.train=[{audio: train}]", "--data.eval=[{audio: eval}]"]
FIT += ["--data.classes=events", "--run.loggers=[csv]", "--run.accelerator=cpu"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Computed soundscapes, packed by the command, and an empty recipe."""
    folder = tmp_path_factory.mktemp("cli")
    corpus = soundscapes.render(
        folder / "corpus", train=8, evaluation=4, seed=0, jobs=1, synthetic=True
    )
    for part in ("train", "eval"):
        audio, events = corpus / f"{part}_mp3.hdf", corpus / f"{part}.tsv"
        command = ["pack", "--audio", str(audio), "--events", str(events)]
        assert main([*command, "--out", str(folder / part), "--workers", "1"]) == 0
    (folder / "recipe.yaml").write_text("model: {start: none}\n")
    return folder


def fit(work, name, *settings):
    command = ["fit", str(work / "recipe.yaml"), "--data", str(work), *FIT, *settings]
    assert main([*command, f"--run.out={work / name}"]) == 0
    return work / name / "model.pt"


@pytest.fixture(scope="module")
def weak(work):
    return fit(work, "weak", "--data.labels=weak")


@pytest.fixture(scope="module")
def teachers(work, weak):
    bigru = ("--model.sequence_model=bigru", "--model.dim=8", "--model.layers=1")
    start = f"--model.start={weak}"
    return [fit(work, f"t{i}", *bigru, start, f"--run.seed={i}") for i in range(2)]


@pytest.fixture(scope="module")
def ensemble(work, teachers):
    out = work / "ensemble.h5"
    command = ["pseudo-label", *map(str, teachers), "--audio", str(work / "train")]
    assert main([*command, "--out", str(out)]) == 0
    return out


def test_each_stage_starts_where_the_one_before_ended(weak, teachers):
    start, first = torch.load(weak), torch.load(teachers[0])
    assert "weak_head.weight" in start and "strong_head.weight" not in start
    assert "strong_head.weight" in first and "weak_head.weight" not in first
    assert describe(teachers[0])["sequence_model"] == {"kind": "bigru", "dim": 8, "layers": 1}
    stem = next(name for name in start if name.endswith("features.0.0.weight"))
    # one or two steps from there, far from another random start
    moved = (first[stem] - start[stem]).norm() / start[stem].norm()
    assert 0 < moved < 0.5


def test_pseudo_labels_are_the_mean_logits_of_the_teachers(work, teachers, ensemble):
    from training.data.clips import open_clips

    clips = open_clips(work / "train")
    with h5py.File(ensemble) as file:
        row = file["filenames"][:].tolist().index(clips.keys[3].encode())
        stored = file["strong_logits"][row].astype(np.float32)
    samples, _ = clips.read(3)
    audio = torch.from_numpy(samples / np.float32(32768))[None, :160000]
    with torch.inference_mode():
        logits = [hear_ptsed.load(checkpoint=path)(audio).strong[0] for path in teachers]
    assert np.abs(stored - torch.stack(logits).mean(0).numpy()).max() < 0.02


def test_a_student_learns_from_them_and_is_scored(work, weak, ensemble, capsys):
    distill = (f"--distill.pseudo_labels=[{ensemble}]", "--distill.weight=0.9")
    student = fit(work, "student", *distill, f"--model.start={weak}")
    capsys.readouterr()
    out = work / "scores.json"
    command = ["evaluate", str(student), "--audio", str(work / "eval"), "--workers", "0"]
    assert main([*command, "--bootstrap", "20", "--out", str(out)]) == 0
    shown, record = json.loads(capsys.readouterr().out), json.loads(out.read_text())
    trained = json.loads((work / "student" / "last.json").read_text())
    for metric in ("psds1_macro", "psds1", "pauroc", "map"):
        low, high = record["ci95"][metric]
        assert 0 <= low <= high <= 1
        assert shown[metric] == record["scores"][metric] == pytest.approx(trained[metric], abs=1e-9)
        assert len(record["replicates"][metric]) == record["draws"][metric][0]["resamples"] == 20
    assert record["clips"] == shown["clips"] == 4 and record["coverage"] is None


def test_the_weak_stage_is_scored_by_its_head_on_every_frame(work, weak, capsys):
    command = ["evaluate", str(weak), "--audio", str(work / "eval"), "--workers", "0"]
    assert main(command) == 1
    assert "--weak scores its weak head" in capsys.readouterr().err
    assert main([*command, "--weak"]) == 0
    assert "weak head" in json.loads(capsys.readouterr().out)["convention"]["scores"]


def test_a_checkpoint_of_a_run_exports_to_the_same_weights(work, weak):
    path = work / "again.safetensors"
    assert main(["export", str(work / "weak" / "best.ckpt"), str(path)]) == 0
    one, other = (
        hear_ptsed.load(checkpoint=weak).state_dict(),
        hear_ptsed.load(checkpoint=path).state_dict(),
    )
    assert all(
        torch.equal(value, other[name]) for name, value in one.items() if "strong" not in name
    )


# Help


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("command", ["", "fit", "evaluate", "pseudo-label", "pack", "export"])
def test_every_command_explains_itself(command):
    words = [sys.executable, "-m", "training", *command.split(), "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: python -m training {command}".rstrip())


def test_print_shows_the_whole_recipe_and_trains_nothing(corpus, tmp_path):
    file = recipe(tmp_path / "run.yaml", corpus)
    words = [sys.executable, "-m", "training", "fit", str(file), "--optim.lr", "2e-5"]
    done = subprocess.run([*words, "--print"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (tmp_path / "printed.yaml").write_text(done.stdout)
    assert config.load([tmp_path / "printed.yaml"]) == config.load([file], ["optim.lr=2e-5"])
    assert not (tmp_path / "run").exists()
