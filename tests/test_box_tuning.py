"""Boxes in evaluations: tuned by class on validation, scored as they are, told apart in records."""

import csv
import json
from argparse import ArgumentError
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("sed_eval")

from eval_parts import SHORT, records, run  # noqa: E402
from scoring_parts import CLASSES, CLOSE, EVENT_METRICS, detections, plain_psds  # noqa: E402
from slow_boxes import slow_boxes  # noqa: E402

from eval_tasks import tasks  # noqa: E402
from eval_tasks.request import Request  # noqa: E402
from hear_ptsed import cli, detect  # noqa: E402
from hear_ptsed.boxes import GRID, BoxSettings  # noqa: E402
from hear_ptsed.detect import Detector  # noqa: E402
from hear_ptsed.metrics.box_record import read_boxes  # noqa: E402
from hear_ptsed.metrics.catalogue import EVENTS, METRICS  # noqa: E402
from hear_ptsed.metrics.decoding import BoxDecoding, decode_by_boxes  # noqa: E402
from hear_ptsed.metrics.events import event_scores  # noqa: E402
from hear_ptsed.metrics.predicted import unpack_events  # noqa: E402
from hear_ptsed.metrics.predictions import Predictions  # noqa: E402
from hear_ptsed.metrics.score import score  # noqa: E402
from hear_ptsed.metrics.tuning import (  # noqa: E402
    best_of_classes,
    best_thresholds,
    psds_by_boxes,
    tune_boxes,
)
from leaderboards.__main__ import main as leaderboards  # noqa: E402

COLLARS = [metric for metric in EVENT_METRICS if METRICS[metric].options["scorer"] == EVENTS]
HOME = ["--task", "home", "--folder", "home_synthetic-v1-tiny"]
TRAINED = ["--module", "eval_tasks.logmel", "--protocol", "linear", *SHORT]
TRAINED += ["--set", "optim.epochs=6", "--set", "fit.check_every_epochs=6"]


def predictions_of(seed: int, clips: int = 12) -> Predictions:
    probabilities, reference, durations = detections(seed, clips)
    return Predictions(CLASSES, reference, durations, probabilities)


def alike(settings: BoxSettings, threshold: float = 0.5) -> BoxDecoding:
    return BoxDecoding([settings] * 3, [settings] * 3, [threshold] * 3)


@pytest.mark.parametrize("settings", [GRID[0], GRID[-1]])
def test_psds_of_boxes_is_that_of_sed_scores_eval_on_painted_boxes(settings):
    predictions = predictions_of(0)
    scores = {}
    for file, table in predictions.scores.items():
        frames = np.count_nonzero(0.04 * np.arange(len(table)) < predictions.durations_s[file])
        scores[file] = np.zeros_like(table)
        for c in range(len(CLASSES)):
            for first, stop, confidence in slow_boxes(table[:frames, c], settings):
                scores[file][first:stop, c] = confidence
    got = score(replace(predictions, boxes=alike(settings)), ["psds1", "psds2"])
    for metric in ("psds1", "psds2"):
        options = scores, predictions.reference, predictions.durations_s, CLASSES, 1
        expected = plain_psds(metric, *options)[0]
        np.testing.assert_allclose(got.scores[metric], expected, **CLOSE)
        assert got.settings[metric] == {"decoder": "sebb"} and "SEBB" in got.conventions[metric]
    plain = score(predictions, ["psds1"])
    assert plain.settings["psds1"] == {"median_frames": 1}
    assert plain.scores["psds1"] != got.scores["psds1"]


@pytest.mark.parametrize("metric", COLLARS)
def test_the_best_threshold_gives_the_best_f_score_of_sed_eval(metric):
    predictions = predictions_of(1, clips=8)
    best = best_thresholds(predictions, metric)
    for settings in (GRID[0], GRID[-1]):

        def f_scores(thresholds, settings=settings):
            decoding = replace(alike(settings), thresholds=thresholds)
            events = replace(predictions, boxes=decoding).events
            rows = event_scores(predictions.reference, events, CLASSES, [metric]).per_class
            return np.nan_to_num([rows[name][metric] for name in CLASSES])  # NaN: no event at all

        chosen = best[settings]
        reached = f_scores([chosen[name][1] for name in CLASSES])
        np.testing.assert_allclose(reached, [chosen[name][0] for name in CLASSES], atol=1e-12)
        assert max(reached) > 0
        for threshold in np.linspace(0, 0.99, 12):
            others = f_scores([threshold] * 3)
            assert (reached >= others - 1e-12).all()


