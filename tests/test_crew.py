"""Workers that are lost, and what is said of it."""

from collections import Counter
from pathlib import Path

import pytest
from crew_parts import open_nothing, open_shop

from hear_ptsed.crew import Crew, run


def todo_of(folder: Path, *parts: str) -> dict[int, list[Path]]:
    return {n: [folder / name for name in part.split()] for n, part in enumerate(parts)}


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_each_part_is_made_once_and_the_threads_are_shared(tmp_path, jobs):
    done = Counter()
    todo = todo_of(tmp_path, "a b", "c", "d e f", "g")
    advance = lambda files, seconds: done.update(files=files, seconds=seconds)  # noqa: E731
    run(open_shop, todo, Crew(jobs), advance, threads=6)
    assert done == {"files": 7, "seconds": 70}
    assert [(tmp_path / f"{name}.made").read_text() for name in "abcdefg"] == [str(6 // jobs)] * 7


def test_a_part_that_ends_its_workers_is_named_when_all_others_are_finished(tmp_path):
    done = Counter()
    advance = lambda files, seconds: done.update(files=files)  # noqa: E731
    names = ["a", "b deadly c", *"defg"]
    with pytest.raises(RuntimeError) as error:
        run(open_shop, todo_of(tmp_path, *names), Crew(2), advance, threads=1)
    text = str(error.value)
    assert text.startswith("part 1 ended its worker 3 times (by SIGKILL) while no other was finish")
    listed = ", ".join(str(tmp_path / name) for name in names[1].split())
    assert text.endswith(f"list its files, {listed}, for another folder")
    assert done == {"files": 5}  # what was done of the part is taken back
    assert all((tmp_path / f"{name}.made").read_text() == "1" for name in "adefg")


def test_workers_that_end_before_they_begin_and_errors_end_the_job(tmp_path):
    advance = lambda files, seconds: None  # noqa: E731
    with pytest.raises(RuntimeError, match=r"end before they begin \(by SIGKILL\), 3 times"):
        run(open_nothing, todo_of(tmp_path, *"abc"), Crew(2), advance, threads=1)
    with pytest.raises(RuntimeError, match="this file is wrong"):
        run(open_shop, todo_of(tmp_path, "a", "wrong"), Crew(2), advance, threads=1)
