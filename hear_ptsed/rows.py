"""Rows of a corpus in Parquet: one for each file, with its events or its embeddings."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from hear_ptsed.errors import require_package
from hear_ptsed.events import Event

if TYPE_CHECKING:  # the extra `corpus`
    import pyarrow

Content = Literal["events", "embeddings", "scene"]  # what stands in the last column but one
GROUP = 1 << 24  # numbers held before they are written: 64 MiB
GROUP_ROWS = 500
LARGEST = (1 << 31) - 1 - GROUP  # numbers of a row: lists of Parquet count to 2^31


class FileRow(NamedTuple):
    """What is known of one file; None where it could not be read."""

    file: str  # its path
    sha256: str | None  # of its bytes
    duration_s: float | None
    frames: int | None
    content: Any  # events; embeddings (T, D) float32, of a scene (D,)
    error: str | None  # what is wrong with it, one line

    @property
    def size(self) -> int:
        """Numbers in its content, about."""
        return self.content.size if isinstance(self.content, np.ndarray) else 0


def require_pyarrow() -> None:
    """An ImportError that says what to install."""
    require_package("pyarrow.parquet", "corpus")


def write_rows(rows: Iterable[FileRow], column: Content, path: Path) -> None:
    """Write a Parquet file, group by group, so that its size needs no memory."""
    from pyarrow import parquet

    options = {"compression": "zstd", "use_dictionary": column == "events"}
    with parquet.ParquetWriter(path, _schema(column), **options) as writer:
        group: list[FileRow] = []
        for row in rows:
            group.append(row)
            if len(group) == GROUP_ROWS or sum(row.size for row in group) >= GROUP:
                writer.write_table(_table(group, column))
                group = []
        if group:
            writer.write_table(_table(group, column))


def _schema(column: Content) -> "pyarrow.Schema":
    import pyarrow as pa

    numbers = pa.list_(pa.float32())
    event = {name: pa.float64() for name in ("onset_s", "offset_s", "score")}
    kinds = {
        "events": pa.list_(pa.struct({"label": pa.string()} | event)),
        "embeddings": pa.list_(numbers),
        "scene": numbers,
    }
    return pa.schema(
        {
            "file": pa.string(),
            "sha256": pa.string(),
            "duration_s": pa.float64(),
            "frames": pa.int32(),
            "events" if column == "events" else "embeddings": kinds[column],
            "error": pa.string(),
        }
    )


def _table(rows: Sequence[FileRow], column: Content) -> "pyarrow.Table":
    import pyarrow as pa

    schema = _schema(column)
    contents = [row.content for row in rows]
    if column == "events":
        made = pa.array(_structs(contents), schema.field("events").type)
    else:
        made = _lists(contents, depth=2 if column == "embeddings" else 1)
    values = {
        "file": [_text(row.file) for row in rows],
        "sha256": [row.sha256 for row in rows],
        "duration_s": [row.duration_s for row in rows],
        "frames": [row.frames for row in rows],
        schema.names[4]: made,
        "error": [None if row.error is None else _text(row.error) for row in rows],
    }
    return pa.table(values, schema)


def _structs(contents: Sequence[Sequence[Event] | None]) -> list[list[dict] | None]:
    return [
        None if events is None else [event._asdict() for event in events] for events in contents
    ]


def _lists(contents: Sequence[np.ndarray | None], depth: int) -> "pyarrow.Array":
    """Arrays (T, D) as lists of T lists (depth 2), or (D,) as lists (depth 1); None as null."""
    import pyarrow as pa

    arrays = [content for content in contents if content is not None]
    inner = pa.array(np.concatenate([array.ravel() for array in arrays] or [[]]), pa.float32())
    if depth == 2:
        widths = [array.shape[1] for array in arrays for _ in array]
        inner = pa.ListArray.from_arrays(np.cumsum([0, *widths], dtype=np.int32), inner)
    lengths = [0 if content is None else len(content) for content in contents]
    absent = pa.array([content is None for content in contents])
    offsets = pa.array(np.cumsum([0, *lengths], dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, inner, mask=absent)


def _text(text: str) -> str:
    """Without half surrogates, of a file name that is no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
