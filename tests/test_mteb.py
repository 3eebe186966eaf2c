"""MTEB itself, on a small data set of tones, by the encoder of hear_ptsed.clients.mteb."""

import io
import json
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import soundfile
import torch
from conftest import needs_weights
from torch.utils.data import DataLoader

from hear_ptsed import hear
from hear_ptsed.audio import read_audio
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.clients.mteb import Encoder, read_clip
from hear_ptsed.registry import build

pytestmark = [
    pytest.mark.skipif(find_spec("mteb") is None, reason="needs the extra mteb"),
    pytest.mark.usefixtures("one_thread"),
]
HZ = (300.0, 1000.0, 3000.0)


def tone(hz, seed, seconds=1.0, rate=16_000, channels=1):
    """(S, channels): a tone in noise, its channels of different loudness."""
    rng = np.random.default_rng([int(hz), seed])
    time = np.arange(round(seconds * rate)) / rate
    audio = 0.3 * np.sin(2 * np.pi * hz * time) + 0.02 * rng.standard_normal(len(time))
    return np.stack([audio / (1 + channel) for channel in range(channels)], 1)


def wav(audio, rate=16_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, audio, rate, format="WAV")
    return file.getvalue()


def column(rows, **features):
    """A data set as the hub gives them: an Audio column, which MTEB would decode by FFmpeg."""
    import datasets

    made = datasets.Dataset.from_dict({"audio": rows, **features})
    return made.cast_column("audio", datasets.Audio())


def tones(count, first):
    rows = [(label, first + i) for i in range(count) for label in range(len(HZ))]
    clips = [{"bytes": wav(tone(HZ[label], seed)), "path": None} for label, seed in rows]
    return column(clips, label=[label for label, _ in rows])


@pytest.fixture(scope="module")
def task():
    """Three pitches to tell apart, 18 clips to learn from and 9 to be asked about."""
    from datasets import DatasetDict
    from mteb.abstasks.classification import AbsTaskClassification
    from mteb.abstasks.task_metadata import TaskMetadata

    unknown = ("date", "domains", "task_subtypes", "license", "annotations_creators", "dialect")

    class Tones(AbsTaskClassification):
        metadata = TaskMetadata(
            name="Tones",
            description="pitches",
            reference=None,
            dataset={"path": "none/none", "revision": "1"},
            type="AudioClassification",
            category="a2c",
            eval_splits=["test"],
            eval_langs=["zxx-Zxxx"],
            main_score="accuracy",
            modalities=["audio"],
            bibtex_citation="",
            sample_creation=None,
            **dict.fromkeys(unknown),
        )
        input_column_name, label_column_name = "audio", "label"
        samples_per_label, n_experiments = 4, 2

        def load_data(self, **_):
            parts = {"train": tones(6, first=0), "test": tones(3, first=100)}
            self.dataset, self.data_loaded = DatasetDict(parts), True

    return Tones()


def evaluate(task, encoder, folder):
    import mteb

    cache = mteb.ResultCache(folder)
    options = {"encode_kwargs": {"batch_size": 4}, "cache": cache, "show_progress_bar": False}
    return mteb.evaluate(encoder, task, **options).task_results[0].scores["test"][0]["accuracy"]


def described(folder):
    """Name, revision and options of the models whose results a folder keeps."""
    metas = [json.loads(path.read_text()) for path in folder.rglob("model_meta.json")]
    return {(m["name"], m["revision"], str(m["experiment_kwargs"])) for m in metas}


def test_untrained_models_are_scored_and_their_results_kept_apart(task, tmp_path):
    untrained = {"untrained": True}
    first = evaluate(task, Encoder("frame_mn06_strong", **untrained), tmp_path)
    second = evaluate(task, Encoder("frame_mn06_strong", hop=20, **untrained), tmp_path)
    assert 0 <= first <= 1 and 0 <= second <= 1
    results = {path.parent for path in tmp_path.rglob("Tones.json")}
    assert len(results) == len(described(tmp_path)) == 2


