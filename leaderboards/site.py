"""Results -> a static site in one folder: pages, run pages, charts, downloads. No network."""

import base64
import hashlib
import json
import math
import re
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hear_ptsed.files import atomic_folder, locked, remove_stale
from hear_ptsed.metrics import audioset
from hear_ptsed.metrics.catalogue import METRICS
from hear_ptsed.metrics.protocols import AS_TRAINED, PROTOCOLS
from leaderboards import charts, names, pages, pivots, stats, tables
from leaderboards.cell import FEW, Cell, Column, best_first, mean_cost
from leaderboards.collect import MARKER, Collected
from leaderboards.pages import Names
from leaderboards.readers import Entry

HERE = Path(__file__).parent


def build_site(collected: Collected, out: Path) -> Path:
    """Write the site, with leaderboard.csv and leaderboard.md; returns its first page.

    The folder is replaced as a whole, once all is written, and only if it is empty or such a site
    without other files in it. Equal results give equal bytes.
    """
    out = Path(out).resolve()  # of a link its target is replaced
    if out.parent.is_dir():
        remove_stale(out.parent)  # of a build that was killed
    _check_ours(out)
    with locked(out, beside=True), atomic_folder(out) as folder:
        Site(collected, folder).write()
        (folder / MARKER).write_text("\n".join(_site_files(folder)) + "\n", encoding="utf-8")
        _check_ours(out)  # to which somebody may have added something since
    return out / "index.html"


class Site:
    """One site to be written into a folder."""

    def __init__(self, collected: Collected, folder: Path):
        self.collected, self.folder = collected, folder
        self.plotly = _plotly()
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
            "styles": _styles(self.plotly),
            "labels": self.names.row,
            "metrics": METRICS,
            "costs": charts.COSTS,
            "mean_cost": mean_cost,
            "height_at": charts.height_at,
        }

    def write(self) -> None:
        for name in ("runs", "static"):
            (self.folder / name).mkdir()
        for source in sorted((HERE / "static").iterdir()):
            if source.is_file():
                shutil.copyfile(source, self.folder / "static" / source.name)
        (self.folder / "static/plotly.min.js").write_text(self.plotly, "utf-8", newline="\n")
        tables.write_tables(self.cells, self.folder)
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
                chart = charts.slope_chart(gains[column], self.names.row)
                rows = [step for gain in gains[column] for step in pages.steps(gain)]
                name, title = f"gain-{pages.column_id(column)}", self.names.column(column)
                sections.append((name, title, column, chart, rows, gains[column][0].cells[0].clips))
        self._page("gain.html", "gain.html", sections=sections)

    def _task(self, task: str) -> None:
        of_task = [cell for cell in self.cells if cell.column.task == task]
        sections = []
        for column, cells in pages.by_column(pages.primary(of_task)).items():
            head, labels = pages.column_head(column, cells, self.names), self.names.row
            costs = [charts.cost_chart(cells, labels, cost) for cost in charts.COSTS]
            by_class = sorted(cells, key=best_first)
            drawn = {
                "scores": charts.score_chart(cells, labels),
                "classes": charts.class_chart(by_class, labels),
                "curves": charts.curve_charts(cells, labels),
                "costs": [chart for chart in costs if chart],
            }
            classes = pages.class_table(column, cells, self.names)
            sections.append((head, drawn, classes, by_class))
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


def _plotly() -> str:
    """The script that draws the charts: that of the installed package."""
    try:
        return (resources.files("plotly") / "package_data/plotly.min.js").read_text("utf-8")
    except ModuleNotFoundError:
        raise ImportError(
            "the charts need plotly: pip install 'hear_ptsed[leaderboards]'"
        ) from None


def _styles(script: str) -> str:
    """What a content-security policy must admit: the style sheets that the script writes itself.

    An empty one, which it fills rule by rule, and that of its maps.
    """
    sheets = ["", *re.findall(r"\.textContent='([^'\\]{1000,})'", script)]
    digests = (hashlib.sha256(sheet.encode()).digest() for sheet in sheets)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
