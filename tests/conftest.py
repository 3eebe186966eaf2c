"""Parts shared by the tests: published models with deterministic weights, a browser."""

import os
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from deterministic import waveform, weight

from hear_ptsed.backbones.asit import ASiT, ASiTConfig
from hear_ptsed.backbones.atst import ATSTFrame, ATSTFrameConfig
from hear_ptsed.backbones.beats import BEATs, BEATsConfig
from hear_ptsed.backbones.fpasst import FPaSST, FPaSSTConfig
from hear_ptsed.backbones.frame_mn import FrameMN
from hear_ptsed.backbones.m2d import M2D, M2DConfig
from hear_ptsed.heads import LinearHead
from hear_ptsed.model import SEDModel
from hear_ptsed.registry import MODELS, build, find_cached, trainable

SMALL = {
    "atst_frame": lambda: ATSTFrame(ATSTFrameConfig(dim=24, depth=2, heads=2)),
    "beats": lambda: BEATs(BEATsConfig(dim=32, depth=2, heads=2, patch_dim=8)),
    "fpasst": lambda: FPaSST(FPaSSTConfig(dim=24, depth=2, heads=2)),
    "m2d": lambda: M2D(M2DConfig(dim=24, depth=2, heads=2)),
    "asit": lambda: ASiT(ASiTConfig(dim=24, depth=2, heads=2)),
    "frame_mn02": lambda: FrameMN(0.05),
    "frame_mn04": lambda: FrameMN(0.05),
    "frame_mn06": lambda: FrameMN(0.1),
    "frame_mn10": lambda: FrameMN(0.2),
    "fmn02": lambda: FrameMN(0.05),
    "fmn04": lambda: FrameMN(0.05),
}

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
GOLDEN = Path(__file__).parent / "golden"
pytest.register_assert_rewrite("training_corpus")  # a failed assertion shows its values
# Workers of pytest-xdist share the machine.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


def released_weights(model: SEDModel) -> dict[str, torch.Tensor]:
    """Deterministic values under the names of the released strong checkpoint."""
    backbone = model.backbone
    named = {
        backbone.prefixes[0] + key: value
        for key, value in backbone.to_released(backbone.state_dict()).items()
    } | model.head.state_dict()
    return {key: torch.from_numpy(weight(key, tuple(t.shape))) for key, t in named.items()}


@cache
def published(name: str) -> SEDModel:
    """The model with deterministic weights, unfolded; only one at a time is kept in memory."""
    published.cache_clear()
    model = build(name)
    state = released_weights(model)
    prefix = model.backbone.prefixes[0]
    inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    model.backbone.load_state_dict(model.backbone.from_released(inside))
    model.head.load_state_dict({k: v for k, v in state.items() if not k.startswith(prefix)})
    return model.eval()


def small(name: str) -> SEDModel:
    """The named model with a narrow, shallow backbone and 5 classes, in evaluation mode."""
    torch.manual_seed(0)
    backbone = SMALL[name]()
    return SEDModel(
        MODELS[name].frontend(), backbone, head=LinearHead(backbone.embed_dim, 5)
    ).eval()


@pytest.fixture(scope="session")
def clips() -> torch.Tensor:
    """A clip of 10 s and one of 3.7 s, zero-padded: (2, 160000)."""
    short = waveform(3.7, seed=1)
    return torch.from_numpy(
        np.stack([waveform(10.0, seed=0), np.pad(short, (0, 160000 - len(short)))])
    )


@pytest.fixture(scope="module")
def one_thread():
    """For small tensors on a busy machine, several threads mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def board_results(tmp_path_factory):
    """All that a board can hold, see `site_records.collected`."""
    from site_records import collected

    return collected(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="session")
def board_site(board_results, tmp_path_factory) -> Path:
    return _built(board_results, tmp_path_factory)


@pytest.fixture(scope="session")
def chart_results(tmp_path_factory):
    """What charts are drawn of, see `chart_records.charted`."""
    from chart_records import charted

    return charted(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="session")
def chart_site(chart_results, tmp_path_factory) -> Path:
    assert not chart_results.rejected
    return _built(chart_results, tmp_path_factory)


@pytest.fixture
def class_results(tmp_path):
    """Two models with values of classes, see `chart_records.by_class`."""
    from chart_records import by_class

    return by_class(tmp_path)


def _built(results, tmp_path_factory) -> Path:
    from leaderboards.site import build_site

    out = tmp_path_factory.mktemp("site") / "made" / "SITE"
    assert build_site(results, out) == out / "index.html"
    return out


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield started
        started.close()


@pytest.fixture
def page(browser):
    """A page that fails the test if anything goes to the console or leaves the site."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme="light")
    page = context.new_page()
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.extend(_failed(request)))
    page.on("request", lambda request: complaints.extend(_foreign(request.url)))
    yield page
    context.close()
    assert not complaints


def _failed(request) -> list[str]:
    # Leaving a page ends what it still asks for, such as its icon.
    return [] if request.failure == "net::ERR_ABORTED" else [f"{request.url}: {request.failure}"]


def _foreign(url: str) -> list[str]:
    return [] if url.startswith(("file://", "http://127.0.0.1:", "blob:")) else [f"asked for {url}"]


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
needs_weights = pytest.mark.skipif(
    find_cached("yamnet", None) is None,
    reason="needs YAMNet's weights: hear-ptsed download yamnet",
)
# Public weights exist for these, and arrays computed by the public models.
RELEASED = [
    name
    for name in trainable()
    if MODELS[name].checkpoints and MODELS[name].family == "PretrainedSED"
]
# The other widths of fmn are the same network.
NETWORKS = [*RELEASED, "fmn02", "fmn04"]
each_model = pytest.mark.parametrize("name", NETWORKS)
