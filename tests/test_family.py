"""EfficientSED's family: its files, sizes, names, and embeddings behind the sequence models."""

import csv
import importlib
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN
from torch.utils.flop_counter import FlopCounterMode

import hear_ptsed
from eval_tasks.heareval import launch
from eval_tasks.plugin import Plugin
from hear_ptsed import list_models
from hear_ptsed.checkpoints import describe, download, save_checkpoint
from hear_ptsed.registry import MODELS, RELEASES, build, find_row

UNTRAINED = {"untrained": True}
FILES = {row.module: row for row in list_models() if row.family == "EfficientSED"}
with (GOLDEN / "efficientsed_sizes.csv").open(encoding="utf-8") as file:
    PUBLISHED = {row.pop("model"): row for row in csv.DictReader(file)}


def noise(seconds: float = 2.0) -> torch.Tensor:
    """Noise (1, S) at 16 kHz."""
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(1, int(seconds * 16000), generator=generator)


def released(name: str, path: Path) -> None:
    """Write random weights as the release has them: two heads, and nothing said of the model."""
    model = build(name)
    inside = model.backbone.to_released(model.backbone.state_dict())
    state = {f"model.{key}": value for key, value in inside.items()}
    state |= model.head.state_dict()
    if model.sequence is not None:
        above = model.sequence.state_dict().items()
        state |= {f"seq_model.{re.sub('^rnn', '0.gru', key)}": value for key, value in above}
    torch.save({f"net.{key}": value for key, value in state.items()}, path)


def test_the_release_has_35_files_under_the_authors_names():
    names = {row.checkpoint for row in FILES.values()}
    widths = ("04", "06", "10", "20", "30")
    want = {f"fmn{width}_{stage}.pt" for width in widths for stage in ("weak", "strong")}
    sizes = {"04": [104], "06": [160], "10": [128, 256, 512, 1024], "20": [512], "30": [768]}
    want |= {
        f"fmn{width}+{kind}-{size}_strong.pt"
        for width in widths
        for size in sizes[width]
        for kind in ("tf", "gru", "hybrid")
    }
    assert names == want | {"fmn10+tf-256_advanced-kd-weak-strong.pt"} and len(FILES) == 35


