"""A configuration's log: at a path that never changes, wherever the configuration runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from fastdllm.lab import records
from fastdllm.lab.config.grid import Configuration, Grid
from fastdllm.lab.jobs import submission


def path_of(configuration: Configuration, grid: Grid) -> Path:
    """The configuration's run.log; before its first start under Slurm, what Slurm wrote for it.

    Raises ValueError if there is neither.
    """
    log = configuration.directory / records.LOG
    slurm = submission.job_log(grid.directory, configuration.path)
    if log.exists() or slurm is None:
        if not log.exists() and (shared := _shared(configuration)) is not None:
            return shared
        if not log.exists():
            raise ValueError(f"{log}: no log yet; allowed: a configuration that has been started")
        return log
    return slurm


def _shared(configuration: Configuration) -> Path | None:
    """The log of the run that a shared record comes from."""
    try:
        source = records.read(configuration.directory).shared_from
    except FileNotFoundError:
        return None
    return configuration.directory.parent / source / records.LOG if source else None


def show(configuration: Configuration, grid: Grid, follow: bool = False, poll: float = 0.5) -> None:
    """Print the path and the log; with `follow` go on as it grows, until interrupted."""
    path = path_of(configuration, grid)
    print(f"==> {path} <==")
    with path.open(encoding="utf-8", errors="replace") as lines:
        while True:
            text = lines.read()
            sys.stdout.write(text)
            sys.stdout.flush()
            if not follow:
                return
            time.sleep(poll)
