"""What a start does not do: import the compiler, draw weights that a file fills, plot twice."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoint_parts import released, same, tiny, write
from conftest import SMALL, small
from matplotlib.figure import Figure
from matplotlib.image import imread

import hear_ptsed
from hear_ptsed import plot
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.detect import Detection, Detector
from hear_ptsed.events import Event
from hear_ptsed.registry import MODELS, build
from hear_ptsed.sequence import DEFAULTS

pytestmark = pytest.mark.usefixtures("one_thread")

FILES = ("fmn04", "fmn04_tf104", "fmn04_gru104", "fmn04_hybrid104")
LOADING = """
import sys
from hear_ptsed import hear, registry
for name, stage in registry.plugins().values():
    try:  # of every model the network is built before its file is looked for
        hear.load_model(name, stage, "nowhere.pt")
    except FileNotFoundError:
        pass
for path in sys.argv[1:]:
    hear.load_model(path.rpartition("/")[2].removesuffix(".pt"), "strong", path)
sys.exit("torch._dynamo" in sys.modules)
"""


@pytest.fixture
def memory_of_nan():
    """Memory that nobody fills holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=[*SMALL, *DEFAULTS])
def model(request, monkeypatch):
    """A small model of each backbone, registered as such, and of each kind of sequence model."""
    torch.manual_seed(1)
    if request.param in DEFAULTS:
        return "frame_mn02", build("frame_mn02", 5, request.param, dim=32, layers=1).eval()
    row = replace(MODELS[request.param], backbone=SMALL[request.param])
    monkeypatch.setitem(MODELS, request.param, row)
    return request.param, small(request.param)


def tensors_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Of a model (name: tensor), with those that no file holds."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def test_models_are_loaded_without_the_compiler(tmp_path):
    paths = [tmp_path / f"{name}.pt" for name in FILES]
    for path in paths:
        save_checkpoint(build(path.stem), path)
    command = [sys.executable, "-c", LOADING, *map(str, paths)]
    assert subprocess.run(command, check=False).returncode == 0


def test_a_file_fills_its_model_and_nothing_is_drawn(model, memory_of_nan, tmp_path):
    name, expected = model
    save_checkpoint(expected, tmp_path / "m.pt")
    before = torch.get_rng_state()
    loaded = hear_ptsed.load(name, checkpoint=tmp_path / "m.pt")
    assert torch.equal(torch.get_rng_state(), before)
    got, expected = tensors_of(loaded), tensors_of(expected)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[key], value) for key, value in expected.items())
    assert all(tensor.requires_grad for tensor in loaded.parameters())


def test_a_random_part_is_drawn_by_the_seed_as_if_all_were(tmp_path):
    torch.manual_seed(3)
    drawn = build("frame_mn02", 7)
    save_checkpoint(build("frame_mn02", 5), tmp_path / "m.pt")
    model = hear_ptsed.load("frame_mn02", None, tmp_path / "m.pt", 7, random="head", seed=3)
    assert same(model.head, drawn.head) and not same(model.backbone, drawn.backbone)


def test_what_a_file_lacks_is_drawn_by_the_seed(monkeypatch, memory_of_nan, tmp_path):
    row = replace(MODELS["fpasst"], backbone=SMALL["fpasst"])
    monkeypatch.setitem(MODELS, "fpasst", row)
    state = released(tiny("fpasst", None), tmp_path)
    state = {
        key.removeprefix("model."): value
        for key, value in state.items()
        if "new_pos" not in key and "conv_in_" not in key
    }
    state |= {"pos_embed": torch.ones(1, 578, 24)}
    state |= {"patch_embed.proj.weight": torch.ones(24, 3, 16, 16)}
    model = hear_ptsed.load("fpasst", None, write(state, tmp_path), seed=3)
    torch.manual_seed(3)
    drawn = SMALL["fpasst"]()
    for name in ("conv_in_1", "conv_in_2", "conv_in_3"):
        assert same(getattr(model.backbone, name), getattr(drawn, name))
    assert len(model.report.random) == 6


@pytest.mark.parametrize("names", [["a"], ["a" * 36, "b"], ["W" * 36, "W" * 60]])
def test_a_plot_is_drawn_once_with_all_names_inside(names, tmp_path, monkeypatch):
    draws = []
    draw = Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda *given: draws.append(1) or draw(*given))
    detector = Detector("frame_mn02", "strong", "m.pt", names, None)
    events = [Event(names[0], 0.2, 0.6)]
    scores = np.zeros((25, len(names)))
    plot.save(
        Detection("a.wav", 1.0, detector, events, scores, torch.zeros(16000)), tmp_path / "a.png"
    )
    assert len(draws) == 1
    dark = (imread(tmp_path / "a.png")[..., :3] < 0.4).all(2)
    columns = np.flatnonzero(dark[-140:].any(0))  # below the spectrogram: names, time, events
    assert 1 < columns[0] < 12 or len(names[0]) == 1 < columns[0]
    assert not dark[:, -1].any() and not dark[-1].any() and not dark[0].any()
