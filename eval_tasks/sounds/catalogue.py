"""The packages that sounds are taken from: where each is pinned, and under which licence."""

import tomllib
from importlib.metadata import version
from pathlib import Path

from hear_ptsed.schema import Line, Name, check, settings
from hear_ptsed.wheels import Wheel


@settings
class Catalogue:
    """The table in catalogue.toml."""

    wheels: tuple[Wheel, ...]
    installed: dict[Name, Line]  # licences of packages of the environment


TABLE = check(
    Catalogue,
    tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")),
    "catalogue.toml",
)
WHEELS = {wheel.project: wheel for wheel in TABLE.wheels}


def find_wheel(project: str) -> Wheel:
    """The wheel of a project."""
    if project not in WHEELS:
        raise ValueError(f"unknown wheel {project!r}; known: {', '.join(WHEELS)}")
    return WHEELS[project]


def describe_packages(projects: set[str]) -> dict[str, dict[str, str]]:
    """Version and licence of each package, and the checksum of its wheel, for a manifest."""
    return {project: _describe(project) for project in sorted(projects)}


def _describe(project: str) -> dict[str, str]:
    if project in WHEELS:
        wheel = WHEELS[project]
        return {"version": wheel.version, "licence": wheel.licence, "sha256": wheel.sha256}
    return {"version": version(project), "licence": TABLE.installed[project]}
