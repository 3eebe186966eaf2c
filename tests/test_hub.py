"""Models for the Hugging Face Hub: written and opened, card, command; nothing is fetched."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import safetensors.torch
import torch
from conftest import small
from deterministic import waveform
from huggingface_hub import ModelCard, constants, errors

import hear_ptsed
from hear_ptsed import cli, hub
from hear_ptsed.checkpoints import describe, save_checkpoint
from hear_ptsed.facts import all_facts
from hear_ptsed.hub import HubModel
from hear_ptsed.plugins import checkpoint as plugin
from hear_ptsed.plugins import frame_mn06_strong
from hear_ptsed.registry import build, plugins

ROOT = Path(__file__).parents[1]
COMMIT = "0123456789" * 4
CLASSES = ("bell", "dog", "rain")


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return torch.from_numpy(waveform(3.0, seed=1))[None]


@pytest.fixture(scope="module")
def trained() -> hear_ptsed.model.SEDModel:
    """A small model with numbers of its own in batch norms, and names of its classes."""
    torch.manual_seed(3)
    model = build("fmn02", len(CLASSES), "bigru", dim=16, layers=1).eval()
    for name, value in model.named_buffers():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
    model.classes = CLASSES
    return model


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "mine"
    HubModel(trained).save_pretrained(folder)
    return folder


@pytest.fixture
def cache(folder, tmp_path, monkeypatch):
    """The Hub's cache with the folder as me/mine, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    fill_cache(tmp_path, folder)
    return tmp_path


@pytest.fixture
def released(tmp_path, monkeypatch):
    """A folder of checkpoints with a file of the released name, of random weights."""
    torch.manual_seed(4)
    monkeypatch.setenv("HEAR_PTSED_CHECKPOINTS", str(tmp_path))
    save_checkpoint(build("frame_mn06").eval(), tmp_path / "frame_mn06_strong_1.pt")
    return tmp_path


def fill_cache(cache, folder):
    repository = cache / "models--me--mine"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    (repository / "refs/v1").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / COMMIT).symlink_to(folder)


def assert_same(model, other, clip):
    with torch.no_grad():
        for ours, theirs in zip(model(clip), other(clip), strict=True):
            assert torch.equal(ours, theirs) and ours.isfinite().all() and ours.std() > 0


def test_a_folder_gives_the_same_numbers_again(trained, folder, clip):
    opened = HubModel.from_pretrained(folder)
    assert_same(trained, opened, clip)
    assert opened.model.classes == CLASSES and not opened.training
    assert_same(trained, hear_ptsed.load(checkpoint=folder), clip)
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }


def test_the_weights_are_a_checkpoint_as_any_other(trained, folder, clip):
    assert describe(folder / "model.safetensors")["classes"] == list(CLASSES)
    for path in (folder, folder / "model.safetensors"):
        embedder = plugin.load_model(str(path))
        embeddings, _ = plugin.get_timestamp_embeddings(clip, embedder)
        save_checkpoint(trained, folder.parent / "plain.pt", CLASSES)
        plain = plugin.load_model(str(folder.parent / "plain.pt"))
        assert torch.equal(embeddings, plugin.get_timestamp_embeddings(clip, plain)[0])


def test_a_repository_of_the_cache_is_opened_without_a_network(trained, cache, clip, caplog):
    caplog.set_level("INFO")
    for opened in (
        HubModel.from_pretrained("me/mine"),
        HubModel.from_pretrained("me/mine", revision="v1"),
        hear_ptsed.load("hf:me/mine"),
        hear_ptsed.load(checkpoint=f"hf:me/mine@{COMMIT}"),
    ):
        assert_same(trained, opened, clip)
    assert f"hf:me/mine is of commit {COMMIT}" in caplog.text
    assert plugin.load_model("hf:me/mine@v1").timestamp_embedding_size == 192


