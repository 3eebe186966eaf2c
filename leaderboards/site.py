"""Results -> a static site in one folder: pages, run pages, figures, downloads. No network."""

import gc
import json
import math
import multiprocessing
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hear_ptsed.files import atomic_folder, locked, remove_stale
from hear_ptsed.metrics import audioset
from hear_ptsed.metrics.catalogue import METRICS
from hear_ptsed.metrics.protocols import AS_TRAINED, PROTOCOLS
from leaderboards import charts, export, figures, names, pages, pivots, stats
from leaderboards.cell import FEW, Cell, Column
from leaderboards.collect import MARKER, Collected
from leaderboards.pages import Names
from leaderboards.readers import Entry

Draw = Callable[..., None]  # calls a function of `figures` with its arguments
HERE = Path(__file__).parent


def build_site(collected: Collected, out: Path, processes: int = 0) -> Path:
    """Write the site, with leaderboard.csv and leaderboard.md; returns its first page.

    The folder is replaced as a whole, once all is written, and only if it is empty or such a site
    without other files in it. Equal results give equal bytes.

    Args:
        processes: that draw the figures, beside this one. They are spawned: a script that asks for
            some must not build while it is imported.
    """
    out = Path(out).resolve()  # of a link its target is replaced
    if out.parent.is_dir():
        remove_stale(out.parent)  # of a build that was killed
    _check_ours(out)
    with locked(out, beside=True), atomic_folder(out) as folder:
        with _no_garbage_collection(), _drawing(processes) as draw:
            Site(collected, folder, draw).write()
        (folder / MARKER).write_text("\n".join(_site_files(folder)) + "\n", encoding="utf-8")
        _check_ours(out)  # to which somebody may have added something since
    return out / "index.html"


