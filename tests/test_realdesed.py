"""RealDESED from its archives, of a few clips, to a record and the board; what is refused."""

import csv
import io
import json
import re
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from eval_tasks.__main__ import main
from eval_tasks.fit.recipe import recipe
from eval_tasks.score import rate_groups
from eval_tasks.tasks import find_task
from eval_tasks.tasks.base import open_task
from eval_tasks.tasks.realdesed import groups_of
from eval_tasks.tasks.realdesed_labels import CLASSES
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.metrics.predictions import Predictions
from hear_ptsed.metrics.records import read_record
from hear_ptsed.metrics.score import score
from hear_ptsed.registry import build
from leaderboards.__main__ import main as leaderboards

pytestmark = pytest.mark.usefixtures("one_thread")

METADATA = (
    *("filename", "target_classes", "non_target_classes", "recording_device", "device_placement"),
    *("recording_environment", "scene_description", "license"),
)
RAW = "annotator_id,annotator_is_creator,review_status,reviewer_id"
FOLDER = "realdesed-2026-weighted_reviewed"
METRICS = ["psds1_macro", "psds1", "psds2_nocross_macro", "psds2_nocross", "pauroc"]


def wav(seconds: float, rate: int, channels: int = 1) -> bytes:
    """One second of each class: a tone of its own."""
    t = np.arange(round(seconds * rate)) / rate
    pitch = 200 * 1.15 ** np.minimum(t.astype(int), len(CLASSES))
    audio = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / rate)
    stream = io.BytesIO()
    soundfile.write(stream, np.tile(audio[:, None], channels), rate, format="WAV")
    return stream.getvalue()


def table(*rows: tuple) -> bytes:
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows(rows)
    return stream.getvalue().encode()


def about(file: str, device: str, placement: str, rooms: str) -> tuple:
    return file, "keychain", "", device, placement, rooms, 'A "quoted", text', "CC0"


def one_by_one(file: str, *classes: str) -> list[tuple]:
    """A class each second; the first of its events touches the next, and they overlap."""
    rows = [(file, i, i + 0.8, label) for i, label in enumerate(classes)]
    return rows + [(file, 0.8, 0.9, classes[0]), (file, 0.85, 0.95, classes[0])]


def archives() -> dict[str, dict[str, bytes]]:
    """Archive -> member -> content: three training clips, two to validate, three to test."""
    event = ("filename", "onset", "offset", "class")
    raw = [
        (*event, *RAW.split(",")),
        ("000001.wav", 1.0, 2.0, "keychain", "ann", "True", "unreviewed", ""),
        ("000001.wav", 1.0, 2.0, "keychain", "ann", "True", "unreviewed", ""),
        ("000001.wav", 1.0, 3.0, "keychain", "bob", "False", "unreviewed", ""),
        ("000001.wav", 5.0, 6.0, "footsteps", "eve", "False", "rejected", "ada"),
        ("000002.wav", 0.0, 4.0, "microwave", "bob", "False", "unreviewed", ""),
        ("000002.wav", 2.0, 4.0, "microwave", "ada", "False", "accepted", "ada"),
        *((*row, "bob", "False", "unreviewed", "") for row in one_by_one("000005.wav", *CLASSES)),
        ("000004.wav", 0.0, 4.0, "microwave", "eve", "False", "rejected", "ada"),
    ]
    made = {}
    rows = [about(f"00000{i}.wav", "iPhone 14", "static", "kitchen") for i in (1, 2, 4, 5)]
    made["train.zip"] = {
        "train/metadata.csv": table(METADATA, *rows),
        "train/annotations_raw.csv": table(*raw),
        "train/audio/000001.wav": wav(13, 44100, 2),
        "train/audio/000002.wav": wav(12.03, 16000),
        "train/audio/000005.wav": wav(15, 16000),
        "__MACOSX/train/._metadata.csv": b"\0",
    }
    rows = [about("000010.wav", "", "mobile", ""), about("000011.wav", "Pixel_7", "Static", "hall")]
    made["validation.zip"] = {  # its contents at the top
        "metadata.csv": table(METADATA, *rows),
        "annotations.csv": table(event, *one_by_one("000010.wav", *CLASSES)),
        "audio/000010.wav": wav(15.01, 16000),
        "audio/000011.wav": wav(12, 16000),
    }
    rows = [
        about("000020.wav", "iPhone 14 Pro", "static", "Living room;kitchen"),
        about("000021.wav", "Samsung-Galaxy", "STATIC", "kitchen ; "),
        about("000022.wav", "a brick", "mobile", "living_room"),
    ]
    events = [*one_by_one("000020.wav", *CLASSES[:12]), *one_by_one("000021.wav", *CLASSES[9:])]
    events += one_by_one("000022.wav", "keychain", "footsteps") + [
        ("000022.wav", 9, 99, "microwave")
    ]
    made["test.zip"] = {
        "test/metadata.csv": table(METADATA, *rows),
        "test/annotations.csv": table(event, *events),
        "test/audio/000020.wav": wav(12.5, 16000),
        "test/audio/000021.wav": wav(15, 22050),
        "test/audio/000022.wav": wav(12, 16000),
    }
    return made


