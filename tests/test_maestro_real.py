"""MAESTRO Real from archives of its real layout to records and the board; what can be wrong."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("sed_eval")

from eval_parts import LOGMEL, tiny_network, tuned  # noqa: E402

from eval_tasks import tasks  # noqa: E402
from eval_tasks.__main__ import main  # noqa: E402
from eval_tasks.tasks import maestro_real  # noqa: E402
from eval_tasks.tasks.base import Split, open_task  # noqa: E402
from hear_ptsed.metrics.events import event_scores  # noqa: E402
from hear_ptsed.metrics.predicted import unpack_events  # noqa: E402
from hear_ptsed.metrics.records import read_record  # noqa: E402
from leaderboards.__main__ import main as board  # noqa: E402

TASK = tasks.find_task("maestro_real")
TESTED = {  # of the first scene: two recordings of each fold
    fold: [file for file in files if file.startswith("cafe")]
    for fold, files in maestro_real.split_2023().items()
}
LONG = "cafe_restaurant_04.wav"  # 12.5 s, the others 11 s


def annotation(seconds: float, first: int) -> list[str]:
    """A class in 4 s of the clip, another in 3 s half as sure, a third that is not scored."""
    values = {"people talking": (first, 4, 0.9), "footsteps": (first + 2, 3, 0.4)}
    values |= {"announcement": (first + 4, 2, 1.02), "car": (6 - first, 2, 0.75)}
    return [
        f"{second}\t{second + 1}\t{label}\t{value}"
        for label, (start, length, value) in values.items()
        for second in range(start, min(start + length, int(np.ceil(seconds))))
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Ten recordings of a café, in the folders of the data set."""
    root = tmp_path_factory.mktemp("maestro")
    audio = root / "development_audio/cafe_restaurant"
    labels = root / "development_annotation/soft_labels_cafe_restaurant"
    audio.mkdir(parents=True)
    labels.mkdir(parents=True)
    for i, file in enumerate(file for files in TESTED.values() for file in files):
        seconds = 12.5 if file == LONG else 11.0
        time = np.arange(round(seconds * 44100)) / 44100
        noise = 0.02 * np.random.default_rng(i).standard_normal(len(time))
        sounding = (time >= i % 5) & (time < i % 5 + 4)
        noise += 0.3 * sounding * np.sin(2 * np.pi * 700 * time)
        soundfile.write(audio / file, np.stack([noise, noise], 1), 44100)
        rows = annotation(seconds, i % 5)
        (labels / file).with_suffix(".txt").write_text("\n".join(rows) + "\n")
    return root


def packed(source: Path, into: Path, *more: tuple[str, str]) -> list[str]:
    """Its two archives, the second with more members."""
    into.mkdir(exist_ok=True)
    paths = []
    for kind in ("audio", "annotation"):
        paths.append(str(into / f"{kind}.zip"))
        with zipfile.ZipFile(paths[-1], "w") as archive:
            for path in sorted((source / f"development_{kind}").rglob("*.*")):
                archive.write(path, path.relative_to(source))
            for name, text in more if kind == "annotation" else ():
                archive.writestr(name, text)
    return paths


def prepare(tmp_path: Path, sources: list[str], *more: str) -> int:
    options = [word for path in sources for word in ("--source", path)]
    return main(
        ["prepare", "maestro_real", "--tasks-dir", str(tmp_path / "tasks"), *options, *more]
    )


def test_the_five_folds_are_those_of_2023_and_the_16_clips_those_of_2024():
    folds = maestro_real.split_2023()
    clips = [file for files in folds.values() for file in files]
    assert len(clips) == len(set(clips)) == 49
    sizes = []
    for _, (test, valid) in maestro_real.FOLDS.items():
        tested, validated = map(set, map(maestro_real.list_files, (test, valid)))
        assert not tested & validated and validated < {*clips}
        sizes.append((49 - len(tested | validated), len(validated), len(tested)))
    assert sizes == [(26, 12, 11), (27, 12, 10), (27, 12, 10), (27, 12, 10), (28, 13, 8)]
    split = maestro_real.split_2024()
    assert {part: len(files) for part, files in split.items()} == {
        "train": 28,
        "valid": 5,
        "test": 16,
    }
    assert sorted(file for files in split.values() for file in files) == sorted(clips)


