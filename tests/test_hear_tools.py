"""hear-validator and heareval through our launcher: a tiny real plug-in, tiny real HEAR folders."""

import importlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from contextlib import chdir, nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile
import torch
from hear_scores import scores
from tones import write_tones

from eval_tasks.__main__ import main
from eval_tasks.heareval import adjustments, launch, rates

pytest.importorskip("heareval")
pytest.importorskip("hearvalidator")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # dozens of the old packages' own
    pytest.mark.usefixtures("one_thread"),
]

PLUGIN = '''
import torch

class Bands(torch.nn.Module):
    """Log energies in 32 bands of 250 Hz, one frame per 40 ms."""
    sample_rate = 16000
    scene_embedding_size = timestamp_embedding_size = 32

    def forward(self, audio):
        n_frames = max(1, (audio.shape[1] + 320) // 640)
        audio = torch.nn.functional.pad(audio, (0, n_frames * 640 - audio.shape[1]))
        power = torch.fft.rfft(audio.unfold(1, 640, 640)).abs().square()[..., 1:]
        return power.unflatten(-1, (32, 10)).mean(-1).add(1e-4).log()

def load_model(model_file_path="", **options):
    print("options", options)
    return Bands().eval()

def get_timestamp_embeddings(audio, model):
    frames = model(audio)
    stamps = (torch.arange(frames.shape[1], device=audio.device) + 0.5) * 40
    return frames, stamps.expand(len(frames), -1)

def get_scene_embeddings(audio, model):
    return model(audio).mean(1)
'''
BAD = {  # what is wrong: code that replaces a part of the plug-in, the message
    "in_seconds": (
        "def get_timestamp_embeddings(audio, model):\n"
        "    return model(audio), good.get_timestamp_embeddings(audio, model)[1] / 1000\n",
        "look like seconds",
    ),
    "in_float64": (
        "def get_scene_embeddings(audio, model):\n    return model(audio).mean(1).double()\n",
        "received torch.float64",
    ),
    "without_scenes": ("del get_scene_embeddings\n", "must include a function"),
}
OF_2021 = """
from librosa.filters import mel

def load_model(model_file_path=""):
    assert mel(16000, n_fft=512, n_mels=8).shape == (8, 257)
    return good.load_model()
"""
UNLOADED = {  # code that replaces load_model, the message
    "needs_a_file": (
        "def load_model(model_file_path):\n    return good.load_model()\n",
        "needs_a_file.load_model: missing a required argument: 'model_file_path'; HEAR lets it",
    ),
    "downloads": (
        "def load_model(model_file_path=''):\n    raise OSError('no network')\n",
        "downloads.load_model failed: no network",
    ),
}
HEAD = {"hidden_layers": 1, "hidden_dim": 64, "lr": 0.01}
HEAD |= {"max_epochs": 20, "patience": 5, "check_val_every_n_epoch": 5}
SPLITS, FOLDS = {"train": 12, "valid": 6, "test": 6}, {"fold00": 6, "fold01": 6, "fold02": 6}
EVENTS = {"embedding_type": "event", "prediction_type": "multilabel"}
BELLS = EVENTS | {"evaluation": ["event_onset_200ms_fms", "segment_1s_er"]}
NOTES = EVENTS | {"evaluation": ["event_onset_50ms_fms"], "split_mode": "new_split_kfold"}
NOTES |= {"use_scoring_for_early_stopping": False}
PLACES = {"embedding_type": "scene", "prediction_type": "multiclass", "evaluation": ["top1_acc"]}
TASKS = {  # clips per split, labels, metadata
    "bells": (SPLITS, ["bell", "horn"], BELLS),
    "notes": (FOLDS, [60, 72], NOTES),
    "places": (SPLITS, ["hall", "park", "road"], PLACES),
}


def write_task(folder: Path, sizes: dict[str, int], labels: list, metadata: dict) -> None:
    """Clips of 4 s: a tone of 600 ms every 1.3 s, or one throughout."""
    params = {"event_postprocessing_grid": {"median_filter_ms": [150], "min_duration": [50]}}
    params["task_specific_param_grid"] = {key: [value] for key, value in HEAD.items()}
    write_tones(
        folder,
        {split: [4.0] * count for split, count in sizes.items()},
        {label: 600.0 + 1000 * i for i, label in enumerate(labels)},
        **{"length_s": (0.6, 0.6), "every_s": 1.3, "names": "{part}{i}.wav"},
        **{"task_name": folder.name, "evaluation_params": params} | metadata,
    )


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A folder with the plug-ins, importable, and the `tasks`."""
    root = tmp_path_factory.mktemp("hear")
    (root / "bands_plugin.py").write_text(PLUGIN)
    good = "from bands_plugin import *\nimport bands_plugin as good\n"
    for name, (code, _) in (BAD | UNLOADED | {"of_2021": (OF_2021, "")}).items():
        (root / f"{name}.py").write_text(good + code)
    for name, task in TASKS.items():
        write_task(root / "tasks" / name, *task)
    sys.path.insert(0, str(root))
    yield root
    sys.path.remove(str(root))


@pytest.fixture(scope="session")
def embedded(work):
    """Embedding folders of the three tasks, computed by heareval."""
    with chdir(work):
        assert main(["heareval", "embeddings", "bands_plugin"]) == 0
    return work / "embeddings" / "bands_plugin"


@pytest.fixture
def copied(embedded, tmp_path, monkeypatch):
    """Copies one task's embeddings into an empty current folder."""
    monkeypatch.chdir(tmp_path)
    return lambda task: shutil.copytree(embedded / task, task)


