"""A cell's log: at a path that never changes, wherever the cell runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from fastdllm.lab import records
from fastdllm.lab.config.grid import Cell, Grid
from fastdllm.lab.jobs import submission


def path_of(cell: Cell, grid: Grid) -> Path:
    """The cell's run.log; before its first start under Slurm, what Slurm wrote for it.

    Raises ValueError if there is neither.
    """
    log = cell.directory / records.LOG
    slurm = submission.job_log(grid.directory, cell.path)
    if log.exists() or slurm is None:
        if not log.exists() and (shared := _shared(cell)) is not None:
            return shared
        if not log.exists():
            raise ValueError(f"{log}: no log yet; allowed: a cell that has been started")
        return log
    return slurm


def _shared(cell: Cell) -> Path | None:
    """The log of the run that a shared record comes from."""
    try:
        source = records.read(cell.directory).shared_from
    except FileNotFoundError:
        return None
    return cell.directory.parent / source / records.LOG if source else None


def show(cell: Cell, grid: Grid, follow: bool = False, poll: float = 0.5) -> None:
    """Print the path and the log; with `follow` go on as it grows, until interrupted."""
    path = path_of(cell, grid)
    print(f"==> {path} <==")
    with path.open(encoding="utf-8", errors="replace") as lines:
        while True:
            text = lines.read()
            sys.stdout.write(text)
            sys.stdout.flush()
            if not follow:
                return
            time.sleep(poll)
