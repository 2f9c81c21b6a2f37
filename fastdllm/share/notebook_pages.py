"""An executed notebook as a page that loads nothing from elsewhere."""

from __future__ import annotations

import json
import lzma
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Environment, PackageLoader, StrictUndefined
from nbconvert import HTMLExporter
from nbconvert.preprocessors import TagRemovePreprocessor
from pygments.formatters import HtmlFormatter

from fastdllm.display.notebook_html import ASIDE, SIGNS, without_foreign

STATIC = Path(__file__).parent / "static"
STATE = "application/vnd.jupyter.widget-state+json"
TEMPLATES = Path(__file__).parent / "templates"     # `gallery` there extends nbconvert's `classic`


class Writer:
    """Turns notebooks into pages and knows which assets they need. `notes` say what was left out."""

    def __init__(self) -> None:
        self.exporter = HTMLExporter(template_name="gallery", extra_template_basedirs=[str(TEMPLATES)])
        self.exporter.register_preprocessor(TagRemovePreprocessor(remove_cell_tags=ASIDE), enabled=True)
        self.templates = Environment(loader=PackageLoader("fastdllm.share", "static"), autoescape=True,
                                     undefined=StrictUndefined)
        self.widgets = False
        self.notes: list[str] = []

    def page(self, notebook: dict[str, Any], title: str, up: str, download: str,
             facts: Iterable[tuple[str, str]] = (), record: str = "") -> str:
        """HTML of a notebook (parsed JSON); `up` leads to the site's root."""
        node = nbformat.reads(json.dumps(notebook), as_version=4)
        body, _ = self.exporter.from_notebook_node(node)
        body, foreign = without_foreign(body)
        if foreign:
            self.notes.append(f"{title}: {foreign} scripts or styles of other hosts were left out")
        widgets = bool(notebook["metadata"].get("widgets", {}).get(STATE))     # the exporter writes the states
        self.widgets |= widgets
        return self.templates.get_template("page.html.j2").render(
            title=title, body=body, up=up, notebook=download, record=record, facts=list(facts), widgets=widgets)

    def assets(self) -> dict[str, bytes]:
        """The files that the pages share; the widgets' 3.6 MB only if a page has one."""
        colours = HtmlFormatter(style="default").get_style_defs(".highlight")
        files = {"gallery.css": SIGNS.read_bytes() + (STATIC / "gallery.css").read_bytes() + f"\n{colours}\n".encode(),
                 "gallery.js": (STATIC / "gallery.js").read_bytes()}
        if self.widgets:
            files |= {"embed-amd.js": lzma.decompress((STATIC / "embed-amd.js.xz").read_bytes()),
                      "require.min.js": (STATIC / "require.min.js").read_bytes(),
                      "LICENSE.html-manager": (STATIC / "LICENSE.html-manager").read_bytes()}
            anywidget = Path(sys.prefix) / "share" / "jupyter" / "nbextensions" / "anywidget" / "index.js"
            if anywidget.exists():
                files["anywidget.js"] = anywidget.read_bytes()
            else:
                self.notes.append("anywidget's browser part is not installed here: its widgets show as text")
        return files
