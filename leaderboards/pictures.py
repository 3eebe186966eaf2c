"""Charts as files: SVG, PDF and PNG through kaleido and a browser; or a page by itself."""

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

from hear_ptsed.files import atomic
from leaderboards.charts import Chart, titled

WIDTH = 800  # pixels
FORMATS = ("svg", "pdf")  # of the figures of a site
FIGURE = re.compile(
    r'<figure class="plot" id="([\w-]+)"[^>]*><figcaption[^>]*>(.*?)</figcaption>\s*'
    r'<script type="application/json">(.*?)</script>',
    re.S,
)


def figures_of_site(site: Path, out: Path) -> list[Path]:
    """Each chart of the pages in all FORMATS, named by its page and its place there."""
    orders = []
    for page in sorted(site.glob("*.html")):
        for name, title, chart in FIGURE.findall(page.read_text(encoding="utf-8")):
            picture = titled(json.loads(chart), html.unescape(title))
            orders += [(out / f"{page.stem}-{name}.{kind}", kind, picture) for kind in FORMATS]
    out.mkdir(parents=True, exist_ok=True)
    _render(orders)
    return [path for path, *_ in orders]


def write_picture(chart: Chart, title: str, path: Path) -> None:
    """One chart; the ending of the name says in which format."""
    kind, chart = path.suffix.lower()[1:], titled(chart, title)
    if kind not in ("html", "svg", "pdf", "png"):
        raise ValueError(f"{path}: a chart is written as .html, .svg, .pdf or .png")
    with atomic(path) as temporary:
        if kind == "html":
            from plotly.io import to_html

            chart["layout"]["template"] = "plotly_white"
            temporary.write_text(to_html(chart, div_id="chart"), encoding="utf-8", newline="\n")
        else:
            _render([(temporary, kind, chart)])


def _render(orders: Sequence[tuple[Path, str, Chart]]) -> None:
    """Charts to paths in formats, by one browser, without network."""
    try:
        import kaleido
        from choreographer.errors import BrowserFailedError, ChromeNotFoundError
    except ImportError:
        raise ImportError("figures need kaleido: pip install 'hear_ptsed[figures]'") from None
    figures = []
    for path, kind, chart in orders:
        size = {"format": kind, "width": WIDTH, "height": chart["layout"]["height"]}
        figures.append({"fig": chart, "path": str(path), "opts": size})
    offline = {"mathjax": False}
    try:
        kaleido.write_fig_from_object_sync(figures, cancel_on_error=True, kopts=offline)
    except (ChromeNotFoundError, BrowserFailedError):
        raise RuntimeError("figures need Chrome or Chromium; set BROWSER_PATH to it") from None
