"""Wheel and sdist: built, compared with the checkout, installed into an empty environment."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import soundfile

import hear_ptsed

ROOT = Path(__file__).parents[1]
PACKAGES = ("hear_ptsed", "training", "eval_tasks", "leaderboards")
STEM = f"hear_ptsed-{hear_ptsed.__version__}"
BUILD = """
from setuptools import build_meta
print(build_meta.build_{kind}("{out}"))
"""

pytest.importorskip("setuptools", minversion="77")  # those before need the package wheel, too
pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path) -> str:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(kind: str, source: Path, out: Path) -> Path:
    """A wheel or sdist of a folder, made in `out` by the setuptools that is installed."""
    out.mkdir(exist_ok=True)
    said = run(sys.executable, "-c", BUILD.format(kind=kind, out=out), cwd=source)
    return out / said.splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """The wheel, the sdist, and the wheel of the sdist."""
    root = tmp_path_factory.mktemp("packages")
    source, skipped = root / "source", shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=skipped)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    made = {kind: build(kind, source, root / "dist") for kind in ("wheel", "sdist")}
    with tarfile.open(made["sdist"]) as archive:
        archive.extractall(root, filter="data")
    return made | {"again": build("wheel", root / STEM, root / "again")}


def members(wheel: Path) -> dict[str, bytes]:
    """Of a wheel, without what describes it."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        return {name: archive.read(name) for name in names}


def test_the_wheel_has_every_file_of_the_packages_and_so_has_the_sdist(built):
    files = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "hear_ptsed/py.typed" in files
    for wheel in (built["wheel"], built["again"]):
        assert members(wheel).keys() == files.keys() and members(wheel) == files
    with tarfile.open(built["sdist"]) as archive:
        names = {name.removeprefix(f"{STEM}/") for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "constraints.txt", "requirements.txt"} < names


def test_the_wheel_says_what_it_is(built):
    with zipfile.ZipFile(built["wheel"]) as archive:
        about = message_from_string(archive.read(f"{STEM}.dist-info/METADATA").decode())
        assert f"{STEM}.dist-info/licenses/LICENSE" in archive.namelist()
    assert about["Version"] == hear_ptsed.__version__ and about["Requires-Python"] == ">=3.11"
    assert "Typing :: Typed" in about.get_all("Classifier")
    assert about["Description-Content-Type"] == "text/markdown"
    assert about.get_payload().startswith("# hear_ptsed")


@pytest.mark.parametrize("kind", ["wheel", "again"])
def test_installed_into_an_empty_environment_it_works_from_any_folder(kind, built, tmp_path):
    """The packages that it needs are those of the environment of the tests."""
    home, cwd = tmp_path / "env", tmp_path / "elsewhere"
    venv.create(home)
    cwd.mkdir()
    place = {"base": str(home), "platbase": str(home)}
    site = Path(sysconfig.get_path("purelib", vars=place))
    python = Path(sysconfig.get_path("scripts", vars=place)) / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index"]
    run(*pip, "--no-deps", built[kind], cwd=cwd)
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")  # its own come later
    where = run(python, "-c", "import hear_ptsed; print(hear_ptsed.__file__)", cwd=cwd)
    assert Path(where.strip()).is_relative_to(site)
    command = python.with_name("hear-ptsed")
    assert run(command, "--version", cwd=cwd) == f"hear-ptsed {hear_ptsed.__version__}\n"
    assert "fpasst" in run(command, "list", cwd=cwd)
    for package in PACKAGES[1:]:
        assert "usage:" in run(python, "-m", package, "--help", cwd=cwd)
    assert "office" in run(python, "-m", "eval_tasks", "list", cwd=cwd)
    soundfile.write(cwd / "clip.wav", [0.0] * 16000, 16000)
    code = (
        "import hear_ptsed.plugins.frame_mn06_strong as m\n"
        "from hear_ptsed.audio import read_audio\n"
        "audio, _ = read_audio('clip.wav')\n"
        "frames, _ = m.get_timestamp_embeddings(audio[None], m.load_model(untrained=True))\n"
        "print(tuple(frames.shape))\n"
    )
    assert run(python, "-c", code, cwd=cwd).endswith("(1, 25, 576)\n")
