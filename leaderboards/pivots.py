"""The published tables of AudioSet Strong as they were printed: rows x settings."""

from collections.abc import Sequence
from typing import NamedTuple

from leaderboards import names
from leaderboards.board import printed_cell, score_href
from leaderboards.cell import Cell
from leaderboards.pages import Printed

TABLES = ("students", "teachers", "sequence models", "small models")
AGGREGATES = ("mean_of_single_models", "ensemble_of_row")  # rows that are no single model
MEASURED_BESIDE = ("students", "small models")


class Pivot(NamedTuple):
    """A published table of AudioSet Strong: rows x settings."""

    title: str
    corner: str
    columns: list[str]
    rows: list[tuple[str, list[Printed | None]]]
    measured: list[list[tuple[str, Printed]]]  # for each row, of the same model; may be empty
    notes: list[tuple[str, str]]
    source: str


def published_tables(cells: Sequence[Cell]) -> list[Pivot]:
    """The published tables; measured PSDS1 in a column of its own.

    A setting of the form "RNN:1 dim=256" gives a row and a column.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.row.kind == "published":
            groups.setdefault(cell.entries[0].record["table"], []).append(cell)
    measured = [c for c in cells if c.row.kind == "measured" and c.column.metric == "psds1_macro"]
    order = [*(name for name in TABLES if name in groups)]
    order += sorted(groups.keys() - set(order))
    return [_pivot(name, groups[name], measured) for name in order]


def _pivot(title: str, cells: list[Cell], measured: list[Cell]) -> Pivot:
    cells = sorted(cells, key=lambda cell: cell.entries[0].identity)
    split = any(" dim=" in cell.entries[0].record["setting"] for cell in cells)
    at: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        figure = cell.entries[0].record
        row, _, column = figure["setting"].partition(" dim=") if split else ("", "", "")
        key = (row, f"{column} wide" if column else "no width")
        later = f", {figure['stage']}" if figure["stage"] != "strong" else ""
        at[key if split else (figure["model"] + later, figure["setting"])] = cell
    rows, columns = (list(dict.fromkeys(key[i] for key in at)) for i in (0, 1))
    models = {row: cell.row.model for (row, _), cell in at.items()}
    means: dict[str, list[float]] = {column: [] for column in columns}
    remarks: dict[str, str] = {}
    for (row, column), cell in at.items():
        if row not in AGGREGATES:
            means[column].append(cell.mean)
        if note := cell.entries[0].record["note"]:
            # A note of a whole row or column once; others by their place.
            key = row if split else column
            remarks.setdefault(key, note)
            if remarks[key] != note:
                remarks[f"{row}, {column}"] = note.removeprefix(remarks[key]).lstrip("; ")
    texts = {}
    for (row, column), cell in at.items():
        of_column = means[column]
        best = row not in AGGREGATES and len(of_column) > 1 and cell.mean == max(of_column)
        flags = ("see note",) if f"{row}, {column}" in remarks else ()
        texts[row, column] = printed_cell(cell)._replace(mark="best" * best, flags=flags)
    words = names.setting_title
    return Pivot(
        title=f"{title[0].upper()}{title[1:]}",
        corner="sequence model, layers" if split else "model",
        columns=[words(column) for column in columns],
        rows=[(words(row), [texts.get((row, column)) for column in columns]) for row in rows],
        measured=[
            [
                (
                    f"{cell.row.stage} {cell.row.variant}".strip(),
                    printed_cell(cell, href=score_href(cell))._replace(mark="", flags=cell.flags),
                )
                for cell in measured
                if cell.entries[0].model == models[row] and title in MEASURED_BESIDE
            ]
            for row in rows
        ],
        notes=[(", ".join(map(words, key.split(", "))), text) for key, text in remarks.items()],
        source="; ".join(dict.fromkeys(cell.entries[0].source for cell in cells)),
    )
