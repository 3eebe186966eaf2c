"""Result folders -> entries, and what was rejected. No file can stop the others or run anything.

An entry is one run: a record of `python -m eval_tasks run`, a task folder that heareval has filled,
an evaluation that `python -m training evaluate --out` wrote, or one published figure.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from leaderboards import checks, names, published
from leaderboards.readers import METADATA, SCORES, Entry, of_figure, read

PATH, REASON = 1000, 300  # characters of a file's name, from the given folder on, and of a reason


@dataclass(frozen=True, order=True)
class Rejected:
    """A file that is no entry. Both texts are one line of printable characters."""

    file: str
    reason: str


@dataclass(frozen=True)
class Collected:
    """All there is, sorted: the same for the same files, however they were given."""

    entries: list[Entry]  # measured, then published
    rejected: list[Rejected]


def collect(
    paths: Iterable[Path], figures: bool = True, leave_out: Path | None = None
) -> Collected:
    """Entries of all result files in folders, or of files given by name.

    In folders every *.json is read as a result, but for those that heareval and training write
    around their own; other files are not results. Links are not followed. Of two files with one
    identity the first by name counts.

    Args:
        figures: also the published figures of this package.
        leave_out: a folder that is not looked into, such as a site built before.
    """
    found, rejected = [], []
    for root in map(Path, paths):
        for file, source, problem in _files(root, leave_out and Path(leave_out).resolve()):
            try:
                if problem:
                    raise ValueError(problem)
                checks.label(source, "the file's name", PATH)
                if entry := read(file, source):
                    found.append(entry)
                elif root.is_file():
                    raise ValueError("no result, but what training writes beside its scores.json")
            except (ValueError, OSError) as error:
                rejected.append(_rejected(source, error))
    found.sort(key=lambda entry: (entry.source, entry.identity, str(entry.path)))
    entries: dict[str, Entry] = {}
    for entry in found:
        first = entries.setdefault(entry.identity, entry)
        if first.path != entry.path:
            rejected.append(Rejected(entry.source, f"the same result as {first.source}"))
    kept = sorted(entries.values(), key=_order)
    return Collected(kept + (published_entries() if figures else []), sorted(set(rejected)))


def published_entries() -> list[Entry]:
    """The published figures of this package, in the order of their files."""
    return [of_figure(row, number) for number, row in enumerate(published.rows())]


def _files(root: Path, leave_out: Path | None) -> Iterator[tuple[Path, str, str]]:
    """Files that should be results, what to call them, and what is wrong with them at a glance."""
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist; give result files or folders of them")
    root = root.resolve()
    if not root.is_dir():
        yield root, root.name, ""
        return

    def called(path: Path) -> str:
        return f"{root.name}/{path.relative_to(root).as_posix()}"

    blocked: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=blocked.append):
        at = Path(folder)
        folders[:] = sorted(name for name in folders if at / name != leave_out)
        for path in [at / name for name in folders if (at / name).is_symlink()]:
            yield path, called(path), "a link to a folder; not followed"
        if METADATA in files:
            folders.clear()  # heareval's embeddings: thousands of *.json that are no results
            unscored = "" if SCORES in files else f"no {SCORES} beside it: not scored by heareval"
            path = at / (METADATA if unscored else SCORES)
            yield path, called(path), unscored
            continue
        for name in sorted(files):
            if name.endswith(".json"):
                hidden = "hidden: left by a write that was interrupted" if name[0] == "." else ""
                yield at / name, called(at / name), hidden
    for error in blocked:
        yield Path(error.filename), called(Path(error.filename)), f"{error.strerror}: not read"


def _rejected(source: str, error: Exception) -> Rejected:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Rejected(_printable(source, PATH), _printable(" ".join(reason.split()), REASON))


def _printable(text: str, limit: int) -> str:
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: limit + 1])
    return text if len(text) <= limit else text[:limit] + "…"


def _order(entry: Entry) -> tuple:
    stage = names.stage_order(entry.stage)
    where = (entry.task, entry.task_version, entry.mode, entry.protocol)
    seed = -1 if entry.seed is None else entry.seed
    return (*where, entry.model, stage, entry.module, entry.variant, seed, entry.identity)
