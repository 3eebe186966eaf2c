"""Time to build the site of many records, and to sort its overview in Chromium.

python benchmarks/site.py [--records 5000] [--seeds 3]
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from site_records import PROTOCOLS, STAGES, many  # noqa: E402

from leaderboards import site  # noqa: E402
from leaderboards.collect import collect  # noqa: E402

TASKS = ("dcase2016_task2", "maestro", "office")
SORT = """column => {
  const head = document.querySelector(".scores thead tr:last-child").cells[column];
  const start = performance.now();
  head.querySelector("button").click();
  document.body.offsetHeight;  // the new layout, too
  const script = performance.now() - start;
  return new Promise(done => requestAnimationFrame(() => setTimeout(
    () => done([script, performance.now() - start]))));
}"""


def sort_times(index: Path, runs: int = 9) -> tuple[int, list[list[float]]]:
    """Rows, and milliseconds until the layout is done and until it is drawn, of each click."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(index.as_uri())
        rows = page.locator("[data-view]:first-of-type tbody tr[data-show=measured]").count()
        times = [page.evaluate(SORT, (6, 7, 9)[run % 3]) for run in range(runs)]
        browser.close()
    return rows, times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--resamples", type=int, default=1000)
    args = parser.parse_args()
    per_model = len(TASKS) * len(PROTOCOLS) * len(STAGES) * args.seeds
    models = {
        f"model{k:04d}": 0.5 + 0.3 * (k % 97) / 97 for k in range(-(-args.records // per_model))
    }
    with tempfile.TemporaryDirectory() as folder:
        made = many(Path(folder) / "results", models, TASKS, args.seeds, args.resamples)
        load = os.getloadavg()[0]
        start = time.perf_counter()
        collected = collect([Path(folder) / "results"])
        read = time.perf_counter() - start
        index = site.build_site(collected, Path(folder) / "site")
        wall = time.perf_counter() - start
        files = [path for path in index.parent.rglob("*") if path.is_file()]
        print(f"{made} records, {len(models)} models; load before: {load:.1f}")
        print(f"read   {read:6.1f} s")
        print(f"all    {wall:6.1f} s")
        print(f"site   {len(files)} files, {sum(p.stat().st_size for p in files) / 1e6:.0f} MB")
        rows, times = sort_times(index)
        for name, taken_ms in zip(("laid out", "drawn"), zip(*times, strict=True), strict=True):
            middle = sorted(taken_ms)[len(taken_ms) // 2]
            print(
                f"sort   {rows} rows, {name}: median {middle:.0f} ms, most {max(taken_ms):.0f} ms"
            )


if __name__ == "__main__":
    main()
