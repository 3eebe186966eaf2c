"""The site of `make docs`: built strictly, without a network, for eyes and for screen readers."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import needs_chromium
from docs_parts import PAGES, ROOT

pytestmark = pytest.mark.skipif(
    not (find_spec("mkdocs") and find_spec("mkdocstrings")), reason="needs the extra docs"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs-site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_a_page_fetches_nothing_from_outside(site, page):
    html = (site / page).with_suffix(".html").read_text(encoding="utf-8")
    fetched = re.findall(r"<(?:script|img|iframe|source)[^>]* src=\"?([^\" >]+)", html)
    fetched += re.findall(r"<link[^>]* rel=\"?(?:stylesheet|icon|preconnect)[^>]*", html)
    assert fetched and not any("//" in address for address in fetched)


@pytest.mark.parametrize("name", ["load", "hear.load_model", "stream.Stream", "events.Event"])
def test_the_reference_has_what_a_user_calls(site, name):
    assert f'id="hear_ptsed.{name}"' in (site / "api.html").read_text(encoding="utf-8")


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("name", ["index", "start", "add-a-task", "metrics", "api"])
def test_a_page_is_accessible(site, browser, name, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme
    ).new_page()
    page.goto((site / f"{name}.html").as_uri())
    page.wait_for_function("document.querySelector('.md-search[aria-label]')")
    wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    violations = axe.Axe().run(page).response["violations"]
    page.context.close()
    assert not wide
    assert not [each["id"] for each in violations if each["impact"] in ("serious", "critical")]


@pytest.mark.slow
@needs_chromium
def test_search_works_in_pages_that_are_opened_as_files(site, page):
    page.goto((site / "index.html").as_uri())
    page.click("[data-md-component=search-query]")
    page.keyboard.type("bounding boxes")
    page.wait_for_selector(".md-search-result__item")
