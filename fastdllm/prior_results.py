"""The published figures as tables: the results of the log, what its pages state, and the benchmarks' sizes.

Nothing here is computed from our own runs; provenance in data/README.md.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

import pandas as pd

DATA = Path(str(files("fastdllm") / "data"))
GPU_TABLE, DTYPES = DATA / "half_precision.csv", DATA / "dtype_accuracy.csv"
MODULES_TABLE = DATA / "half_precision_modules.csv"


@cache
def _tasks() -> pd.DataFrame:
    return pd.read_csv(DATA / "tasks.csv", index_col="task")


def tasks() -> pd.DataFrame:
    """Benchmarks by name: n_full, subtasks, loglikelihood, source."""
    return _tasks().copy()


def claims(kind: str | None = None) -> pd.DataFrame:
    """What the pages state, one row a statement; of one kind if asked."""
    table = pd.read_csv(DATA / "published_claims.csv", dtype=str).fillna("")
    return table if kind is None else table[table["kind"] == kind].reset_index(drop=True)


def scores() -> dict[str, float]:
    """The 7B's published accuracy by benchmark, as fractions of 1."""
    table = claims("score")
    return {task: float(value) / 100 for task, value in zip(table["subject"], table["value"], strict=True)}


def results() -> pd.DataFrame:
    """The published configurations, with n worked out from limit, test split and number of subtasks."""
    table = pd.read_csv(DATA / "published_results.csv")
    table["limit"] = table["limit"].fillna(0).astype(int)
    table["n"] = [problems(task, limit) for task, limit in zip(table["task"], table["limit"], strict=True)]
    table["correct"] = (table["accuracy"] * table["n"]).round().astype(int)
    return table


def problems(task: str, limit: int) -> int | None:
    """Problems that a run of `task` sees; limit 0 is all. None for a task of unknown size."""
    known = _tasks()
    if task not in known.index:
        return limit or None
    size = known.loc[task]
    if limit:
        return limit * int(size["subtasks"])
    return int(size["n_full"]) if pd.notna(size["n_full"]) else None


def half_precision() -> pd.DataFrame | None:
    """Tokens by layer subset and dtype as measured on a GPU; None where that was not measured."""
    return pd.read_csv(GPU_TABLE) if GPU_TABLE.exists() else None


def half_precision_modules() -> pd.DataFrame:
    """The same on transformers' own Qwen2 modules, with and without autocast; empty where that was not measured."""
    columns = ["dtype", "autocast", "revision", "k", "n", "outputs differing, middle", "outputs differing, last"]
    return pd.read_csv(MODULES_TABLE) if MODULES_TABLE.exists() else pd.DataFrame(columns=columns)


def dtype_accuracy() -> pd.DataFrame:
    """Problems that the embedded checkpoint solves on a GPU in each dtype; empty where that was not measured."""
    return pd.read_csv(DTYPES) if DTYPES.exists() else pd.DataFrame(columns=["dtype", "threshold", "n", "correct"])
