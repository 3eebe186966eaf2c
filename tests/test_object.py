"""A plug-in's model as any other module of torch: audio of all kinds, saved, exported, shared."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import RELEASED, SMALL, small
from torch.utils.data import DataLoader, Dataset

import hear_ptsed
from hear_ptsed.checkpoints import load_checkpoint, save_checkpoint
from hear_ptsed.hear import HearModel, get_scene_embeddings, get_timestamp_embeddings, load_model
from hear_ptsed.model import SEDModel
from hear_ptsed.plugins import checkpoint
from hear_ptsed.registry import MODELS
from hear_ptsed.yamnet.network import YamNet

ALL = [name for name in RELEASED if not MODELS[name].batch_norm] + ["frame_mn06", "yamnet"]


def network(name: str):
    """A SEDModel with random weights, YAMNet among them."""
    if name == "yamnet":
        torch.manual_seed(7)
        return YamNet()
    return awake(small(name))


@torch.no_grad()
def awake(model: SEDModel) -> SEDModel:
    """With statistics of sounds in its batch norms, without which activations fade out."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 1.0
    model(noise(30_000, clips=2))
    for norm in norms:
        norm.eval()
    return model


def noise(n_samples: int, clips: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(clips, n_samples, generator=torch.Generator().manual_seed(seed)) / 9


def read_only(audio: np.ndarray) -> np.ndarray:
    audio.flags.writeable = False
    return audio


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["atst_frame", "yamnet"])
def test_numpy_single_clips_and_a_channel_are_taken(name):
    model, audio = HearModel(network(name)), noise(3000, clips=2)
    want, centres = get_timestamp_embeddings(audio, model)
    clip = audio[0].numpy()
    forms = {
        "channel": (audio[:, None], want),
        "array": (audio.numpy(), want),
        "double": (audio.numpy().astype(np.float64), want),
        "array with a channel": (audio[:, None].numpy(), want),
        "clip": (audio[0], want[:1]),
        "array of a clip": (clip, want[:1]),
        "read only": (read_only(clip.copy()), want[:1]),
        "backwards": (clip[::-1].copy()[::-1], want[:1]),
    }
    for form, (given, expected) in forms.items():
        got, when = get_timestamp_embeddings(given, model)
        scene, direct = get_scene_embeddings(given, model), model(given)
        assert got.shape == expected.shape and when.tolist() == centres[: len(got)].tolist(), form
        for value, target in ((got, expected), (direct, expected), (scene, expected.mean(1))):
            torch.testing.assert_close(value, target, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [*RELEASED, "fmn04_tf104"])
def test_a_saved_state_is_a_file_of_its_plug_in_and_fits_another_model(name, tmp_path, monkeypatch):
    row = MODELS[name]
    if name in SMALL:
        monkeypatch.setitem(MODELS, name, replace(row, backbone=SMALL[name]))
    audio, file = noise(30_000), tmp_path / "state.pt"
    bare = {"stage": None, "n_classes": None, "backbone_only": row.sequence is None}
    model = HearModel(awake(hear_ptsed.load(name, seed=7, **bare)))
    want, _ = get_timestamp_embeddings(audio, model)
    torch.save(model.state_dict(), file)
    other = load_model(name, "strong", untrained=True)
    assert not torch.allclose(get_timestamp_embeddings(audio, other)[0], want, rtol=1e-2)
    other.load_state_dict(torch.load(file))
    for loaded in (other, load_model(name, "strong", str(file))):
        assert torch.equal(get_timestamp_embeddings(audio, loaded)[0], want)


def test_the_state_of_folded_convolutions_tells_its_model_and_only_embeds(tmp_path):
    audio, file = noise(16_000), tmp_path / "state.safetensors"
    plain = awake(hear_ptsed.load("fmn02", stage=None, seed=7))
    safetensors = pytest.importorskip("safetensors.torch")
    model = HearModel(copy.deepcopy(plain))
    safetensors.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file)
    want = model(audio)
    assert torch.equal(checkpoint.load_model(str(file))(audio), want)
    whole = hear_ptsed.load(checkpoint=file, n_classes=None)
    assert whole.folded and whole.state_dict().keys() <= plain.state_dict().keys()
    assert (whole(audio).frames - want).norm() < 1e-3 * want.norm()
    with pytest.raises(RuntimeError, match="cannot save a folded model"):
        save_checkpoint(whole, tmp_path / "again.pt")
    for start in (
        lambda: hear_ptsed.load(checkpoint=file, n_classes=3, random="head"),
        lambda: load_checkpoint(plain, file),
    ):
        with pytest.raises(ValueError, match="state of a plug-in's model, folded for inference"):
            start()


