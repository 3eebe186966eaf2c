"""Results -> a static site in one folder: pages, run pages, charts, downloads. No network."""

import base64
import hashlib
import json
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
from leaderboards import answers, board, charts, export, names, pages, pivots, sections, stats
from leaderboards.beside import printed_beside
from leaderboards.cell import FEW, Cell
from leaderboards.collect import MARKER, Collected
from leaderboards.overview import Overview, overviews
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
        self.gains = stats.gains(self.primary)
        self.names = Names(self.cells)
        self.tasks = pages.task_titles(self.cells)  # task -> title
        # AudioSet Strong has a page of its own: other models, trained in other ways.
        # So have HEAR's tasks of whole clips.
        on_overview = [
            cell
            for cell in self.primary
            if cell.column.protocol != AS_TRAINED and cell.column.task not in names.HEAR_ONLY
        ]
        self.beside = printed_beside(self.primary)
        self.overviews = overviews(on_overview, self.beside)
        self.env = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        of_names, of_pages = (
            ("model_title", "family", "setting_title"),
            ("number", "span", "column_id"),
        )
        of_pages += ("task_page", "model_page", "has_page", "run_href")
        self.env.filters |= {"amount": charts.amount, "printed": pages.printed}
        self.env.filters |= {name: getattr(names, name) for name in of_names}
        self.env.globals |= {name: getattr(pages, name) for name in of_pages}
        self.env.globals |= {
            "named": self.names,
            "tasks": {k: v for k, v in self.tasks.items() if k not in names.HEAR_ONLY},
            "metrics": METRICS,
            "protocols": PROTOCOLS,
            "protocol_titles": names.PROTOCOL_TITLES,
            "view_titles": board.VIEW_TITLES,
            "few": FEW,
            "rejected": collected.rejected,
            "exports": export.ABOUT,
            "styles": _styles(self.plotly),
        }

    def write(self) -> None:
        for name in ("runs", "static"):
            (self.folder / name).mkdir()
        for source in sorted((HERE / "static").iterdir()):
            if source.is_file():
                shutil.copyfile(source, self.folder / "static" / source.name)
        (self.folder / "static/plotly.min.js").write_text(self.plotly, "utf-8", newline="\n")
        export.write_exports(self.cells, self.folder)
        self._overview()
        self._gain()
        for task in self.tasks:
            self._task(task)
        self._models()
        self._audioset()
        self._page("hear.html", "hear.html", **sections.hear_page(self.cells))
        self._about()
        self._runs()

    def _page(self, name: str, template: str, **values: Any) -> None:
        root = "../" * name.count("/")
        text = self.env.get_template(template).render(root=root, page=name, **values)
        (self.folder / name).write_text(text, encoding="utf-8", newline="\n")

    def _overview(self) -> None:
        kinds = [entry.kind for entry in self.collected.entries]
        views = [
            (
                board.overview_board(view, self.beside, self.names),
                *answers.answers(view, self.gains, self.beside, self.names),
                self._sizes(view),
            )
            for view in self.overviews
        ]
        self._page(
            "index.html",
            "overview.html",
            views=views,
            filters=_filters([table for table, *_ in views]),
            measured=kinds.count("measured"),
            published=kinds.count("published"),
        )

    def _sizes(self, view: Overview) -> charts.Chart | None:
        """The mean score over parameters."""
        sizes = {}
        for line in view.lines:
            costs = [e.cost.get("parameters", 0) for c in line.cells.values() for e in c.entries]
            if line.rank is not None and costs and max(costs) > 0:
                sizes[line.row] = max(costs), 100 * line.mean.mean
        return charts.size_chart(sizes, self.names.row, "mean score, %") if sizes else None

    def _gain(self) -> None:
        by_kind: dict[str, list] = {kind: [] for kind in stats.KINDS}
        for column, gains in pages.by_column(self.gains).items():
            chart = charts.slope_chart(gains, self.names.row)
            by_kind[column.kind].append((column, gains, chart))
        self._page("gain.html", "gain.html", **by_kind)

    def _task(self, task: str) -> None:
        of_task = [cell for cell in self.cells if cell.column.task == task]
        measured = [cell for cell in of_task if cell.row.kind == "measured"]
        table = board.task_board(measured, self.names) if measured else None
        self._page(
            pages.task_page(task),
            "task.html",
            task=task,
            title=self.tasks[task],
            small=bool(measured) and not any(e.published_task for c in measured for e in c.entries),
            versions=sorted({cell.column.task_version for cell in measured}),
            sections=sections.task_sections(measured, self.names),
            table=table,
            filters=_filters([table] if table else []),
            figures=sections.figures(of_task),
        )

    def _models(self) -> None:
        made = sections.model_pages(self.primary, self.beside, self.names)
        for model, values in made.items():
            self._page(pages.model_page(model), "model.html", **values)

    def _audioset(self) -> None:
        cells = [cell for cell in self.cells if cell.column.task == audioset.TASK]
        measured = [cell for cell in cells if cell.row.kind == "measured"]
        self._page(
            "audioset.html",
            "audioset.html",
            table=board.task_board(measured, self.names) if measured else None,
            pivots=pivots.published_tables(cells),
        )

    def _about(self) -> None:
        columns = pages.by_column(cell for cell in self.cells if cell.row.kind == "measured")
        conventions = [
            (board.score_head(column, cells, self.names), column, cells[0].convention)
            for column, cells in columns.items()
        ]
        self._page("about.html", "about.html", conventions=conventions)

    def _runs(self) -> None:
        template = self.env.get_template("run.html")
        siblings: dict[str, Cell] = {}
        for cell in self.primary:
            siblings |= {entry.identity: cell for entry in cell.entries}
        for entry in self.collected.entries:
            if entry.kind == "published":
                continue
            cell = siblings[entry.identity]
            text = template.render(
                root="../",
                page="",
                entry=entry,
                model=cell.row.model,
                label=self.names.row[cell.row],
                task=self.tasks[entry.task],
                scores=sections.run_scores(entry),
                classes=sections.run_rows(entry.per_class),
                groups=sections.run_rows(entry.groups),
                others=[(e.seed, e.identity) for e in cell.entries if e is not entry],
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


def _filters(boards: list[board.Board]) -> dict[str, list[tuple[str, str]]]:
    """Key -> choices, each with its name; none where there is no choice."""
    lines = [line for table in boards for line in table.lines]
    kinds = {head.kind for table in boards for group in table.groups for head in group.heads}
    rows = [line.row for line in lines]
    models = sorted({row.model for row in rows if row.kind == "measured"}, key=names.model_order)
    of_rows = {names.family(row.model) for row in rows}
    families = [name for name in dict.fromkeys(names.FAMILIES.values()) if name in of_rows]
    stages = sorted({row.stage for row in rows if row.kind == "measured"}, key=names.stage_order)
    # Without anything measured, what others printed is all there is; so with small data.
    measured = any(row.kind == "measured" for row in rows)
    real = any(h.task and not h.kind for t in boards for g in t.groups for h in g.heads[:1])
    shows = {row.show for row in rows}
    switches = {
        "small": ("small tasks", "small" in kinds and real),
        "untrained": ("untrained models", "untrained" in shows),
        "published": ("printed by others", "published" in shows and measured),
    }
    tasks = dict(choice for table in boards for choice in table.tasks)
    choices = {
        "protocol": [(table.id, board.VIEW_TITLES[table.id][0]) for table in boards if table.tasks],
        "task": [*tasks.items()],
        "family": [(name, name or "others") for name in families],
        "model": [(model, names.model_title(model)) for model in models],
        "stage": [(stage, stage or "no stage") for stage in stages],
    }
    few = {key: [] if len(some) < 2 else some for key, some in choices.items()}
    return few | {"switch": [(key, text) for key, (text, on) in switches.items() if on]}


def _plotly() -> str:
    """The script that draws the charts: that of the installed package."""
    try:
        return (resources.files("plotly") / "package_data/plotly.min.js").read_text("utf-8")
    except ModuleNotFoundError:
        need = "the charts need plotly: pip install 'hear_ptsed[leaderboards]'"
        raise ImportError(need) from None


def _styles(script: str) -> str:
    """What a content-security policy must admit: the style sheets that the script writes itself.

    An empty one, which it fills rule by rule, and that of its maps.
    """
    sheets = ["", *re.findall(r"\.textContent='([^'\\]{1000,})'", script)]
    digests = (hashlib.sha256(sheet.encode()).digest() for sheet in sheets)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


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
