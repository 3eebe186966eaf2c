"""`python -m eval_tasks run`: from the command line to the record, killed, twice, in parallel."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("sed_eval")

from eval_parts import (  # noqa: E402
    LOGMEL,
    OFFICE,
    PIANO,
    Killed,
    killed_while_writing,
    records,
    run,
    start,
    tiny_tasks,
    tuned,
)

from hear_ptsed.files import LOCK  # noqa: E402
from hear_ptsed.metrics.records import read_record, score_table  # noqa: E402


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    return tiny_tasks(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def tasks(parts) -> list[str]:
    return ["--tasks-dir", str(parts / "tasks"), "--quiet"]


@pytest.fixture(scope="module")
def undisturbed(parts, tasks) -> dict[str, dict[str, dict]]:
    """Records of a frozen and a fine-tuned run, of two seeds one after another."""
    made = {}
    for protocol, options in (("linear", LOGMEL), ("finetuned", tuned(parts))):
        folder = parts / protocol
        code, said = run(folder, "run", *OFFICE, *options, *tasks, "--seeds", "2")
        assert code == 0, said
        made[protocol] = records(folder)
    return made


@pytest.mark.parametrize("protocol", ["linear", "finetuned"])
def test_a_record_is_complete_and_says_how_it_is_made_again(undisturbed, parts, protocol):
    assert len(undisturbed[protocol]) == 2
    paths = sorted((parts / protocol / "results").rglob("*.json"))
    for seed, path in enumerate(paths):
        record = read_record(path)
        assert record.seed == seed and record.protocol == protocol and record.clips == 8
        assert [*record.scores][0] == "event_onset_200ms_fms"
        assert record.scores["event_onset_200ms_fms"] >= 0  # not NaN
        assert record.scores.keys() == record.conventions.keys() == record.ci95.keys()
        curve = record.curves["event_onset_200ms_fms"]
        at_half = curve["f_measure"][curve["threshold"].index(0.5)]
        assert at_half == record.scores["event_onset_200ms_fms"]
        assert all(len(values) == 500 for values in record.replicates.values())
        assert record.hyperparameters["optim"]["batch"] == 4
        assert record.identity[:12] in path.name
        assert f"--seed {seed}" in record.command and "--tasks-dir" not in record.command
        assert record.cost["parameters"] > 0 and record.cost["seconds_per_minute"] > 0
        assert record.seconds > 0 and record.software["torch"] and record.hardware["cores"]
    tuned_one = protocol == "finetuned"
    assert record.model == ("fmn02" if tuned_one else "logmel")
    assert (record.checkpoint["sha256"] is not None) == tuned_one


def test_a_finished_run_is_not_done_again(undisturbed, parts, tasks):
    folder = parts / "linear"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    code, said = run(
        folder, "run", *OFFICE, *LOGMEL, *tasks, at=Killed("eval_tasks.fit.loop.train_problem")
    )
    assert code == 0 and "already done: results/" in said
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    del before[folder / "output.txt"], after[folder / "output.txt"]
    assert after == before


def test_only_logs_and_features_stay_behind_a_finished_run(undisturbed, parts):
    left = [path for path in (parts / "finetuned" / "work").rglob("*") if path.is_file()]
    assert left and all("logs" in path.parts for path in left)


# At the door that a phase of a run goes through; `between` also guards the parts of an embedding.
RECORDS = "hear_ptsed.metrics.records"
MOMENTS = {
    "while it embeds": ("linear", Killed("hear_ptsed.interrupt.between", 2)),
    "while it trains a head": ("linear", Killed("eval_tasks.fit.frozen.validation", 3)),
    "while it fine-tunes": ("finetuned", Killed("eval_tasks.fit.finetune.validation", 2)),
    "before it scores": ("finetuned", Killed("eval_tasks.run.rate")),
    "while it writes": ("linear", killed_while_writing),
    "before it clears up": (
        "linear",
        Killed("hear_ptsed.metrics.records.write_record", behind=True),
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_ends_at_the_record_of_an_undisturbed_one(
    undisturbed, parts, tasks, tmp_path, moment
):
    protocol, at = MOMENTS[moment]
    options = LOGMEL if protocol == "linear" else tuned(parts)
    command = ("run", *OFFICE, *options, *tasks, "--seed", "0")
    assert run(tmp_path, *command, at=at)[0] == -9
    written = [path for path in tmp_path.rglob("results/**/*.json") if path.name[0] != "."]
    assert len(written) == (moment == "before it clears up")
    code, said = run(tmp_path, *command)
    assert code == 0, said
    assert not [*tmp_path.rglob("state.pt")] and not [*tmp_path.rglob("results/**/.*")]
    name, record = records(tmp_path).popitem()
    assert record == undisturbed[protocol][name]


def test_what_a_user_puts_into_the_folder_of_a_run_stays(parts, tasks, tmp_path):
    command = ("run", *OFFICE, *LOGMEL, *tasks, "--seed", "0")
    assert run(tmp_path, *command, at=Killed("eval_tasks.run.rate"))[0] == -9
    (state,) = tmp_path.rglob("state.pt")
    for name in (".2024-state.pt", "notes.txt"):
        state.with_name(name).write_text("precious")
    (state.parents[1] / ".notes.txt").write_text("precious")
    code, said = run(tmp_path, *command)
    assert code == 0, said
    assert not state.exists() and (state.parents[1] / ".notes.txt").exists()
    assert {path.name for path in state.parent.iterdir()} == {".2024-state.pt", "notes.txt", "logs"}


def test_kills_at_any_time_change_nothing(undisturbed, parts, tasks, tmp_path):
    command = ("run", *OFFICE, *LOGMEL, *tasks, "--seed", "1")
    kills = 0
    for delay in (0.05, 0.2, 0.4, 0.9, 1.6, 2.5):
        process = start(tmp_path, *command)
        process.join(delay)
        kills += process.is_alive()
        process.kill()
        process.join()
        for path in records(tmp_path):  # strict JSON, whenever it is looked at
            assert path in undisturbed["linear"]
    assert kills
    assert run(tmp_path, *command)[0] == 0
    name, record = records(tmp_path).popitem()
    assert record == undisturbed["linear"][name]


def test_two_seeds_in_parallel_give_the_records_of_one_after_another(
    undisturbed, parts, tasks, tmp_path
):
    both = [start(tmp_path, "run", *OFFICE, *LOGMEL, *tasks, "--seed", seed) for seed in ("0", "1")]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0], (tmp_path / "output.txt").read_text()
    assert records(tmp_path) == undisturbed["linear"]


def test_a_second_process_is_kept_out_of_a_run(parts, tasks, tmp_path):
    command = ("run", *OFFICE, *LOGMEL, *tasks)
    first = start(tmp_path, *command)
    while first.is_alive() and not [*tmp_path.glob(f"work/*/{LOCK}")]:
        time.sleep(0.01)
    code, said = run(tmp_path, *command)
    first.join()
    assert first.exitcode == 0
    assert code == 1 and "another process works there; wait" in said


def test_folds_are_averaged_and_kept(parts, tasks, tmp_path):
    options = [*PIANO, *LOGMEL, *tasks, "--set", "optim.epochs=1", "--set", "optim.warmup_steps=0"]
    for more in ([], ["--folds", "1"]):
        code, said = run(tmp_path, "run", *options, *more)
        assert code == 0, said
    one, five = sorted(records(tmp_path).values(), key=lambda record: len(record["folds"]))
    assert (len(one["folds"]), len(five["folds"])) == (1, 5)
    assert (one["clips"], five["clips"]) == (4, 20)
    assert one["folds"][0] == one["scores"] == five["folds"][0]
    assert five["identity"] != one["identity"]
    assert five["curves"].keys() == one["curves"].keys() == {"event_onset_50ms_fms"}
    assert one["folds_of"] == five["folds_of"] == 5
    for metric, score in five["scores"].items():
        each = [fold[metric] for fold in five["folds"] if fold[metric] is not None]
        assert score == (pytest.approx(sum(each) / len(each)) if each else None)


def test_a_dry_run_tells_steps_and_disk_and_writes_nothing(parts, tasks, tmp_path):
    small = ["--module", "checkpoint", "--checkpoint", str(parts / "mn02.pt"), *LOGMEL[2:]]
    loads = Killed("hear_ptsed.registry.build")  # of no use for that
    for options in (LOGMEL, small, tuned(parts)):
        command = ["run", *OFFICE, *options, *tasks, "--dry-run"]
        assert run(tmp_path, *command, at=loads)[0] == 0
    said = (tmp_path / "output.txt").read_text()
    assert said.count("record: results/") == 3 and said.count("; 4 classes") == 3
    unknown, known = (line for line in said.splitlines() if "embeddings: " in line)
    frames = unknown.split()[1]
    assert unknown.split(maxsplit=2)[2] == "frames, size not known before the first embedding"
    assert known == f"  embeddings: {frames} frames, {int(frames) * 192 * 2 / 1e6:.0f} MB"
    assert said.count("  training: 8 steps; 2 MB until it is done") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["output.txt"]


def test_the_steps_of_a_dry_run_are_those_of_the_run(undisturbed, parts, tasks, tmp_path):
    for protocol, options in (("linear", LOGMEL), ("finetuned", tuned(parts))):
        said = run(tmp_path, "run", *OFFICE, *options, *tasks, "--dry-run")[1]
        for record in undisturbed[protocol].values():
            assert f"training: {record['training'][0]['step']} steps" in said


def test_what_a_table_shows(undisturbed, parts):
    record = read_record(min((parts / "linear" / "results").rglob("*.json")))
    text = score_table(record, per_class=True)
    score = f"{record.scores['event_onset_200ms_fms']:.4f}"
    assert f"event_onset_200ms_fms  {score}  95 % " in text
    assert "pluck" in text and "UNTRAINED" not in text and "coverage" not in text
    text = score_table(replace(record, untrained=True, coverage="3 of 9 left"))
    assert "UNTRAINED" in text and "coverage: 3 of 9 left" in text and "pluck" not in text
