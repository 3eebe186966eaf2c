"""What is taken away: leaderboard.csv, .md, .tex, .json, .bib, and HEAR's form of a leaderboard."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hear_ptsed.facts import bibliography
from hear_ptsed.files import atomic, null_for_nan
from hear_ptsed.metrics.catalogue import METRICS
from leaderboards import names
from leaderboards.cell import FEW, Cell, Column, Row
from leaderboards.hear import hear_rows, hear_scores, ranking
from leaderboards.models import facts
from leaderboards.pages import column_order, row_order, task_titles
from leaderboards.titles import labels, notes

ABOUT = {  # file -> what it is, for pages
    "leaderboard.csv": "a line per score, all digits",
    "leaderboard.md": "a table per task, as Markdown",
    "leaderboard.tex": "a table per task, as LaTeX (booktabs), with citations",
    "leaderboard.bib": "BibTeX of what the tables cite",
    "leaderboard.json": "all scores with their intervals, and the facts of the models",
    "hear_leaderboard.csv": "scores under HEAR's protocol in the form of the public HEAR "
    "leaderboard, to be pasted into its leaderboard.csv; last, of models with all 19 tasks, HEAR's "
    "normalised score beside the published models",
}
NORMALISED = "Normalised score"
FORMULA = (*"=+-@＝＋－＠", "\t", "\r")  # what spreadsheets take for one
MARKDOWN = {c: f"\\{c}" for c in "\\`*_{}[]|~$"} | {"<": "&lt;", ">": "&gt;"}
LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"},
    **{"′": "$'$", "±": r"$\pm$", "−": "$-$", "†": r"\textdagger{}", "…": r"\dots{}"},
}


def write_exports(cells: Sequence[Cell], folder: Path) -> list[Path]:
    """The files of ABOUT in a folder: the same bytes for the same cells."""
    texts = (
        long_csv(cells),
        markdown(cells),
        latex(cells),
        bibtex(cells),
        json_text(cells),
        hear_csv(cells),
    )
    paths = [Path(folder) / name for name in ABOUT]
    for path, text in zip(paths, texts, strict=True):
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    return paths


def long_csv(cells: Sequence[Cell]) -> str:
    """One line per cell, all digits; empty where a value is not defined."""
    rows = [_values(cell, label) for cell, label in _labelled(cells)]
    return _csv(list(rows[0]) if rows else [], rows)


def json_text(cells: Sequence[Cell]) -> str:
    """As `long_csv`, null where a value is not defined, and the facts of the models in them."""
    known = {(c.row.model, c.row.stage): facts(c.row.model, c.row.stage) for c in cells}
    models = [asdict(known[key]) for key in sorted(known) if known[key]]
    scores = [_values(cell, label) for cell, label in _labelled(cells)]
    content = null_for_nan({"schema": 1, "models": models, "scores": scores})
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _labelled(cells: Sequence[Cell]) -> Iterator[tuple[Cell, str]]:
    label = labels(cell.row for cell in cells)
    return ((cell, label[cell.row]) for cell in cells)


def _values(cell: Cell, label: str) -> dict[str, Any]:
    """What both long forms have of a cell."""
    row, column = cell.row, cell.column
    return {
        "kind": row.kind,
        "task": column.task,
        "task_version": column.task_version,
        "protocol": column.protocol,
        "metric": column.metric,
        "name": label,
        "model": row.model,
        "stage": row.stage,
        "module": _joined(entry.module for entry in cell.entries),
        "variant": row.variant,
        "hyperparameters": row.hyperparameters,
        **{key: getattr(cell, key) for key in ("mean", "std", "low", "high", "seeds", "undefined")},
        "rank": cell.rank,
        "tied": None if cell.rank is None else cell.tied,
        "paired": None if cell.rank is None else cell.paired,
        **{key: getattr(cell, key) for key in ("best", "untrained", "small_data", "clips")},
        **{key: getattr(column, key) for key in ("data", "settings", "folds")},
        "convention": _joined(entry.conventions[column.metric] for entry in cell.entries),
        "source": _joined(entry.source for entry in cell.entries),
        "cite": " ".join(_keys(cell)),
    }


def hear_csv(cells: Sequence[Cell]) -> str:
    """Measured scores under HEAR's protocol: Model, URL, Submission Date, a column per task.

    Raw primary scores with 9 decimals, as on the public leaderboard; last HEAR's normalised score
    beside the published models, of rows that have all tasks. A row that has several scores of one
    task (such as of other data) comes several times.
    """
    label = labels(cell.row for cell in cells)
    rows: dict[tuple[str, int], dict[str, str]] = {}
    for score in hear_scores(cell for cell in cells if cell.row.kind == "measured"):
        column, name = names.HEAR_TASKS[score.task], label[score.row]
        number = 0
        while column in rows.setdefault((name, number), {}):
            number += 1
        entries = [entry for cell in score.cells for entry in cell.entries]
        days = [str(entry.record.get("started", ""))[:10] for entry in entries]
        row = rows[name, number]
        row["Submission Date"] = max(row.get("Submission Date", ""), *days)
        row[column] = "" if math.isnan(score.value) else f"{score.value:.9f}"
    of_all = ranking(hear_rows(cells))
    for ranked, value in zip(of_all.rows, of_all.values, strict=True):
        if ranked.row.kind == "measured":
            rows[label[ranked.row], 0][NORMALISED] = f"{value:.9f}"
    order = [*names.HEAR_TASKS.values(), NORMALISED]
    columns = ["Model", "URL", "Submission Date"]
    columns += [column for column in order if any(column in row for row in rows.values())]
    table = [{"Model": name, "URL": "", **row} for (name, _), row in rows.items()]
    table.sort(key=lambda row: [(column not in row, row.get(column, "")) for column in columns])
    return _csv(columns, table)


def markdown(cells: Sequence[Cell]) -> str:
    """A section per task: its primary metrics, best in bold; measured, then printed figures."""
    lines = [
        "# Leaderboard",
        "",
        "Scores in %, error rates as they are; ± half of the 95 % interval over test clips. Bold: "
        f"best of a column. No interval below {FEW} test clips. † small data: not a published data "
        "set, or only a part of one. Printed figures have tables of their own.",
    ]
    for task, title in task_titles(cells).items():
        lines += ["", f"## {_markdown(title)}"]
        for kind, columns, rows in _tables(cells, task):
            heads = [_markdown(text) for text in ("model", *columns.values())]
            lines += ["", f"### {kind.capitalize()}", "", f"| {' | '.join(heads)} |"]
            lines.append("|---" * len(heads) + "|")
            for label, of_row in rows:
                texts = [_markdown_cell(of_row.get(column)) for column in columns]
                lines.append(f"| {' | '.join((_markdown(label), *texts))} |")
    return "\n".join(lines) + "\n"


def latex(cells: Sequence[Cell]) -> str:
    """As `markdown`; a model is cited where a source is known."""
    lines = [
        r"% \usepackage{booktabs}; names beyond Latin letters need LuaLaTeX or XeLaTeX.",
        r"% Scores in \%, error rates as they are; half of the 95 \% interval over test clips.",
    ]
    for task, title in task_titles(cells).items():
        for kind, columns, rows in _tables(cells, task):
            heads = [_latex(text) for text in ("Model", *columns.values())]
            lines += ["", r"\begin{table}", rf"\caption{{{_latex(f'{title}, {kind}')}}}"]
            lines += [rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule"]
            lines += [" & ".join(heads) + r" \\", r"\midrule"]
            for label, of_row in rows:
                keys = dict.fromkeys(key for cell in of_row.values() for key in _keys(cell))
                cited = rf" \cite{{{','.join(keys)}}}" if keys else ""
                texts = [_latex_cell(of_row.get(column)) for column in columns]
                lines.append(" & ".join((_latex(label) + cited, *texts)) + r" \\")
            lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def bibtex(cells: Sequence[Cell]) -> str:
    """An entry of each source that a row cites."""
    cited = {key for cell in cells for key in _keys(cell)}
    return "\n\n".join(text for key, text in bibliography().items() if key in cited) + "\n"


def score_text(cell: Cell) -> tuple[str, str]:
    """The mean, in % where it is a share, and half of its interval; "" for none."""
    printed = METRICS[cell.column.metric].printed
    if math.isnan(cell.mean):
        return cell.text, ""
    half = "" if math.isnan(cell.low) else printed((cell.high - cell.low) / 2)
    return printed(cell.mean), half


def _tables(
    cells: Sequence[Cell], task: str
) -> Iterator[tuple[str, dict[Column, str], list[tuple[str, Mapping[Column, Cell]]]]]:
    """Of a task: kind, heads of columns of its primary metrics, label and cells of each row."""
    primary = [cell for cell in cells if cell.column.metric == cell.entries[0].primary]
    label, note = labels(cell.row for cell in cells), notes(cell.column for cell in primary)
    for kind in ("measured", "published"):
        of_kind = [c for c in primary if (c.column.task, c.column.kind) == (task, kind)]
        columns = {}
        for column in sorted({cell.column for cell in of_kind}, key=column_order):
            parts = (METRICS[column.metric].title, column.how, note[column])
            columns[column] = ", ".join(filter(None, parts))
        rows: dict[Row, dict[Column, Cell]] = {}
        for cell in sorted(of_kind, key=lambda cell: row_order(cell.row)):
            rows.setdefault(cell.row, {})[cell.column] = cell
        if rows:
            yield kind, columns, [(label[row], of_row) for row, of_row in rows.items()]


def _markdown_cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    mean, half = score_text(cell)
    text = f"**{mean}**" if cell.best else mean
    return text + f" ± {half}" * bool(half) + " †" * cell.small_data


def _latex_cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    mean, half = score_text(cell)
    text = rf"\textbf{{{mean}}}" if cell.best else mean
    return text + rf" $\pm$ {half}" * bool(half)


def _keys(cell: Cell) -> list[str]:
    """Of the sources of a row: of its figure, or of its model."""
    if cell.row.kind == "published":
        return list(dict.fromkeys(entry.record["cite"] for entry in cell.entries))
    known = facts(cell.row.model, cell.row.stage)
    return [*known.cite] if known else []


def _joined(texts: Iterable[str]) -> str:
    """Each once."""
    return "; ".join(dict.fromkeys(texts))


def _markdown(text: str) -> str:
    return " ".join(text.translate(str.maketrans(MARKDOWN)).split())


def _latex(text: str) -> str:
    return " ".join(text.translate(str.maketrans(LATEX)).split())


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_no_formula(row.get(column)) for column in columns] for row in rows)
    return file.getvalue()


def _no_formula(value: Any) -> Any:
    """As a spreadsheet takes it: nothing for NaN, and no text as a formula."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    formula = isinstance(value, str) and value.startswith(FORMULA)
    return f"'{value}" if formula and not re.fullmatch(r"-\d+\.\d+", value) else value
