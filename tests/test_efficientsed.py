"""Files of EfficientSED, opened by their path alone: numbers of the public models, spellings,
broken files.

tests/golden/fmn.npz holds every fourth value of the embeddings and a part of the logits.
"""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_parts import golden_keys, randomised, same, write
from conftest import GOLDEN
from deterministic import weight
from torch import Tensor

import hear_ptsed
from hear_ptsed.checkpoints import load_checkpoint, save_checkpoint
from hear_ptsed.model import SEDModel
from hear_ptsed.registry import build
from hear_ptsed.sequence import DEFAULTS

KEYS = golden_keys("fmn_keys.json")
FILES = [name for name in KEYS if not name.startswith("backbone_")]
KINDS = {
    "tf": "transformer",
    "attn": "attention",
    "gru": "bigru",
    "hybrid": "hybrid",
    "mamba": "mamba2",
    "tcn": "tcn",
}
MAGNIFIES = "fmn10_mamba-128"  # rounding of what is in front of it, more than a hundredfold


def released(name: str) -> dict[str, Tensor]:
    """A file with deterministic weights, its keys as the public code renames them."""
    keys = KEYS[f"backbone_{name.partition('_')[0]}"] | KEYS[name]
    return {key: torch.from_numpy(weight(key, shape)) for key, (shape, _) in keys.items()}


def spelled(state: dict[str, Tensor], outermost: str) -> dict[str, Tensor]:
    """The keys as the released files have them, which begin with "net" or "model"."""
    return {f"{outermost}.{re.sub('^model.fmn.', 'model.', key)}": v for key, v in state.items()}


def parts(model: SEDModel, spec: Tensor) -> list[Tensor]:
    """What tests/golden/fmn.npz holds of the outputs for a spectrogram (1, 1, F, T)."""
    strong, weak, frames = model.detect(spec)
    return [frames[0, ::10, ::4], strong[0, ::45, ::2], weak[0, ::2]]


@pytest.mark.parametrize("name", FILES)
@torch.no_grad()
def test_a_file_of_either_spelling_gives_the_numbers_of_the_public_model(name, clips, tmp_path):
    golden, state = np.load(GOLDEN / "fmn.npz"), released(name)
    models = [
        hear_ptsed.load(checkpoint=write(named, tmp_path))
        for named in (state, spelled(state, "net"), spelled(state, "model"))
    ]
    model = models[0]
    assert same(model, models[1]) and same(model, models[2])
    assert (model.report.dropped, model.report.random) == ({}, ())
    assert len(model.report.loaded) == len(state)
    kind, _, dim = name.partition("_")[2].partition("-")
    facts = model.sequence.options if kind else {"kind": None, "dim": None}
    assert (facts["kind"], str(facts["dim"])) == (KINDS.get(kind), dim or "None")

    exact = copy.deepcopy(model.frontend).double()
    for i, clip in enumerate(clips[:, None]):
        spec = model.frontend(clip)
        got, rounding = parts(model, spec), [0.0] * 3
        if name == MAGNIFIES:  # what float32 leaves of a spectrogram differs between processors
            rounded = parts(model, exact(clip.double()).float())
            rounding = [float((a - b).abs().max()) for a, b in zip(got, rounded, strict=True)]
            assert max(rounding) < 0.02  # wrong variants are 0.1 and more away
        factor = 2e-4 if name == MAGNIFIES else 5e-5
        for j, part in enumerate(("embedding", "strong", "weak")):
            error = np.abs(got[j].numpy() - golden[f"{name}/{part}"][i]).max()
            limit = factor * max(1.0, golden[f"{name}/largest"][j]) + rounding[j]
            assert error <= limit, (part, error)


@pytest.fixture
def tcn(tmp_path) -> dict[str, Tensor]:
    """A file with a TCN of EfficientSED, which has each convolution twice."""
    state = randomised(build("frame_mn02", 5, "tcn", dim=8)).state_dict()
    state = {
        re.sub("^sequence.", "seq_model.", key).removeprefix("head."): value
        for key, value in state.items()
    }
    pattern = re.compile(r"(seq_model\.1\.layers\.\d\.network\.\d)\.conv([12])\.(.*)")
    twins = {
        f"{match[1]}.net.{'04'[int(match[2]) - 1]}.{match[3]}": value.clone()
        for key, value in state.items()
        if (match := pattern.fullmatch(key))
    }
    assert len(twins) == 2 * 5 * 2 * 3
    return state | twins


def test_the_second_names_of_a_tcns_convolutions_are_ignored(tcn, tmp_path):
    model = hear_ptsed.load(checkpoint=write(tcn, tmp_path))
    assert set(model.report.dropped.values()) == {"there under another name, too"}
    assert len(model.report.dropped) == 60 and not model.report.random
    assert model.sequence.state_dict()["1.layers.1.network.4.conv2.weight_g"].equal(
        tcn["seq_model.1.layers.1.network.4.net.4.weight_g"]
    )
    other = build("frame_mn02", 5, "tcn", dim=8)
    load_checkpoint(other, tmp_path / "file.pt")
    assert same(model, other)