class Site:
    """One site to be written into a folder."""

    def __init__(self, collected: Collected, folder: Path, draw: Draw):
        self.collected, self.folder, self.draw = collected, folder, draw
        self.cells = stats.cells(collected.entries)
        self.primary = pages.primary(self.cells)
        self.names = Names(self.cells)
        self.tasks = pages.task_titles(self.cells)  # task -> title
        self.env = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.env.filters |= {"number": pages.number, "span": pages.span, "amount": charts.amount}
        self.env.globals |= {
            "tasks": self.tasks,
            "task_page": pages.task_page,
            "protocols": PROTOCOLS,
            "models": names.MODELS,
            "few": FEW,
            "rejected": collected.rejected,
        }

    def write(self) -> None:
        for name in ("runs", "figures", "static"):
            (self.folder / name).mkdir()
        for source in sorted((HERE / "static").iterdir()):
            if source.is_file():
                shutil.copyfile(source, self.folder / "static" / source.name)
        export.write_exports(self.cells, self.folder)
        self._overview()
        self._gain()
        for task in self.tasks:
            self._task(task)
        self._audioset()
        self._about()
        self._runs()

    def _page(self, name: str, template: str, **values: Any) -> None:
        root = "../" * name.count("/")
        text = self.env.get_template(template).render(root=root, page=name, **values)
        (self.folder / name).write_text(text, encoding="utf-8", newline="\n")

    def _overview(self) -> None:
        kinds = [entry.kind for entry in self.collected.entries]
        # AudioSet Strong has a page of its own: other models, trained in other ways.
        cells = [cell for cell in self.primary if cell.column.protocol != AS_TRAINED]
        self._page(
            "index.html",
            "overview.html",
            tables=pages.tables(cells, self.names, means=True),
            filters=_filters(cells, pages.task_titles(cells)),
            measured=kinds.count("measured"),
            published=kinds.count("published"),
        )

    def _gain(self) -> None:
        gains: dict[Column, list[stats.Gain]] = {}
        for gain in stats.gains(self.primary):
            gains.setdefault(gain.column, []).append(gain)
        sections = []
        for column in pages.by_column(self.primary):
            if column in gains:
                chart = charts.slope_chart(gains[column])
                name = f"gain-{pages.column_id(column)}"
                title = f"{self.names.column(column)}, {column.kind}"
                self.draw(figures.draw_slopes, chart, title, self.folder / f"figures/{name}.png")
                rows = [step for gain in gains[column] for step in pages.steps(gain)]
                clips = gains[column][0].cells[0].clips
                sections.append((name, self.names.column(column), column, chart, rows, clips))
        self._page("gain.html", "gain.html", sections=sections)

    def _task(self, task: str) -> None:
        of_task = [cell for cell in self.cells if cell.column.task == task]
        sections = []
        for column, cells in pages.by_column(pages.primary(of_task)).items():
            title, name = self.names.column(column), pages.column_id(column)
            full = f"{title}, {column.kind}"
            head = pages.column_head(column, cells, self.names)
            chart, costs = (
                charts.score_chart(cells, self.names),
                charts.cost_charts(cells, self.names),
            )
            classes = pages.class_table(column, cells, self.names)
            curves = charts.curve_chart(cells, self.names)
            for part, function, shown in (
                ("scores", figures.draw_scores, chart),
                ("classes", figures.draw_classes, classes),
                ("curve", figures.draw_curves, curves),
                ("cost", figures.draw_costs, costs),
            ):
                if shown:
                    self.draw(function, shown, full, self.folder / f"figures/{part}-{name}.png")
            sections.append((head, title, chart, classes, curves, costs))
        self._page(
            pages.task_page(task),
            "task.html",
            task=task,
            title=self.tasks[task],
            small=not any(e.published_task for c in of_task for e in c.entries),
            versions=sorted({cell.column.task_version for cell in of_task}),
            sections=sections,
            tables=pages.tables(of_task, self.names),
            filters=_filters(of_task, {}),
        )

    def _audioset(self) -> None:
        cells = [cell for cell in self.cells if cell.column.task == audioset.TASK]
        measured = [cell for cell in cells if cell.row.kind == "measured"]
        self._page(
            "audioset.html",
            "audioset.html",
            tables=pages.tables(measured, self.names),
            pivots=pivots.published_tables(cells),
        )

    def _about(self) -> None:
        columns = pages.by_column(self.cells)
        self._page(
            "about.html",
            "about.html",
            conventions=[
                pages.column_head(column, cells, self.names) for column, cells in columns.items()
            ],
        )

    def _runs(self) -> None:
        template = self.env.get_template("run.html")
        siblings: dict[str, Cell] = {}
        for cell in self.primary:
            siblings |= {entry.identity: cell for entry in cell.entries}
        for entry in self.collected.entries:
            cell = siblings[entry.identity]
            text = template.render(
                root="../",
                page="",
                entry=entry,
                label=self.names.row[cell.row],
                task=self.tasks[entry.task],
                scores=_scores(entry),
                classes=_class_rows(entry),
                others=[(e.seed, e.identity) for e in cell.entries if e is not entry],
                dump=json.dumps(entry.record, indent=1, ensure_ascii=False, allow_nan=False),
            )
            path = self.folder / pages.run_href(entry)
            path.write_text(text, encoding="utf-8", newline="\n")
            self._download(entry, path.with_suffix(".json"))

    def _download(self, entry: Entry, path: Path) -> None:
        if "schema" in entry.record and entry.path is not None:
            # As it came, with its replicates, so that others can compare with it.
            shutil.copyfile(entry.path, path)
            return
        text = json.dumps(entry.record, indent=1, ensure_ascii=False, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")


def _filters(
    cells: list[Cell], tasks: dict[str, str]
) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Key, title and choices, each with its name; only what there is a choice of."""
    columns, rows = {cell.column for cell in cells}, {cell.row for cell in cells}
    protocols = sorted({c.protocol for c in columns}, key=names.protocol_order)
    stages = sorted({row.stage for row in rows}, key=names.stage_order)
    models = sorted(
        {row.model for row in rows}, key=lambda m: (m not in names.MODELS, m.lower(), m)
    )
    shows = sorted({pages.show_of(row) for row in rows})
    choices = {
        "task": ("Task", [*tasks.items()]),
        "protocol": ("Protocol", [(protocol, protocol) for protocol in protocols]),
        "stage": ("Stage", [(stage, stage or "not said") for stage in stages]),
        "show": ("Results", [(show, show) for show in shows]),
        "model": ("Model", [(model, names.MODELS.get(model, model)) for model in models]),
    }
    return [(key, title, some) for key, (title, some) in choices.items() if len(some) > 1]


def _scores(entry: Entry) -> list[tuple[str, str, str, str, str]]:
    """Key, title, value, interval and convention of each metric."""
    rows = []
    few = entry.clips is not None and entry.clips < FEW
    for metric, value in entry.scores.items():
        low, high = (math.nan, math.nan) if few else entry.ci95.get(metric, (math.nan, math.nan))
        text = "" if entry.kind == "measured" else entry.record["printed"]
        text = text or ("undefined" if math.isnan(value) else f"{value:.6g}")
        span = pages.span(low, high)
        rows.append((metric, METRICS[metric].title, text, span, entry.conventions[metric]))
    return rows


def _class_rows(entry: Entry) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Titles of the columns, and the rows."""
    keys = list(dict.fromkeys(key for scores in entry.per_class.values() for key in scores))
    titles = [METRICS[key].title if key in METRICS else key for key in keys]

    def text(key: str, value: float) -> str:
        if key == "events" and not math.isnan(value):
            return f"{value:.10g}"
        return pages.number(value)

    rows = [
        (name, [text(key, scores[key]) if key in scores else "" for key in keys])
        for name, scores in sorted(entry.per_class.items())
    ]
    return titles, rows


def _site_files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


def _check_ours(out: Path) -> None:
    """Refuse to replace a folder in which anything else lies than a site."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is no folder; give a folder for the site")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / MARKER).is_file():
        raise ValueError(f"{out} holds other files than a site of this suite; give another folder")
    ours = {MARKER, *(out / MARKER).read_text(encoding="utf-8").splitlines()}
    if others := [name for name in _site_files(out) if name not in ours]:
        raise ValueError(
            f"{out} holds {len(others)} files that are not of the site built there, such as "
            f"{others[0]}; move them away or give another folder"
        )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """All that is made stays to the end; looking through it again and again takes a tenth more."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _drawing(processes: int) -> Iterator[Draw]:
    """Calls functions, here or in other processes; all are done when the block ends well."""
    if not processes:
        yield lambda function, *args: function(*args)
        return
    # An interruption from the keyboard is for the parent to handle.
    ignore = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawn, **ignore) as pool:
        drawn: list[Future] = []
        try:
            yield lambda function, *args: drawn.append(pool.submit(function, *args))
            for figure in drawn:
                figure.result()
        finally:
            pool.shutdown(cancel_futures=True)
