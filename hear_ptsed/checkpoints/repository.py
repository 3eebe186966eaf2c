"""A checkpoint by its place: a file, a folder, or a repository of the Hugging Face Hub.

A folder and a repository have one form: the file model.safetensors, as `save_checkpoint` writes it.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hear_ptsed.errors import few, require_package, shown

log = logging.getLogger(__name__)
WEIGHTS = "model.safetensors"
SCHEME = "hf:"
ANSWERS: dict[str, tuple[type[Exception], str]] = {  # errors of the Hub, a kind before its base
    "HFValidationError": (ValueError, "neither a folder nor a repository: write OWNER/NAME"),
    "GatedRepoError": (
        PermissionError,
        "given on request only: ask on its page, then `hf auth login`",
    ),
    "RepositoryNotFoundError": (
        FileNotFoundError,
        "no such repository; check the name or, for a private one, `hf auth login`",
    ),
    "RevisionNotFoundError": (
        FileNotFoundError,
        "the repository has no such branch, tag or commit",
    ),
    "RemoteEntryNotFoundError": (
        FileNotFoundError,
        f"it has no {WEIGHTS}; pickled files are not taken from a repository: download one and "
        "give its path, which reads nothing but tensors",
    ),
    "LocalEntryNotFoundError": (
        ConnectionError,
        "it is not in the cache and cannot be fetched: check the connection and HF_HUB_OFFLINE, or "
        "give the path of a folder with its files",
    ),
}
_PLACE = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def locate(checkpoint: Path | str) -> Path:
    """The file of a checkpoint, fetched into the cache of the Hub if need be.

    Args:
        checkpoint: a file, a folder with model.safetensors, or hf:OWNER/NAME or
            hf:OWNER/NAME@REVISION (a branch, tag or commit; main by default).
    """
    path = Path(checkpoint)
    place = path.as_posix()
    if place.startswith(SCHEME):
        return fetch_weights(*parse_place(place))
    if not path.is_dir():
        return path
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    files = sorted(file.name for file in path.iterdir() if file.is_file())
    raise FileNotFoundError(
        f"{path} has no {WEIGHTS}, but {few(files) or 'no files'}: give the path of the checkpoint "
        "itself; a pickled one is read only if it holds nothing but tensors"
    )


def parse_place(place: str) -> tuple[str, str | None]:
    """Repository and revision of hf:OWNER/NAME[@REVISION]."""
    match = _PLACE.fullmatch(place)
    if match is None:
        raise ValueError(f"{shown(place)} is no repository: write hf:OWNER/NAME[@REVISION]")
    return match[1], match[2]


def fetch_weights(repository: str, revision: str | None = None, **how: Any) -> Path:
    """The file model.safetensors of OWNER/NAME, downloaded into the cache of the Hub if need be.

    Args:
        how: options of huggingface_hub.hf_hub_download.
    """
    hub = require_package("huggingface_hub", "hub")
    with plain_errors(repository, revision):
        path = Path(hub.hf_hub_download(repository, WEIGHTS, revision=revision, **how))
    log.info("%s%s is of commit %s", SCHEME, repository, path.parent.name)
    return path


@contextmanager
def plain_errors(repository: str, revision: str | None) -> Iterator[None]:
    """What the Hub answers, as one line that says what to do."""
    errors = require_package("huggingface_hub.errors", "hub")
    answers = {getattr(errors, name): answer for name, answer in ANSWERS.items()}
    try:
        yield
    except tuple(answers) as error:
        kind, text = next(answer for known, answer in answers.items() if isinstance(error, known))
        place = f"{SCHEME}{repository}" + (f"@{revision}" if revision else "")
        raise kind(f"{place}: {text}") from error