def test_a_command_takes_a_repository_as_its_checkpoint(folder, tmp_path):
    import soundfile

    fill_cache(tmp_path / "cache", folder)
    soundfile.write(tmp_path / "clip.wav", waveform(1.0, seed=2), 16000)
    ended = subprocess.run(
        [sys.executable, "-m", "hear_ptsed.cli", "detect", tmp_path / "clip.wav"]
        + ["--model", "fmn02"]
        + ["--checkpoint", "hf:me/mine@v1", "--threshold", "0", "--format", "json"],
        env=os.environ | {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert all(name in ended.stdout for name in CLASSES)


def refused(kind, call) -> str:
    """The one line of an error."""
    with pytest.raises(kind) as caught:
        call()
    text = hear_ptsed.errors.one_line(caught.value)
    assert len(text) < 400
    return text


def test_what_is_not_in_the_cache_is_one_line(cache):
    for call in (
        lambda: hear_ptsed.load("hf:me/other"),
        lambda: HubModel.from_pretrained("me/other"),
        lambda: hear_ptsed.load("hf:me/mine@v2"),
    ):
        assert "is not in the cache and cannot be fetched" in refused(ConnectionError, call)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (errors.RepositoryNotFoundError, "no such repository"),
        (errors.GatedRepoError, "on request only"),
        (errors.RevisionNotFoundError, "no such branch, tag or commit"),
        (errors.RemoteEntryNotFoundError, "has no model.safetensors; pickled files are not taken"),
    ],
)
def test_what_the_hub_refuses_is_one_line(answer, said, monkeypatch):
    response = SimpleNamespace(headers={}, request=None)

    def answered(*arguments, **how):
        raise answer("404\n\nmany lines", response=response)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", answered)
    monkeypatch.setattr(huggingface_hub.hub_mixin, "hf_hub_download", answered)
    for call in (
        lambda: hear_ptsed.load("hf:me/mine@v3"),
        lambda: HubModel.from_pretrained("me/mine", revision="v3"),
    ):
        text = refused(OSError, call)
        assert said in text and text.startswith("hf:me/mine@v3")


def test_a_folder_of_pickled_files_or_with_a_wrong_key_is_one_line(trained, folder, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "pytorch_model.bin")
    for call in (
        lambda: HubModel.from_pretrained(tmp_path),
        lambda: hear_ptsed.load(checkpoint=tmp_path),
    ):
        assert "no model.safetensors, but pytorch_model.bin" in refused(FileNotFoundError, call)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("weight") and "head" not in name)
    tensors["strange"] = tensors.pop(name)
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    text = refused(ValueError, lambda: HubModel.from_pretrained(tmp_path))
    assert name in text and "misses" in text


def test_addresses_that_are_none_are_refused(folder):
    for place in ("hf:mine", "hf:me/mine/more", "hf:me/mine@"):
        assert "write hf:OWNER/NAME" in refused(ValueError, partial(hear_ptsed.load, place))
    text = refused(ValueError, lambda: hear_ptsed.load("hf:me/mine", checkpoint=folder))
    assert "exclude each other" in text


def test_models_that_could_not_be_opened_again_are_refused_before_anything_is_written(trained):
    embedder = frame_mn06_strong.load_model(untrained=True)
    with pytest.raises(TypeError, match="HearModel is no SEDModel"):
        HubModel(embedder)
    with pytest.raises(RuntimeError, match="folded"):
        HubModel(embedder.model)
    text = refused(ValueError, lambda: HubModel(small("frame_mn06")))
    assert "a FrameMN of these sizes cannot be opened again" in text
    for module in ("yamnet", "nothing_strong", ["beats_strong"]):
        text = refused(ValueError, partial(HubModel, trained, module))
        assert "no module of released weights" in text
    text = refused(ValueError, lambda: HubModel(trained, "frame_mn06_strong"))
    assert "is not frame_mn06_strong as released" in text
    untrained = hear_ptsed.load("frame_mn06", stage=None)
    text = refused(ValueError, lambda: HubModel(untrained, "frame_mn06_strong"))
    assert "is not frame_mn06_strong as released, in frame_mn06" in text


