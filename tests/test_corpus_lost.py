"""Corpora on Ray, and large ones whose workers are lost: the rows of an undisturbed run."""

import json
import os
import random
import signal
import threading
from pathlib import Path

import pytest
from corpus_parts import DETECT, children, rows, run, sounds

from hear_ptsed import corpus, crew

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def ray(monkeypatch):
    # Ray reads them when it is imported. Else it would write a token into the home folder.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # its default, 15, starves on a busy machine
    return pytest.importorskip("ray")


def undisturbed(folder: Path, out: Path) -> list[dict]:
    assert run(*DETECT, folder, "--out", out) == 1
    return rows(out)


def test_a_ray_cluster_that_is_started_here_makes_the_same_rows(ray, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "PART_FILES", 4)
    folder = sounds(tmp_path / "audio", 9, longest_s=0.5)
    assert run(*DETECT, folder, "--out", tmp_path / "out", "--ray-address", "local") == 1
    assert not ray.is_initialized()
    assert rows(tmp_path / "out") == undisturbed(folder, tmp_path / "alone")


@pytest.mark.slow
def test_a_ray_cluster_that_loses_a_node_makes_the_same_rows(ray, tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(corpus, "PART_FILES", 10)
    folder, out = sounds(tmp_path / "audio", 240), tmp_path / "out"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    lost = cluster.add_node(num_cpus=1)
    begun_again, done = [], threading.Event()

    class PartQueue(crew.PartQueue):
        def lost(self, n: int | None, why: str) -> None:
            begun_again.append(n)
            super().lost(n, why)

    def lose_one() -> None:
        while len(list(out.glob("part-*.json"))) < 5 and not done.wait(0.05):
            continue
        cluster.remove_node(lost, allow_graceful=False)

    monkeypatch.setattr(crew, "PartQueue", PartQueue)

    thread = threading.Thread(target=lose_one)
    thread.start()
    try:
        assert run(*DETECT, folder, "--out", out, "--ray-address", cluster.address) == 1
        assert len(begun_again) == 1 and begun_again[0] in range(24)
    finally:
        done.set()
        thread.join()
        cluster.shutdown()
    assert rows(out) == undisturbed(folder, tmp_path / "alone")


@pytest.mark.slow
def test_two_thousand_files_whose_workers_are_killed_at_random(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "PART_FILES", 40)
    folder, out = sounds(tmp_path / "audio", 2000, longest_s=1.0), tmp_path / "out"
    dice, killed, done = random.Random(0), [], threading.Event()

    def kill() -> None:
        for at_least in (4, 22):  # of 50 parts
            while len(list(out.glob("part-*.json"))) < at_least and not done.wait(0.01):
                continue
            if not done.wait(dice.uniform(0, 1)):
                killed.append(dice.choice(children(os.getpid())))
                os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        assert run(*DETECT, folder, "--out", out, "--jobs", 2) == 1
    finally:
        done.set()
        thread.join()
    made = rows(out)
    assert len(set(killed)) == 2 and len(made) == 2000
    assert len({row["file"] for row in made}) == 2000
    totals = json.loads((out / "manifest.json").read_text())["totals"]
    assert totals["files"] == 2000 and totals["failed"] == 2
    assert made == undisturbed(folder, tmp_path / "alone")
