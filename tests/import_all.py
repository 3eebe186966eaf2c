"""Import every module of some packages as if only one extra of the project were installed.

    python tests/import_all.py EXTRA        # '' for the plain installation

Prints the number of hidden packages, then a line for each module that cannot be imported.
"""

import importlib
import pkgutil
import re
import sys
from importlib import metadata

BY_HAND = ["heareval", "hearvalidator", "tinysoundfont"]  # requirements.txt
PLOT, HUB = "hear_ptsed.plot", "hear_ptsed.hub"
EXTRAS = {  # extra: packages, modules that need another extra, distributions beside it
    "": (["hear_ptsed"], [PLOT, HUB], []),
    "hub": (["hear_ptsed"], [PLOT], []),
    "corpus": (["hear_ptsed"], [PLOT, HUB], []),
    "plot": (["hear_ptsed"], [HUB], []),
    "onnx": (["hear_ptsed"], [PLOT, HUB], []),
    "openvino": (["hear_ptsed"], [PLOT, HUB], []),
    "xares": (["hear_ptsed"], [PLOT, HUB], []),
    "mteb": (["hear_ptsed"], [PLOT, HUB], []),
    "eval": (["hear_ptsed", "eval_tasks"], [HUB], BY_HAND),
    "training": (["hear_ptsed", "training"], [PLOT], []),
    "leaderboards": (["leaderboards"], [], []),
}


def main(extra: str) -> int:
    packages, without, beside = EXTRAS[extra]
    installed = closure(extra, beside)
    hidden = {
        top
        for top, distributions in metadata.packages_distributions().items()
        if not {plain(name) for name in distributions} & installed
    } - set(sys.stdlib_module_names)
    sys.meta_path[:] = [Only(finder, hidden, installed) for finder in sys.meta_path]
    print(len(hidden))
    failed = 0
    for package in packages:
        module = importlib.import_module(package)
        for info in pkgutil.walk_packages(module.__path__, f"{package}."):
            if info.name in without or info.name.endswith("__main__"):
                continue
            try:
                importlib.import_module(info.name)
            except ImportError as error:
                failed += 1
                print(f"{info.name}: {error}")
    return int(failed > 0)


def plain(requirement: str) -> str:
    """The distribution that a requirement names, as indexes spell it."""
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-").replace(".", "-")


def closure(extra: str, beside: list[str]) -> set[str]:
    """The distributions that an extra of the project brings, and others with what they need."""
    seen, todo = set(), [("hear-ptsed", extra), *((name, "") for name in beside)]
    while todo:
        name, of = todo.pop()
        if (name, of) in seen:
            continue
        seen.add((name, of))
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for need in needs:
            marked = re.search(r"extra == ['\"]([^'\"]+)", need)
            if marked is None or marked[1] == of:
                extras = re.match(r"[^;\[]+\[([^\]]+)", need)
                todo += [(plain(need), part) for part in (extras[1].split(",") if extras else [""])]
    return {name for name, _ in seen}


class Only:
    """A finder that sees neither some packages nor the records of their installation."""

    def __init__(self, finder, hidden: set[str], installed: set[str]):
        self.finder, self.hidden, self.installed = finder, hidden, installed

    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in self.hidden
        return None if hidden else self.finder.find_spec(name, path, target)

    def find_distributions(self, *context):
        search = getattr(self.finder, "find_distributions", lambda *_: ())
        return (one for one in search(*context) if plain(one.metadata["Name"]) in self.installed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
