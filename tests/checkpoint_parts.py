"""Small models and files of them, for the tests of checkpoints."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN, SMALL
from torch import nn

from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.heads import LinearHead
from hear_ptsed.model import SEDModel
from hear_ptsed.sequence import build_sequence_model

WIDTHS = ("frame_mn02", "frame_mn04", "fmn02", "fmn04", "frame_mn10")  # other widths of frame_mn06
each_small = pytest.mark.parametrize("name", [name for name in SMALL if name not in WIDTHS])


def tiny(name, n_strong=5, n_weak=None, sequence=None, head=LinearHead, **options) -> SEDModel:
    """A small model without front-end, which plays no role in files; n_strong None: no heads."""
    backbone = SMALL[name]()
    width = backbone.embed_dim
    if sequence:
        sequence = build_sequence_model(sequence, width, **options)
        width = sequence.out_dim
    counts = [count for count in (n_strong, n_weak) if count is not None]
    return SEDModel(nn.Identity(), backbone, sequence, head(width, *counts) if counts else None)


def randomised(model: SEDModel) -> SEDModel:
    """The model with values that no initialisation gives; BEATs' table stays one for all layers."""
    generator = torch.Generator().manual_seed(1)
    for key, value in model.state_dict().items():
        if value.is_floating_point() and "norm_stats" not in key:
            value.copy_(torch.randn(value.shape, generator=generator).abs() + 0.1)
    return model


def released(model: SEDModel, tmp_path: Path) -> dict[str, torch.Tensor]:
    """The model's tensors under released names."""
    save_checkpoint(model, tmp_path / "released.pt")
    return dict(torch.load(tmp_path / "released.pt", weights_only=True))


def write(content, tmp_path: Path) -> Path:
    torch.save(content, tmp_path / "file.pt")
    return tmp_path / "file.pt"


def same(a: nn.Module, b: nn.Module) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


@cache
def golden_keys(file: str = "checkpoint_keys.json") -> dict[str, dict[str, tuple]]:
    """Released names -> (shape, dtype); the file lists shapes -> values of `*` in the name."""
    models = {}
    for model, patterns in json.loads((GOLDEN / file).read_text()).items():
        models[model] = {
            pattern.replace("*", str(index)): ((), torch.int64)
            if text == "int64"
            else (tuple(map(int, text.split("x"))), torch.float32)
            for pattern, shapes in patterns.items()
            for text, indices in shapes.items()
            for index in indices or [""]
        }
    return models
