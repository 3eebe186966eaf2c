"""What tells columns, and rows, of one title apart, in words."""

from collections.abc import Callable, Iterable
from typing import Any

from leaderboards.cell import Column, Row


def notes(columns: Iterable[Column]) -> dict[Column, str]:
    """What tells columns of one title apart, short; "" for a title that occurs once."""

    def texts(column: Column) -> list[str]:
        return [
            column.kind.replace("measured", ""),
            column.task_version,
            f"data {column.data or 'not known'}",
            f"{column.folds} folds" if column.folds else "",
            column.settings,
            column.task,
        ]

    return _apart(columns, texts)


def labels(rows: Iterable[Row]) -> dict[Row, str]:
    """Titles of rows, with module, variant or settings where one title has several rows."""

    def texts(row: Row) -> list[str]:
        published = row.kind.replace("measured", "")
        return [
            published,
            row.module,
            row.variant,
            row.hyperparameters,
            f"{row.model}, {row.stage}",
        ]

    more = _apart(rows, texts)
    return {row: f"{row.title} ({text})" if text else row.title for row, text in more.items()}


def _apart(items: Iterable, texts: Callable[[Any], list[str]]) -> dict[Any, str]:
    """Of items with one title, as many of the texts as it takes to tell each from the others."""
    said: dict[Any, tuple[str, ...]] = {item: (item.title,) for item in dict.fromkeys(items)}
    fields = {item: texts(item) for item in said}
    for number in range(max(map(len, fields.values()), default=0)):
        alike: dict[tuple[str, ...], list] = {}
        for item in said:
            alike.setdefault(said[item], []).append(item)
        for group in alike.values():
            if len({fields[item][number] for item in group}) > 1:
                said |= {item: (*said[item], fields[item][number]) for item in group}
    return {item: ", ".join(filter(None, parts[1:])) for item, parts in said.items()}
