"""Ensembles of checkpoints, and the making of files of pseudo labels."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from pseudo_label_parts import CLASSES, ID, published

import hear_ptsed
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.detect import DetectorOptions
from hear_ptsed.labels import load_labels
from hear_ptsed.registry import build
from training import ensemble
from training.data.clips import open_clips
from training.data.pseudo_labels import PseudoLabels
from training.ensemble import Ensemble, process

# Files are compared bit by bit, so every process must sum in the same order.
pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[1]


def write_pseudo_labels(models, clips, out, rank=None, world=None, **settings) -> dict:
    """`ensemble.write_pseudo_labels` on the CPU, where each option has a name."""
    names = ("batch", "precision", "device")
    options = {"device": "cpu", "batch": 32} | {k: v for k, v in settings.items() if k in names}
    settings = {k: v for k, v in settings.items() if k not in names}
    share = None if rank is None else (rank, world)
    return ensemble.write_pseudo_labels(
        models, clips, out, options=DetectorOptions(**options), share=share, **settings
    )


# Ensembles


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> list[Path]:
    """Two different models; the second has more classes in another order."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    models = [
        (build("frame_mn02", 3, "bigru", dim=8, layers=1), CLASSES),
        (build("frame_mn04", 5, head="attention"), ["Bell", "Cat", "Speech", "Dog", "Saw"]),
    ]
    paths = []
    for i, (model, classes) in enumerate(models):
        for layer in model.modules():  # statistics that no initialisation gives
            if isinstance(layer, torch.nn.BatchNorm2d):
                torch.nn.init.normal_(layer.running_mean, std=0.1)
        paths.append(folder / f"{i}.pt")
        save_checkpoint(model, paths[-1], classes=classes)
    return paths


def logits_by_hand(paths: list[Path], audio: torch.Tensor) -> torch.Tensor:
    """Mean over the models on CLASSES: audio (S,) at 16 kHz -> (3, 250)."""
    audio = torch.nn.functional.pad(audio, (0, 160000))[None, :160000]
    logits = []
    for path in paths:
        model = hear_ptsed.load(checkpoint=path)
        with torch.no_grad():
            strong = model(audio).strong[0].double()
        logits.append(strong[[model.classes.index(name) for name in CLASSES]])
    return torch.stack(logits).mean(0)


def test_an_ensemble_is_the_mean_of_logits_matched_by_class_name(checkpoints):
    models = [hear_ptsed.load(checkpoint=path) for path in checkpoints]
    torch.manual_seed(1)
    audio = torch.randn(2, 160000) * 0.1
    for order in (models, models[::-1]):
        both = Ensemble([model.train() for model in order], ["a", "b"])
        with torch.no_grad():
            got = both(audio)
        assert both.classes == CLASSES and got.shape == (2, 3, 250) and got.dtype == torch.float32
        for row, clip in zip(got, audio, strict=True):
            want = logits_by_hand(checkpoints, clip).float()
            torch.testing.assert_close(row, want, atol=1e-5, rtol=1e-5)


def test_models_that_do_not_fit_together_are_refused_by_name(checkpoints, tmp_path):
    def saved(n, classes=None, **options):
        save_checkpoint(build("frame_mn02", n), tmp_path / "m.pt", classes, **options)
        return hear_ptsed.load(checkpoint=tmp_path / "m.pt")

    first = hear_ptsed.load(checkpoint=checkpoints[0])
    for bad, match in (
        (saved(3, ["Speech", "Dog", "Cat"]), "^bad lacks Bell, classes of good"),
        (saved(3), "^bad does not name its 3 classes"),
        (saved(3, CLASSES, heads=["weak_head"]), "^bad has no trained strong head, but a weak one"),
        (saved(None), "^bad has no trained strong head;"),
    ):
        with pytest.raises(ValueError, match=match) as caught:
            Ensemble([first, bad], ["good", "bad"])
        assert "\n" not in str(caught.value)
    assert Ensemble([saved(447)], ["released"]).classes == load_labels()


# Writing


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Seven clips of several rates and lengths, two of them unreadable."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for name, rate, seconds in (
        (f"Y{ID}", 16000, 10.0),
        ("long", 32000, 12.5),
        ("short", 44100, 3.3),
        ("tiny", 16000, 0.01),
        ("zz", 32000, 10.0),
    ):
        audio = 0.2 * rng.standard_normal(round(rate * seconds))
        soundfile.write(folder / f"{name}.wav", audio, rate)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "noise.mp3").write_bytes(rng.bytes(3000))
    return folder


def inside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(path: Path) -> dict:
    with h5py.File(path) as file:
        return {name: np.array(file[name]).tolist() for name in file} | dict(file.attrs)


@pytest.fixture(scope="module")
def whole(checkpoints, folder, tmp_path_factory) -> Path:
    """All clips of the folder by one process."""
    out = tmp_path_factory.mktemp("whole") / "p.h5"
    write_pseudo_labels(checkpoints, [open_clips(folder)], out, device="cpu", block=3, batch=2)
    return out


