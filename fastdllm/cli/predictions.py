"""`fastdllm predictions`: the written-down predictions for the 7B, held against records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = ("Examples: [bold]fastdllm predictions[/bold] (what stands in executed/) · [bold]fastdllm predictions "
            "executed /scratch/theirs[/bold] (records of several places)")


def predictions(folders: Annotated[list[Path] | None, typer.Argument(metavar="[FOLDER...]", help=(
        "Folders that hold the experiments of the commands, like executed (the default)."))] = None) -> None:
    """Predictions for the 7B: each held, failed, undecided or not measured, by the records that its command made."""
    from fastdllm.lab.config.paths import executed
    from fastdllm.report import predictions as written
    home = executed()
    typer.echo(written.text(*written.standings(folders or ([home] if home.is_dir() else []))))
