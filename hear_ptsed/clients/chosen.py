"""The plug-in that a client evaluates, and what tells its results from those of others."""

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from hear_ptsed.checkpoints import download
from hear_ptsed.checkpoints.repository import locate
from hear_ptsed.files import sha256
from hear_ptsed.hear import HearModel
from hear_ptsed.registry import plugins

PACKAGE = "hear_ptsed.plugins."
OF_FILES = "checkpoint"  # the plug-in that opens a file of one's own


@dataclass(frozen=True)
class Chosen:
    """A plug-in of this suite, such as beats_strong, with a file of one's own and options."""

    plugin: str
    checkpoint: Path | str  # "": the released file
    options: dict[str, Any]  # of load_model

    def __post_init__(self):
        object.__setattr__(self, "plugin", self.plugin.removeprefix(PACKAGE))
        if self.plugin not in {*plugins(), OF_FILES}:
            raise ValueError(
                f"unknown plug-in {self.plugin!r}; give one of `hear-ptsed list`, such as "
                f"beats_strong, or {OF_FILES!r} with a file"
            )

    def load(self) -> HearModel:
        """The model, in evaluation mode."""
        path = str(self.checkpoint)
        return import_module(PACKAGE + self.plugin).load_model(path, **self.options)

    @cached_property
    def sha256(self) -> str | None:
        """Of the file that is loaded; None for random weights."""
        if self.checkpoint:
            return sha256(locate(self.checkpoint))
        if self.options.get("untrained"):
            return None
        return sha256(download.find(*plugins()[self.plugin]))
