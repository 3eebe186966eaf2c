"""Windows that overlap, against a loop over windows and frames."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from frozen_parts import TASK
from tones import write_tones

from eval_tasks.fit import finetune, frozen
from eval_tasks.fit.features import features, missing_rows
from eval_tasks.fit.recipe import recipe
from eval_tasks.plugin import GENERIC, Plugin
from eval_tasks.tasks.base import Part, Stitch, TaskData, open_task
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.registry import build

STITCHES = {
    "weighted logits": Stitch(5.0, 0.3),
    "flat probabilities": Stitch(5.0, average="probabilities"),
    "five at a time": Stitch(2.0, 0.5, "probabilities"),
}
SECONDS = (3.0, 8.0, 10.0, 15.03, 23.3)  # 15.03: the last window holds 30 ms

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    clips = {"train": [12.0], "valid": [6.0], "test": SECONDS}
    return write_tones(tmp_path_factory.mktemp("tasks") / TASK.folder, clips)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = build("frame_mn02", 3).train()
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0  # else random weights embed everything as 1e-11
    with torch.no_grad():
        net(0.1 * torch.randn(2, 160_000))
    return net.eval()


def opened(folder, stitch: Stitch) -> TaskData:
    return open_task(replace(TASK, clip_s=None, stitch=stitch), folder)


def slowly(part: Part, file: str, logits_of: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
    """(T, C) by its definition: every window alone, every frame alone."""
    stitch, audio = part.stitch, part.read(file)
    frames = part.frames(file)
    total, weights = np.zeros((frames, 3)), np.zeros(frames)
    start = 0.0
    while start * 16000 < len(audio):
        first = int(start * 16000)
        window = np.zeros(160_000, np.float32)
        piece = audio[first : first + 160_000]
        window[: len(piece)] = piece
        logits = logits_of(torch.from_numpy(window)[None])[0].double().numpy()
        for t in range(250):
            frame = first // 640 + t
            if frame < frames:
                weight = stitch.floor + (1 - stitch.floor) * (1 - abs(2 * t / 249 - 1))
                value = logits[t] if stitch.average == "logits" else 1 / (1 + np.exp(-logits[t]))
                total[frame] += weight * value
                weights[frame] += weight
        start += stitch.hop_s
    mean = total / weights[:, None]
    return 1 / (1 + np.exp(-mean)) if stitch.average == "logits" else mean


@pytest.mark.parametrize("name", STITCHES)
def test_a_fine_tuned_network_is_stitched_as_a_loop_does(folder, net, name):
    part = opened(folder, STITCHES[name]).parts["test"]

    def logits_of(window):
        return net(window).strong.transpose(1, 2)

    with torch.no_grad():
        predicted = finetune.probabilities(net, part, batch=3)
        for file, seconds in zip(part.files, SECONDS, strict=True):
            assert len(predicted[file]) == math.floor(seconds * 25 + 0.5)
            expected = slowly(part, file, logits_of)
            np.testing.assert_allclose(predicted[file], expected, atol=1e-5)
        follow_each_other = finetune.probabilities(net, replace(part, stitch=None))
    assert all(
        np.abs(follow_each_other[file] - predicted[file]).max() > 1e-4 for file in part.files[1:]
    )


@pytest.mark.parametrize("name", STITCHES)
def test_a_head_on_cached_embeddings_is_stitched_as_a_loop_does(folder, net, name, tmp_path):
    save_checkpoint(net, tmp_path / "net.pt", ("a", "b", "c"))
    plugin = Plugin(GENERIC, tmp_path / "net.pt")
    data, shifts = opened(folder, STITCHES[name]), STITCHES[name].grids
    names = ("train", "valid", "test")
    rows = missing_rows(data, names, plugin, tmp_path, shifts=shifts)
    embedded = {
        n: features(data, n, plugin, tmp_path, shifts=shifts, progress=False) for n in names
    }
    assert rows == sum(len(part.rows) for part in embedded.values())
    chosen = recipe(data.task, "linear", (f"fit.shifts={shifts}", "optim.batch=2"))
    problem = frozen.Frozen(data, data.splits[0], embedded, chosen, seed=0, device="cpu")
    with torch.no_grad():
        problem.model.weight.mul_(20)  # else a new head says the same everywhere
    model, part = plugin.load(), data.parts["test"]

    def logits_of(window):
        return problem.frame_layer(plugin.embed(model, window).half().float())

    with torch.no_grad():
        predicted = problem.probabilities(embedded["test"])
        for file in part.files:
            expected = slowly(part, file, logits_of)
            assert expected.std() > 0.01
            np.testing.assert_allclose(predicted[file], expected, atol=2e-3)
    assert np.isfinite(problem.loss(next(problem.batches(0)), 0).item())


def test_a_finer_hop_has_the_same_windows(folder, tmp_path):
    plugin = Plugin("eval_tasks.logmel", options={"hop": 20})
    coarse = opened(folder, STITCHES["weighted logits"])
    fine = coarse.with_hop(20)
    of_coarse = features(
        coarse, "test", Plugin("eval_tasks.logmel"), tmp_path, shifts=2, progress=False
    )
    of_fine = features(fine, "test", plugin, tmp_path, shifts=2, progress=False)
    file = coarse.parts["test"].files[-1]
    for grid in (0, 1):
        torch.testing.assert_close(
            of_fine.get(file, grid=grid)[::2], of_coarse.get(file, grid=grid)
        )
    same = of_fine.stitched(file, lambda rows: rows.float())[::2]
    torch.testing.assert_close(
        same, of_coarse.stitched(file, lambda r: r.float()), atol=0.02, rtol=0
    )


def test_what_cannot_be_stitched_is_refused(folder, tmp_path):
    for hop_s in (0.0, 4.0, 2.5, 20.0):
        with pytest.raises(ValueError, match=r"whole parts of 10 s .* as 5, 2, 1"):
            Stitch(hop_s)
    with pytest.raises(ValueError, match="weight at a window's border is 0"):
        Stitch(5.0, 0)
    data = opened(folder, Stitch(5.0))
    assert "hear" not in data.task.protocols and "linear" in data.task.protocols
    with pytest.raises(ValueError, match=r"fit.shifts is 4; .* every 5 s: set 2"):
        features(data, "test", Plugin("eval_tasks.logmel"), tmp_path, shifts=4)
