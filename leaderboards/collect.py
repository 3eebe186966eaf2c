"""Result folders -> entries, and what was rejected. No file can stop the others or run anything.

An entry is one run: a record, a task folder that heareval has filled, or one published figure.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hear_ptsed.errors import printable
from hear_ptsed.schema import is_label
from leaderboards import names, published
from leaderboards.readers import METADATA, SCORES, Entry, entry_of_figure, read_entry

PATH, REASON = 1000, 300  # characters of a file's name, from the given folder on, and of a reason
INTERRUPTED = re.compile(r"\.(hear_ptsed-)?\d+-")  # how a file that is being written is called
MARKER = ".leaderboards-site"  # in the folder of a site: its files, one a line
# How files of heareval end that lie beside its scores, or beside embeddings not yet scored.
HEAREVAL = (SCORES, ".filename-timestamps.json", ".embedding-dimensions.json", ".embeddings.npy")


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

    In folders every *.json is read as a result, but for those that heareval writes around its own,
    and those without schema and checkpoint; other files are not results. Links and sites are not
    followed. Of two files with one result the first by name counts; of two that differ and say they
    are one, neither.

    Args:
        figures: also the published figures of this package.
        leave_out: a folder that is not looked into, such as a site built before.
    """
    read, rejected = [], {}
    for file, source, problem in _files([*map(Path, paths)], leave_out and leave_out.resolve()):
        try:
            if problem:
                raise ValueError(problem)
            if len(source) > PATH or not is_label(source):
                raise ValueError(
                    "the file's name is too long, or holds control characters or markup"
                )
            if entry := read_entry(file, source):
                read.append(entry)
            elif source == file.name:
                raise ValueError(
                    "no result: it has no schema, like what training writes beside its scores.json"
                )
        except Exception as error:  # whatever a file of others leads to, it must not stop the rest
            rejected[file] = _rejected(source, error)
    entries, doubled = _once(read)
    entries.sort(key=_order)
    return Collected(
        entries + (published_entries() if figures else []),
        sorted([*rejected.values(), *doubled]),
    )


def _once(read: list[Entry]) -> tuple[list[Entry], list[Rejected]]:
    """One entry of each identity, and why others are none."""
    alike: dict[str, dict[Path | None, Entry]] = {}
    for entry in sorted(read, key=lambda e: (e.source, e.identity, str(e.path))):
        alike.setdefault(entry.identity, {}).setdefault(entry.path, entry)
    entries, rejected = [], []
    for same in alike.values():
        first, *others = same.values()
        if forged := len({_facts(entry) for entry in same.values()}) > 1:
            others = [first, *others]
        else:
            entries.append(first)
        for other in others:
            seen = next(entry for entry in same.values() if entry is not other)
            reason = f"the same result as {seen.source}"
            if forged:
                reason = f"says it is {seen.source}, which is of something else: remove one"
            elif repr(other.scores) != repr(first.scores):
                reason = f"the same run as {seen.source}, with other scores"
            rejected.append(Rejected(other.source, reason))
    return entries, rejected


def _facts(entry: Entry) -> tuple:
    """What results with one identity have in common."""
    what = ("task", "task_version", "protocol", "module", "model", "stage", "name", "variant")
    return *(getattr(entry, key) for key in what), entry.seed


def published_entries() -> list[Entry]:
    """The published figures of this package, in the order of their files."""
    return [entry_of_figure(row, number) for number, row in enumerate(published.rows())]


def _files(roots: list[Path], leave_out: Path | None) -> Iterator[tuple[Path, str, str]]:
    """Files that should be results, what to call them, and what is wrong with them at a glance."""
    for root in roots:
        if not root.exists():
            raise FileNotFoundError(f"{root} does not exist; give result files or folders of them")
    roots = list(dict.fromkeys(root.resolve() for root in roots))
    titles = [root.name for root in roots]
    for root in roots:
        if not root.is_dir():
            yield root, root.name, ""
            continue
        title = root.name if titles.count(root.name) == 1 else "/".join(root.parts[-2:])
        yield from _in_folder(root, title, leave_out)


def _in_folder(root: Path, title: str, leave_out: Path | None) -> Iterator[tuple[Path, str, str]]:
    def called(path: Path) -> str:
        return f"{title}/{path.relative_to(root).as_posix()}"

    blocked: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=blocked.append):
        at = Path(folder)
        folders[:] = sorted(name for name in folders if at / name != leave_out)
        for path in [at / name for name in folders if (at / name).is_symlink()]:
            yield path, called(path), "a link to a folder; not followed"
        if MARKER in files:
            folders.clear()
            yield at / MARKER, called(at), "a site built before; give the results it was made of"
            continue
        if METADATA in files and any(name.endswith(HEAREVAL) for name in files):
            folders.clear()  # heareval's embeddings: thousands of *.json that are no results
            unscored = "" if SCORES in files else f"no {SCORES} beside it: not scored by heareval"
            path = at / (METADATA if unscored else SCORES)
            yield path, called(path), unscored
            continue
        for name in sorted(files):
            if name.lower().endswith(".json"):
                left = "left by a write that was interrupted" if INTERRUPTED.match(name) else ""
                yield at / name, called(at / name), left
    for error in blocked:
        yield Path(error.filename), called(Path(error.filename)), f"{error.strerror}: not read"


def _rejected(source: str, error: Exception) -> Rejected:
    reason = str(error)
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    elif isinstance(error, RecursionError):
        reason = "nested too deeply"
    elif not isinstance(error, (ValueError, OSError)):
        reason = f"cannot be read: {type(error).__name__}: {error}"
    return Rejected(printable(source, PATH), printable(" ".join(reason.split()), REASON))


def _order(entry: Entry) -> tuple:
    stage = names.stage_order(entry.stage)
    where = (entry.task, entry.task_version, entry.protocol)
    seed = -1 if entry.seed is None else entry.seed
    return (*where, entry.model, stage, entry.module, entry.variant, seed, entry.identity)