def test_archives_become_folds_with_named_validation_clips_and_soft_labels(
    source, tmp_path, capsys
):
    assert prepare(tmp_path, packed(source, tmp_path / "zips")) == 0
    folder = tmp_path / "tasks/maestro_real-dcase2023-full"
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("fold1: 2 of 11 clips (missing 9, 81.8 %); fold2: 2 of 10")
    data = open_task(TASK, folder)
    assert data.coverage == line and data.classes == maestro_real.CLASSES
    assert data.metadata["sample_duration"] is None
    assert data.splits[0] == Split(("fold1_train",), "fold1_valid", "fold1")
    for fold, split in zip(TESTED, data.splits, strict=True):
        train, valid, test = (data.parts[name] for name in (*split.train, *split[1:]))
        assert test.files == TESTED[fold] and len(train) + len(valid) == 8
        named = maestro_real.list_files(maestro_real.FOLDS[fold][1])
        assert {*valid.files} <= {*named} and not {*train.files} & {*named}
        file = valid.files[0]
        home = next(fold for fold, files in TESTED.items() if file in files)
        assert np.array_equal(valid.read(file, 3, 5), data.parts[home].read(file, 3, 5))
        assert valid.targets(file).shape == (valid.frames(file), 17)
    part = data.parts["fold1"]
    assert part.durations_s[LONG] == 12.5 and part.soft
    targets = part.targets(LONG)
    columns = [data.classes.index(name) for name in ("people talking", "footsteps", "announcement")]
    assert targets[5, columns].tolist() == pytest.approx([0.9, 0, 0])
    assert targets[60, columns].tolist() == pytest.approx([0.9, 0.4, 0])
    assert targets[110, columns].tolist() == [0, pytest.approx(0.4), 1.0]  # 1.02 is cut
    assert part.reference[LONG] == [
        {"label": "people talking", "start": 0.0, "end": 4000.0},
        {"label": "car", "start": 6000.0, "end": 8000.0},
    ]


def run(tmp_path: Path, *options: str) -> int:
    place = ["--tasks-dir", str(tmp_path / "tasks"), "--results", str(tmp_path / "results")]
    place += ["--work", str(tmp_path / "work"), "--quiet", "--device", "cpu"]
    return main(["run", "--task", "maestro_real", *options, *place])


def test_a_frozen_run_scores_all_folds_as_one(source, tmp_path):
    assert prepare(tmp_path, [str(source)]) == 0
    assert run(tmp_path, *LOGMEL) == 0
    (path,) = (tmp_path / "results").rglob("*.json")
    record = read_record(path)
    assert record.protocol == "linear" and record.clips == 10 and not record.folds
    assert tuple(record.scores) == TASK.metrics and [*record.groups] == [*TESTED]
    assert record.hyperparameters["stitch"] == {
        "hop_s": 5.0,
        "floor": 1.0,
        "average": "probabilities",
    }
    assert [*record.per_class] == [*maestro_real.SCORED]
    assert record.per_class["people talking"]["events"] == 10
    assert record.conventions["mpauc"].endswith(TASK.convention)
    data = open_task(TASK, tmp_path / "tasks/maestro_real-dcase2023-full")
    events = unpack_events(record.predicted, data.classes)
    reference = {f: e for fold in TESTED for f, e in data.parts[fold].reference.items()}
    scored = {f: [e for e in of if e["label"] in maestro_real.SCORED] for f, of in events.items()}
    er = event_scores(reference, scored, maestro_real.SCORED, ["segment_1s_er"])
    assert record.scores["segment_1s_er"] == pytest.approx(er.scores["segment_1s_er"])
    assert len(list((tmp_path / "work/features").rglob("frames.npy"))) == 5  # a fold once
    tasks_dir = ["--tasks-dir", str(tmp_path / "tasks")]
    assert board(["submit", str(path), *tasks_dir]) == 0
    assert board(["build", str(tmp_path / "results"), "--out", str(tmp_path / "site")]) == 0
    page = (tmp_path / "site/task-maestro_real.html").read_text(encoding="utf-8")
    for text in ("MAESTRO Real", "log-mel", "DCASE 2023 baseline", "mpAUC", "small data"):
        assert text in page


