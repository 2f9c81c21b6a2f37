"""`fastdllm report`: the page of a grid's report, for the records of any runs."""

from __future__ import annotations

from typing import Annotated

import typer

from fastdllm.cli.interrupted import REPORT, saying

EXAMPLES = ("Examples: [bold]fastdllm report single/k2_middle[/bold] · [bold]fastdllm report single/k1 single/k2_middle"
            "[/bold] (k=1 is what the others are held against) · [bold]fastdllm report executed/single/*/k*[/bold] · a "
            "grid's: [bold]fastdllm grid report demo[/bold]")


def report(names: Annotated[list[str], typer.Argument(metavar="RECORD...", help=(
        "Records of runs: directories, or EXPERIMENT/TASK/CONFIGURATION (the task may be left out)."))]) -> None:
    """Table, figures and audit of some records, as a notebook and HTML; names the file to open.

    The report of a grid, for what `fastdllm run` made; it goes below reports/ of the records' experiment.
    """
    from fastdllm.report.comparison import sides
    from fastdllm.report.grid_report import write_of_records
    with saying(REPORT):
        typer.echo(write_of_records([sides.record_directory(name) for name in names]))