def test_each_class_gets_the_settings_that_are_best_for_it_alone():
    valid = predictions_of(2, clips=16)
    tuned = tune_boxes(valid, ["psds1", "event_onset_200ms_fms"])
    table = psds_by_boxes(valid)
    for each in (GRID[0], GRID[-1]):
        rows = score(replace(valid, boxes=alike(each)), ["psds1"]).per_class
        assert table[each] == {name: row["psds1"] for name, row in rows.items()}
    for name, settings in zip(CLASSES, tuned.areas, strict=True):
        assert table[settings][name] == max(of[name] for of in table.values())
    assert len({of["cat"] for of in table.values()}) > 3
    best = best_thresholds(valid, "event_onset_200ms_fms")
    for name, settings, threshold in zip(CLASSES, tuned.events, tuned.thresholds, strict=True):
        highest = max(of[name][0] for of in best.values())
        assert best[settings][name] == (highest, threshold)


def test_equal_scores_and_classes_without_events_take_what_is_best_for_all():
    table = {"x": {"a": 0.2, "b": 0.5}, "y": {"a": 0.4, "b": 0.5}, "z": {"a": 0.1, "b": 0.5}}
    assert best_of_classes([*table], ["a", "b", "none"], table.get) == ["y", "y", "y"]
    undefined = {name: {"a": float("nan")} for name in table}
    assert best_of_classes([*table], ["a"], undefined.get) == ["x"]


def test_only_what_boxes_change_can_be_asked_for_them():
    with pytest.raises(ValueError, match="tuned by PSDS or by an F-score of events; the metrics"):
        tune_boxes(predictions_of(0), ["segment_1s_er"])


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    for name in ("home", "piano"):
        tasks.prepare(name, folder / "tasks", synthetic=True)
    options = [*HOME, *TRAINED, "--tasks-dir", str(folder / "tasks"), "--quiet"]
    for decoder in ("sebb", "median"):
        code, said = run(folder, "run", *options, "--decoder", decoder)
        assert code == 0, said
    return folder


def of_decoder(parts: Path, decoder: str) -> tuple[Path, dict]:
    for name, record in records(parts).items():
        if ("decoder" in record["hyperparameters"]) == (decoder == "sebb"):
            return parts / name, record
    raise AssertionError(decoder)


def test_a_record_names_the_decoder_and_the_settings_of_each_class(parts):
    _, record = of_decoder(parts, "sebb")
    assert record["hyperparameters"]["decoder"] == "sebb"
    assert "--decoder sebb" in record["command"]
    assert set(map(json.dumps, record["settings"].values())) == {'{"decoder": "sebb"}'}
    assert all("boxes (SEBB)" in text for text in record["conventions"].values())
    kept = record["training"][0]["boxes"]
    assert [*kept] == [*record["per_class"]]
    known = [each._asdict() for each in GRID]
    assert all(row["areas"] in known and row["events"] in known for row in kept.values())
    assert all(0 <= row["threshold"] < 1 for row in kept.values())
    _, plain = of_decoder(parts, "median")
    assert "--decoder" not in plain["command"] and "boxes" not in plain["training"][0]
    assert plain["settings"]["psds1"] == {"median_frames": 7}
    assert plain["predicted"] != record["predicted"]


def test_predicted_events_are_boxes_above_the_thresholds_of_the_record(parts):
    path, record = of_decoder(parts, "sebb")
    classes = [*record["per_class"]]
    events = unpack_events(record["predicted"], classes)
    assert any(events.values())
    for of_file in events.values():
        assert all(e["start"] % 40 == 0 and e["end"] % 40 == 0 for e in of_file)
    boxes = read_boxes(path, classes)
    assert [each._asdict() for each in boxes.events] == [
        row["events"] for row in record["training"][0]["boxes"].values()
    ]


def test_on_the_board_boxes_and_medians_never_share_a_cell(parts, tmp_path):
    assert leaderboards(["build", str(parts / "results"), "--out", str(tmp_path / "site")]) == 0
    with (tmp_path / "site" / "leaderboard.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "measured"]
    for metric in ("psds1", "event_onset_200ms_fms"):
        cells = [row for row in rows if row["metric"] == metric]
        assert len(cells) == 2 and {row["seeds"] for row in cells} == {"1"}
        assert sum('decoder="sebb"' in row["settings"] for row in cells) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*HOME, "--module", "eval_tasks.logmel", "--protocol", "hear"], "heareval decodes by"),
        ([*HOME, *TRAINED, "--decoder", "boxes"], "invalid choice: 'boxes'"),
    ],
)
def test_what_cannot_be_decoded_by_boxes_is_refused_in_a_line(parts, tmp_path, options, message):
    given = ["--tasks-dir", str(parts / "tasks"), "--decoder", "sebb"]
    code, said = run(tmp_path / "run", "run", *given, *options)
    assert code == 2 and message in said and said.count("\n") == 1


