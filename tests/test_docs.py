"""The pages of docs/: every block is run, or parsed where it says why; links; a strict build."""

import re
from pathlib import Path

import pytest
import yaml
from docs_parts import (
    DOCS,
    NEEDS,
    PAGES,
    ROOT,
    blocks_of,
    parse_bash,
    parse_python,
    run_bash,
    run_python,
    run_tests,
    with_backbone,
    write_files,
)

SLOW = [page for page in PAGES if any(block.marker == "slow" for block in blocks_of(page))]
FOLDERS = "benchmarks|docs|eval_tasks|hear_ptsed|leaderboards|results|tests|training"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture
def folder(tmp_path, checkpoints, monkeypatch, one_thread) -> Path:
    """Where the commands of a page run."""
    write_files(tmp_path, checkpoints)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEAR_PTSED_CHECKPOINTS", str(checkpoints))
    return tmp_path


def run_page(page: str, folder: Path, slow: bool) -> int:
    """Run its blocks in order; the number of them."""
    names, done = {}, 0
    with with_backbone(folder):
        for block in blocks_of(page):
            if block.title.startswith("tests/"):
                run_tests(block)
            if block.title or not block.runs or (block.marker == "slow" and not slow):
                continue
            if block.language in ("bash", "python"):
                run_bash(block) if block.language == "bash" else run_python(block, names)
                done += 1
    return done


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, folder):
    done = run_page(page, folder, slow=False)
    assert done or not any(b.language == "python" and not b.marker for b in blocks_of(page))


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
def test_the_blocks_of_a_page_run_with_the_slow_ones(page, folder):
    assert run_page(page, folder, slow=True) > 0


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_run_says_why_and_is_parsed(page, folder):
    for block in blocks_of(page):
        assert not block.marker or block.marker == "slow" or block.marker[7:] in NEEDS, block
        if block.marker and block.language == "bash":
            parse_bash(block)
        elif block.marker and block.language == "python":
            parse_python(block)


def test_no_block_escapes():
    """A block has a language; what is indented is no command."""
    languages = {"bash", "bibtex", "python", "text", "toml", "yaml"}
    for page in PAGES:
        assert {block.language for block in blocks_of(page)} <= languages, page


def anchors(path: Path) -> set[str]:
    """Of the headings, as the builder makes them of plain ones."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower()) for text in headings
    }


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *(DOCS / page for page in PAGES)], ids=lambda path: path.name
)
def test_links_and_named_files_exist(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked), target
    for name in re.findall(rf"`((?:{FOLDERS})/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name


def test_every_page_stands_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")

    def pages(entries) -> list[str]:
        if isinstance(entries, str):
            return [entries]
        return [page for entry in entries for of in entry.values() for page in pages(of)]

    assert sorted(pages(yaml.safe_load(text)["nav"])) == PAGES
