"""What stands below a grid's own table: the shipped records of its model on all of GSM8K, at the grid's settings."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

import pandas as pd

from fastdllm.display.tables import Html, interval_text
from fastdllm.lab.config import grid_file
from fastdllm.report import shipped
from fastdllm.report.results import Results

BENCHMARK = "gsm8k"     # behind it a task's name has the form of the answers: gsm8k_words, gsm8k_equations
SAME = ("model", "revision", "engine", "threshold", "dtype", "k")      # of a shipped record and one of the grid's


def grids(results: Results) -> list[str]:
    """The grids with shipped records of this model on GSM8K, as their params files say; none for another model."""
    models = {record.checkpoint.name for record in results.records}
    return [name for name in shipped.GRIDS if (grid := grid_file.load(name)).model in models
            and any(task.startswith(BENCHMARK) for task in grid.axes.get("task", [grid.task]))]


def rows(results: Results, records: shipped.ShippedRecords) -> pd.DataFrame:
    """The shipped records on all of GSM8K that agree with one of the grid's in SAME, policy and layers (k=1 has
    neither): rows of `ShippedRecords.frame`, by task, k, layers.
    """
    own, frame = results.frame, records.frame
    whole = frame["task"].astype(str).str.startswith(BENCHMARK) & frame["limit"].isna()
    alike = [frame[whole & frame[list(SAME)].eq(row[list(SAME)]).all(axis=1)
                   & ((frame["k"] == 1) | ((frame["policy"] == row["policy"]) & (frame["layers"] == row["layers"])))]
             for _, row in own.iterrows()]
    together = pd.concat(alike) if alike else frame.iloc[:0]
    return together.drop_duplicates("path").sort_values(["task", "k", "layers"])


def as_text(chosen: pd.DataFrame) -> pd.DataFrame:
    """`rows` for people, each with its n and with the code, card and day of its run."""
    return pd.DataFrame([{
        "task": row.task, "config": f"k{row.k} {row.layers}" if row.k > 1 else "k1",
        "accuracy %": interval_text(row.accuracy, row.low, row.high, scale=100), "right": f"{row.correct} of {row.n}",
        "rule": row.metric, "ran on": f"{row.device_name}, {str(row.date)[:10]}, {row.code}"}
        for row in chosen.itertuples()])


def markdown(results: Results, records: shipped.ShippedRecords | None = None) -> str:
    """The table with its caption; one line where the model's records are missing; "" for a model that has none.

    records: those of executed/published, if none are given; they are read only for a model that has some.
    """
    if not (names := grids(results)):
        return ""
    have = shipped.read() if records is None else records
    chosen = rows(results, have)
    if chosen.empty:
        return (f"GSM8K, all problems: no shipped record at this grid's settings ({have.origin}); grids that make "
                f"them: {', '.join(f'`{name}`' for name in names)}")
    own = results.frame
    said = ", ".join(f"{name} {', '.join(f'{value}' for value in dict.fromkeys(chosen[name]))}"
                     for name in ("model", "policy", "revision", "threshold", "dtype"))
    absent = [f"{task} k={k}" for task in dict.fromkeys(chosen["task"]) for k in sorted(set(own["k"]))
              if not ((chosen["task"] == task) & (chosen["k"] == k)).any()]
    return Html(as_text(chosen), f"shipped records on GSM8K, all problems: {said}, as above; accuracy with 95 % Wilson "
                "interval; another task, so that what compares is how it falls with k"
                + (f"; not shipped: {', '.join(absent)}" if absent else "")).markdown()
