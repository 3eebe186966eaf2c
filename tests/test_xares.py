"""X-ARES itself, on small made-up data sets, by the encoders of hear_ptsed.clients.xares."""

import importlib
import io
import json
import os
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import needs_weights
from torchaudio.functional import resample

from hear_ptsed import hear
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.clients import xares
from hear_ptsed.registry import build, plugins

pytestmark = [
    pytest.mark.skipif(find_spec("webdataset") is None, reason="needs the extra xares"),
    pytest.mark.usefixtures("one_thread"),
]
ROOT = Path(__file__).parents[1]
FOLDS = range(1, 6)


def write_archive(path, clips, labels, rate=16_000, kind="wav"):
    """Write clips (S,) or (S, channels) with their labels as a shard of WebDataset."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for i, (clip, label) in enumerate(zip(clips, labels, strict=True)):
            audio = io.BytesIO()
            soundfile.write(audio, clip, rate, format=kind)
            for suffix, content in (
                (kind.lower(), audio.getvalue()),
                ("json", json.dumps(label).encode()),
            ):
                member = tarfile.TarInfo(f"{path.stem}_{i}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def tone(hz, seconds, seed, rate=16_000):
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * hz * time) + 0.02 * rng.standard_normal(len(time))


def write_esc50(folder, clips=4, seconds=1.0):
    """ESC-50 as X-ARES has it, with two classes: 5 folds of clips."""
    for fold in FOLDS:
        labels = [i % 2 for i in range(clips)]
        audio = [tone((400, 2500)[label], seconds, 10 * fold + i) for i, label in enumerate(labels)]
        path = folder / f"esc50/wds-audio-fold-{fold}-000000.tar"
        write_archive(path, audio, [{"label": label} for label in labels])
    (folder / "esc50/.audio_tar_ready").touch()
    return folder


def task(name, encoder, folder):
    from xares.task import XaresTask

    config = getattr(importlib.import_module(f"tasks.{name}_task"), f"{name}_config")(encoder)
    config.env_root, config.num_encoder_workers, config.torch_num_threads = folder, 0, 1
    return XaresTask(config)


def embeddings(folder, encoder):
    """Shapes of all that an encoder wrote."""
    shapes = []
    for path in sorted(folder.glob(f"*/embeddings/{type(encoder).__name__}/*.tar")):
        with tarfile.open(path) as archive:
            arrays = [name for name in archive.getnames() if name.endswith(".npy")]
            shapes += [np.load(io.BytesIO(archive.extractfile(n).read())).shape for n in arrays]
    return shapes


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An encoder of a small model in a file."""
    path = tmp_path_factory.mktemp("file") / "small.pt"
    torch.manual_seed(0)
    save_checkpoint(build("fmn02", 3).eval(), path)
    return xares.encoder_class("checkpoint", path)()


def test_an_untrained_model_is_scored_on_clips(tmp_path):
    encoder = xares.encoder_class("frame_mn06_strong", untrained=True)()
    (mlp, _), (knn, weight) = task("esc50", encoder, write_esc50(tmp_path)).run()
    assert 0 <= mlp <= 1 and knn > 0.7 and weight == 400
    assert embeddings(tmp_path, encoder) == 20 * [(25, 576)]


def test_events_are_scored(tmp_path, small):
    for part, count in (("train", 4), ("eval", 2)):
        clips = [np.pad(tone(400, 5.0, seed), (0, 80_000)) for seed in range(count)]
        events = [[{"onset": 0.0, "offset": 5.0, "label": "Dog"}]] * count
        write_archive(tmp_path / f"desed/wds-audio-{part}-000000.tar", clips, events, kind="FLAC")
    (tmp_path / "desed/.audio_tar_ready").touch()
    (score, weight), _ = task("desed", small, tmp_path).run()
    assert 0 <= score <= 1 and weight == 1153
    assert embeddings(tmp_path, small) == 6 * [(250, small.output_dim)]


