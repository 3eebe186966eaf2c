"""What a rendered folder says of itself: settings, packages, licences, versions."""

import platform
from importlib.metadata import PackageNotFoundError, version

from hear_ptsed.wheels import WHEELS

LIBRARIES = ("numpy", "scipy", "soxr", "soundfile", "tinysoundfont", "espeakng-loader", "music21")
LICENCES = {  # of installed packages whose data is used; wheels carry their own
    "espeakng-loader": "eSpeak NG GPL-3",
    "music21": "BSD; each score has its own terms, some non-commercial",
}


def packages(projects: set[str]) -> dict[str, dict]:
    """Version and licence of each package, and the checksum of its wheel."""
    found = {}
    for project in sorted(projects):
        if project in WHEELS:
            wheel = WHEELS[project]
            found[project] = {
                "version": wheel.version,
                "licence": wheel.licence,
                "sha256": wheel.sha256,
            }
        else:
            found[project] = {"version": version(project), "licence": LICENCES[project]}
    return found


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that shape the audio."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed"
    return found