def test_a_file_holds_the_mean_logits_of_the_first_ten_seconds(whole, checkpoints, folder):
    labels = PseudoLabels(whole)
    assert labels.names == [f"Y{ID}", "long", "short", "tiny", "zz"]
    assert labels.classes == CLASSES and labels.find(f"{ID}.mp3") == 0
    for i, name in enumerate(labels.names):
        audio, rate = soundfile.read(folder / f"{name}.wav", dtype="float32")
        audio = torch.from_numpy(audio[: 10 * rate])
        if rate != 16000:
            audio = torchaudio.transforms.Resample(rate, 16000, "sinc_interp_kaiser")(audio)
        want = logits_by_hand(checkpoints, audio)
        error = (torch.from_numpy(labels.read(i)).double() - want).abs().max()
        assert error < 1e-3 * max(1.0, want.abs().max())
    assert want.std() > 1e-3  # the models do tell frames apart


def test_a_file_has_the_published_layout_and_says_how_it_was_made(whole, checkpoints):
    with h5py.File(whole) as file:
        data = file["strong_logits"]
        assert (data.shape, data.chunks, data.compression) == ((5, 3, 250), (1, 3, 250), None)
        assert data.dtype == np.float16 and file["filenames"].dtype.kind == "S"
        settings, report = file.attrs["settings"], file["report"].asstr()[()]
    for part in ('"file": "0.pt"', '"sha256": "', "hear_ptsed 0.", '"precision": "float32"'):
        assert part in settings
    assert '"expected": 7, "found": 7, "written": 5' in report
    assert '"empty": "not readable as audio' in report
    assert not list(whole.parent.glob(".*"))


def test_the_report_lists_missing_and_unreadable_clips(checkpoints, folder, tmp_path):
    keys = {"x/Ygone.mp3", "long.wav", ID, "noise", "also gone"}
    arguments = (checkpoints[:1], [open_clips(folder)], tmp_path / "p.h5")
    report = write_pseudo_labels(*arguments, keys=keys, device="cpu")
    reason = report["unreadable"].pop("noise")
    assert "not readable as audio" in reason
    assert report == {
        "expected": 5,
        "found": 3,
        "written": 2,
        "missing": ["also gone", "x/Ygone.mp3"],
        "unreadable": {},
        "parts_left": 0,
    }
    assert PseudoLabels(tmp_path / "p.h5").names == [f"Y{ID}", "long"]
    again = write_pseudo_labels(*arguments, keys=keys, device="cpu")
    assert again == report | {"unreadable": {"noise": reason}}
    with pytest.raises(ValueError, match="none of the 1 clips wanted is in the sources"):
        write_pseudo_labels(*arguments, keys=["gone"])


@pytest.mark.parametrize("plan", [((0, 2), (1, 2)), ((2, 3), (0, 3), (1, 3)), ((1, 2), (0, 1))])
def test_any_number_of_processes_makes_the_same_file(plan, whole, checkpoints, folder, tmp_path):
    out = tmp_path / "p.h5"
    for rank, world in plan:
        assert not out.exists()
        report = write_pseudo_labels(
            checkpoints,
            [open_clips(folder)],
            out,
            device="cpu",
            block=3,
            batch=2,
            rank=rank,
            world=world,
        )
        assert (report["parts_left"] == 0) == ((rank, world) == plan[-1])
    assert out.read_bytes() == whole.read_bytes() and inside(tmp_path) == ["p.h5"]


def test_processes_find_their_rank(monkeypatch):
    for name in [n for n in os.environ if n.startswith(("SLURM_", "RANK", "WORLD_SIZE", "LOCAL_"))]:
        monkeypatch.delenv(name)
    assert process() == (0, 1, 0)
    for name, value in (("PROCID", 0), ("NTASKS", 4), ("LOCALID", 0)):  # a batch script itself
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert process() == (0, 1, 0)
    for name, value in (("PROCID", 5), ("STEP_NUM_TASKS", 8), ("LOCALID", 1)):
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert process() == (5, 8, 1)
    for name, value in (("RANK", 2), ("WORLD_SIZE", 3), ("LOCAL_RANK", 2)):
        monkeypatch.setenv(name, str(value))
    assert process() == (2, 3, 2)


