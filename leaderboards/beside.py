"""Which printed figure a measured score is to be held against."""

from collections.abc import Iterable

from hear_ptsed.metrics.protocols import AS_TRAINED
from leaderboards.cell import Cell, Column, Row
from leaderboards.models import facts

Beside = dict[tuple[Row, Column], Cell]  # of measured cells -> the printed one

# Table and setting of figures that are of the released weights; None: any setting.
RELEASED = {
    "downstream": "",
    "DESED baseline": "",
    "students": "full",
    "small models": None,
}


def printed_beside(cells: Iterable[Cell]) -> Beside:
    """Row and column of a measured cell -> the printed cell of the same thing.

    They agree in task, metric, protocol, model and stage. The measured one is of the released
    weights, embedded without options, on the whole published data.
    """
    cells = list(cells)
    printed = {
        _what(cell): cell for cell in cells if cell.row.kind == "published" and _of_released(cell)
    }
    return {
        (cell.row, cell.column): printed[_what(cell)]
        for cell in cells
        if cell.row.kind == "measured" and _what(cell) in printed and _is_plain(cell)
    }


def _what(cell: Cell) -> tuple[str, ...]:
    column = cell.column
    return column.task, column.metric, column.protocol, cell.row.model, cell.row.stage


def _of_released(cell: Cell) -> bool:
    figure = cell.entries[0].record
    setting = RELEASED.get(figure["table"], figure["table"])
    return setting is None or setting == figure["setting"]


def _is_plain(cell: Cell) -> bool:
    """Whether a measured cell is of released weights as they are, on all of the data."""
    row, known = cell.row, facts(cell.row.model, cell.row.stage)
    if known is None or row.untrained or cell.small_data or "=" in row.variant:
        return False
    if cell.column.protocol == AS_TRAINED:
        return row.module == known.release_file
    return row.module == f"hear_ptsed.plugins.{row.model}_{row.stage}"
