"""`fastdllm grid report`: the report notebook of a grid, executed, and its HTML that works offline."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from fastdllm.display.notebook_html import export, to_html
from fastdllm.lab import records
from fastdllm.lab.config.grid import Grid
from fastdllm.lab.config.paths import root, short
from fastdllm.lab.jobs import notebooks

NOTEBOOK = "90_report.ipynb"


def write(grid: Grid) -> str:
    """Execute the report notebook beside the records (it also writes the page and the log entry); what it says.

    All figures come from the notebook's own process, so this one reads no record and imports no table; a third one
    gets the exporter ready meanwhile. Raises ValueError if no configuration has a record yet; NotebookFailed if the
    notebook fails.
    """
    if not any((configuration.directory / records.SUMMARY).exists() for configuration in grid.configurations()):
        raise ValueError(f"{grid.experiment}: no configuration has a record; allowed: a grid after `fastdllm grid run`")
    folder, source = grid.save(), notebooks.find(NOTEBOOK)
    executed = folder / NOTEBOOK
    where = short(folder) if folder.is_relative_to(root()) else str(folder)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as exporter:
        exporter.submit(to_html, source)    # imports nbconvert and compiles its templates
        notebooks.execute(source, executed, {"directory": where})
        html = exporter.submit(export, executed, True).result()     # the code is in the notebook beside it
    return f"{notebooks.printed(executed, 'write')}\nreport: {short(html)}"
