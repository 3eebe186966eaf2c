"""A record's scores of events are computed again from the events that it carries."""

import base64
import json
import shutil
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sed_eval")

from eval_parts import LOGMEL, OFFICE, PIANO, run, tiny_tasks  # noqa: E402

from eval_tasks.tasks import find_task  # noqa: E402
from eval_tasks.tasks.base import open_task  # noqa: E402
from hear_ptsed.metrics.predicted import EVENTS, PACKED, UNPACKED, pack_events, unpack_events  # noqa: E402
from hear_ptsed.metrics.task_folder import read_task_folder  # noqa: E402
from leaderboards.__main__ import main  # noqa: E402
from leaderboards.submit import problems_of_file  # noqa: E402

F = "event_onset_200ms_fms"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with tasks, and records of a task of one test part and of one of folds."""
    folder = tiny_tasks(tmp_path_factory.mktemp("made"))
    for task in (OFFICE, PIANO):
        options = ["--tasks-dir", str(folder / "tasks"), "--quiet", "--seed", "0"]
        code, said = run(folder, "run", *task, *LOGMEL, *options)
        assert code == 0, said
    return folder


@pytest.fixture
def office(made) -> dict:
    (path,) = (made / "results").glob("office*/linear/*.json")
    return json.loads(path.read_text())


def problems_of(folder: Path, values: dict, tasks_dir: Path) -> list[str]:
    path = folder / "one.json"
    path.write_text(json.dumps(values))
    return problems_of_file(path, tasks_dir)


def packed(content: object) -> str:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.b64encode(zlib.compress(text)).decode()


def test_what_this_suite_writes_is_computed_again_and_accepted(made, capsys):
    records = sorted(map(str, (made / "results").rglob("*.json")))
    assert len(records) == 2
    assert main(["submit", *records, "--tasks-dir", str(made / "tasks")]) == 0
    assert capsys.readouterr().out.count("accepted") == 2
    for path in records:
        values = json.loads(Path(path).read_text())
        assert 0 < len(values["predicted"]) < 30_000 and values["scores"]


def test_the_fingerprint_of_a_folder_is_that_of_the_suite(made):
    for task in ("office", "piano"):
        folder = made / "tasks" / f"{task}_synthetic-v1-tiny"
        assert (
            read_task_folder(folder).fingerprint == open_task(find_task(task), folder).fingerprint
        )


def test_a_score_that_its_events_do_not_give_is_refused(made, office, tmp_path):
    office["scores"][F] += 2e-9
    problem = f"{F} is {office['scores'][F]:g}; of its events {office['scores'][F]:g}"
    assert problems_of(tmp_path, office, made / "tasks") == [problem]
    office["scores"][F] -= 2e-9
    name = next(name for name, row in office["per_class"].items() if row[F] is not None)
    office["per_class"][name][F] = 0.123
    (problem,) = problems_of(tmp_path, office, made / "tasks")
    assert problem.startswith(f"{F} of class {name} is 0.123; of its events ")


def test_replicates_that_its_events_do_not_give_are_refused(made, office, tmp_path):
    values = office["replicates"][F]
    highest = max(value for value in values if value is not None)
    values[values.index(highest)] -= 1e-6  # its percentiles stay
    assert problems_of(tmp_path, office, made / "tasks") == [
        f"replicates of {F} are not those of its events"
    ]


def test_where_nothing_can_be_computed_again_a_line_says_why(made, office, tmp_path):
    assert (
        "has no predicted events" in problems_of(tmp_path, office | {"predicted": ""}, tmp_path)[0]
    )
    (problem,) = problems_of(tmp_path, office, tmp_path)
    assert "has no folder of" in problem and "eval_tasks prepare office" in problem
    assert "has no folder of" in problems_of(tmp_path, office, tmp_path / "missing")[0]
    name = "office_synthetic-v1-tiny"
    shutil.copytree(made / "tasks" / name, tmp_path / name)
    labels = json.loads((tmp_path / name / "test.json").read_text())
    next(iter(labels.values())).clear()
    (tmp_path / name / "test.json").write_text(json.dumps(labels))
    (problem,) = problems_of(tmp_path, office, tmp_path)
    assert "has the fingerprint" in problem and "other clips or labels" in problem
    (tmp_path / name / "test.json").write_text("[]")
    assert "is no task folder that can be read" in problems_of(tmp_path, office, tmp_path)[0]


def test_events_of_other_clips_are_refused(made, office, tmp_path):
    assert (
        "of 0 test parts"
        in problems_of(tmp_path, office | {"predicted": packed({})}, made / "tasks")[0]
    )
    folder = read_task_folder(made / "tasks" / "office_synthetic-v1-tiny")
    events = unpack_events(office["predicted"], folder.classes)
    more = {**events, "other.wav": []}
    changed = office | {"predicted": pack_events(more, folder.classes)}
    assert "other.wav, which is no test clip" in problems_of(tmp_path, changed, made / "tasks")[0]
    fewer = dict([*events.items()][1:])
    changed = office | {"predicted": pack_events(fewer, folder.classes)}
    assert "lacks an estimate" in problems_of(tmp_path, changed, made / "tasks")[0]


BOMB = base64.b64encode(zlib.compress(b" " * (64 << 20), 9)).decode()
HOSTILE = {
    "is not zlib in base64": ["####", "abc", base64.b64encode(b"no zlib").decode()],
    "unpacks to more than 2 MiB": [BOMB],
    "truncated, or goes on": [
        packed({"a.wav": []})[:-8],
        base64.b64encode(zlib.compress(b"{}") + b"more").decode(),
    ],
    "predicted": [
        packed([]),
        packed({"../a": []}),
        packed({"a.wav": [[0, 1]]}),
        packed({"a.wav": [[-1, 0, 1]]}),
        packed({"a.wav": [[0.5, 0, 1]]}),
        packed({"a.wav": [["0", 0, 1]]}),
        packed({"a.wav": [[0, 0, 1e300]]}),
        packed(b'{"a.wav": [[0, NaN, 1]]}'),
        packed(b"[" * 100_000),
        packed(b"\xff\xfe"),
        packed({"a.wav": [[0, 0, 1]] * (EVENTS + 1)}),
    ],
    "must not end before it begins": [packed({"a.wav": [[2, 0, 1]]}), packed({"a": [[0, 2, 1]]})],
}


@pytest.mark.parametrize("problem", HOSTILE)
def test_hostile_events_are_a_line(made, office, tmp_path, problem):
    for text in HOSTILE[problem]:
        with pytest.raises(ValueError, match=problem) as error:
            unpack_events(text, ["a", "b"])
        assert str(error.value).isprintable() and len(str(error.value)) < 2000
        assert len(problems_of(tmp_path, office | {"predicted": text}, made / "tasks")) == 1


def test_a_record_may_not_carry_more_than_fits(office, tmp_path):
    (problem,) = problems_of(tmp_path, office | {"predicted": "A" * (PACKED + 4)}, None)
    assert problem.startswith("predicted is")


TIMES = st.floats(0, 1e9).map(lambda ms: round(ms, 3)) | st.integers(0, 10**9).map(float)
ROWS = st.lists(st.tuples(st.sampled_from("abc"), TIMES, TIMES), max_size=5)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(["1.wav", "ü.wav", "x y.wav"]), ROWS, min_size=1))
def test_events_come_out_as_they_were_packed(clips):
    events = {
        file: [{"label": c, "start": min(t), "end": max(t)} for c, *t in rows]
        for file, rows in clips.items()
    }
    assert unpack_events(pack_events(events, "abc"), "abc") == events


def test_too_many_events_are_left_out():
    event = {"label": "a", "start": 0.0, "end": 1.0}
    assert pack_events({"a.wav": [event] * (EVENTS + 1)}, ["a"]) == ""
    clips = {f"{k:0250d}": [] for k in range(UNPACKED // 250)}
    assert pack_events(clips, ["a"]) == ""