def write(folder: Path, made: dict[str, dict[str, bytes]]) -> list[str]:
    """The archives on disk, as options of `prepare`."""
    folder.mkdir(exist_ok=True)
    options = []
    for name, members in made.items():
        with zipfile.ZipFile(folder / name, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        options += ["--source", str(folder / name)]
    return options


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("realdesed")
    options = write(root / "download", archives())
    assert main(["prepare", "realdesed", "--tasks-dir", str(root / "tasks"), *options]) == 0
    return root


def test_the_archives_become_a_folder_of_clips_with_soft_labels(prepared):
    data = open_task(find_task("realdesed"), prepared / "tasks" / FOLDER)
    assert (data.classes, data.version, data.coverage) == (CLASSES, FOLDER, None)
    train = data.parts["train"]
    assert train.samples == {
        "000001.wav": 13 * 16000, "000002.wav": round(12.03 * 16000), "000005.wav": 15 * 16000
    }  # fmt: skip
    first, second = train.events["000001.wav"]
    assert (first["start"], first["end"], first["value"]) == (1000.0, 2000.0, 1.0)
    assert (second["start"], second["end"]) == (2000.0, 3000.0) and second["value"] == 0.5
    assert train.events["000002.wav"] == [
        {"label": "microwave", "start": 2000.0, "end": 4000.0, "value": 1.0}
    ]
    assert [*data.parts["valid"].events] == ["000010.wav"]  # the other has no annotation
    test = data.parts["test"]
    assert test.events["000022.wav"][-1]["end"] == 12_000.0
    assert test.groups["000020.wav"] == [
        *("placement static", "device ios", "environment kitchen", "environment living_room")
    ]
    manifest = json.loads((data.folder / "manifest.json").read_text())
    of_train = json.loads((data.folder / "coverage.json").read_text())["parts"]["train"]
    assert (of_train["in_metadata"], of_train["listed"], of_train["there"]) == (4, 3, 3)
    size = (prepared / "download" / "test.zip").stat().st_size
    assert manifest["archives"]["test.zip"]["bytes"] == size
    assert len(manifest["archives"]["test.zip"]["sha256"]) == 64
    assert "Living room" in (data.folder / "test_metadata.csv").read_text()
    quality = {
        q["annotator_id"]: q
        for q in json.loads((data.folder / "annotator_quality.json").read_text())
    }
    assert quality.keys() == {"ann", "bob"} and quality["ann"]["clips"] == 1
    assert quality["ann"]["score"] == pytest.approx(2 / 3)


def test_unpacked_folders_and_another_rule_make_another_folder(prepared, tmp_path):
    for name in ("train", "validation", "test"):
        with zipfile.ZipFile(prepared / "download" / f"{name}.zip") as archive:
            archive.extractall(tmp_path / "in" / (name if name == "validation" else ""))
    options = ["--source", str(tmp_path / "in"), "--labels", "majority"]
    options += ["--sample-rate", "48000"]
    assert main(["prepare", "realdesed", "--tasks-dir", str(tmp_path), *options]) == 0
    made = tmp_path / "realdesed-2026-majority"
    assert json.loads((made / "manifest.json").read_text())["settings"]["sample_rate"] == [48000]
    seconds = [
        {clip.name: soundfile.info(clip).duration for clip in (made / rate).rglob("*.wav")}
        for rate in ("16000", "48000")
    ]
    assert seconds[1] == pytest.approx(seconds[0], abs=1e-3)
    data = open_task(find_task("realdesed"), tmp_path / "realdesed-2026-majority")
    assert [e["end"] for e in data.parts["train"].events["000001.wav"]] == [3000.0]
    assert data.parts["train"].events["000002.wav"][0]["start"] == 0.0
    archived = open_task(find_task("realdesed"), prepared / "tasks" / FOLDER)
    assert data.parts["test"].events == archived.parts["test"].events


@pytest.mark.parametrize(
    ("device", "group"),
    [
        *(("iPhone 14 Pro", "ios"), ("Iphone15", "ios"), ("I-Pad", "ios"), ("IPHON_x", "ios")),
        *(("CMF by Nothing Phone 3", "android"), ("OnePluss", "android"), ("Cat S62", "android")),
        *(("", "other"), ("Cat phone", "other"), ("Zoom H4", "other"), ("MOTO_G", "android")),
    ],
)
def test_devices_fall_into_three_groups(device, group):
    row = {"recording_device": device, "device_placement": "", "recording_environment": " ;"}
    assert groups_of(row) == [f"device {group}"]


def changed(name: str, member: str, content: bytes | None = None, *replaced: bytes) -> dict:
    made = archives()
    if replaced:
        assert replaced[0] in made[name][member]
        made[name][member] = made[name][member].replace(*replaced)
    elif content is None:
        del made[name][member]
    else:
        made[name][member] = content
    return made


BAD = {
    "a clip is missing": (
        lambda: changed("test.zip", "test/audio/000021.wav"),
        r"test.audio: 1 clips \(000021.wav\) missing; complete the download",
    ),
    "an unknown label": (
        lambda: changed("test.zip", "test/annotations.csv", None, b"microwave", b"oven"),
        r"annotations.csv, line \d+: unknown label 'oven'; known: bell_ringing, ",
    ),
    "a time that is none": (
        lambda: changed("train.zip", "train/annotations_raw.csv", None, b",5.0,6.0", b",6.0,5.0"),
        r"line 5: times '6.0' and '5.0'; expected seconds, 0 <= onset <= offset",
    ),
    "another status": (
        lambda: changed("train.zip", "train/annotations_raw.csv", None, b"rejected", b"denied"),
        r"review_status 'denied', .*; expected one of accepted, rejected, unreviewed",
    ),
    "metadata is not UTF-8": (
        lambda: changed("test.zip", "test/metadata.csv", None, b"a brick", b"a br\xefck"),
        r"test.zip/test/metadata.csv: not UTF-8 .*; save the table as UTF-8",
    ),
    "a column is missing": (
        lambda: changed("validation.zip", "metadata.csv", None, b"device_placement", b"place"),
        r"metadata.csv has no column device_placement",
    ),
    "a clip's name leads out": (
        lambda: changed("test.zip", "test/metadata.csv", None, b"000022.wav", b"../22.wav"),
        r"filename '../22.wav' is no name of a file; correct the table",
    ),
    "a clip comes twice": (
        lambda: changed("test.zip", "test/metadata.csv", None, b"000022.wav", b"000021.wav"),
        r"line 4: filename '000021.wav' comes twice",
    ),
    "a member points outside": (
        lambda: changed("train.zip", "train/../../audio/x.wav", b""),
        r"train.zip is damaged \(its member 'train/../../audio/x.wav' points outside\)",
    ),
    "no annotation is used": (
        lambda: changed("test.zip", "test/annotations.csv", b"filename,onset,offset,class\n"),
        r"test.zip/test: none of the 3 clips in metadata.csv has annotations that are used",
    ),
    "no test part": (
        lambda: {k: v for k, v in archives().items() if k != "test.zip"},
        r"none is test.zip or has a folder test with metadata.csv; give train, validation and test",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named_in_one_line_and_nothing_is_left(case, tmp_path, capsys):
    make, message = BAD[case]
    refused(write(tmp_path / "download", make()), tmp_path, capsys, message)


def refused(options: list[str], folder: Path, capsys, message: str) -> None:
    code = main(["prepare", "realdesed", "--tasks-dir", str(folder / "tasks"), *options])
    said = capsys.readouterr().err.splitlines()[-1]
    assert code == 1 and re.search(message, said), said
    assert not [*(folder / "tasks").rglob("*.wav"), *(folder / "tasks").rglob("*.json")]


@pytest.mark.parametrize("left", [0.5, 0.98])
def test_a_torn_archive_is_named(left, tmp_path, capsys):
    options = write(tmp_path / "download", archives())
    torn = tmp_path / "download" / "test.zip"
    torn.write_bytes(torn.read_bytes()[: int(left * torn.stat().st_size)])
    refused(options, tmp_path, capsys, r"test.zip is damaged \(.*\); download it again")


def test_a_clip_that_cannot_be_read_is_counted(tmp_path, capsys):
    made = changed("test.zip", "test/audio/000022.wav", b"RIFF no audio at all")
    options = write(tmp_path / "download", made)
    assert main(["prepare", "realdesed", "--tasks-dir", str(tmp_path), *options]) == 0
    line = "test: 2 of 3 clips (missing 1, 33.3 %)"
    assert capsys.readouterr().out == f"{tmp_path / FOLDER}\n{line}\n"
    parts = json.loads((tmp_path / FOLDER / "coverage.json").read_text())["parts"]
    assert "000022.wav" in parts["test"]["unreadable"][0]


def test_the_recipe_is_the_published_one():
    tuned = recipe(find_task("realdesed"), "finetuned")
    optim, augment = asdict(tuned.optim), asdict(tuned.augment)
    expected = {"name": "adamw", "lr": 4e-5, "weight_decay": 1e-3, "vector_decay": 1e-3}
    expected |= {"schedule": "cosine", "warmup_steps": 1000, "batch": 48, "layer_decay": 1.0}
    assert optim | expected | {"clip_norm": 0.0} == optim
    assert augment | {"mixup_p": 0.5, "mixup_alpha": 0.2, "warp_p": 0.5, "warp_min": 0.6} == augment
    others = ("wavmix_p", "frame_shift", "mixstyle_p", "filter_p", "time_mask")
    assert augment | dict.fromkeys(others, 0.0) == augment


def test_groups_are_scored_as_their_clips_alone(prepared):
    task = find_task("realdesed")
    part = open_task(task, prepared / "tasks" / FOLDER).parts["test"]
    rng = np.random.default_rng(0)
    said = {f: 0.5 * rng.random((part.frames(f), 15)) + 0.5 * part.targets(f) for f in part.files}
    groups = rate_groups(task, part, said)
    alone = Predictions(
        CLASSES,
        *({f: of[f] for f in part.files[:2]} for of in (part.events, part.durations_s, said)),
        median_frames=9,
        median_edges="copied",
    )
    expected = score(alone, METRICS).scores
    assert groups == {name: expected for name in ("environment kitchen", "placement static")}
    assert expected["psds1_macro"] > 0.1
    assert rate_groups(task, part.of_group("placement mobile"), said) == {}  # lacks classes


@pytest.mark.parametrize(
    ("protocol", "decoder"), [("linear", "median"), ("finetuned", "median"), ("linear", "sebb")]
)
def test_a_run_ends_in_a_record_with_groups_and_on_the_board(prepared, tmp_path, protocol, decoder):
    options = ["--module", "eval_tasks.logmel"]
    if protocol == "finetuned":
        torch.manual_seed(0)
        save_checkpoint(build("frame_mn02", n_classes=None).eval(), tmp_path / "mn02.pt")
        options = ["--module", "checkpoint", "--checkpoint", str(tmp_path / "mn02.pt")]
    numbers = "optim.batch=2 optim.epochs=1 optim.warmup_steps=1 fit.check_every_epochs=1"
    for number in numbers.split():
        options += ["--set", number]
    options += ["--tasks-dir", str(prepared / "tasks"), "--results", str(tmp_path / "results")]
    options += ["--task", "realdesed", "--protocol", protocol, "--work", str(tmp_path / "work")]
    options += ["--decoder", decoder]
    assert main(["run", "--device", "cpu", *options]) == 0
    (path,) = (tmp_path / "results").rglob("*.json")
    record = read_record(path)
    assert [*record.scores] == METRICS and record.primary == "psds1_macro" and record.clips == 3
    smoothing = {"median_frames": 9, "median_edges": "copied"}
    kept = record.settings["psds1_macro"]
    assert (kept == smoothing) == (decoder == "median") == ("SEBB" not in str(record.conventions))
    assert record.hyperparameters["stitch"] == {"hop_s": 5.0, "floor": 0.3, "average": "logits"}
    # The brick and the living room lack a class, as does each telephone alone.
    assert [*record.groups] == ["environment kitchen", "placement static"]
    assert [*record.groups["placement static"]] == METRICS
    assert all(0 <= value <= 1 for value in record.groups["environment kitchen"].values())
    assert leaderboards(["build", str(tmp_path / "results"), "--out", str(tmp_path / "site")]) == 0
    page = next(p for p in (tmp_path / "site").rglob("*.html") if record.identity in p.name)
    assert "Per group of clips" in page.read_text() and "environment kitchen" in page.read_text()
    board = (tmp_path / "site" / "task-realdesed.html").read_text()
    assert "RealDESED" in board and "73.1" in board  # published, with SEBB
