"""leaderboard.csv, leaderboard.md and a CSV in the form of the public HEAR leaderboard."""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from hear_ptsed.files import atomic
from leaderboards import names
from leaderboards.cell import DECIMALS, FEW, Cell, Column
from leaderboards.pages import column_order, row_order, task_titles
from leaderboards.stats import normalised
from leaderboards.titles import labels, notes

CSV, MARKDOWN, HEAR = "leaderboard.csv", "leaderboard.md", "hear_leaderboard.csv"
NORMALISED = "Normalised mean"
FORMULA = (*"=+-@＝＋－＠", "\t", "\r")  # what spreadsheets take for one
_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\`*_{}[]|~$"} | {"<": "&lt;", ">": "&gt;"})


def write_tables(cells: Sequence[Cell], out: Path) -> list[Path]:
    """The three files in a folder."""
    texts = {CSV: long_csv(cells), MARKDOWN: markdown(cells), HEAR: hear_csv(cells)}
    for name, text in texts.items():
        with atomic(Path(out) / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    return [Path(out) / name for name in texts]


def long_csv(cells: Sequence[Cell]) -> str:
    """One row per cell, all digits; empty where a value is not defined."""
    label = labels(cell.row for cell in cells)
    rows = [
        {
            "kind": cell.row.kind,
            "task": cell.column.task,
            "task_version": cell.column.task_version,
            "protocol": cell.column.protocol,
            "metric": cell.column.metric,
            "name": label[cell.row],
            "model": cell.row.model,
            "stage": cell.row.stage,
            "module": _joined(entry.module for entry in cell.entries),
            "variant": cell.row.variant,
            "hyperparameters": cell.row.hyperparameters,
            "mean": cell.mean,
            "std": cell.std,
            "low": cell.low,
            "high": cell.high,
            "seeds": cell.seeds,
            "undefined": cell.undefined,
            "rank": "" if cell.rank is None else cell.rank,
            "tied": "" if cell.rank is None else cell.tied,
            "paired": "" if cell.rank is None else cell.paired,
            "best": cell.best,
            "untrained": cell.untrained,
            "small_data": cell.small_data,
            "data": cell.column.data,
            "settings": cell.column.settings,
            "folds": cell.column.folds,
            "convention": _joined(e.conventions[cell.column.metric] for e in cell.entries),
            "source": _joined(entry.source for entry in cell.entries),
        }
        for cell in cells
    ]
    return _csv(pd.DataFrame(rows))


def hear_csv(cells: Sequence[Cell]) -> str:
    """Measured scores under HEAR's protocol: Model, URL, Submission Date, a column per task.

    Raw primary scores with 9 decimals, as on the public leaderboard; last HEAR's normalised mean,
    where there is one. A row that has several scores of one task (such as of other data) comes
    several times.
    """
    label = labels(cell.row for cell in cells)
    hear = [c for c in cells if c.row.kind == "measured" and c.column.protocol == "hear"]
    hear = [c for c in hear if c.column.metric == c.entries[0].primary]
    hear = [c for c in hear if _hear_column(c.column.task)]
    rows: dict[tuple[str, int], dict[str, str]] = {}
    for cell in hear:
        column = _hear_column(cell.column.task)
        number = 0
        while column in rows.setdefault((label[cell.row], number), {}):
            number += 1
        days = [str(entry.record.get("started", ""))[:10] for entry in cell.entries]
        row = rows[label[cell.row], number]
        row["Submission Date"] = max(row.get("Submission Date", ""), *days)
        row[column] = "" if math.isnan(cell.mean) else f"{cell.mean:.9f}"
    for mean in normalised(hear):
        rows[label[mean.row], 0][NORMALISED] = f"{mean.value:.9f}"
    order = [*filter(None, map(_hear_column, names.KNOWN_TASKS)), NORMALISED]
    filled = [column for column in order if any(column in row for row in rows.values())]
    columns = ["Model", "URL", "Submission Date", *filled]
    table = [{"Model": name, "URL": "", **row} for (name, _), row in rows.items()]
    return _csv(pd.DataFrame(table, columns=columns).sort_values(columns, na_position="last"))


def markdown(cells: Sequence[Cell]) -> str:
    """A section per task: its primary metrics, best in bold; measured, then published figures."""
    primary = [cell for cell in cells if cell.column.metric == cell.entries[0].primary]
    label, note = labels(cell.row for cell in cells), notes(cell.column for cell in primary)
    lines = [
        "# Leaderboard",
        "",
        "Mean ± standard deviation over seeds (number) [95 % interval over test clips], rank: 1 +",
        "the number of models better by the paired difference over resampled clips; =: its order",
        "with another is open; \\*: not paired with all, there by intervals. Bold: best mean of a",
        f"column. Below {FEW} test clips there is no interval and no rank. † small data: not a",
        "published data set, or only a part of one. Published figures have tables of their own.",
    ]
    for task, title in task_titles(primary).items():
        lines += ["", f"## {_escaped(title)}"]
        for kind in ("measured", "published"):
            of_kind = [c for c in primary if (c.column.task, c.column.kind) == (task, kind)]
            if of_kind:
                heading = ["", f"### {kind.capitalize()}", ""]
                lines += [*heading, *_markdown_table(of_kind, label, note)]
    return "\n".join(lines) + "\n"


def markdown_cell(cell: Cell) -> str:
    """Mean ± deviation [interval] rank, as in a table."""
    if math.isnan(cell.mean):
        return cell.text
    text = f"**{cell.text}**" if cell.best else cell.text
    if not math.isnan(cell.std):
        text += f" ± {cell.std:.{DECIMALS}f} ({cell.seeds})"
    if not math.isnan(cell.low):
        text += f" [{cell.low:.{DECIMALS}f}, {cell.high:.{DECIMALS}f}]"
    if cell.rank is not None:
        text += f" {_escaped(cell.place)}{'' if cell.tied else '.'}"
    if cell.undefined:
        text += f" ({cell.undefined} of {cell.seeds} undefined)"
    return f"{text} †" if cell.small_data else text


def _markdown_table(cells: list[Cell], label: dict, note: dict[Column, str]) -> list[str]:
    columns = sorted({cell.column for cell in cells}, key=column_order)
    rows = sorted({cell.row for cell in cells}, key=row_order)
    texts_of = {(cell.row, cell.column): markdown_cell(cell) for cell in cells}
    titles = [column.title + (f": {note[column]}" if note[column] else "") for column in columns]
    lines = [
        "| model | " + " | ".join(map(_escaped, titles)) + " |",
        "|---" * (len(titles) + 1) + "|",
    ]
    for row in rows:
        texts = [texts_of.get((row, column), "") for column in columns]
        lines.append(f"| {_escaped(label[row])} | " + " | ".join(texts) + " |")
    return lines


def _hear_column(task: str) -> str:
    return names.KNOWN_TASKS[task].hear_column if task in names.KNOWN_TASKS else ""


def _joined(texts: Iterable[str]) -> str:
    """Each once."""
    return "; ".join(dict.fromkeys(texts))


def _escaped(text: str) -> str:
    return " ".join(text.translate(_SPECIAL).split())


def _csv(table: pd.DataFrame) -> str:
    return table.map(_no_formula).to_csv(index=False, lineterminator="\n")


def _no_formula(value: object) -> object:
    formula = isinstance(value, str) and value.startswith(FORMULA)
    return f"'{value}" if formula and not re.fullmatch(r"-\d+\.\d+", value) else value