def test_a_file_comes_from_the_release_of_its_family(tmp_path, monkeypatch):
    monkeypatch.setenv("HEAR_PTSED_CACHE", str(tmp_path))
    monkeypatch.delenv("HEAR_PTSED_CHECKPOINTS", raising=False)
    asked = []
    monkeypatch.setattr(download, "fetch", lambda url, path: (asked.append(url), path.touch()))
    for row in (*FILES.values(), next(r for r in list_models() if r.model == "frame_mn10")):
        download.find(row.model, row.stage)
        assert asked.pop() == RELEASES[row.family] + row.checkpoint
    assert RELEASES["EfficientSED"].startswith("https://github.com/theMoro/EfficientSED/")


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_multiplications_are_the_published_ones(name, monkeypatch):
    """Of the network with two heads of 447 classes, on one spectrogram of 10 s."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # none on meta
    published = PUBLISHED[name]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = build(name).eval()
        frames = model.backbone(torch.zeros(1, 1, 128, 1000))
        model.head(frames if model.sequence is None else model.sequence(frames))
    parameters = sum(p.numel() for p in model.parameters())
    assert f"{parameters / 1e6:.3f}" == published["parameters_m"]
    assert find_row(name).parameters == parameters - 2 * 447 * (find_row(name).dim + 1)
    # The figures leave the recurrent layers of GRU out and are read with an accuracy of 1 %.
    column = "macs_with_recurrence_g" if "gru" in name else "macs_g"
    assert counter.get_total_flops() / 2e9 == pytest.approx(float(published[column]), rel=0.015)


def test_older_names_are_accepted_and_recognition_keeps_its_names(tmp_path):
    assert find_row("frame_mn04", "strong") is find_row("fmn04", "strong")
    for name, known in {"frame_mn02": "fmn02", "fmn06": "frame_mn06", "fmn20": "fmn20"}.items():
        save_checkpoint(build(name, 2), tmp_path / "m.pt", classes=["a", "b"])
        assert describe(tmp_path / "m.pt")["model"] == known
        again = hear_ptsed.load(name, checkpoint=tmp_path / "m.pt")
        assert again.classes == ("a", "b") and not again.report.random
    with pytest.raises(ValueError, match="fmn10_tf256 has no 'weak' stage; it has strong, adv"):
        find_row("fmn10_tf256", "weak")


@torch.no_grad()
@pytest.mark.parametrize("name", ["fmn04_gru104", "fmn10_tf256"])
def test_a_plug_in_embeds_by_the_sequence_model_of_its_row(name, tmp_path):
    released(name, tmp_path / "released.pt")
    plugin = importlib.import_module(f"hear_ptsed.plugins.{name}_strong")
    model = plugin.load_model(str(tmp_path / "released.pt"))
    frames, _ = plugin.get_timestamp_embeddings(noise(), model)
    assert frames.shape == (1, 50, MODELS[name].dim)
    assert model.timestamp_embedding_size == model.scene_embedding_size == MODELS[name].dim
    want = hear_ptsed.load(name, checkpoint=tmp_path / "released.pt")(noise())
    torch.testing.assert_close(frames, want.frames, atol=1e-4, rtol=1e-4)
    assert want.strong.shape == (1, 447, 50)
    # The plug-in of the bare network leaves the sequence model in the file.
    bare = importlib.import_module(f"hear_ptsed.plugins.{name.partition('_')[0]}_strong")
    model = bare.load_model(str(tmp_path / "released.pt"))
    assert model.model.sequence is None
    assert bare.get_timestamp_embeddings(noise(), model)[0].shape[2] == model.model.width


@pytest.mark.parametrize("plugin", ["fmn04_weak", "fmn04_tf104_strong", "fmn04_hybrid104_strong"])
def test_hear_validator_takes_a_plug_in_with_a_released_file(plugin, tmp_path, capsys):
    released(plugin.rpartition("_")[0], tmp_path / "released.pt")
    launch.validate(f"hear_ptsed.plugins.{plugin}", str(tmp_path / "released.pt"), device="cpu")
    assert capsys.readouterr().out.count("Received embedding of shape") == 4


def test_a_file_of_another_sequence_model_than_the_name_says_is_refused(tmp_path):
    released("fmn04", tmp_path / "bare.pt")
    with pytest.raises(ValueError, match="holds no sequence model, asked for is .* dim 104"):
        hear_ptsed.load("fmn04_gru104", checkpoint=tmp_path / "bare.pt")
    model = hear_ptsed.load(
        "fmn04_gru104",
        checkpoint=tmp_path / "bare.pt",
        n_classes=3,
        random=("sequence_model", "head"),
    )
    assert model.sequence.options == MODELS["fmn04_gru104"].sequence and model.width == 208
    random = hear_ptsed.load("fmn04_gru104", stage=None, backbone_only=True)
    assert random.sequence is None and random.head is None


def test_a_network_with_its_sequence_model_is_fine_tuned_whole(tmp_path):
    released("fmn04_gru104", tmp_path / "released.pt")
    module = "hear_ptsed.plugins.fmn04_gru104_strong"
    for plugin in (Plugin(module, tmp_path / "released.pt"), Plugin(module, None, UNTRAINED)):
        net = plugin.network(7)
        assert net.sequence is not None and net.head.strong_head.weight.shape == (7, 208)
        assert (plugin.model, plugin.stage) == ("fmn04_gru104", "strong")


def test_a_plug_in_is_found_in_a_process_of_its_own_by_an_ordinary_import():
    code = "import hear_ptsed.plugins.fmn20_hybrid512_strong as p, importlib.util as u; "
    code += "from hear_ptsed.plugins import beats_weak, checkpoint, yamnet; "
    code += "print(p.__name__, p.load_model.args, p.__doc__, u.find_spec('hear_ptsed.plugins.no'))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.split() == (
        "hear_ptsed.plugins.fmn20_hybrid512_strong ('fmn20_hybrid512', 'strong') "
        "HEAR plug-in: fmn20_hybrid512, stage strong. None".split()
    )
    with pytest.raises(ModuleNotFoundError, match=r"hear_ptsed\.plugins\.fmn05_strong"):
        importlib.import_module("hear_ptsed.plugins.fmn05_strong")
