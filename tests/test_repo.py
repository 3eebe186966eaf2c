"""The house rules that a machine can check."""

import ast
import tomllib
from pathlib import Path
from sys import stdlib_module_names

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {  # package: the packages of ours that it may import
    "hear_ptsed": set(),
    "training": {"hear_ptsed"},
    "eval_tasks": {"hear_ptsed", "training"},
    "leaderboards": {"hear_ptsed"},
}
ROOMS = {  # folder: the rooms of the library that it may import
    "leaderboards": {"metrics", "errors", "facts", "files", "options", "schema"},
    "hear_ptsed/metrics": {"metrics", "errors", "files", "schema", "grid", "labels", "events"}
    | {"boxes"},
}
LIBRARY_NEEDS = {"torch", "torchaudio", "numpy", "pydantic", "soundfile", "soxr", "tqdm"}
LIBRARY_NEEDS |= {"typing_extensions"}  # which pydantic needs itself
SCORERS = {"sed_eval", "dcase_util", "sed_scores_eval", "pandas"}  # of metrics, the extra eval
FLOORS = [  # of the library: a module imports from lower floors, or from its own package
    {"interrupt", "facts", "files", "labels", "grid"},
    {"errors", "boxes"},
    {"schema", "audio", "parts", "windows", "cluster"},
    {"options", "crew"},
    {"wheels", "tensor_files", "events"},
    {"metrics", "rows"},
    {"frontends", "backbones", "corpus"},
    {"sequence", "heads"},
    {"model"},
    {"yamnet"},
    {"registry"},
    {"checkpoints", "runtime", "card"},
    {"export", "hub"},
    {"hear"},
    {"detect", "stream"},
    {"plot", "formats", "live", "embed"},
    {"plugins", "commands"},
    {"clients", "cli"},
]


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path, everywhere: bool = True) -> set[str]:
    """Modules that a file imports: everywhere, or only when it is itself imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_lies_below_them(package):
    for path in sources(package):
        ours = {name.split(".")[0] for name in imports(path)} & PACKAGES.keys()
        assert ours <= PACKAGES[package] | {package}, path


@pytest.mark.parametrize("folder", ROOMS)
def test_boards_and_metrics_import_only_some_rooms_of_the_library(folder):
    for path in sources(folder):
        ours = {name.split(".")[1] for name in imports(path) if name.startswith("hear_ptsed.")}
        assert ours <= ROOMS[folder], path


def test_the_library_needs_only_its_own_packages():
    for path in sources("hear_ptsed"):
        top = {name.split(".")[0] for name in imports(path, everywhere=False)}
        top -= SCORERS if path.parent.name == "metrics" else set()
        assert top - stdlib_module_names <= LIBRARY_NEEDS | {"hear_ptsed"}, path


def test_the_library_never_imports_tools_of_the_other_packages():
    forbidden = {"heareval", "hearvalidator", "lightning", "pytorch_lightning", "pandas"}
    forbidden |= {"sed_scores_eval", "sed_eval", "tensorflow"}
    for path in sources("hear_ptsed"):
        tools = {name.split(".")[0] for name in imports(path)} & forbidden
        # They are loaded when something is scored, see test_records_schema1.
        assert not tools - SCORERS if path.parent.name == "metrics" else not tools, path


def test_inside_the_library_nothing_imports_upwards():
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    for path in sources("hear_ptsed"):
        parts = path.relative_to(ROOT / "hear_ptsed").with_suffix("").parts
        if parts == ("__init__",):
            continue
        for name in imports(path):
            below = name.split(".")
            if below[0] == "hear_ptsed" and len(below) > 1 and below[1] in floor:
                same = below[1] == parts[0]
                assert same or floor[below[1]] < floor[parts[0]], f"{path.name} imports {name}"


def test_only_the_registry_and_a_models_own_files_name_it():
    from hear_ptsed.registry import MODELS

    for path in sources("hear_ptsed"):
        if {path.parent.name, path.stem} & {"plugins", "backbones", "yamnet", "registry"}:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert not texts & MODELS.keys(), path


def test_only_the_run_itself_knows_a_whole_recipe():
    knows = {"__main__.py", "fit.py", "states.py", "recipe.py"}
    for path in sources("training"):
        assert path.name in knows or "training.recipe.Recipe" not in imports(path), path


def test_no_package_imports_a_command():
    for package in PACKAGES:
        for path in sources(package):
            commands = {name for name in imports(path) if {"__main__", "cli"} & {*name.split(".")}}
            assert not commands, f"{path} imports {commands}"


def test_training_knows_nothing_of_the_downstream_tasks():
    for path in sources("training"):
        assert "eval_tasks" not in path.read_text(encoding="utf-8"), path


def test_each_number_of_the_grid_stands_in_one_file():
    literals = {16_000: "SAMPLE_RATE", 640: "FRAME", 160_000: "WINDOW", 250: "WINDOW_FRAMES"}
    for package in ("hear_ptsed", "training"):
        for path in sources(package):
            if path.name == "grid.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and type(node.value) in (int, float):
                    name = literals.get(node.value)
                    assert name is None, f"{path}, line {node.lineno}: write grid.{name}"


def test_settings_live_in_pyproject_and_the_version_in_one_place():
    import hear_ptsed

    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text()).get("project", {})
    assert f"## {hear_ptsed.__version__} " in (ROOT / "CHANGELOG.md").read_text()
