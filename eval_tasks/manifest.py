"""What the `manifest.json` of a task folder says of its making: settings and versions."""

import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("numpy", "scipy", "soxr", "soundfile", "tinysoundfont", "espeakng-loader", "music21")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that shape the audio."""
    return {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
