"""`fastdllm grid report`: the report notebook of a grid, executed, and its HTML that works offline."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastdllm.lab import files, notebooks, records, status
from fastdllm.lab.grid import Grid
from fastdllm.lab.parameters import root
from fastdllm.report import log, tables
from fastdllm.report.results import Results

NOTEBOOK, MOST_LINES = "90_report.ipynb", 40


def write(grid: Grid) -> str:
    """Execute the report notebook beside the records (it also writes the page and the log entry); what to open.

    Raises ValueError if no cell has a record yet; NotebookFailed if the notebook fails.
    """
    if not any((cell.directory / records.SUMMARY).exists() for cell in grid.cells()):
        raise ValueError(f"{grid.experiment}: no cell has a record; allowed: a grid after `fastdllm grid run`")
    folder = Results(grid, []).save_grid()
    executed = folder / NOTEBOOK
    inside = folder.is_relative_to(root())
    with ThreadPoolExecutor(1) as pool:      # meanwhile: the notebook has a process of its own
        counted = pool.submit(status.states, grid.cells())
        notebooks.execute(notebooks.find(NOTEBOOK), executed,
                          {"directory": log.short(folder) if inside else str(folder)})
    html = export(executed)
    states = [state.state for state in counted.result() if state.state != "not applicable"]
    return "\n".join([*lines(Results(grid, counted.result())),
                      f"{states.count('complete')} of {len(states)} cells complete",
                      f"log entry: {log.short(folder / log.ENTRY)}",
                      f"results page: {log.short(folder / log.PAGE)}", f"report: {log.short(html)}"])


def lines(results: Results) -> list[str]:
    """The main figures of each configuration for a terminal, of grids that fit on one."""
    rows = tables.grid_table(results).to_dict("records")
    if len(rows) > MOST_LINES:
        return []
    names = [f"{row['task']} {row['config']}" for row in rows]
    width = max(map(len, names), default=0)
    return [f"{name:{width}}  {100 * row['accuracy']:5.1f} % of {row['n']} [{100 * row['low']:.1f}, "
            f"{100 * row['high']:.1f}]  {row['tokens_per_second']:7.1f} tokens/s"
            + (f"  {row['lost']:.1f} points lost, {row['speedup']:.2f}x"
               if row["lost"] == row["lost"] and row["k"] > 1 else "")
            for name, row in zip(names, rows, strict=True)]


def export(notebook: Path, hide_code: bool = False) -> Path:
    """An executed notebook as one HTML file beside it."""
    from nbconvert import HTMLExporter
    exporter = HTMLExporter(template_name="lab", exclude_input=hide_code, mathjax_url="", require_js_url="")
    body, _ = exporter.from_filename(str(notebook))
    target = notebook.with_suffix(".html")
    files.write(target, re.sub(r'<script src="">\s*</script>', "", body))  # the blanked addresses above
    return target
