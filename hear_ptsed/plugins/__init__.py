"""HEAR plug-ins: one module per model and stage, because the HEAR tools name runs after modules.

    hear-validator hear_ptsed.plugins.fmn10_tf256_strong

`checkpoint` is a file. All others are rows of the registry: the finder below answers an ordinary
`import hear_ptsed.plugins.NAME`, by any tool, with a module that loads that model and stage.
"""

import sys
from collections.abc import Callable
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from hear_ptsed.registry import plugins


class PluginModules(MetaPathFinder, Loader):
    """Finds a module of a package for each model and stage of the registry, and has it filled."""

    def __init__(self, package: str, fill: Callable[[ModuleType, str], None]):
        self.package, self.fill = package, fill

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        """What tells the import system that a module is made here; None of others."""
        package, _, name = fullname.rpartition(".")
        known = package == self.package and name in plugins()
        return ModuleSpec(fullname, self, origin="hear_ptsed.registry") if known else None

    def exec_module(self, module: ModuleType) -> None:
        self.fill(module, module.__name__.rpartition(".")[2])


def _fill(module: ModuleType, plugin: str) -> None:
    """Give a module the three functions of the HEAR API."""
    from hear_ptsed import hear

    model, stage = plugins()[plugin]
    module.__doc__ = f"HEAR plug-in: {model}" + (f", stage {stage}." if stage else ".")
    module.load_model = partial(hear.load_model, model, stage)
    module.get_timestamp_embeddings = hear.get_timestamp_embeddings
    module.get_scene_embeddings = hear.get_scene_embeddings


def __dir__() -> list[str]:
    return sorted({*globals(), *plugins()})


sys.meta_path.append(PluginModules(__name__, _fill))