def test_the_command_writes_the_released_weights_with_their_card(released, clip, capsys):
    assert cli.main(["export-hub", "frame_mn06_strong", str(released / "out")]) == 0
    printed = capsys.readouterr().out
    assert "do not plainly allow" in printed and "hf upload OWNER/NAME" in printed
    opened = HubModel.from_pretrained(released / "out")
    assert_same(hear_ptsed.load("frame_mn06"), opened, clip)
    config = json.loads((released / "out/config.json").read_text())
    assert config["released"]["plugin"] == opened.released == "frame_mn06_strong"
    text = (released / "out/README.md").read_text()
    facts = all_facts()["frame_mn06", "strong"]
    for fact in (facts.pretraining, f"{facts.psds1_percent} %", facts.weights_url, "447 classes"):
        assert fact in text
    assert all(f"{{{key}," in text for key in facts.cite)
    opened.save_pretrained(released / "again")
    assert (released / "again/README.md").read_text() == text
    with torch.no_grad():  # trained on: no released weights any more
        opened.model.head.strong_head.bias += 1
    opened.save_pretrained(released / "again")
    changed = HubModel.from_pretrained(released / "again")
    assert changed.released is opened.released is None
    assert "frame_mn06_strong" not in (released / "again/README.md").read_text()
    assert "was not pushed" in refused(ValueError, lambda: changed.push_to_hub("me/mine"))
    assert cli.main(["export-hub", "frame_mn06_strong", str(released / "out")]) == 1
    assert cli.main(["export-hub", "yamnet", str(released / "new")]) == 1
    assert not (released / "new").exists()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "not empty" in lines[0] and "'yamnet' is no module" in lines[1]


@pytest.mark.parametrize("licence", sorted({facts.licence for facts in all_facts().values()}))
def test_the_card_says_the_licence_that_the_authors_name(licence, trained):
    facts = next(
        facts
        for facts in all_facts().values()
        if facts.licence == licence and (facts.stage or licence == "Apache-2.0")
    )
    released = next(name for name, (model, _) in plugins().items() if model == facts.model)
    data = ModelCard(str(hub.Card(trained, facts, released, None, "me/mine"))).data
    said = {"MIT": "mit", "Apache-2.0": "apache-2.0", "": "unknown"}.get(licence, "other")
    assert data.license == said and data.library_name == "hear_ptsed"
    slug = licence.lower().replace(" (", "-").removesuffix(")")
    assert data.get("license_name") == (slug if said == "other" else None)
    assert data.pipeline_tag == "audio-classification"


def test_the_lines_of_a_card_run(folder, cache, trained):
    card = HubModel(trained).card(repository="me/mine")
    (code,) = re.findall(r"```python\n(.+?)```", str(card), re.DOTALL)
    scope = {}
    exec(code, scope)
    assert scope["model"](scope["clip"]).frames.shape == (1, 250, 32) and "(1, 250, 32)" in code
    assert scope["model"](scope["clip"]).strong.shape == (1, 3, 250) and "(1, 3, 250)" in code
    assert scope["embeddings"].shape == (1, 250, 192)
    assert "Trained by whoever publishes it" in str(card)


def test_weights_are_pushed_only_under_a_licence(trained, monkeypatch, tmp_path):
    pushed = []

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **how):
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, folder_path, **how):
            pushed.append({path.name: path.read_bytes() for path in folder_path.iterdir()})
            return "https://example.org/commit"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    text = refused(ValueError, lambda: HubModel(trained).push_to_hub("me/mine"))
    assert "me/mine was not pushed" in text and "by licence=" in text and not pushed
    model = HubModel(trained)
    assert model.push_to_hub("me/mine", licence="cc-by-4.0") == "https://example.org/commit"
    model.save_pretrained(tmp_path, push_to_hub=True, repo_id="me/mine", licence="mit")
    cards = [ModelCard(files["README.md"].decode()) for files in pushed]
    assert [card.data.license for card in cards] == ["cc-by-4.0", "mit"]
    assert all('load("hf:me/mine")' in card.text for card in cards)
    state = safetensors.torch.load(pushed[0]["model.safetensors"])
    written = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert state.keys() == written.keys()
    assert all(torch.equal(state[name], written[name]) for name in state)
    assert "was not pushed" in refused(ValueError, lambda: model.push_to_hub("me/x", licence=""))
    card = hub.Card(trained, all_facts()["beats", "weak"], "beats_weak", None, "me/beats")
    monkeypatch.setattr(model, "card", lambda *_, **__: card)
    model.push_to_hub("me/beats")
    assert ModelCard(pushed[2]["README.md"].decode()).data.license == "mit"
