"""What the cell's notebook calls: its flat parameters become a run, its record's files become tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fastdllm.lab import records
from fastdllm.lab.config.grid import Configuration
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.config.single import grid_of
from fastdllm.lab.evaluation.evaluate import evaluate

__all__ = ["NAMES", "evaluate", "place", "results"]

RUN = ("experiment", "config", "directory")
NAMES = frozenset({*Parameters().flat(), *RUN})     # the notebook's parameters that say what runs, and where


def place(flat: dict[str, Any]) -> tuple[Parameters, Configuration]:
    """The run of a notebook's parameters, and the cell whose directory its record goes to.

    A grid names cell and directory; without one they follow from the parameters.
    """
    values = {name: value for name, value in flat.items() if name not in RUN}
    parameters = Parameters.of(**values)
    cell = grid_of(values, flat["experiment"]).configurations()[0]
    directory = Path(flat["directory"]) if flat["directory"] else cell.directory
    return parameters, Configuration(flat["experiment"], flat["config"] or cell.name, parameters, directory)


def results(directory: Path) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Samples and, where one was recorded, the trace."""
    path = directory / records.TRACE
    return records.samples(directory), pd.read_parquet(path) if path.exists() else None