def predict(*folders: str) -> int:
    return main(["heareval", "predictions", *folders, "--grid", "faster", "--grid-points", "1"])


def test_a_sound_plugin_looks_good_and_untrained_reaches_load_model(work, capsys):
    assert main(["validate", "bands_plugin", "-d", "cpu", "--untrained"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("Looks good!\n") and "options {'untrained': True}" in out
    assert main(["validate", "bands_plugin", "--device", "cpu", "-m", "weights.pt"]) == 0
    assert "with weights file: weights.pt\noptions {}" in capsys.readouterr().out


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_plugin_is_refused_in_one_line_and_debug_adds_the_traceback(name, work, capsys):
    assert main(["validate", name, "-d", "cpu"]) == 1
    out, err = capsys.readouterr()
    assert "Looks good!" not in out and err.count("\n") == 1 and BAD[name][1] in err
    assert main(["--debug", "validate", name, "-d", "cpu"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_events_scenes_and_folds_run_from_clips_to_scores(copied, work, capsys):
    folders = [copied(task) for task in TASKS]
    assert predict(*folders) == 0
    results = [scores(Path(folder)) for folder in folders]
    assert [f["metric"] for f in results] == [TASKS[task][2]["evaluation"][0] for task in TASKS]
    # Tones that are plain to see in the bands: a chain that mixes up times, labels or rows fails.
    assert all(f["score"] > 0.9 for f in results), results
    assert [f["std"] is not None for f in results] == [False, True, False]
    written = [Path(f, "test.predicted-scores.json").stat().st_mtime_ns for f in folders]
    capsys.readouterr()
    assert predict(*folders) == 0
    with chdir(work):
        assert main(["heareval", "embeddings", "bands_plugin"]) == 0
    assert "Getting embeddings" not in capsys.readouterr().out
    again = [Path(f, "test.predicted-scores.json").stat().st_mtime_ns for f in folders]
    assert again == written


def test_events_are_decoded_with_the_best_epochs_post_processing(copied, monkeypatch, capsys):
    folder = copied("bells")
    with monkeypatch.context() as without:
        without.setattr(launch, "epoch_of_best_model_kept", nullcontext)
        assert predict(folder) == 1
    assert "KeyError" in capsys.readouterr().err.splitlines()[-1]
    assert predict(folder) == 0
    decoded = pickle.loads(Path(folder, "test.predictions.pkl").read_bytes())["predicted_events"]
    assert any(decoded.values())


def test_only_heareval_checkpoints_gain_from_the_allowed_classes(copied, monkeypatch, capsys):
    with monkeypatch.context() as without:
        without.setattr(launch, "checkpoint_classes_allowed", nullcontext)
        assert predict(copied("places")) == 1
    assert "Weights only load failed" in capsys.readouterr().err.splitlines()[-1]
    torch.save({"run": SimpleNamespace()}, "other.pt")
    refused = pytest.raises(pickle.UnpicklingError, match="Weights only load failed")
    with adjustments.checkpoint_classes_allowed(), refused:
        torch.load("other.pt")
    assert torch.nn.Identity not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize("adjusted", [True, False])
def test_an_interrupt_never_leaves_scores_of_a_half_trained_model(copied, monkeypatch, adjusted):
    from pytorch_lightning.callbacks.early_stopping import EarlyStopping

    presses = iter([False, True])  # not before the first checkpoint

    def press(*_):
        if next(presses, False):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(EarlyStopping, "on_validation_end", press)
    if not adjusted:
        monkeypatch.setattr(launch, "interrupt_ends_the_run", nullcontext)
    folder = copied("places")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert predict(folder) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert Path(folder, "prediction-done.json").exists() is not adjusted


def test_pkg_resources_is_replaced_only_where_it_is_missing(copied):
    from hear_ptsed.metrics import events

    with events.pkg_resources_stand_in():
        module = importlib.import_module("pkg_resources")
    assert hasattr(module, "require") is (find_spec("pkg_resources") is not None)
    code = """
import sys, torch
torch.set_num_threads(1)
sys.modules["pkg_resources"] = None
try:
    import pytorch_lightning
except ModuleNotFoundError as error:
    print(error)
from eval_tasks.__main__ import main
sys.exit(main(["heareval", "predictions", "places", "--grid", "faster", "--grid-points", "1"]))
"""
    copied("places")
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert run.returncode == 0 and "pkg_resources halted" in run.stdout, run.stderr
    assert scores(Path("places"))["score"] > 0.9


def test_help_and_usage_errors_are_hearevals_own(capsys):
    assert main(["heareval", "predictions", "--help"]) == 0
    assert "--grid-points" in capsys.readouterr().out
    assert main(["heareval", "predictions", "x", "--grid-dots", "1"]) == 2
    assert "--grid-dots" in capsys.readouterr().err
    for wrong in (["heareval"], ["validate", "m", "--fast"], ["validate", "m", "--model"], []):
        with pytest.raises(SystemExit) as end:
            main(wrong)
        assert end.value.code == 2


def test_folders_that_heareval_would_stumble_over_are_named_before_it_runs(
    work, tmp_path, monkeypatch, capsys
):
    def refusal(*options: str) -> str:
        assert main(["heareval", "embeddings", "bands_plugin", *options]) == 1
        assert not Path("embeddings").exists()
        return capsys.readouterr().err

    monkeypatch.chdir(tmp_path)
    shutil.copytree(work / "tasks/places", "tasks/places")
    Path("tasks/.DS_Store").touch()
    assert ".DS_Store is not a task folder" in refusal()
    assert "tasks has places" in refusal("--task", "place")
    assert "no tasks folder task" in refusal("--tasks-dir", "task")
    train = Path("tasks/places/16000/train").rename("train")
    assert "no audio in 16000/train" in refusal("--task", "places")
    Path("tasks/places/16000").rename("elsewhere")
    assert "no audio in 16000/train" in refusal("--task", "places")
    with pytest.raises(ValueError, match="must be an int"):
        rates.provide_audio(Path("tasks/places"), 48000.0)
    assert predict("tasks/places") == 1
    assert "no finished embeddings" in capsys.readouterr().err
    Path("elsewhere").rename("tasks/places/16000")
    train.rename("tasks/places/16000/train")
    assert main(["heareval", "embeddings", "bands_plugin", "--task", "places"]) == 0


def test_audio_at_another_rate_is_made_whole_or_not_at_all(work, tmp_path, caplog):
    folder = Path(shutil.copytree(work / "tasks/places", tmp_path / "places"))
    clip = folder / "16000" / "test" / "test5.wav"
    whole = clip.read_bytes()
    clip.unlink()
    with pytest.raises(FileNotFoundError, match="test5.wav"):
        rates.provide_audio(folder, 44100)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["16000"]
    clip.write_bytes(whole)
    rates.provide_audio(folder, 44100)
    assert "44100 Hz are made of 16000 Hz" in caplog.text
    for split in SPLITS:
        for clip in (folder / "16000" / split).iterdir():
            made, rate = soundfile.read(folder / "44100" / split / clip.name)
            audio, _ = soundfile.read(clip)
            assert rate == 44100 and len(made) == 44100 * 4
            assert made.std() == pytest.approx(audio.std(), rel=0.01)
    before = clip.stat().st_mtime_ns
    made = folder / "44100" / "test" / "test5.wav"
    made.write_bytes(b"kept")
    rates.provide_audio(folder, 44100)
    assert made.read_bytes() == b"kept" and clip.stat().st_mtime_ns == before


def test_a_module_of_2021_runs_and_one_that_cannot_be_loaded_is_named(work, capsys):
    assert main(["validate", "of_2021", "-d", "cpu"]) == 0
    assert capsys.readouterr().out.endswith("Looks good!\n")
    with pytest.raises(TypeError, match="positional"):  # librosa is as it was
        importlib.import_module("librosa.filters").mel(16000, n_fft=512)
    for name, (_, message) in UNLOADED.items():
        assert main(["validate", name, "-d", "cpu"]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and message in said
    assert main(["validate", "needs_a_file", "-d", "cpu", "-m", "weights.pt"]) == 0


@pytest.mark.parametrize(
    ("rows", "refused"),
    [
        ({"train": 1025, "valid": 9, "test": 9}, "1025 training rows"),
        ({"train": 1026, "valid": 1, "test": 1}, None),
        ({"fold00": 30, "fold01": 30, "fold02": 400, "fold03": 625}, "1025 training rows"),
        ({"fold00": 30, "fold01": 400, "fold02": 625, "fold03": 30}, "1025 training rows"),
        ({"fold00": 500, "fold01": 10, "fold02": 525, "fold03": 10}, None),
    ],
)
def test_a_last_batch_of_one_row_is_refused(rows, refused, tmp_path):
    (tmp_path / ".done.embeddings").touch()
    mode = "trainvaltest" if "train" in rows else "new_split_kfold"
    metadata = {"split_mode": mode, "splits": list(rows)}
    (tmp_path / "task_metadata.json").write_text(json.dumps(metadata))
    for split, n_rows in rows.items():
        (tmp_path / f"{split}.embedding-dimensions.json").write_text(json.dumps([n_rows, 8]))
    with pytest.raises(ValueError, match=refused) if refused else nullcontext():
        launch.check_embeddings(tmp_path)
