"""`python -m eval_tasks sweep`: on this machine, and on a Ray cluster that loses a machine."""

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from eval_parts import records, tiny_tasks

from eval_tasks import sweep
from eval_tasks.__main__ import main
from eval_tasks.request import Place

KILLS_ITSELF = """
import os
def load_model(model_file_path=""):
    os.kill(os.getpid(), 9)
def get_timestamp_embeddings(audio, model): ...
def get_scene_embeddings(audio, model): ...
"""
LINEAR = {
    "protocol": "linear",
    "set": ["optim.batch=4", "optim.epochs=4", "optim.warmup_steps=1", "fit.check_every_epochs=2"],
}
OFFICE = {"task": "office", "folder": "office_synthetic-v1-tiny"}
HEAR_ONLY = OFFICE | {"protocols": ["hear"]}
PIANO = {"task": "piano", "folder": "piano_synthetic-v1-tiny", "folds": 1}


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    return tiny_tasks(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def here(parts, tmp_path, monkeypatch) -> Path:
    shutil.copytree(parts, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def write(folder: Path, **values) -> str:
    (folder / "sweep.yaml").write_text(json.dumps(values))  # JSON is yaml
    return "sweep.yaml"


def test_a_sweep_goes_on_past_runs_that_fail_and_does_nothing_twice(here, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(here))
    (here / "kills_itself.py").write_text(KILLS_ITSELF)
    (here / "bad.pt").write_bytes(b"no weights")
    modules = ["kills_itself", {"module": "checkpoint", "checkpoint": "bad.pt"}, "no.module"]
    path = write(here, tasks=[OFFICE], modules=[*modules, "eval_tasks.logmel"], protocols=[LINEAR])
    assert main(["sweep", path, "--dry-run"]) == 0
    assert "4 runs: 2 planned, 2 failed" in capsys.readouterr().out
    assert not (here / "work").exists() and not (here / "results").exists()

    assert main(["sweep", path, "--jobs", "2"]) == 1
    said = capsys.readouterr()
    assert said.out.count("finished: office eval_tasks.logmel ") == 1
    failed = said.err.strip().splitlines()
    assert len(failed) == 3
    for text in ("ended by SIGKILL", "bad.pt", "no module no.module"):
        assert len([line for line in failed if text in line]) == 1, failed
    assert len(records(here)) == 1
    logs = [path.name for path in (here / "work" / "sweep").iterdir()]
    assert len(logs) == 2  # what cannot be planned has none

    path = write(here, tasks=[OFFICE], modules=["eval_tasks.logmel"], protocols=[LINEAR])
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("done twice"))
    assert main(["sweep", path]) == 0
    assert "1 runs: 1 finished" in capsys.readouterr().out


def test_a_line_of_commands_makes_one_record_from_any_folder(here, capsys):
    named = {"module": "checkpoint", "checkpoint": "mn02.pt", "name": "it's mine; $HOME"}
    path = write(here, tasks=[OFFICE], modules=[named, "no.module"], protocols=[LINEAR], seeds=2)
    arguments = ["sweep", path, "--commands", "--work", "my work"]
    assert main(arguments) == 1
    said = capsys.readouterr()
    lines, failed = said.out.splitlines(), said.err.splitlines()
    assert len(lines) == len(failed) == 2
    assert all("no module no.module" in line for line in failed)
    assert not (here / "my work").exists() and not (here / "results").exists()

    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "commands.txt").write_text(said.out)
    array = 'sed -n "${SLURM_ARRAY_TASK_ID}p" commands.txt | bash'
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "2"}
    subprocess.run(["bash", "-c", array], cwd=elsewhere, env=environment, check=True)
    (record,) = records(here).values()
    assert (record["seed"], record["name"]) == (1, "it's mine; $HOME")
    assert " --checkpoint mn02.pt " in record["command"]
    assert [path.name for path in elsewhere.iterdir()] == ["commands.txt"]

    assert main(arguments) == 1
    assert capsys.readouterr().out.splitlines() == lines[:1]


def test_commands_are_not_run_as_well(here, capsys):
    path = write(here, tasks=[OFFICE], modules=["eval_tasks.logmel"], protocols=[LINEAR])
    for other in ("--ray", "--ray-address=auto", "--dry-run"):
        assert main(["sweep", path, "--commands", other]) == 2
        said = capsys.readouterr()
        assert not said.out and "exclude each other" in said.err and said.err.count("\n") == 1


