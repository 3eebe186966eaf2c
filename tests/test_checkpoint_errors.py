"""Checkpoint files that are refused: in one line, with model and file untouched."""

import math
import os
import pickle
from pathlib import Path

import pytest
import torch
from checkpoint_parts import each_small, golden_keys, randomised, released, same, tiny, write
from conftest import released_weights
from safetensors.torch import save_file
from torch import nn

from hear_ptsed.checkpoints import describe, load_checkpoint, save_checkpoint
from hear_ptsed.heads import LinearHead
from hear_ptsed.model import SEDModel
from hear_ptsed.registry import MODELS


def refused(model: SEDModel, path: Path, match: str) -> str:
    """The one-line refusal of a file; neither the model nor the file changes."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    content = path.read_bytes()
    with pytest.raises(ValueError, match=match) as caught:
        load_checkpoint(model, path)
    assert all(before[key].equal(value) for key, value in model.state_dict().items())
    assert path.read_bytes() == content
    text = str(caught.value)
    assert "\n" not in text and str(path) in text and len(text) - len(str(path)) < 600
    return text


@each_small
def test_a_backbone_that_differs_is_refused_by_the_names_in_the_file(name, tmp_path):
    state = released(tiny(name), tmp_path)
    prefix = tiny(name).backbone.prefixes[0]
    keys = [k for k in state if k.startswith(prefix) and state[k].ndim > 1 and "bias" not in k]
    for key in keys[:: max(1, len(keys) // 4)]:
        lacking = {k: v for k, v in state.items() if k != key}
        assert key in refused(tiny(name), write(lacking, tmp_path), "misses ")
        wrong = state | {key: state[key][..., :-1] if state[key].shape[-1] > 1 else state[key].mT}
        if wrong[key].shape != state[key].shape:
            assert key in refused(tiny(name), write(wrong, tmp_path), "of another shape")
    more = state | {f"{prefix}extra.weight": torch.ones(1)}
    refused(tiny(name), write(more, tmp_path), f"unexpected {prefix}extra.weight$")


@pytest.mark.parametrize("part", ["q_proj.weight", "k_proj.bias", "v_proj.weight"])
def test_a_missing_beats_projection_is_named_itself(part, tmp_path):
    state = released(tiny("beats"), tmp_path)
    key = f"model.model.encoder.layers.1.self_attn.{part}"
    del state[key]
    refused(tiny("beats"), write(state, tmp_path), f"BEATs: it misses {key}$")


def test_many_missing_names_are_counted(tmp_path):
    state = released(tiny("asit"), tmp_path)
    path = write({k: v for k, v in state.items() if ".blocks.1." not in k}, tmp_path)
    refused(tiny("asit"), path, r"misses model\.blocks\.1\.norm1\.weight, .* and 10 more$")


def test_a_file_of_another_model_is_named(tmp_path):
    model = SEDModel(nn.Identity(), MODELS["frame_mn06"].backbone(), None, LinearHead(576, 447))
    torch.save(released_weights(model), tmp_path / "frame_mn06.pt")
    for name in ("atst_frame", "beats", "fpasst", "frame_mn06"):
        refused(tiny(name), tmp_path / "frame_mn06.pt", "; it looks like frame_mn06$")
    asit = {key: torch.zeros(1).expand(shape) for key, (shape, _) in golden_keys()["asit"].items()}
    refused(tiny("fpasst"), write(asit, tmp_path), "; it looks like asit$")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinite_weights_are_refused_by_name(bad, tmp_path):
    state = released(tiny("asit"), tmp_path)
    state["model.norm.bias"][3] = bad
    refused(tiny("asit"), write(state, tmp_path), r"NaN or infinite values in model\.norm\.bias$")


def test_large_finite_weights_are_not_taken_for_infinite(tmp_path):
    state = released(tiny("asit"), tmp_path)
    state["model.norm.bias"][:] = 3e38
    assert not load_checkpoint(tiny("asit"), write(state, tmp_path)).random


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_converted(dtype, tmp_path):
    model, other = randomised(tiny("frame_mn06")), tiny("frame_mn06")
    state = released(model, tmp_path)
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    load_checkpoint(other, write(state, tmp_path))
    for key, value in other.state_dict().items():
        original = model.state_dict()[key]
        assert value.dtype == original.dtype
        torch.testing.assert_close(value, original, atol=0, rtol=0.01)


def test_integer_weights_are_refused(tmp_path):
    state = released(tiny("asit"), tmp_path)
    state["model.norm.bias"] = torch.ones(24, dtype=torch.int8)
    refused(tiny("asit"), write(state, tmp_path), r"model\.norm\.bias .*24 of torch.int8")


class Evil:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_not_run(zipped, tmp_path):
    path, marker = tmp_path / "evil.pt", tmp_path / "marker"
    content = {"model.cls_token": torch.ones(1), "x": Evil(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    refused(tiny("asit"), path, "refused and not run, its pickle calls posix.mkdir")
    path.write_bytes(pickle.dumps(Evil(marker), protocol=2))
    refused(tiny("asit"), path, "refused and not run")
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists()  # the file does run where it is let


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"three words here, no tensors", "begins with b'three words"),
        (b"<!DOCTYPE html><html></html>", "begins with b'<!DOCTYPE"),
        (b"PK\x03\x04 and then nothing of the kind", "cut off, damaged"),
        (b"\x80\x02 and then nothing of the kind", "cut off, damaged"),
        (b"\x10\0\0\0\0\0\0\0{ no header at all", "cut off, damaged"),
    ],
)
def test_other_files_are_refused(content, match, tmp_path):
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    refused(tiny("asit"), path, match)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
def test_truncated_files_are_refused(suffix, kept, tmp_path):
    path = tmp_path / f"file{suffix}"
    save_checkpoint(tiny("asit"), path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    refused(tiny("asit"), path, "cut off, damaged")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"epoch": 3, "loss": 0.1}, "a dictionary of 'epoch', 'loss'; expected"),
        ([torch.ones(2)], "holds a list"),
        ({"foreign.weight": torch.ones(2)}, "misses .*unexpected foreign.weight$"),
    ],
)
def test_foreign_content_is_refused(content, match, tmp_path):
    refused(tiny("asit"), write(content, tmp_path), match)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pt: no such file"):
        load_checkpoint(tiny("asit"), tmp_path / "absent.pt")


def test_a_safetensors_file_loads_under_any_suffix(tmp_path):
    model, other = randomised(tiny("asit")), tiny("asit")
    save_file(released(model, tmp_path), tmp_path / "file.bin")
    load_checkpoint(other, tmp_path / "file.bin")
    assert same(model, other) and describe(tmp_path / "file.bin") == {}


def test_a_plain_pickled_torch_file_loads(tmp_path):
    model, other = randomised(tiny("asit")), tiny("asit")
    state = released(model, tmp_path)
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    load_checkpoint(other, tmp_path / "old.pt")
    assert same(model, other)


@pytest.mark.parametrize("name", ["beats", "frame_mn06", "asit"])
def test_a_folded_model_is_neither_saved_nor_loaded_into(name, tmp_path):
    model = tiny(name)
    save_checkpoint(model, tmp_path / "m.pt")
    model.fold()
    with pytest.raises(RuntimeError, match="cannot save a folded model"):
        save_checkpoint(model, tmp_path / "folded.pt")
    with pytest.raises(RuntimeError, match="cannot load into a folded model"):
        load_checkpoint(model, tmp_path / "m.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]


def test_bad_arguments_of_saving_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'\.onnx'; use \.pt or \.safetensors"):
        save_checkpoint(tiny("asit"), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="3 class names for a head of 5 classes"):
        save_checkpoint(tiny("asit"), tmp_path / "m.pt", classes=list("abc"))
    assert not list(tmp_path.iterdir())
