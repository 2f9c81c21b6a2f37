"""`fastdllm notebooks`: the whole suite of notebooks."""

from __future__ import annotations

from typing import Annotated

import typer

from fastdllm.cli import options
from fastdllm.cli.interrupted import saying

EXAMPLES = ("Examples: [bold]fastdllm notebooks[/bold] (everything, full size) · "
            "[bold]fastdllm notebooks --smoke[/bold] (everything, seconds each) · "
            "[bold]fastdllm notebooks --only bisection[/bold]")


def notebooks(smoke: Annotated[bool, options.flag("--smoke", help="With the parameters of params/smoke/.")] = False,
              only: Annotated[str, typer.Option(help="Only notebooks whose name has this in it.")] = "",
              jobs: Annotated[int, typer.Option(min=1, help="Notebooks at once.")] = 2,
              force: Annotated[bool, options.flag("--force", help="Also what is complete.")] = False) -> None:
    """Run every notebook: first the grids that they read, then the notebooks, what is missing only."""
    from fastdllm.lab.jobs import suite
    with saying("what was executed to its end is kept, and all samples of grids; the same command goes on"):
        good = suite.run(smoke, only, jobs, force)
    if not good:
        raise typer.Exit(1)