def test_a_sweep_asks_for_every_combination_once():
    values = {
        "tasks": [PIANO | {"set": {"finetuned": ["optim.epochs=1"]}}, HEAR_ONLY, "desed"],
        "modules": [
            "beats_strong",
            {"module": "checkpoint", "checkpoint": "a.pt", "stage": "weak"},
        ],
        "protocols": ["hear", "linear", "finetuned", {"protocol": "mean-teacher"}],
        "seeds": 2,
    }
    requests = sweep.requests(
        sweep.parse_sweep(values, "sweep"), Place(work=Path("w"), device="cpu")
    )
    assert len(set(map(repr, requests))) == len(requests) == 2 * (7 + 1 + 7)
    piano = [one for one in requests if one.task == "piano" and one.module == "checkpoint"]
    assert [(one.protocol, one.seed, one.folds, one.device) for one in piano] == [
        ("hear", None, None, None),
        *(("linear", seed, 1, "cpu") for seed in (0, 1)),
        *(("finetuned", seed, 1, "cpu") for seed in (0, 1)),
        *(("mean-teacher", seed, 1, "cpu") for seed in (0, 1)),
    ]
    assert {one.set for one in piano} == {(), ("optim.epochs=1",)}
    assert all(one.stage == "weak" and one.work == Path("w") for one in piano)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": []}, "unknown task; known: tasks, modules, protocols, seeds"),
        (
            {"modules": [{"module": "m", "weights": "a"}]},
            "has the unknown modules[0].weights; known: module, checkpoint",
        ),
        ({"modules": [{"checkpoint": "a"}]}, "lacks modules[0].module"),
        ({"protocols": ["frozen"]}, "protocols[0].protocol is 'frozen'; it must be 'hear', "),
        (
            {"tasks": [{"task": "office", "protocols": ["frozen"]}]},
            "tasks[0].protocols[0] is 'frozen'; it must be 'hear', ",
        ),
        ({"seeds": [0.5]}, "seeds[0] is 0.5; it must be a valid integer"),
        ({"seeds": 0}, "seeds is 0; it must be greater than or equal to 1 (1 <= x <= 1000)"),
        ({"seeds": 10**12}, "seeds is 1000000000000; it must be less than or equal to 1000"),
        ({"protocols": None}, "protocols is None; it must be a list"),
        ({"modes": ["frozen"]}, "has modes; give protocols instead: hear or linear for frozen"),
        ({"protocols": [{"mode": "finetuned"}]}, "has mode; give protocols instead: "),
        ({"protocols": [{"setup": "baseline"}]}, "mean-teacher for setup baseline"),
        ({"tasks": [{"task": "office", "modes": []}]}, "has modes; give protocols instead: "),
    ],
)
def test_a_sweep_file_with_a_mistake_is_refused_by_name(tmp_path, capsys, changes, told):
    values = {
        "tasks": ["office"],
        "modules": ["beats_strong"],
        "protocols": ["finetuned"],
    } | changes
    (tmp_path / "sweep.yaml").write_text(json.dumps(values))
    assert main(["sweep", str(tmp_path / "sweep.yaml")]) == 1
    said = capsys.readouterr().err.strip()
    assert told in said and "sweep.yaml" in said and len(said.splitlines()) == 1


def test_a_missing_or_broken_sweep_file_is_told_in_one_line(tmp_path, capsys):
    (tmp_path / "sweep.yaml").write_text("tasks: [office")
    for name, told in (("none.yaml", "no such sweep"), ("sweep.yaml", "expected ',' or ']'")):
        assert main(["sweep", str(tmp_path / name)]) == 1
        said = capsys.readouterr().err.strip()
        assert told in said and len(said.splitlines()) == 1


def test_a_ray_cluster_that_loses_a_machine_makes_all_records(here, monkeypatch):
    # Ray reads them when it is imported. Else it would write a token into the home folder.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # its default, 15, starves on a busy machine
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    path = write(here, tasks=[OFFICE], modules=["eval_tasks.logmel"], protocols=[LINEAR], seeds=3)
    planned = sweep.plan_sweep(here / path, Place(device="cpu"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    lost = cluster.add_node(num_cpus=1)
    begun, done = [], threading.Event()

    def lose_one():
        while len(begun) < 2 and not done.wait(0.05):
            begun[:] = (here / "work" / "sweep").glob("*.txt")
        begun.append(len(records(here)))
        cluster.remove_node(lost, allow_graceful=False)

    thread = threading.Thread(target=lose_one)
    thread.start()
    try:
        assert len(planned) == 3
        ended = list(sweep.run_on_ray(planned, cluster.address))
        assert [(entry.state, entry.message) for entry in ended] == [("finished", "")] * 3
        # A run was begun on each machine and none was finished when one machine was lost.
        assert len(begun) == 3 and begun[2] == 0
        assert sorted(record["seed"] for record in records(here).values()) == [0, 1, 2]
    finally:
        done.set()
        thread.join()
        ray.shutdown()
        cluster.shutdown()
