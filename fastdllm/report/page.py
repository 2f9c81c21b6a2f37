"""`fastdllm grid report`: the report notebook of a grid, executed, and its HTML that works offline."""

from __future__ import annotations

import json
import re
from concurrent.futures import ProcessPoolExecutor
from html import escape
from multiprocessing import get_context
from pathlib import Path

from fastdllm.lab import files, notebooks, records
from fastdllm.lab.grid import Grid
from fastdllm.lab.parameters import root, short

NOTEBOOK = "90_report.ipynb"
NO_TEXT = "No description has been provided for this image"    # nbconvert's, which leaves the figure's own text out


def write(grid: Grid) -> str:
    """Execute the report notebook beside the records (it also writes the page and the log entry); what it says.

    All figures come from the notebook's own process, so this one reads no record and imports no table; a third one
    gets the exporter ready meanwhile. Raises ValueError if no cell has a record yet; NotebookFailed if the notebook
    fails.
    """
    if not any((cell.directory / records.SUMMARY).exists() for cell in grid.cells()):
        raise ValueError(f"{grid.experiment}: no cell has a record; allowed: a grid after `fastdllm grid run`")
    folder, source = grid.save(), notebooks.find(NOTEBOOK)
    executed = folder / NOTEBOOK
    where = short(folder) if folder.is_relative_to(root()) else str(folder)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as exporter:
        exporter.submit(to_html, source)    # imports nbconvert and compiles its templates
        notebooks.execute(source, executed, {"directory": where})
        html = exporter.submit(export, executed, True).result()     # the code is in the notebook beside it
    return f"{notebooks.printed(executed, 'write')}\nreport: {short(html)}"


def export(notebook: Path, hide_code: bool = False) -> Path:
    """An executed notebook as one HTML file beside it."""
    target = notebook.with_suffix(".html")
    files.write(target, to_html(notebook, hide_code))
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
