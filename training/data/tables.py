"""Tables of text, one row a line: tab-separated without quoting, or comma-separated with it."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from hear_ptsed.errors import shown


def read_lines(path: Path | str) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 file with their numbers from 1, without empty ones."""
    path, number = Path(path), 0
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                line = line.removesuffix("\n").removesuffix("\r")
                if "\0" in line or "\r" in line:
                    raise ValueError(
                        f"{path}, line {number}: a NUL or a carriage return within the line; "
                        "save the table as text with one row a line"
                    )
                if line:
                    yield number, line
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 behind line {number} ({error.reason}); save the table as UTF-8"
        ) from None


def read_rows(path: Path | str, *, fill: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Rows of a table with their line numbers; the first row says how many fields all have.

    With a tab in its first row a table is tab-separated, and a quote is a character like others.

    Args:
        fill: rows may lack their last fields, which are empty then.
    """
    tabs, n = None, 0
    for number, line in read_lines(path):
        if tabs is None:
            tabs = "\t" in line
        try:
            row = line.split("\t") if tabs else next(csv.reader([line], strict=True))
        except csv.Error as error:
            why = "a quote is not closed" if "unexpected end" in str(error) else str(error)
            raise ValueError(f"{path}, line {number}: {why}; correct the table") from None
        n = n or len(row)
        row += [""] * (n - len(row)) * fill
        if len(row) != n:
            raise ValueError(
                f"{path}, line {number}: {len(row)} fields, and {n} in the first row; correct the "
                "table"
            )
        yield number, row


def read_records(
    path: Path | str, columns: Sequence[str], *, fill: bool = False
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows behind a header by its names, with their line numbers; see `read_rows`.

    Args:
        columns: must be in the header.
    """
    rows = read_rows(path, fill=fill)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    for name in columns:
        if header.count(name) != 1:
            n = header.count(name) or "no"
            present = shown(", ".join(header), 200)
            raise ValueError(f"{path} has {n} column {name}; it has {present}")
    for number, row in rows:
        yield number, dict(zip(header, row, strict=True))
