"""Result folders for tests and benchmarks of the site."""

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from leaderboard_parts import digest, record, write, write_heareval, write_raw

from leaderboards.collect import Collected, collect
from leaderboards.readers import Entry

MODELS = {"atst_frame": 0.62, "beats": 0.68, "m2d": 0.65, "frame_mn10": 0.58}
STAGES = {"ssl": 0.0, "weak": 0.06, "strong": 0.12}
PROTOCOLS = ("linear", "finetuned")
TABLE = "[data-view=frozen] table.scores"  # of the overview
HOSTILE = '<script>window.hostile = 1</script><img src=x onerror="window.hostile = 1">'


def many(
    folder: Path, models: dict[str, float], tasks: tuple[str, ...], seeds: int, resamples: int = 50
) -> int:
    """Records of models x three stages x tasks x two protocols x seeds; returns how many."""
    count = 0
    for task in tasks:
        for protocol in PROTOCOLS:
            for model, level in models.items():
                for stage, more in STAGES.items():
                    for seed in range(seeds):
                        known = (task, protocol, model, stage, seed)
                        noise = np.random.default_rng(int(digest(known)[:8], 16))
                        f = float(np.clip(level + more + noise.normal(0, 0.01), 0, 1))
                        own = {"identity": digest(known), "protocol": protocol}
                        per_class = {
                            f"class {k:02d}": {
                                "event_onset_200ms_fms": float(noise.uniform(0, 1)),
                                "events": 10.0 + k,
                            }
                            for k in range(11)
                        }
                        cost = {"parameters": 1e7 * (1 + len(model)), "seconds_per_minute": 2.5}
                        own |= {"per_class": per_class, "cost": cost}
                        made = record(model, stage, seed, f, 1 - f, task, resamples, **own)
                        write(folder, made)
                        count += 1
    return count


def small_set(folder: Path) -> None:
    """All that a page can hold: good results, an untrained one, small data, hostile files."""
    many(folder, MODELS, ("dcase2016_task2", "office"), seeds=2)
    own = {"untrained": True, "checkpoint": {"file": None, "sha256": None}}
    write(folder, record("beats", "strong", 0, 0.05, 1.3, protocol="linear", **own))
    own = {"command": f"python {HOSTILE}", "hyperparameters": {HOSTILE: HOSTILE}}
    own |= {"software": {"python": HOSTILE}, "hardware": {"device": "</script>" + HOSTILE}}
    made = record("asit", "ssl", 0, 0.99, 0.02, **own)
    write(folder, replace(made, model="my model", stage="", module="my.plug_in"))
    write_heareval(folder / "heareval")
    write_heareval(folder / "heareval", "hear_ptsed.plugins.beats_weak", score="NaN")
    bad = folder / "bad"
    write_raw(bad / "markup.json", record(seed=7), model=HOSTILE)
    write_raw(bad / "path.json", record(seed=8), module="../../etc/passwd")
    write_raw(bad / "long.json", record(seed=9), command="x" * 1_000_000)
    write_raw(bad / "metric.json", record(seed=10), scores={"cooking": 0.5})
    (bad / "cut.json").write_text('{"schema": 2, "task": "dca', encoding="utf-8")
    (bad / "<img src=x onerror=alert(1)>.json").write_text("{}", encoding="utf-8")


def collected(folder: Path) -> Collected:
    """`small_set`, and some of the published figures: axe takes its time for each cell."""
    small_set(folder)
    every = collect([folder])
    return Collected([entry for entry in every.entries if _is_kept(entry)], every.rejected)


def _is_kept(entry: Entry) -> bool:
    if entry.kind == "measured":
        return True
    return entry.task == "dcase2016_task2" or entry.record["table"] in ("students", "small models")


def find_column(page, task: str) -> tuple[str, int]:
    """Identity and place of a column of TABLE by its task."""
    return page.evaluate(
        """([table, task]) => {
          const heads = [...document.querySelector(`${table} thead tr:last-child`).cells];
          const k = heads.findIndex((head) => head.dataset.task === task);
          return [heads[k].dataset.col, k];
        }""",
        [TABLE, task],
    )


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Address of a folder on a local server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