def test_parts_and_files_of_other_settings_are_refused(checkpoints, folder, tmp_path, monkeypatch):
    out, clips = tmp_path / "p.h5", [open_clips(folder)]
    half = {"device": "cpu", "block": 3, "rank": 0, "world": 2}
    write_pseudo_labels(checkpoints, clips, out, **half)
    for change, match in (
        (
            {"block": 4},
            r"was made with block 3 \(asked: 4\); delete .*p\.h5.*, or use another name",
        ),
        ({"precision": "bfloat16"}, "was made with precision "),
        ({"keys": ["long"]}, "was made with clips "),
        ({"models": checkpoints[:1]}, "was made with checkpoints "),
    ):
        changed = {"models": checkpoints, "clips": clips, "out": out} | half | change
        with pytest.raises(FileExistsError, match=match):
            write_pseudo_labels(**changed)
    write_pseudo_labels(checkpoints, clips, out, **half | {"rank": 1})
    before = out.read_bytes()
    with pytest.raises(
        FileExistsError, match=r"p\.h5 was made with precision float32 \(asked: bfloat16\)"
    ):
        write_pseudo_labels(checkpoints, clips, out, **half | {"precision": "bfloat16"})
    foreign = published(tmp_path / "foreign.h5", ["a"])
    with pytest.raises(FileExistsError, match=r"foreign\.h5 was not made here"):
        write_pseudo_labels(checkpoints, clips, foreign, **half)
    # complete: nothing is computed again, and what a killed process left goes
    (tmp_path / ".p.h5.parts").mkdir()
    monkeypatch.setattr(ensemble, "load", None)
    assert write_pseudo_labels(checkpoints, clips, out, **half)["written"] == 5
    assert out.read_bytes() == before and not (tmp_path / ".p.h5.parts").exists()


def test_a_damaged_part_is_deleted_and_then_replaced(whole, checkpoints, folder, tmp_path):
    out, clips = tmp_path / "p.h5", [open_clips(folder)]
    options = {"device": "cpu", "block": 3, "batch": 2}
    write_pseudo_labels(checkpoints, clips, out, rank=1, world=2, **options)
    part = tmp_path / ".p.h5.parts" / "000001.npy"
    middle = part.stat().st_size // 2
    for damaged in (part.read_bytes()[:middle], b""):
        part.write_bytes(damaged)
        with pytest.raises(RuntimeError, match=r"000001\.npy was damaged and is deleted; run the"):
            write_pseudo_labels(checkpoints, clips, out, **options)
        assert not part.exists() and not out.exists()
        write_pseudo_labels(checkpoints, clips, out, rank=1, world=3, **options)
        out.unlink()
        write_pseudo_labels(checkpoints, clips, out, rank=1, world=2, **options)
    write_pseudo_labels(checkpoints, clips, out, **options)
    assert out.read_bytes() == whole.read_bytes()


def test_two_processes_that_finish_at_once_both_report(checkpoints, folder, tmp_path, monkeypatch):
    out, clips = tmp_path / "p.h5", [open_clips(folder)]
    make_file = ensemble.Writer.make_file

    def overtaken(self, path, facts, report):
        monkeypatch.setattr(ensemble.Writer, "make_file", make_file)
        self.merge()  # the other process is faster
        make_file(self, path, facts, report)

    monkeypatch.setattr(ensemble.Writer, "make_file", overtaken)
    report = write_pseudo_labels(checkpoints, clips, out, device="cpu", block=3)
    assert (report["written"], report["parts_left"]) == (5, 0)
    assert inside(tmp_path) == ["p.h5"] and len(PseudoLabels(out)) == 5


def test_impossible_requests_are_refused_in_one_line(checkpoints, folder, tmp_path):
    clips = [open_clips(folder)]
    for i, (models, options, match) in enumerate(
        (
            (checkpoints, {"rank": 2, "world": 2}, "rank 2 of 2"),
            (
                checkpoints,
                {"precision": "float64"},
                "'float64'; it must be 'float32' or 'bfloat16'",
            ),
            (checkpoints, {"batch": 0}, "batch is 0; it must be greater than or equal to 1"),
            (checkpoints, {"device": "warp"}, "device 'warp' cannot be used here"),
            (
                checkpoints,
                {"keys": ["noise", "empty"]},
                "none of 2 clips is readable; empty: not readable as audio",
            ),
            ([], {}, "no checkpoints; give at least one"),
            (checkpoints[:1] * 2, {}, "is given twice"),
            ([tmp_path / "absent.pt"], {}, r"absent\.pt: no such file"),
        )
    ):
        out = tmp_path / f"{i}.h5"
        with pytest.raises((ValueError, RuntimeError, FileNotFoundError), match=match) as caught:
            write_pseudo_labels(models, clips, out, **{"device": "cpu"} | options)
        assert "\n" not in str(caught.value) and not out.exists()


def test_logits_beyond_float16_are_not_written(folder, tmp_path):
    model = build("frame_mn02", 3)
    torch.nn.init.constant_(model.head.strong_head.bias, 1e5)
    save_checkpoint(model, tmp_path / "m.pt", classes=CLASSES)
    with pytest.raises(RuntimeError, match="logits of long are NaN or beyond the range of float16"):
        write_pseudo_labels(
            [tmp_path / "m.pt"], [open_clips(folder)], tmp_path / "p.h5", keys=["long"]
        )
    assert not (tmp_path / "p.h5").exists()


def test_bfloat16_changes_only_the_models_that_bear_it(checkpoints, whole, folder, tmp_path):
    options = {"device": "cpu", "block": 3, "batch": 2, "precision": "bfloat16"}
    write_pseudo_labels(checkpoints, [open_clips(folder)], tmp_path / "p.h5", **options)
    got, want = (np.array(content(path)["strong_logits"]) for path in (tmp_path / "p.h5", whole))
    assert np.array_equal(got, want)  # frame_mn stays in float32
