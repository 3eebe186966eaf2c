"""Training runs as processes: killed and resumed, on bad input, to checkpoints."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
import torch.utils._pytree as pytree
from training_corpus import (
    CLASSES,
    EVAL,
    DiskOf,
    KillAt,
    NoteEvaluations,
    PressAt,
    assert_refused,
    fit,
    recipe,
    start,
    write_corpus,
)

lightning = pytest.importorskip("lightning")

import hear_ptsed  # noqa: E402
from hear_ptsed.files import sha256  # noqa: E402
from hear_ptsed.model import SEDModel  # noqa: E402
from leaderboards.collect import collect  # noqa: E402
from training.callbacks import Keep  # noqa: E402
from training.module import Training  # noqa: E402

# All that draws random numbers or keeps a state from step to step.
EVERYTHING = {
    "model": {"name": "frame_mn02", "start": "none", "sequence_model": "bigru", "dim": 16},
    "augment": {
        "time_mask": 0.1,
        "mixup_p": 1.0,
        "mixstyle_p": 1.0,
        "filter_p": 1.0,
        "warp_p": 1.0,
    },
    "distill": {"weight": 0.5, "pseudo_labels": ["pseudo.h5"]},
    "optim": {
        **{"lr": 1e-2, "warmup_steps": 1, "epochs": 3, "batch": 4, "accumulate": 2, "ema": 0.5},
    },
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory) -> Path:
    """Folder of a run that nothing went wrong with."""
    folder = tmp_path_factory.mktemp("undisturbed")
    file = recipe(folder / "run.yaml", corpus, **EVERYTHING)
    before = NoteEvaluations(folder / "evaluations")
    command = start("fit", file, log=folder / "log", before=before).wait()
    assert command.code == 0, command.text
    assert command.last_line == str(folder / "run" / "model.pt")
    assert (folder / "evaluations").read_text().split() == ["2", "4", "6"]
    return folder / "run"


def contents(run: Path) -> dict:
    """What a run leaves, without the names of folders."""
    last = torch.load(run / "last.ckpt", weights_only=True)
    last["recipe"].pop("run")
    last.pop("loops")  # its times differ
    return {
        "model": torch.load(run / "model.pt", weights_only=True),
        "best": json.loads((run / "best.json").read_text()),
        "last": json.loads((run / "last.json").read_text()),
        "checkpoint": last,
    }


def assert_same(one: dict, other: dict) -> None:
    """Bit for bit."""
    texts = [{k: run[k] for k in ("best", "last")} for run in (one, other)]
    assert texts[0] == texts[1]
    states = [[run["model"], run["checkpoint"]] for run in (one, other)]
    (leaves, layout), (wanted, expected_layout) = map(pytree.tree_flatten_with_path, states)
    assert layout == expected_layout
    for (path, value), (_, expected) in zip(leaves, wanted, strict=True):
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, expected), path
        else:
            assert value == expected, path


# Killed, interrupted, out of space


def test_a_run_killed_again_and_again_ends_bit_for_bit_as_an_undisturbed_one(
    corpus, undisturbed, tmp_path
):
    file = recipe(tmp_path / "run.yaml", corpus, **EVERYTHING)
    out, notes = tmp_path / "run", tmp_path / "evaluations"
    kills = [
        (KillAt(Training, "training_step", 1), None, []),  # before the first checkpoint
        # Step 1 is saved, one half of the gradient of step 2 is there.
        (KillAt(Training, "training_step", 4), 1, []),
        # Resumed at step 1, in the first half of a step.
        (KillAt(Training, "training_step", 2), 1, []),
        (KillAt(Training, "validation_step", 2), 1, []),  # evaluation of step 2
        (KillAt(lightning.Trainer, "save_checkpoint", 1, half=True), 1, [2]),
        # Files come into place in this order: recipe, coverage of both sets when the run starts;
        # coverage of both sets, last.json, best.json, best.ckpt, last.ckpt after an evaluation.
        (KillAt(Path, "replace", 7), 1, [2]),
        (KillAt(Path, "replace", 9), 1, [2]),
        (KillAt(Training, "training_step", 3), 2, [2]),
        (KillAt(Training, "training_step", 1), 2, []),
        (KillAt(Training, "training_step", 3), 3, []),
        (KillAt(Keep, "save_scored", 1), 3, [4]),
        (KillAt(Training, "training_step", 5), 5, [4]),
        (KillAt(Keep, "save_scored", 1), 5, [6]),
        (KillAt(SEDModel, "load_state_dict", 2), 6, [6]),  # between the two exported files
    ]
    for i, (kill, saved, evaluated) in enumerate(kills):
        notes.unlink(missing_ok=True)
        before = NoteEvaluations(notes, kill)
        command = start("fit", file, "--resume", log=tmp_path / f"log{i}", before=before).wait()
        assert command.code == -signal.SIGKILL, command.text
        if saved is None:
            assert not (out / "last.ckpt").exists()
        else:
            assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == saved, kill
        steps = notes.read_text().split() if notes.exists() else []
        assert steps == [str(step) for step in evaluated], kill
    command = start("fit", file, "--resume", log=tmp_path / "log").wait()
    assert command.code == 0, command.text
    assert_same(contents(out), contents(undisturbed))
    assert not list(out.glob(".*")), "files of killed processes"
    repeated = start("fit", file, "--resume", log=tmp_path / "log").wait()
    assert repeated.code == 0, repeated.text
    assert_same(contents(out), contents(undisturbed))


def test_a_run_killed_and_interrupted_at_any_time_ends_as_an_undisturbed_one(
    corpus, undisturbed, tmp_path
):
    file = recipe(tmp_path / "run.yaml", corpus, **EVERYTHING)
    out = tmp_path / "run"
    command = start("fit", file, log=tmp_path / "log1").until((out / "last.ckpt").exists)
    assert command.send(signal.SIGKILL).code == -signal.SIGKILL
    command = start("fit", file, "--resume", log=tmp_path / "log2")
    command.until((out / "best.json").exists).send(signal.SIGINT)
    assert command.code == 130, command.text
    assert command.last_line == "training fit: interrupted; the same command goes on with --resume"
    assert not (out / "model.pt").exists()
    command = start("fit", file, "--resume", log=tmp_path / "log3").wait()
    assert command.code == 0, command.text
    assert_same(contents(out), contents(undisturbed))


@pytest.mark.parametrize("method", ["training_step", "validation_step"])
def test_ctrl_c_that_python_swallows_still_ends_the_run(corpus, tmp_path, method):
    file = recipe(tmp_path / "run.yaml", corpus)
    press = PressAt(Training, method, 2)
    command = start("fit", file, log=tmp_path / "log", before=press).wait()
    assert command.code == 130, command.text
    assert command.last_line.startswith("training fit: interrupted")
    assert not (tmp_path / "run" / "model.pt").exists()


@pytest.fixture(scope="module")
def killed(corpus, tmp_path_factory) -> Path:
    """Folder of a run that was killed after 3 of its 6 steps."""
    folder = tmp_path_factory.mktemp("killed")
    file = recipe(folder / "run.yaml", corpus)
    kill = KillAt(Training, "training_step", 4)
    command = start("fit", file, log=folder / "log", before=kill).wait()
    assert command.code == -signal.SIGKILL, command.text
    return folder / "run"


@pytest.fixture
def halfway(killed, tmp_path) -> Path:
    return shutil.copytree(killed, tmp_path / "run")


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_afterwards(
    corpus, halfway, tmp_path
):
    before = sha256(halfway / "last.ckpt"), sha256(halfway / "best.ckpt")
    disk = DiskOf((halfway / "last.ckpt").stat().st_size // 2)
    command = fit(corpus, tmp_path, "--resume", before=disk)
    assert_refused(command, f"cannot write {halfway / 'last.ckpt'}", "the checkpoint from before")
    assert (sha256(halfway / "last.ckpt"), sha256(halfway / "best.ckpt")) == before
    assert not list(halfway.glob(".*"))
    assert fit(corpus, tmp_path, "--resume").code == 0


def explode() -> None:
    """Learning rates beyond what a recipe may ask for: sure to end in weights that overflow."""
    original = Training.optimizer_step

    def exploded(module, epoch, batch, optimizer, *arguments, **keywords):
        for group in optimizer.param_groups:
            group["lr"] = 1e30
        original(module, epoch, batch, optimizer, *arguments, **keywords)

    Training.optimizer_step = exploded


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({}, "a weight after micro step 3 is not finite (clips Yt000"),
        (
            {
                "run": {"log_every_steps": 99, "save_every_steps": 99},
                "evaluation": {"every_epochs": 3},
            },
            "the loss of micro step 4 is not finite (clips Yt000",
        ),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint_from_before(
    corpus, halfway, tmp_path, sections, message
):
    before = sha256(halfway / "last.ckpt")
    command = fit(corpus, tmp_path, "--resume", before=explode, **sections)
    assert_refused(command, message, "start a new run from it", "with a lower optim.lr")
    assert sha256(halfway / "last.ckpt") == before
    state = torch.load(halfway / "last.ckpt", weights_only=True)["state_dict"]
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_another_rate_is_refused_on_the_way_and_begins_a_new_run_from_the_checkpoint(
    corpus, halfway, tmp_path
):
    lower = {"optim": {"lr": 1e-4, "warmup_steps": 1, "epochs": 1, "batch": 4}}
    command = fit(corpus, tmp_path, "--resume", **lower)
    assert_refused(command, "is of another run (optim.lr: 0.001 then, 0.0001 now; optim.epochs")
    words = command.last_line.partition("python -m training ")[2].partition(",")[0].split()
    assert words == ["export", str(halfway / "last.ckpt"), "FILE.pt"]
    weights = tmp_path / "FILE.pt"
    exported = start(*words[:2], weights, log=tmp_path / "log").wait()
    assert exported.code == 0, exported.text
    (tmp_path / "new").mkdir()
    begins = {"model": {"name": "frame_mn02", "start": str(weights)}}
    command = fit(corpus, tmp_path / "new", **lower, **begins)
    assert command.code == 0, command.text
    rates = torch.load(tmp_path / "new" / "run" / "last.ckpt", weights_only=True)
    rates = [group["initial_lr"] for group in rates["optimizer_states"][0]["param_groups"]]
    assert rates == [1e-4] * len(rates)


def test_a_folder_with_a_run_is_refused_without_resume_or_for_another_recipe(
    corpus, halfway, tmp_path
):
    before = sha256(halfway / "last.ckpt")
    assert_refused(fit(corpus, tmp_path), f"{halfway / 'last.ckpt'} is there: give --resume")
    for setting, told in (
        ("augment.warp_p=0.1", "augment.warp_p: 0.8 then, 0.1 now"),
        ("optim.batch=2", "optim.batch: 4 then, 2 now"),
        ("run.seed=5", "run.seed: 0 then, 5 now"),
    ):
        command = fit(corpus, tmp_path, "--resume", f"--{setting}")
        assert_refused(command, "is of another run", told, "use another run.out")
    assert sha256(halfway / "last.ckpt") == before


# Checkpoints


def test_a_trained_checkpoint_opens_everywhere_and_scores_as_in_training(
    corpus, undisturbed, tmp_path
):
    expected = json.loads((undisturbed / "best.json").read_text())
    assert expected["psds1_macro"] > 0
    torch.manual_seed(0)
    audio = 0.1 * torch.randn(1, 160000)
    answers = []
    for name in ("model.pt", "model.safetensors"):
        opened = hear_ptsed.load(checkpoint=undisturbed / name)
        loaded = hear_ptsed.load(
            "frame_mn02",
            checkpoint=str(undisturbed / name),
            n_classes=len(CLASSES),
            **{"sequence_model": "bigru", "dim": 16},
        )
        assert list(opened.classes) == list(loaded.classes) == sorted(CLASSES)
        with torch.no_grad():
            answers += [model(audio).strong for model in (opened, loaded)]
    kept = torch.load(undisturbed / "best.ckpt", weights_only=True)["state_dict"]
    for key, value in hear_ptsed.load(checkpoint=undisturbed / "model.pt").state_dict().items():
        # The averaged weights are what was scored; the weak head was not trained.
        if "weak_head" not in key:
            assert torch.equal(value, kept[f"ema.module.{key}"]), key
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], rtol=0, atol=0)

    command = start(
        *("evaluate", undisturbed / "model.pt", "--audio", corpus / "eval.hdf"),
        *("--events", corpus / "eval.tsv", "--device", "cpu", "--out", tmp_path / "scores.json"),
        log=tmp_path / "log",
    ).wait()
    assert command.code == 0, command.text
    scores = json.loads((tmp_path / "scores.json").read_text())
    for name in ("psds1_macro", "psds1", "pauroc"):
        assert scores["scores"][name] == pytest.approx(expected[name], abs=1e-6, nan_ok=True)
    for name, values in expected["per_class"].items():
        assert scores["per_class"][name] == pytest.approx(values, abs=1e-6, nan_ok=True)
    assert scores["clips"] == expected["clips"] == EVAL
    assert json.loads(command.text[command.text.index("{") :])["psds1"] == scores["scores"]["psds1"]
    # A leaderboard takes the evaluation, and leaves alone what else the folders hold.
    collected = collect([undisturbed, tmp_path], figures=False)
    assert [entry.scores["psds1"] for entry in collected.entries] == [scores["scores"]["psds1"]]
    assert not collected.rejected
    by_name = collect([undisturbed / "best.json"], figures=False)
    assert "training writes beside its scores.json" in by_name.rejected[0].reason


def test_a_checkpoint_without_a_strong_head_is_not_scored(corpus, undisturbed, tmp_path):
    content = torch.load(undisturbed / "model.pt", weights_only=True)
    state = content.get("state_dict", content)
    for key in [key for key in state if "strong_head" in key]:
        del state[key]
    torch.save(content, tmp_path / "headless.pt")
    command = start(
        *("evaluate", tmp_path / "headless.pt", "--audio", corpus / "eval.hdf"),
        *("--events", corpus / "eval.tsv"),
        log=tmp_path / "log",
    ).wait()
    assert_refused(command, "has no trained strong head")
