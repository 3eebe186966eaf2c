"""The pages of docs/: their blocks, what these need, and how a block is run or only parsed.

A block is run in the page's folder, unless a comment before it says why not: `<!-- needs: … -->`
names what is not here, `<!-- slow -->` leaves it to the slow tests. A block with a title is a file.
"""

import ast
import contextlib
import importlib
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from eval_tasks import __main__ as eval_tasks
from eval_tasks.tasks import find_task
from hear_ptsed import backbones, cli, registry
from hear_ptsed.options import Parser, add_options, list_given
from leaderboards import __main__ as leaderboards
from training import __main__ as training
from training.recipe import load

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
NEEDS = {"network", "data", "gpu", "minutes", "a cluster", "a microphone", "a clone"}
NEEDS |= {"released weights"}
MAINS = {
    "hear-ptsed": cli.main,
    "training": training.main,
    "eval_tasks": eval_tasks.main,
    "leaderboards": leaderboards.main,
}
OUTSIDE = {"arecord", "bash", "hf", "make", "pip", "python", "ray", "sbatch", "source", "srun"}
# The last option wins: trainings of the pages end after two steps.
SHORT = ["--optim.batch=2", "--optim.epochs=1", "--optim.warmup_steps=1", "--data.workers=0"]
SHORT += ["--run.progress=false", "--run.accelerator=cpu", "--run.loggers=[csv]"]


@dataclass(frozen=True)
class Block:
    """One block of code of a page."""

    page: str
    line: int  # of its fence
    language: str
    title: str  # the file that it is; "": none
    marker: str  # in the comment before it; "": none
    text: str

    @property
    def runs(self) -> bool:
        return not self.marker.startswith("needs: ")


def blocks_of(page: str) -> list[Block]:
    """All blocks of a page, in order."""
    blocks, before, lines = [], "", iter(enumerate((DOCS / page).read_text("utf-8").split("\n"), 1))
    for number, line in lines:
        if line.startswith("```"):
            language, _, more = line[3:].partition(" ")
            title = re.search(r'title="([^"]+)"', more)
            inside = []
            for _, text in lines:
                if text.startswith("```"):
                    break
                inside.append(text)
            marker = re.fullmatch(r"<!-- (.+) -->", before)
            names = (match[1] if match else "" for match in (title, marker))
            blocks.append(Block(page, number, language, *names, "\n".join(inside) + "\n"))
        before = line
    return blocks


def write_files(folder: Path, checkpoints: Path) -> None:
    """What the commands of the pages read: recordings, the files of titled blocks, weights."""
    rng = np.random.default_rng(0)

    def write(path: Path, seconds: float, rate: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.normal(0, 0.1, (round(seconds * rate), 2)), rate)

    write(folder / "clip.wav", 4.0, 44100)
    for i in range(4):
        write(folder / "recordings" / f"{i}.wav", 3.0, 32000)
    (folder / "files.txt").write_text("".join(f"recordings/{i}.wav\n" for i in range(4)))
    rows = ["filename\tonset\toffset\tevent_label"]
    for split in ("train", "valid", "test"):
        for i, label in enumerate(("bell", "door")):
            write(folder / "doors" / split / f"{split}{i}.wav", 2.0, 16000)
            rows.append(f"{split}{i}.wav\t0.5\t1.5\t{label}")
    (folder / "doors" / "labels.tsv").write_text("\n".join(rows) + "\n")
    for page in PAGES:
        for block in blocks_of(page):
            if block.title:
                path = folder / block.title
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text, encoding="utf-8")
    shutil.copytree(ROOT / "results" / "office-v1-demo", folder / "results" / "office-v1-demo")
    write_weights(checkpoints / "frame_mn06_strong_1.pt")


def write_weights(path: Path) -> None:
    """A released file with random weights, by which every class sounds all the time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = registry.build("frame_mn06")
    torch.nn.init.ones_(model.head.strong_head.bias)
    inside = model.backbone.to_released(model.backbone.state_dict())
    prefix = model.backbone.prefixes[0]
    state = {prefix + key: value for key, value in inside.items()}
    torch.save(state | model.head.state_dict(), path)


@contextlib.contextmanager
def with_backbone(folder: Path) -> Iterator[None]:
    """The backbone of the page is a file of the package, and its row stands in the registry."""
    (row,) = (b for b in blocks_of("add-a-backbone.md") if b.title == "hear_ptsed/registry.py")
    before, path = dict(registry.MODELS), list(backbones.__path__)
    backbones.__path__.append(str(folder / "hear_ptsed" / "backbones"))
    try:
        exec(compile(row.text, row.title, "exec"), vars(registry))
        yield
    finally:
        backbones.__path__[:] = path
        for name in registry.MODELS.keys() - before:
            sys.modules.pop(f"hear_ptsed.backbones.{name}", None)
            del registry.MODELS[name]


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command, its redirection among them; pipes part commands."""
    known: dict[str, str] = {}
    for line in block.text.replace("\\\n", " ").split("\n"):
        for name, value in known.items():
            line = line.replace(f"${name}", value)
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, "|"]:
            if word != "|":
                words.append(word)
            elif words and (given := re.fullmatch(r"(\w+)=(.+)", words[0])):
                known[given[1]] = given[2]
                words = words[1:]
            elif words:
                yield words
                words = []