def test_the_saved_state_of_yamnet_goes_into_a_loaded_model(tmp_path):
    model, audio, file = HearModel(network("yamnet")), noise(3000), tmp_path / "state.pt"
    torch.save(model.state_dict(), file)
    with pytest.raises(ValueError, match=r"model\.load_state_dict\(torch\.load\(file\)\)"):
        load_model("yamnet", None, str(file))
    other = load_model("yamnet", None, untrained=True)
    assert not torch.equal(other(audio), model(audio))
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(audio), model(audio))


def test_yamnet_is_loaded_by_its_name_as_every_model():
    model = hear_ptsed.load("yamnet", stage=None, seed=0)
    assert torch.equal(HearModel(model)(noise(3000)), model(noise(3000)).frames)


@pytest.mark.parametrize("name", ["beats", "frame_mn06", "yamnet"])
def test_another_type_of_weights_is_refused_and_names_precision(name):
    for model in (HearModel(network(name)), network(name)):
        want = model(noise(3000))
        for convert, dtype in (
            (lambda m: m.half(), "float16"),
            (lambda m: m.bfloat16(), "bfloat16"),
            (lambda m: m.double(), "float64"),
            (lambda m: m.to(torch.bfloat16), "bfloat16"),
            (lambda m: m.to("cpu", torch.float16), "float16"),
            (lambda m: torch.nn.Sequential(m).type(torch.float16), "float16"),
        ):
            match = f"asked for is torch.{dtype}: load a plug-in with precision='bfloat16'"
            with pytest.raises(ValueError, match=match):
                convert(model)
        model.float().to("cpu", torch.float32).share_memory()
        got = model(noise(3000))
        assert torch.equal(*((x if isinstance(x, torch.Tensor) else x.frames) for x in (got, want)))


@pytest.mark.parametrize("name", ALL)
def test_an_exported_model_takes_any_batch(name):
    model = network(name).requires_grad_(False)
    audio = noise(3000, clips=3)
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (audio,), dynamic_shapes={"audio": {0: batch}}).module()
    for clips in (1, 2, 5):
        audio = noise(3000, clips, seed=1)
        want, got = model(audio), program(audio)
        for value, target in zip(got, want, strict=True):
            assert (value is None) == (target is None)
            if target is not None:
                torch.testing.assert_close(value, target, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_the_audio_through_the_model_and_not_through_the_functions(name):
    model = HearModel(network(name))
    audio = noise(3000).requires_grad_()
    frames = model(audio)
    pull = torch.randn(frames.shape, generator=torch.Generator().manual_seed(1))
    (slope,) = torch.autograd.grad(frames, audio, pull)
    step = 1e-4 * audio.detach().norm() * slope / slope.norm()
    with torch.no_grad():
        gain = ((model(audio + step) - model(audio - step)) * pull).sum() / 2
    torch.testing.assert_close(gain, (step * slope).sum(), rtol=0.1, atol=0)
    assert not get_timestamp_embeddings(audio, model)[0].requires_grad
    assert not get_scene_embeddings(audio, model).requires_grad


def test_yamnet_keeps_no_graph_unless_its_weights_are_asked_for():
    model = network("yamnet")
    assert not model(noise(2000)).strong.requires_grad
    model.requires_grad_()(noise(2000)).strong.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


class Embedded(Dataset):
    """Embeds in the worker, with a model handed over or made there."""

    def __init__(self, audio: torch.Tensor, model: HearModel | None):
        self.audio, self.model = audio, model

    def __len__(self) -> int:
        return len(self.audio)

    def __getitem__(self, clip: int) -> torch.Tensor:
        model = self.model or HearModel(small("beats"))
        return get_timestamp_embeddings(self.audio[clip], model)[0][0]


@pytest.fixture(scope="module")
def transformer():
    return HearModel(small("beats"))


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("handed_over", [True, False])
def test_a_transformer_embeds_in_the_workers_of_a_loader(start, handed_over, transformer):
    audio = noise(16_000, clips=2)
    want, _ = get_timestamp_embeddings(audio, transformer)
    dataset = Embedded(audio, transformer if handed_over else None)
    loader = DataLoader(dataset, num_workers=1, multiprocessing_context=start, timeout=120)
    torch.testing.assert_close(torch.cat(list(loader)), want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["beats", "yamnet"])
def test_eight_threads_share_a_model(name):
    model, audio = HearModel(network(name)), noise(8000, clips=16)
    alone = [get_timestamp_embeddings(clip, model)[0] for clip in audio]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda clip: get_timestamp_embeddings(clip, model)[0], audio))
    for got, want in zip(together, alone, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["beats", "asit", "frame_mn06", "yamnet"])
def test_copies_embed_the_same(name):
    model, audio = HearModel(network(name)), noise(3000)
    want = model(audio)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(audio), want)
        twin.load_state_dict(model.state_dict())
        assert torch.equal(twin(audio), want)
