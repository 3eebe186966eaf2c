"""`hear-all`: every prepared task of HEAR through the real heareval, to the row of its leaderboard.

The released folders are made up: folds, several labels in clips of any length, clips of 600 s,
and events.
"""

import json
import resource
from pathlib import Path

import pytest
from frozen_parts import tones
from hear_archives import BEEHIVE, ESC, FSD, write_release
from leaderboard_parts import write_heareval

from eval_tasks.__main__ import main
from eval_tasks.heareval.hear_all import open_plugin, title_of
from eval_tasks.request import HearAll
from hear_ptsed.files import sha256
from leaderboards import export, stats
from leaderboards.collect import collect

pytest.importorskip("heareval")

EVENTS = "dcase2016_task2-hear2021-full"
TITLE = "eval_tasks.logmel-grid=faster-grid_points=1"
QUICK = ["--grid", "faster", "--grid-points", "1", "--quiet"]


def prepare(folder: Path, *releases) -> None:
    sources = [str(write_release(folder / "made", release, 16000)) for release in releases]
    words = ["--source", *sources, "--tasks-dir", str(folder / "tasks")]
    assert main(["prepare", "hear", *words]) == 0


def of_events(folder: Path) -> None:
    made = tones(folder / "made", seconds=12.0).folder.rename(folder / "tasks" / EVENTS)
    path = made / "task_metadata.json"
    content = json.loads(path.read_text())
    content |= dict(zip(("task_name", "version", "mode"), EVENTS.split("-"), strict=True))
    path.write_text(json.dumps(content))


def hear_all(folder: Path, capfd, *more: str) -> tuple[int, str]:
    places = [word for name in ("tasks-dir", "results", "work") for word in (f"--{name}", name)]
    places = [
        word if word[0] == "-" else str(folder / word.removesuffix("-dir")) for word in places
    ]
    code = main(["hear-all", "eval_tasks.logmel", *QUICK, *places, *more])
    return code, capfd.readouterr().out


def peak_of_children() -> int:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # KiB


@pytest.mark.filterwarnings("ignore")
def test_all_that_is_prepared_runs_cheapest_first_to_the_printed_row(tmp_path, capfd):
    prepare(tmp_path, ESC, FSD)
    of_events(tmp_path)
    clip = next(tmp_path.glob(f"tasks/{EVENTS}/16000/train/*.wav"))
    audio = clip.read_bytes()
    clip.unlink()
    code, said = hear_all(tmp_path, capfd)
    assert code == 1  # one failed, the others were done
    states = [line.split(",")[0] for line in said.splitlines() if ", 0.0" in line]
    assert states == [f"done: {ESC.name}", f"done: {FSD.name}", f"failed: {EVENTS}"]
    assert "heareval embeddings failed" in said and "Model,URL,Submission Date,ESC-50" in said
    before = peak_of_children()

    clip.write_bytes(audio)
    prepare(tmp_path, BEEHIVE[0])
    code, said = hear_all(tmp_path, capfd)
    assert code == 0
    states = [line.split(",")[0] for line in said.splitlines() if " h of audio: " in line]
    first, second = (f"already done: {release.name}" for release in (ESC, FSD))
    assert states == [first, second, f"done: {EVENTS}", f"done: {BEEHIVE[0].name}"]
    assert peak_of_children() < before + 300_000  # 600 s need no more than short clips do

    results = tmp_path / "results" / "hear" / TITLE
    scores = {path.parent.name: json.loads(path.read_text()) for path in results.glob("*/test.*")}
    cells = stats.cells(collect([results], figures=False).entries)
    header, row = export.hear_csv(cells).splitlines()
    assert header == "Model,URL,Submission Date,DCASE 2016,ESC-50,FSD50K"  # half of Beehive: none
    assert row.startswith("log-mel,,20") and f"{header}\n{row}\n" in said
    of_folds = scores[ESC.name]["aggregated_scores"]["test_score_mean"]
    expected = [scores[EVENTS]["test"]["test_score"], of_folds]
    expected.append(scores[FSD.name]["test"]["test_mAP"])
    assert [float(value) for value in row.split(",")[3:]] == pytest.approx(expected, abs=1e-9)
    assert expected[0] > 0.5
    assert "log-mel: HEAR's normalised score over 3 of 19 tasks" in said
    assert "on a part of the clips, not comparable: ESC-50, FSD50K" in said
    table = [line for line in said.splitlines() if line.startswith(("> ", "  ")) and "." in line]
    assert len(table) == 35 and sum(line.startswith("> ") for line in table) == 1
    for text in (json.dumps(scores), *(p.read_text() for p in results.rglob("*.json"))):
        assert str(tmp_path) not in text
    assert not [*(tmp_path / "work").rglob("*.npy")]


def test_what_decides_the_scores_is_in_the_name_of_their_folder_which_the_board_reads(tmp_path):
    (tmp_path / "my.pt").write_bytes(b"weights")
    more = {"checkpoint": tmp_path / "my.pt", "model_options": {"layers": "mean", "x": "a b"}}
    names = []
    for options in (HearAll(), HearAll(**more), HearAll(**more, grid_points=1)):
        names.append(title_of(open_plugin("eval_tasks.logmel", options), options))
    sha = sha256(tmp_path / "my.pt")[:8]
    assert names[:2] == [
        "eval_tasks.logmel",
        f"eval_tasks.logmel-layers=mean-x=a-b-checkpoint={sha}",
    ]
    assert names[2] == f"{names[1]}-grid=default-grid_points=1"
    for name in names:
        write_heareval(tmp_path / "results", name)
    collected = collect([tmp_path / "results"], figures=False)
    assert not collected.rejected
    assert len({cell.row for cell in stats.cells(collected.entries)}) == 3


def test_without_a_prepared_task_or_a_module_it_says_so(tmp_path, capfd):
    assert main(["hear-all", "eval_tasks.logmel", "--tasks-dir", str(tmp_path)]) == 1
    assert "no task of HEAR in" in capfd.readouterr().err
    assert main(["hear-all", "no_such_module", "--tasks-dir", str(tmp_path)]) == 1
    assert "no module no_such_module" in capfd.readouterr().err
    assert [*tmp_path.iterdir()] == []


def test_hear_is_prepared_but_not_run_as_one_task(capfd):
    assert main(["run", "--task", "hear", "--module", "eval_tasks.logmel", "--protocol", "hear"])
    assert "hear can be prepared, not run" in capfd.readouterr().err