@needs_weights
def test_the_command_of_xares_scores_yamnet(tmp_path):
    write_esc50(tmp_path / "env")
    command = ["-m", "xares.run", "hear_ptsed/clients/xares/yamnet.py", "tasks/esc50_task.py"]
    ended = subprocess.run(
        [sys.executable, *command, "--max-jobs", "0"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "Weighted Average MLP Score" in ended.stdout, ended.stderr
    scores = tmp_path / "env/esc50/checkpoints/YamnetEncoder"
    assert float((scores / "knn_score.txt").read_text().split()[0]) > 0.9
    assert (scores / "mlp_score.txt").exists()


def test_clips_of_any_rate_and_channels_embed_as_they_do_alone(tmp_path, small):
    folder = write_esc50(tmp_path)
    mono = tone(400, 1.0, 0, rate=8000)
    stereo = np.stack([mono, mono / 2], 1)
    write_archive(folder / "esc50/wds-audio-fold-1-000000.tar", [stereo], [{"label": 0}], 8000)
    made = task("esc50", small, folder)
    made.make_encoded_tar()
    with tarfile.open(next(made.encoded_tar_dir.glob("*fold-1-*"))) as archive:
        (name,) = (name for name in archive.getnames() if name.endswith(".npy"))
        got = np.load(io.BytesIO(archive.extractfile(name).read()))
    audio = resample(torch.from_numpy(stereo.mean(1)).float(), 8000, 16_000)
    want, _ = hear.get_timestamp_embeddings(audio[None], small.model)
    torch.testing.assert_close(torch.from_numpy(got), want[0], atol=2e-3, rtol=2e-3)


def test_what_cannot_be_read_is_told_and_an_empty_encoding_refused(tmp_path, small, caplog):
    folder = write_esc50(tmp_path, clips=2)
    path = folder / "esc50/wds-audio-fold-2-000000.tar"
    good = path.read_bytes()
    path.write_bytes(good.replace(b"RIFF", b"RUFF", 1))
    task("esc50", small, folder).make_encoded_tar()
    assert len(embeddings(folder, small)) == 9
    assert "fold-2-*.tar: 1 of 2 clips cannot be read" in caplog.text
    path.write_bytes(good.replace(b"RIFF", b"RUFF"))
    made = task("esc50", small, folder)
    made.encoded_ready_path.unlink()
    refused = r"fold-2-\*.tar: none of its 2 clips could be read as audio"
    with pytest.raises(ValueError, match=refused):
        made.make_encoded_tar()
    with pytest.raises(ValueError, match=refused):  # nothing was marked as complete
        made.make_encoded_tar()
    path.write_bytes(good)
    made.make_encoded_tar()
    assert len(embeddings(folder, small)) == 10


def test_xares_takes_every_plug_in_for_an_encoder_of_its_own():
    from xares.utils import attr_from_py_path

    classes = [
        attr_from_py_path(f"hear_ptsed/clients/xares/{name}.py", endswith="Encoder")
        for name in plugins()
    ]
    assert len({cls.__name__ for cls in classes}) == len(plugins()) > 40
    assert "BeatsStrongEncoder" in {cls.__name__ for cls in classes}


def test_the_check_of_xares_passes(small):
    from xares.audio_encoder_checker import check_audio_encoder

    assert check_audio_encoder(small)
    assert small(torch.zeros(16_000)).shape == (1, 25, small.output_dim)
    hop = xares.encoder_class("frame_mn06_strong", untrained=True, hop=20)()
    assert check_audio_encoder(hop) and hop.hop_size_in_ms == 20
    assert hop(torch.zeros(2, 16_000)).shape == (2, 50, 576)


def test_each_choice_has_a_class_name_of_its_own(tmp_path):
    files = tmp_path / "a.pt", tmp_path / "b.pt"
    for i, path in enumerate(files):
        path.write_bytes(bytes([i]))
    classes = [xares.encoder_class("checkpoint", path) for path in files]
    choices = ({"overlap": 2.5}, {"overlap": 25}, {"hop": 20}, {"hop": 20, "overlap": 2.5})
    classes += [xares.encoder_class("beats_strong", **options) for options in choices]
    names = {cls.__name__ for cls in classes}
    assert len(names) == len(classes) and all(name.endswith("Encoder") for name in names)
    assert "BeatsStrong_hop_20_overlap_2_5Encoder" in names
    same = xares.encoder_class("hear_ptsed.plugins.beats_strong", hop=20)
    assert same.__name__ in names
    with pytest.raises(ValueError, match="unknown plug-in 'beets'; give one of `hear-ptsed list`"):
        xares.encoder_class("beets")


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(ImportError, match=r"install the extra 'xares'"):
        xares.encoder_class("beats_strong")()