def ours(words: list[str]) -> tuple[str, list[str]] | None:
    """The program of this project that is called, and its words; None: none is."""
    if "hear-ptsed" in words:
        at = words.index("hear-ptsed")
        return words[at], words[at + 1 :]
    for at in range(len(words) - 2):
        if words[at : at + 2] == ["python", "-m"] and words[at + 2] in MAINS:
            return words[at + 2], words[at + 3 :]
    return None


def run_bash(block: Block) -> None:
    """Each command in this process, which is faster; its exit code must be 0."""
    for words in commands(block):
        called = ours(words)
        assert called is not None, f"{words} cannot be run here; mark the block"
        program, words = called
        target = None
        if ">" in words:
            words, target = words[: words.index(">")], words[-1]
        words = [path for word in words for path in expanded(word)]
        words += SHORT if words[0] == "fit" and "--print" not in words else []
        with contextlib.ExitStack() as stack:
            if target is not None:
                file = stack.enter_context(Path(target).open("w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(file))
            assert MAINS[program](words) == 0, words


def expanded(word: str) -> list[str]:
    """The files that a word with a star stands for, at least one; any other word."""
    if "*" not in word:
        return [word]
    files = sorted(map(str, Path().glob(word)))
    assert files, f"no file is {word}"
    return files


def run_python(block: Block, names: dict[str, Any]) -> None:
    """In the page's names; `print(…)  # text` must print this text."""

    def check(line: str, expected: str, *values: Any) -> None:
        printed = " ".join(map(str, values))
        assert printed == expected, f"{block.page}: {line} prints {printed}"

    def checked(match: re.Match) -> str:
        return f"_check({match[1]!r}, {match[2]!r}, {match[1]})"

    code = re.sub(r"^print\((.+)\)  # (.+)$", checked, block.text, flags=re.MULTILINE)
    names["_check"] = check
    exec(compile(code, f"{block.page}, line {block.line}", "exec"), names)


def run_tests(block: Block) -> None:
    """Every test of the file that a block is."""
    names: dict[str, Any] = {}
    exec(compile(block.text, block.title, "exec"), names)
    tests = [name for name in names if name.startswith("test_")]
    assert tests, block.title
    for name in tests:
        names[name]()


def parse_bash(block: Block) -> None:
    """Every command of this project takes these words; what else is called is known."""
    for words in commands(block):
        if called := ours(words):
            parse_ours(*called)
            continue
        assert words[0] in OUTSIDE, words
        if words[0] == "make":
            assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
        for word in words:
            if re.search(r"\.(py|txt)$", word) and words[0] in ("pip", "python"):
                titles = {other.title for other in blocks_of(block.page)}
                assert word in titles or (ROOT / word).is_file(), word
            if given := re.fullmatch(r"\.\[(.+)\]", word):
                for extra in given[1].split(","):
                    assert f'    "{extra}": [' in (ROOT / "setup.py").read_text(encoding="utf-8")


def parse_ours(program: str, words: list[str]) -> None:
    """A SystemExit or an error if the command does not take the words."""
    if program == "hear-ptsed":
        cli.build_parser().parse_args(words)
    elif program == "leaderboards":
        leaderboards.build_parser().parse_args(words)
    elif program == "training":
        args = training.build_parser().parse_args(words)
        if args.command == "fit":
            with with_backbone(Path()):
                load(args.recipe, list_given(args))
    elif words[0] == "prepare":
        parser = Parser()
        add_options(parser, find_task(words[1]).options)
        parser.add_argument("more", nargs="*")
        parser.parse_args(words[2:])
    else:
        _, rest = eval_tasks.build_parser().parse_known_args(words)
        assert not rest or words[0] == "heareval", rest


def parse_python(block: Block) -> None:
    """It compiles, and what it imports is there."""
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):  # then it is a module, or there is none
                    importlib.import_module(f"{node.module}.{alias.name}")
