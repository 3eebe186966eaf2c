"""Fine-tuning: its crops, what it learns, and that a killed run ends as an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from finetune_parts import CLASSES, OFF, Small, numbers, tones_folder

import hear_ptsed
from eval_tasks.fit import finetune
from eval_tasks.fit.crops import Crops
from eval_tasks.fit.finetune import (
    AudioBatches,
    FineTuning,
    audio_rows,
    frame_loss,
    new_network,
    probabilities,
)
from eval_tasks.fit.trainer import Context
from eval_tasks.plugin import GENERIC, Plugin
from eval_tasks.score import rate, tuned_boxes
from eval_tasks.tasks.base import Split
from hear_ptsed import cli
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.registry import build

pytestmark = pytest.mark.usefixtures("one_thread")

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    clips = {"train": [10.0, 6.01, 33.5, 20.0], "valid": [12.0, 4.0], "test": [7.0, 7.0, 26.0]}
    return tones_folder(tmp_path_factory.mktemp("tones"), clips | {"weak": [10.0, 8.0, 14.0]})


def rows_of(batch: dict) -> Iterator[tuple[np.ndarray, ...]]:
    return zip(*(batch[key] for key in ("audio", "labels", "known")), strict=True)


def crops(data, batch: int = 4, seed: int = 0, part: str = "train", **changes) -> Crops:
    recipe = numbers(*OFF)
    recipe = replace(recipe, augment=replace(recipe.augment, **changes))
    return Crops([data.parts[part]], recipe, batch, seed)


def heard(data, part: str, audio: np.ndarray) -> tuple[str, int]:
    """File and first frame of a crop, found by its audio."""
    for file in data.parts[part].files:
        whole = soundfile.read(data.parts[part].audio / file, dtype="float32")[0]
        whole = np.pad(whole, (0, max(0, 160000 - len(whole))))
        for first in range((len(whole) - 160000) // 640 + 1):
            if np.array_equal(whole[640 * first : 640 * first + 160000], audio):
                return file, first
    raise AssertionError("no clip holds this crop on the grid of 40 ms")


def test_crops_lie_on_the_grid_with_their_labels_and_padding_is_not_known(data):
    train_crops, part = crops(data), data.parts["train"]
    offsets = set()
    for step in range(4):
        batch = audio_rows(train_crops, step)
        for audio, labels, known in rows_of(batch):
            file, first = heard(data, "train", audio)
            real = min(250, part.frames(file) - first)
            assert known.tolist() == [True] * real + [False] * (250 - real)
            np.testing.assert_array_equal(
                labels[:, :real], part.targets(file)[first : first + real].T
            )
            assert not labels[:, real:].any()
            offsets.add((file, first))
    assert len({file for file, _ in offsets}) == 4
    assert len({first for _, first in offsets}) > 5


def test_a_clip_padded_in_its_file_is_known_up_to_its_own_end(data):
    part = replace(data.parts["train"], durations_s=dict.fromkeys(data.parts["train"].files, 4.0))
    train_crops = Crops([part], numbers(*OFF, "optim.epochs=1"), 1, 0)
    known = [audio_rows(train_crops, step)["known"][0] for step in range(8)]
    assert any(row.sum() == 100 and row[:100].all() for row in known)


def test_an_epoch_hears_each_clip_once_per_ten_seconds(data):
    train_crops = crops(data, batch=7)  # 1 + 1 + 3 + 2
    for epoch in range(3):
        files = [
            heard(data, "train", audio)[0] for audio in audio_rows(train_crops, epoch)["audio"]
        ]
        assert sorted(files) == ["0.wav", "1.wav", "2.wav", "2.wav", "2.wav", "3.wav", "3.wav"]
    orders = [tuple(train_crops.picks.at(epoch).clips) for epoch in range(3)]
    assert len(set(orders)) == 3
    assert train_crops.plan.steps == 4


def test_folds_with_files_of_the_same_name_keep_their_own_labels(data):
    parts = [data.parts["valid"], data.parts["test"]]
    fold_crops = Crops(parts, numbers(*OFF, "optim.epochs=1"), 1, 0)
    seen = set()
    for step in range(fold_crops.plan.steps):
        part, file = fold_crops.clips[fold_crops.picks.at(step).clips[0]]
        batch = audio_rows(fold_crops, step)
        name, first = heard(data, part.name, batch["audio"][0])
        known = batch["known"][0]
        expected = part.targets(file)[first : first + 250].T
        np.testing.assert_array_equal(batch["labels"][0][:, known], expected)
        assert name == file
        seen.add((part.name, file))
    assert {("valid", "0.wav"), ("test", "0.wav")} <= seen


@pytest.mark.parametrize("protocol", ["finetuned", "weak-finetuned"])
def test_a_step_has_the_same_batch_in_any_number_of_loader_processes(data, protocol):
    recipe = numbers(protocol=protocol)
    weak = [data.parts["weak"]] if recipe.fit.weak_batch else []
    net = new_network(Small(), 3, recipe.fit, 0, attention=bool(weak))

    def batches(workers: int, first: int) -> list[dict]:
        made = AudioBatches([data.parts["train"]], weak, recipe, 5)
        problem = FineTuning(net, data.task, data.parts["valid"], made, recipe, workers)
        return list(problem.batches(first))

    whole, late = batches(0, 0), batches(2, 2)
    assert len(whole) == len(late) + 2
    for one, other in zip(whole[2:], late, strict=True):
        assert one.keys() == other.keys() == ({"strong", "weak"} if weak else {"strong"})
        for kind, rows in one.items():
            for name, value in rows.items():
                assert torch.equal(value, other[kind][name]), (kind, name)
    assert not torch.equal(whole[0]["strong"]["audio"][0], whole[1]["strong"]["audio"][0])


def test_weak_clips_bring_the_labels_of_their_clip_and_count_the_epochs(data):
    recipe = numbers(*OFF, "fit.weak_batch=2", protocol="weak-finetuned")
    made = AudioBatches([data.parts["train"]], [data.parts["weak"]], recipe, 0)
    assert made.plan.steps == 6  # 4 epochs of 3 weak clips, 2 at a time
    rows = made[1]["weak"]
    for audio, labels in zip(rows["audio"], rows["labels"], strict=True):
        tags = data.parts["weak"].tags[heard(data, "weak", audio)[0]]
        assert labels.tolist() == [name in tags for name in CLASSES]


def test_mixing_stays_among_clips_of_one_kind_and_hides_what_either_lacks(data):
    recipe = numbers("augment.wavmix_p=1", "augment.mixup_p=0", "fit.wavmix_alpha=50")
    net = new_network(Small(), 3, recipe.fit, 0)
    made = AudioBatches([data.parts["train"]], [], recipe, 0)
    problem = FineTuning(net, data.task, data.parts["valid"], made, recipe)
    batch = next(problem.batches(2))["strong"]
    size, partner = len(batch["partner"]), batch["partner"]
    assert (partner >= size).all() and len(batch["audio"]) == 2 * size
    spec, targets = problem.inputs(batch, torch.Generator().manual_seed(0))
    assert spec.shape[0] == size
    both = batch["known"][:size] & batch["known"][partner]
    assert not both.all()
    assert torch.equal(targets.soft[:, 0] > finetune.SURE, both)
    either = (batch["labels"][:size] | batch["labels"][partner]).bool()
    assert torch.equal(targets.strong > 0, either)


def test_frames_beyond_the_end_of_a_clip_do_not_change_the_loss():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 250, generator=draw)
    target = (torch.rand(2, 3, 250, generator=draw) > 0.7).float()
    known = torch.ones(2, 1, 250)
    known[1, :, 90:] = 0
    loss = frame_loss(logits, target, known)
    logits[1, :, 90:] += 5
    assert torch.equal(frame_loss(logits, target, known), loss)
    z, y = (torch.cat([x[0].T, x[1, :, :90].T]) for x in (logits, target))
    plain = torch.nn.functional.binary_cross_entropy_with_logits(z, y)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)


def test_new_heads_begin_as_the_recipe_and_the_spec_say():
    fit = numbers("fit.head_prior=0.05", "fit.batch_norm_momentum=0.3").fit
    net = new_network(Small(), 3, fit, 0)
    torch.testing.assert_close(net.head.strong_head.bias.sigmoid(), torch.full((3,), 0.05))
    momenta = {m.momentum for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert momenta == {0.3}
    again, other = (new_network(Small(), 3, fit, seed) for seed in (0, 1))
    assert torch.equal(net.head.strong_head.weight, again.head.strong_head.weight)
    assert not torch.equal(net.head.strong_head.weight, other.head.strong_head.weight)
    fit = numbers(protocol="weak-finetuned").fit
    weak = new_network(Small(), 400, fit, 0, attention=True).head
    for layer in (weak.strong_head, weak.weak_head):
        assert not layer.bias.any()
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_clips_of_any_length_are_heard_in_windows_of_ten_seconds(data):
    net = new_network(Small(), 3, numbers().fit, 0).eval()
    with torch.no_grad():
        by_file = probabilities(net, data.parts["test"], batch=2)
        whole = torch.from_numpy(data.parts["test"].read("2.wav"))
        parts = [net(whole[None, s : s + 160000]).strong[0].T for s in range(0, 416000, 160000)]
    assert {file: p.shape for file, p in by_file.items()} == {
        "0.wav": (175, 3),
        "1.wav": (175, 3),
        "2.wav": (650, 3),
    }
    expected = torch.cat(parts).sigmoid().numpy()
    np.testing.assert_allclose(by_file["2.wav"], expected, atol=1e-5)


SPLIT = Split(("train",), "valid", "test")


def fine_tune(data, folder: Path, *settings: str, protocol: str = "finetuned", **changes):
    context = Context(
        data=data,
        split=SPLIT,
        plugin=Small("atst_frame"),
        protocol=protocol,
        recipe=numbers(*settings, protocol=protocol),
        folder=folder,
        cache=folder,
        seed=3,
        device="cpu",
        progress=False,
        save_every_s=0.0,
    )
    return finetune.train_network(replace(context, **changes))


def test_it_learns(tmp_path):
    clips = {"train": [20.0] * 8, "valid": [10.0] * 2, "test": [10.0] * 4}
    data = tones_folder(tmp_path / "task", clips)
    settings = ["optim.lr=3e-3", "optim.epochs=15", "fit.check_every_epochs=5", *OFF]
    outcome = fine_tune(data, tmp_path / "run", *settings, boxes=True)
    boxes = tuned_boxes(data.task, data.parts["valid"], outcome.valid)
    for decoder in (None, boxes):
        score = rate(data.task, data.parts["test"], outcome.probabilities, boxes=decoder)
        assert score.scores["event_onset_200ms_fms"] > 0.6
    assert outcome.part == "test"
    assert outcome.training["step"] == 60 and outcome.seconds_per_minute > 0


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / "state.pt", weights_only=True)
    return state["model"] | {f"best.{key}": value for key, value in state["best_model"].items()}


def assert_same(one, folder: Path, other, other_folder: Path) -> None:
    for file, values in one.probabilities.items():
        np.testing.assert_array_equal(values, other.probabilities[file])
    tensors, expected = weights(folder), weights(other_folder)
    assert tensors.keys() == expected.keys()
    for key, value in tensors.items():
        assert torch.equal(value, expected[key]), key
    unlike = {"seconds"}
    for key in one.training.keys() - unlike:
        assert one.training[key] == other.training[key]


@pytest.mark.parametrize("protocol", ["finetuned", "weak-finetuned"])
def test_a_run_stopped_at_several_steps_ends_as_an_undisturbed_one(
    data, tmp_path, monkeypatch, protocol
):
    settings = ["augment.frame_shift=0.1", "augment.filter_p=0.5"]
    whole = fine_tune(data, tmp_path / "whole", *settings, protocol=protocol)
    stops = [0, 2, 3]

    def stop(self, step):
        if stops and step == stops[0]:
            del stops[0]
            raise KeyboardInterrupt

    monkeypatch.setattr(FineTuning, "after_step", stop)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            fine_tune(data, tmp_path / "stopped", *settings, protocol=protocol)
    outcome = fine_tune(data, tmp_path / "stopped", *settings, protocol=protocol)
    assert_same(outcome, tmp_path / "stopped", whole, tmp_path / "whole")


KILLED = """
import sys
from pathlib import Path
import torch
import test_finetune as tests
from eval_tasks.tasks.base import open_task
from finetune_parts import TASK
torch.set_num_threads(int(sys.argv[3]))
tests.fine_tune(open_task(TASK, Path(sys.argv[1])), Path(sys.argv[2]), "optim.epochs=6")
"""


def test_a_run_killed_by_sigkill_ends_as_an_undisturbed_one(data, tmp_path):
    whole = fine_tune(data, tmp_path / "whole", "optim.epochs=6")
    killed = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(data.folder), str(killed)]
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [*command, str(torch.get_num_threads())], env=os.environ | {"PYTHONPATH": path}
    )
    while not (killed / "state.pt").exists() and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert torch.load(killed / "state.pt", weights_only=True)["step"] < whole.training["step"]
    outcome = fine_tune(data, killed, "optim.epochs=6")
    assert_same(outcome, killed, whole, tmp_path / "whole")


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_step(data, tmp_path, monkeypatch):
    honest = FineTuning.loss

    def loss(self, batch, step):
        return honest(self, batch, step) * (float("nan") if step == 3 else 1)

    monkeypatch.setattr(FineTuning, "loss", loss)
    with pytest.raises(FloatingPointError, match="not finite at step 3; lower optim.lr"):
        fine_tune(data, tmp_path, "fit.check_every_epochs=3")
    assert not (tmp_path / "state.pt").exists()


def test_a_number_that_came_later_leaves_the_identity_of_earlier_records_alone():
    assert "lr_above" not in numbers().as_dict()["optim"]
    assert numbers("optim.lr_above=0.01").as_dict()["optim"]["lr_above"] == 0.01
    (record, *_) = (Path(__file__).parents[1] / "results").glob("*/linear/*.json")
    stored = json.loads(record.read_text())["hyperparameters"]
    assert stored["optim"].keys() == numbers(protocol="linear").as_dict()["optim"].keys()


@pytest.mark.parametrize(
    ("settings", "protocol", "message"),
    [
        (["optim.warmup_steps=7"], "finetuned", "warmup_steps 7 in a run of 7 optimizer steps"),
        (
            ["fit.weak_batch=4"],
            "finetuned",
            "fit.weak_batch is 4; --protocol finetuned takes no such clips",
        ),
        (
            ["fit.weak_batch=0"],
            "weak-finetuned",
            "fit.weak_batch is 0; --protocol weak-finetuned needs at least 1",
        ),
        (
            ["optim.accumulate=2"],
            "finetuned",
            "optim.accumulate is 2; with --protocol finetuned it must stay 1",
        ),
        (["optim.ema=0.9"], "finetuned", "optim.ema is 0.9; with .* it must stay 0"),
        (["fit.head_prior=1"], "finetuned", r"fit.head_prior is 1; .* \(0 < x < 1 or null\)"),
    ],
)
def test_what_cannot_be_trained_is_refused(data, tmp_path, settings, protocol, message):
    with pytest.raises(ValueError, match=message):
        fine_tune(data, tmp_path, *settings, protocol=protocol)
    assert not (tmp_path / "state.pt").exists()


def test_weak_labels_that_are_not_there_are_refused(data, tmp_path):
    without = replace(data, parts={k: v for k, v in data.parts.items() if k != "weak"})
    with pytest.raises(ValueError, match="has no weak.json, which --protocol weak-finetuned"):
        fine_tune(without, tmp_path, protocol="weak-finetuned")


def test_a_checkpoint_goes_in_and_the_detector_takes_what_comes_out(data, tmp_path, capsys):
    save_checkpoint(build("frame_mn02", 5), tmp_path / "start.pt")
    settings = ["optim.epochs=0.2", "optim.lr=1e-2", "optim.batch=2"]
    plugin = Plugin(GENERIC, tmp_path / "start.pt")
    changes = {"plugin": plugin, "seed": 0, "export": tmp_path / "net.pt"}
    outcome = fine_tune(data, tmp_path / "run", *settings, **changes)
    net = hear_ptsed.load(checkpoint=tmp_path / "net.pt")
    assert net.classes == CLASSES
    with torch.no_grad():
        again = probabilities(net, data.parts["test"])
    for file, values in outcome.probabilities.items():
        np.testing.assert_allclose(again[file], values, atol=1e-6)
    audio = data.parts["test"].audio / "0.wav"
    command = ["detect", str(audio), "--model", "frame_mn02", "--checkpoint"]
    command += [str(tmp_path / "net.pt"), "--threshold", "0.001", "--format", "json"]
    assert cli.main([*command, "--out", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "0.json").read_text())
    assert "low" in json.dumps(written)
