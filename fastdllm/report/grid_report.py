"""`fastdllm grid report` and `fastdllm report`: the report notebook, executed, and its HTML that works offline."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from fastdllm.display.notebook_html import export, to_html
from fastdllm.lab import atomic, records
from fastdllm.lab.config.grid import Grid
from fastdllm.lab.config.paths import root, short, to_open
from fastdllm.lab.jobs import notebooks, worker

NOTEBOOK = "90_report.ipynb"


def write(grid: Grid) -> str:
    """The report of a grid, beside its records, or where they would lie if only shipped ones are there; what it says.

    Raises ValueError if no configuration has a record yet; NotebookFailed if the notebook fails.
    """
    if not any((configuration.directory / records.SUMMARY).exists() for configuration in grid.configurations()):
        from fastdllm.report.results import Results  # a second, where there is nothing of one's own
        Results.own_or_shipped(grid).required()
    return execute(grid.save())


def write_of_records(directories: Sequence[Path]) -> str:
    """The report of some records, as if one grid had made them: in reports/ below their experiment; what it says."""
    from fastdllm.report.results import RECORDS, Results
    paths = list(dict.fromkeys(directory.resolve() for directory in directories))
    folder = Results.of_records(paths).grid.report_directory
    atomic.write(folder / RECORDS, json.dumps([str(path) for path in paths], indent=1) + "\n")
    return execute(folder)


def execute(folder: Path) -> str:
    """Execute the report notebook in a folder that says what it is of; it also writes the page and the log entry.

    All figures come from the notebook's own process, so this one needs no table; a third one gets the exporter ready
    meanwhile.
    """
    source, executed = notebooks.find(NOTEBOOK), folder / NOTEBOOK
    where = short(folder) if folder.is_relative_to(root()) else str(folder)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=signal.signal,
                             initargs=(signal.SIGINT, signal.SIG_IGN)) as exporter:      # Ctrl-C is this process's
        exporter.submit(to_html, source)    # imports nbconvert and compiles its templates
        worker.execute(source, executed, {"directory": where})
        html = exporter.submit(export, executed, True).result()     # the code is in the notebook beside it
    return f"{notebooks.printed(executed, 'write')}\nreport: {to_open(html)}"
