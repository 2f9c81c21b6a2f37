"""`fastdllm new`: the params files and notebooks that the package brings, copied out to be changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = ("Example: [bold]fastdllm new study[/bold], then in study/: [bold]fastdllm grid run demo[/bold]. From there "
            "on study/ is the project: its params/ and notebooks/ come first, and executed/ lies beside them.")


def new(directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made if it is not there.")]) -> None:
    """Copy params/ and notebooks/ into a directory; nothing is overwritten."""
    from fastdllm.lab.config.paths import copy_shipped
    for target in copy_shipped(directory):
        typer.echo(f"wrote {target}")
