"""An executed notebook as a page that loads nothing from elsewhere."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path

from fastdllm.lab import atomic
from fastdllm.lab.jobs import notebooks

NO_TEXT = "No description has been provided for this image"    # nbconvert's, which leaves the figure's own text out


def export(notebook: Path, hide_code: bool = False) -> Path:
    """An executed notebook as one HTML file beside it."""
    target = notebook.with_suffix(".html")
    atomic.write(target, to_html(notebook, hide_code))
    return target


def to_html(notebook: Path, hide_code: bool = False) -> str:
    """A notebook as a page that loads nothing from elsewhere."""
    with notebooks.without("rfc3987_syntax"):
        from nbconvert import HTMLExporter
    exporter = HTMLExporter(template_name="lab", exclude_input=hide_code, mathjax_url="", require_js_url="")
    body, _ = exporter.from_filename(str(notebook))
    body = re.sub(r'<script src="">\s*</script>', "", body)     # the blanked addresses above
    outputs = [output for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
               for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    texts = iter(output["metadata"].get("image/png", {}).get("alt", "figure") for output in outputs)
    return re.sub(f'alt="{NO_TEXT}"', lambda _: f'alt="{escape(next(texts))}"', body)
