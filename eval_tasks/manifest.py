"""What the `manifest.json` of a task folder says of its making: settings and versions."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("numpy", "scipy", "soxr", "soundfile", "tinysoundfont", "espeakng-loader", "music21")


def same_settings(folder: Path, settings: dict, remedy: str) -> None:
    """Refuse, in one line, a folder that was made with other settings."""
    try:
        stored = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError):
        raise FileExistsError(
            f"{folder} exists and was not rendered here (no manifest); move it away or {remedy}"
        ) from None
    if stored != settings:
        differing = ", ".join(
            f"{key} {stored.get(key)} (asked: {settings[key]})"
            for key in settings
            if stored.get(key) != settings[key]
        )
        raise FileExistsError(
            f"{folder} was rendered with {differing}; use another folder or {remedy}"
        )


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that shape the audio."""
    return {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