def test_a_convolution_with_two_values_is_refused(tcn, tmp_path):
    tcn["seq_model.1.layers.0.network.3.net.4.bias"] += 1
    match = r"twice, with other numbers: as .*0\.network\.3\.conv2\.bias and as .*3\.net\.4\.bias"
    with pytest.raises(ValueError, match=match):
        hear_ptsed.load(checkpoint=write(tcn, tmp_path))


def test_a_tcn_with_nothing_but_second_names_is_refused(tcn, tmp_path):
    half = {key: value for key, value in tcn.items() if ".conv" not in key}
    assert any(".net.0." in key for key in half)
    refused(half, tmp_path, r"seq_model\..*a sequence model that is none of bigru, .*backbone_only")


def refused(state: dict[str, Tensor], tmp_path: Path, match: str) -> None:
    with pytest.raises(ValueError, match=match) as error:
        hear_ptsed.load(checkpoint=write(state, tmp_path))
    assert str(tmp_path / "file.pt") in str(error.value) and "\n" not in str(error.value)


def file_of(kind: str) -> dict[str, Tensor]:
    """A small file with a sequence model, as EfficientSED names it."""
    state = build("frame_mn02", 5, kind, dim=32, layers=2).state_dict()
    state = {re.sub("^sequence.", "net.seq_model.", key): value for key, value in state.items()}
    return {re.sub("^head.", "net.", key): value for key, value in state.items()}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_half_a_sequence_model_is_refused_by_name(kind, tmp_path):
    state = file_of(kind)
    inside = [key for key in state if "seq_model" in key]
    last = [key for key in inside if "l1" in key or "layers.1" in key][-1]
    extra = {"net.seq_model.1.layers.7.extra": torch.ones(3)}
    wide = {last: torch.ones(*state[last].shape, 2)}
    refused({k: v for k, v in state.items() if k != last}, tmp_path, f"misses {last[14:]}")
    refused(state | extra, tmp_path, r"cannot be rebuilt: net\.seq_model\.\S+.*has 1\.layers\.7")
    refused(state | wide, tmp_path, "cannot be rebuilt: net.seq_model.*in the file, .*in the model")
    refused(
        {k: v for k, v in state.items() if k not in inside[2:]},
        tmp_path,
        r"net\.seq_model\.\S+.* none of bigru|cannot be rebuilt",
    )


@pytest.mark.parametrize("kind", DEFAULTS)
def test_another_kind_than_the_files_is_refused_and_the_files_own_is_accepted(kind, tmp_path):
    path = write(file_of(kind), tmp_path)
    assert hear_ptsed.load(checkpoint=path, sequence_model=kind).sequence.options["kind"] == kind
    other = "tcn" if kind != "tcn" else "hybrid"
    with pytest.raises(ValueError, match=f"kind {kind}, dim 32.* asked for is kind {other}: leave"):
        hear_ptsed.load(checkpoint=path, sequence_model=other)
    plain = hear_ptsed.load(checkpoint=path, backbone_only=True)
    assert plain.sequence is None and plain.head is None


def test_heads_come_from_the_file(tmp_path):
    """Also where an earlier version described it without them, at a width with another rule now."""
    for kind, heads in (("transformer", 8), ("attention", 2), ("hybrid", 4), ("mamba2", 4)):
        model = build("frame_mn02", 5, kind, dim=64, heads=heads)
        save_checkpoint(model, tmp_path / "m.pt")
        state = torch.load(tmp_path / "m.pt", weights_only=True)
        assert hear_ptsed.load(checkpoint=write(dict(state), tmp_path)).sequence.options == {
            "kind": kind,
            "dim": 64,
            "layers": 2,
            "heads": heads,
        }
        del state.hear_ptsed["sequence_model"]["heads"]
        again = hear_ptsed.load(checkpoint=write(state, tmp_path))
        assert same(again, model) and again.sequence.options["heads"] == heads


def test_a_description_that_contradicts_its_tensors_is_refused(tmp_path):
    model = build("frame_mn02", 5, "transformer", dim=32)
    save_checkpoint(model, tmp_path / "m.pt")
    state = torch.load(tmp_path / "m.pt", weights_only=True)
    for wrong in ({"heads": 8}, {"heads": 2}, {"kind": "attention"}, {"layers": 3}):
        options = model.sequence.options | wrong
        state.hear_ptsed = state.hear_ptsed | {"sequence_model": options}
        refused(state, tmp_path, r"cannot be rebuilt: seq_model\.")
