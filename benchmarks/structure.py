"""The house in numbers, by ast: `python benchmarks/structure.py [COMMIT …]`; without one, the tree.

Prints a table, a column for each commit: lines, long functions, names, shapes in docstrings.
"""

import argparse
import ast
import io
import re
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("hear_ptsed", "training", "eval_tasks", "leaderboards")
TENSOR = re.compile(r"\b(Tensor|ndarray)\b")
SHAPE = re.compile(r"\([A-Z][A-Z0-9']*,|\(\.\.\., [A-Z]|\([A-Z],?\)|\(clips, |\(frames, ")
# What a new backbone, a new task and a new metric are named like, as examples.
NAMED = {"the backbone m2d": "m2d", "the task desed": "desed", "the metric psds2": "psds2"}
LONG = 50  # lines


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """All functions and methods, nested ones too."""
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def length(function: ast.FunctionDef) -> int:
    return function.end_lineno - function.lineno + 1


def public(tree: ast.Module) -> list[str]:
    """Names without underscore that a module defines at its top level."""
    names = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    return [name for name in names if not name.startswith("_")]


def takes_tensors(function: ast.FunctionDef) -> bool:
    """Whether a public function takes or returns a tensor or an array."""
    arguments = function.args
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    hints = [a.annotation for a in given if a.annotation] + [function.returns]
    return not function.name.startswith("_") and any(
        TENSOR.search(ast.unparse(hint)) for hint in hints if hint is not None
    )


def states_shape(function: ast.FunctionDef) -> bool:
    return bool(SHAPE.search(ast.get_docstring(function) or ""))


def code_lines(tree: ast.Module) -> int:
    """Lines that hold code: no comments, no docstrings, nothing empty, however long a line is."""
    docs = [
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node, clean=False) is not None
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    ]
    lines = {
        line
        for node in ast.walk(tree)
        if hasattr(node, "lineno")
        for line in (node.lineno, node.end_lineno)
    }
    return len(lines - set(docs))


def measure(root: Path) -> dict[str, str]:
    """The figures of a checkout, by what they are."""
    row, names = {}, Counter()
    for package in PACKAGES:
        files = [p for p in sorted((root / package).rglob("*.py")) if "plugins" not in p.parts]
        trees = [parse(path) for path in files]
        lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
        inside = [f for tree in trees for f in functions(tree)]
        longest = max(inside, key=length)
        tensors = [f for f in inside if takes_tensors(f)]
        defined = [name for tree in trees for name in set(public(tree))]
        names.update(defined)
        row |= {
            f"{package}: files": str(len(files)),
            f"{package}: lines": str(lines),
            f"{package}: lines that hold code": str(sum(map(code_lines, trees))),
            f"{package}: longest function": f"{length(longest)} ({longest.name})",
            f"{package}: functions over {LONG} lines": str(sum(length(f) > LONG for f in inside)),
            f"{package}: public names": str(len(defined)),
        }
        if tensors:
            share = sum(map(states_shape, tensors)) / len(tensors)
            row[f"{package}: tensor functions that state a shape"] = f"{share:.0%}"
    twice = sum(times > 1 for times in names.values())
    recipes = sorted((root / "training/recipes").rglob("*.yaml"))
    texts = [
        path.read_text(encoding="utf-8").lower()
        for package in PACKAGES
        for path in (root / package).rglob("*")
        if path.suffix in (".py", ".yaml", ".toml") and "plugins" not in path.parts
    ]
    return (
        row
        | {
            "public names defined in several modules": str(twice),
            "recipe files": str(len(recipes)),
        }
        | {
            f"files that name {what}": str(sum(bool(re.search(rf"\b{word}\b", t)) for t in texts))
            for what, word in NAMED.items()
        }
    )


def checkout(commit: str, folder: str) -> Path:
    """The files of a commit, in a folder."""
    archive = subprocess.run(
        ["git", "archive", commit], cwd=ROOT, check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", nargs="*", help="as git names it; default: the working tree")
    columns = {}
    for commit in parser.parse_args().commit:
        with tempfile.TemporaryDirectory() as folder:
            columns[commit] = measure(checkout(commit, folder))
    columns = columns or {"tree": measure(ROOT)}
    print("| |", " | ".join(columns), "|")
    print("|---|" + "---|" * len(columns))
    for figure in dict.fromkeys(key for column in columns.values() for key in column):
        print(f"| {figure} |", " | ".join(c.get(figure, "") for c in columns.values()), "|")


if __name__ == "__main__":
    main()