def test_some_folds_are_a_mean_and_a_fine_tuned_run_takes_the_split_of_2024(source, tmp_path):
    assert prepare(tmp_path, [str(source)]) == 0
    assert run(tmp_path, *LOGMEL, "--folds", "2") == 0
    (path,) = (tmp_path / "results").rglob("*.json")
    record = read_record(path)
    assert len(record.folds) == 2 and record.folds_of == 5 and not record.groups
    assert prepare(tmp_path, [str(source)], "--split", "2024", "--sample-rate", "32000") == 0
    made = tmp_path / "tasks/maestro_real-dcase2024-full"
    clips = [sorted(p.name for p in made.glob(f"{rate}/*/*.wav")) for rate in (16000, 32000)]
    assert clips[0] == clips[1] and len(clips[1]) > 0
    tiny_network(tmp_path)
    folder = ["--folder", "maestro_real-dcase2024-full"]
    assert run(tmp_path, *tuned(tmp_path), *folder) == 0
    (path,) = (tmp_path / "results/maestro_real-dcase2024-full").rglob("*.json")
    record = read_record(path)
    assert record.clips == 3 and record.coverage.startswith("train: 6 of 28 clips")
    assert record.protocol == "finetuned" and record.hyperparameters["stitch"]["hop_s"] == 5.0
    assert board(["submit", str(path), "--tasks-dir", str(tmp_path / "tasks")]) == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"0\t1\tcow\t0.5", "line 1: unknown label 'cow'; known: birds_singing, car"),
        (b"0\t1\tcar\t1.5", "line 1: value 1.5; a soft label is from 0 to 1"),
        (b"0\t1\tcar\t-0.1", "line 1: value -0.1; a soft label is from 0 to 1"),
        (
            b"1\t1\tcar\t0.5",
            "line 1: '1 1 car 0.5'; expected start, end, label and value with tabs",
        ),
        (b"0\t1\tcar", "line 1: '0 1 car'; expected start, end, label and value with tabs"),
        (b"0\t1\tc\xe4r\t0.5", "not UTF-8 behind line 0"),
    ],
)
def test_a_wrong_annotation_is_named_by_file_and_line(source, tmp_path, capsys, row, message):
    for kind in ("audio", "annotation"):
        (tmp_path / f"development_{kind}").symlink_to(source / f"development_{kind}")
    (tmp_path / "development_annotation").unlink()
    labels = tmp_path / "development_annotation/soft_labels_cafe_restaurant"
    labels.mkdir(parents=True)
    for path in (source / labels.relative_to(tmp_path)).iterdir():
        (labels / path.name).write_bytes(path.read_bytes())
    (labels / "cafe_restaurant_12.txt").write_bytes(row + b"\n")
    assert prepare(tmp_path, [str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "cafe_restaurant_12.txt" in line and message in line
    assert not any((tmp_path / "tasks").glob("maestro*"))


def test_archives_that_are_torn_incomplete_or_point_outside_are_refused(source, tmp_path, capsys):
    audio, labels = packed(source, tmp_path / "zips")
    assert prepare(tmp_path, [audio]) == 1
    assert "none of the 11 recordings of fold1 is there with its audio" in capsys.readouterr().err
    outside = ("../../soft_labels_cafe_restaurant/cafe_restaurant_04.txt", "0\t1\tcar\t1\n")
    _, wrong = packed(source, tmp_path / "more", outside)
    assert prepare(tmp_path, [audio, wrong]) == 1
    assert "points outside" in capsys.readouterr().err
    torn = tmp_path / "torn.zip"
    torn.write_bytes(Path(labels).read_bytes()[:-200])
    assert prepare(tmp_path, [audio, str(torn)]) == 1
    assert "torn.zip is damaged" in capsys.readouterr().err
    renamed = Path(audio).rename(tmp_path / "development_audio.zip")
    assert prepare(tmp_path, [str(renamed), labels]) == 1
    assert "expected 3de7cb4f; download it again" in capsys.readouterr().err
    assert not any((tmp_path / "tasks").glob("maestro*"))


def test_a_folder_whose_validation_clips_are_not_of_other_folds_is_refused(source, tmp_path):
    assert prepare(tmp_path, [str(source)]) == 0
    path = tmp_path / "tasks/maestro_real-dcase2023-full/task_metadata.json"
    metadata = json.loads(path.read_text())
    for wrong, message in (
        ([LONG], r"fold1 must be validated on some, not all, clips of other folds, got \['cafe"),
        ([], "fold1 must be validated on some, not all, clips of other folds, got 0"),
    ):
        validation = metadata["validation"] | {"fold1": wrong}
        path.write_text(json.dumps(metadata | {"validation": validation}))
        with pytest.raises(ValueError, match=message):
            open_task(TASK, path.parent)
    path.write_text(json.dumps(metadata | {"scored": ["cow"]}))
    with pytest.raises(ValueError, match="scored class 'cow' is none of the classes"):
        open_task(TASK, path.parent)
