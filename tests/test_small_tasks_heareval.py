"""The small tasks through the real heareval, from an empty folder and again."""

import pytest
from hear_scores import scores

from eval_tasks import tasks
from eval_tasks.heareval import launch

pytestmark = pytest.mark.filterwarnings("ignore")  # dozens of the old packages' own


@pytest.mark.parametrize(("task", "chance"), [("office", 0.0), ("piano", 0.0), ("scenes", 0.35)])
def test_a_small_task_ends_with_scores_and_is_not_computed_twice(task, chance, tmp_path):
    folder = tasks.prepare(task, tmp_path / "tasks", synthetic=True)
    results = tmp_path / "embeddings" / "eval_tasks.logmel" / folder.name
    written = []
    for _ in range(2):
        options = ["--tasks-dir", tmp_path / "tasks", "--embeddings-dir", tmp_path / "embeddings"]
        arguments = ["eval_tasks.logmel", "--task", folder.name, *map(str, options)]
        assert launch.heareval("embeddings", arguments) == 0
        grid = ["--grid", "faster", "--grid-points", "1"]
        assert launch.heareval("predictions", [str(results), *grid]) == 0
        written.append((results / "test.predicted-scores.json").stat().st_mtime_ns)
    assert written[0] == written[1]
    assert scores(results)["score"] > chance
