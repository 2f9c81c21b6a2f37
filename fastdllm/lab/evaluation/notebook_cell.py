"""What the cell's notebook calls: its flat parameters become a run, its record's files become tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from fastdllm.lab import records
from fastdllm.lab.config.grid import Configuration
from fastdllm.lab.config.parameters import Parameters, RecordOptions
from fastdllm.lab.config.single import grid_of
from fastdllm.lab.evaluation.evaluate import evaluate
from fastdllm.lab.evaluation.prepare import PreparedRun

__all__ = ["NAMES", "evaluate", "prepare", "results"]

WHERE = ("experiment", "config", "directory", "author", "trace", "token_ids", "force")
NAMES = frozenset({*Parameters().flat(), *WHERE})     # the notebook's parameters that say what runs, and where


def prepare(flat: dict[str, Any]) -> PreparedRun:
    """The run of a notebook's parameters. A grid names configuration and directory; without one they follow from the
    parameters.
    """
    values = {name: value for name, value in flat.items() if name not in WHERE}
    if flat["directory"] and flat["config"]:
        configuration = Configuration(flat["experiment"], flat["config"], Parameters.of(**values),
                                      Path(flat["directory"]))
    else:
        [own] = grid_of(values, flat["experiment"]).configurations()
        configuration = replace(own, name=flat["config"] or own.name,
                                directory=Path(flat["directory"]) if flat["directory"] else own.directory)
    return PreparedRun(configuration, RecordOptions(trace=flat["trace"], token_ids=flat["token_ids"]),
                       flat["author"], flat["force"])


def results(directory: Path) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Samples and, where one was recorded, the trace."""
    path = directory / records.TRACE
    return records.samples(directory), pd.read_parquet(path) if path.exists() else None