@needs_weights
def test_yamnet_tells_pitches_apart(task, tmp_path):
    encoder = Encoder("yamnet")
    assert evaluate(task, encoder, tmp_path) > 0.9
    ((name, revision, _),) = described(tmp_path)
    assert name == "hear_ptsed/yamnet" and len(revision) == 64
    assert "AudioSetMini" in encoder.mteb_model_meta.training_datasets


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files of a small model, of different weights."""
    folder = tmp_path_factory.mktemp("files")
    for seed in range(2):
        torch.manual_seed(seed)
        save_checkpoint(build("fmn02", 3).eval(), folder / f"{seed}.pt")
    return folder / "0.pt", folder / "1.pt"


@pytest.fixture(scope="module")
def encoder(files):
    return Encoder("checkpoint", files[0], device="cpu")


def encode(encoder, dataset, batch_size=8):
    loader = DataLoader(dataset, batch_size=batch_size)
    return encoder.encode(loader, task_metadata=None, hf_split="test", hf_subset="default")


def test_clips_of_every_kind_embed_in_order_as_they_do_alone(encoder, tmp_path):
    forms = [
        (0.5, 16_000, 1),
        (1.3, 22_050, 2),
        (0.5, 16_000, 1),
        (11.0, 8000, 1),
        (0.04, 16_000, 1),
    ]
    rows, alone = [], []
    for i, (seconds, rate, channels) in enumerate(forms):
        path = tmp_path / f"{i}.wav"
        path.write_bytes(wav(tone(440, i, seconds, rate, channels), rate))
        by_path = {"bytes": None, "path": str(path)}
        rows.append({"bytes": path.read_bytes(), "path": None} if i % 2 else by_path)
        alone.append(hear.get_scene_embeddings(read_audio(path)[0][None], encoder.model)[0])
    got = encode(encoder, column(rows))
    assert got.dtype == np.float32
    torch.testing.assert_close(torch.from_numpy(got), torch.stack(alone), atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(encode(encoder, column(rows), 2), got, atol=1e-5)


def test_samples_are_taken_as_they_are():
    samples = tone(440, 0, rate=8000, channels=2).T
    stereo, mono = (
        read_clip({"array": array, "sampling_rate": 8000}, "clip")
        for array in (samples, samples.mean(0).tolist())
    )
    assert stereo.shape == (16_000,) and stereo.dtype == torch.float32
    torch.testing.assert_close(stereo, mono)


def test_what_cannot_be_read_is_told_by_its_place(encoder, tmp_path):
    clip = {"bytes": wav(tone(440, 0)), "path": None}
    with pytest.raises(ValueError, match="^clip 1 of test: not readable as audio"):
        encode(encoder, column([clip, {"bytes": b"no audio", "path": None}]), 1)
    missing = str(tmp_path / "x.wav")
    with pytest.raises(ValueError, match=r"^clip 0 of test \(.*x.wav\): .*[Nn]o such file"):
        encode(encoder, column([{"bytes": None, "path": missing}]))


def test_a_data_set_without_audio_is_refused(encoder):
    from datasets import Dataset

    with pytest.raises(ValueError, match="test has the columns text; only audio can be embedded"):
        encode(encoder, Dataset.from_dict({"text": ["a"]}))


def test_each_file_model_and_choice_of_options_has_an_identity_of_its_own(files):
    chosen = [("checkpoint", files[0], {}), ("checkpoint", files[1], {})]
    chosen += [("checkpoint", files[0], {"overlap": 2.5}), ("checkpoint", files[0], {"hop": 20})]
    chosen += [(name, "", {"untrained": True}) for name in ("fmn04_weak", "fmn04_strong")]
    metas = [Encoder(name, path, **options).mteb_model_meta for name, path, options in chosen]
    assert len({(meta.name, meta.revision, meta.experiment_name) for meta in metas}) == len(chosen)
    assert {meta.name for meta in metas[:4]} == {"hear_ptsed/checkpoint"}
    assert metas[-1].revision == "untrained" and not metas[-1].training_datasets
    assert metas[-1].embed_dim == 384 and metas[-1].n_parameters > 400_000


def test_similarities_are_cosines(encoder):
    a, b = torch.randn(3, 5), torch.randn(4, 5)
    want = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=2)
    torch.testing.assert_close(encoder.similarity(a, b), want)
    torch.testing.assert_close(encoder.similarity_pairwise(a, b[:3]), want.diagonal())


def test_an_unknown_plug_in_is_refused():
    with pytest.raises(ValueError, match="unknown plug-in 'beets_strong'; give one of `hear-ptsed"):
        Encoder("beets_strong")


def test_without_the_extra_it_is_named(monkeypatch, files):
    monkeypatch.setitem(sys.modules, "mteb.models.model_meta", None)
    with pytest.raises(ImportError, match=r"install the extra 'mteb'"):
        Encoder("checkpoint", files[0])