def test_a_task_of_segments_alone_is_refused_before_it_is_opened():
    task = replace(tasks.find_task("office"), metrics=("segment_1s_er",))
    asked = {"task": "office", "module": "yamnet", "protocol": "linear"}
    Request(**asked).check(task)
    with pytest.raises(ArgumentError, match="--decoder sebb: office: boxes .* segment_1s_er"):
        Request(**asked, decoder="sebb").check(task)


def test_folds_are_tuned_one_by_one(parts, tmp_path):
    task = ["--task", "piano", "--folder", "piano_synthetic-v1-tiny", "--folds", "2"]
    given = ["--tasks-dir", str(parts / "tasks"), "--quiet", "--decoder", "sebb"]
    code, said = run(tmp_path / "run", "run", *task, *TRAINED, *given)
    assert code == 0, said
    (record,) = records(tmp_path / "run").values()
    first, second = (fold["boxes"] for fold in record["training"])
    assert first.keys() == second.keys() and first != second
    path = next((tmp_path / "run" / "results").rglob("*.json"))
    with pytest.raises(ValueError, match="no boxes of one training; give the record of"):
        read_boxes(path, [*first])


def test_events_of_boxes_lie_between_borders_of_frames_at_any_hop():
    scores = np.zeros((200, 1))
    scores[50:100] = 0.9
    decoding = BoxDecoding([GRID[0]], [GRID[0]], [0.5])
    for hop_ms, start, end in ((40, 2000, 4000), (20, 1010, 2010), (10, 515, 1015)):
        assert decode_by_boxes(scores, ["a"], decoding, 10.0, hop_ms) == [
            {"label": "a", "start": start, "end": end}
        ]
    assert decode_by_boxes(scores, ["a"], decoding, 3.0)[0]["end"] == 3000


@pytest.fixture
def listening(parts, monkeypatch, tmp_path) -> list[str]:
    """A command that detects 2 s of the first class and 1 s of the second, at 0.9 and 0.4."""
    _, record = of_decoder(parts, "sebb")
    scores = np.full((250, len(record["per_class"])), 1e-4)
    scores[25:75, 0], scores[100:125, 1] = 0.9, 0.4
    detector = Detector("frame_mn06", "strong", "ear.pt", [*record["per_class"]], lambda *_: scores)
    monkeypatch.setattr(detect, "load_detector", lambda *_: detector)
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(160_000), 16_000)
    return ["detect", str(path), "--model", "frame_mn06", "--format", "json"]


def test_detect_decodes_by_boxes(listening, capsys):
    detected = {}
    for options in ([], ["--threshold", "0.3"], ["--threshold", "0.95"]):
        assert cli.main([*listening, "--decoder", "sebb", *options]) == 0
        events = json.loads(capsys.readouterr().out)["events"]
        detected[tuple(options)] = [
            (e["onset_s"], e["offset_s"], round(e["score"], 6)) for e in events
        ]
    assert [*detected.values()] == [
        [(1.0, 3.0, 0.9)],
        [(1.0, 3.0, 0.9), (4.0, 5.0, 0.4)],
        [],
    ]


def test_detect_takes_boxes_and_thresholds_of_a_record(parts, listening, tmp_path, capsys):
    path, record = of_decoder(parts, "sebb")
    values = json.loads(path.read_text())
    first, second, *_ = values["training"][0]["boxes"].values()
    first["threshold"], second["threshold"] = 0.95, 0.3
    tuned = tmp_path / "tuned.json"
    tuned.write_text(json.dumps(values))
    command = [*listening, "--decoder", "sebb", "--boxes", str(tuned)]
    assert cli.main(command) == 0
    names = [*record["per_class"]]
    assert [e["label"] for e in json.loads(capsys.readouterr().out)["events"]] == [names[1]]
    assert cli.main([*command, "--threshold-of", names[0], "0.5"]) == 0
    assert len(json.loads(capsys.readouterr().out)["events"]) == 2


def test_boxes_that_a_record_lacks_are_refused_in_a_line(parts, listening, tmp_path, capsys):
    path, _ = of_decoder(parts, "sebb")
    values = json.loads(path.read_text())
    name, kept = values["training"][0]["boxes"].popitem()
    (tmp_path / "lacks.json").write_text(json.dumps(values))
    values["training"][0]["boxes"][name] = kept | {"threshold": 2}
    (tmp_path / "wrong.json").write_text(json.dumps(values))
    for record, message in (
        (tmp_path / "lacks.json", f"no boxes for class {name!r}"),
        (tmp_path / "wrong.json", "threshold is 2"),
        (of_decoder(parts, "median")[0], "give the record of `python -m eval_tasks run"),
        (tmp_path / "none.json", "none.json"),
    ):
        assert cli.main([*listening, "--decoder", "sebb", "--boxes", str(record)]) == 1
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
