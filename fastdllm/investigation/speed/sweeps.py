"""Grids over an axis: what is missing of one, its front, and what the threshold buys. Tables and figures."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fastdllm import stats
from fastdllm.display import figures as house
from fastdllm.display.figures import BLUE, styled
from fastdllm.display.progress import passing_lines
from fastdllm.display.tables import interval_text
from fastdllm.lab.config import grid_file
from fastdllm.lab.config.grid import Grid
from fastdllm.lab.evaluation.missing import run_missing
from fastdllm.report.results import Results
from fastdllm.report.tables import predicted


def complete(params: str, apart: bool = False, axes: Mapping[str, list | None] = MappingProxyType({}),
             **changes: object) -> Results:
    """The results of a params file, what is missing run first: here, or `apart`, each in a process of its own
    (which its peak memory is then that of). `axes`: values of axes in the place of the file's (None: the file's);
    `changes`: keys as for --set.

    Raises RuntimeError naming the directory if one fails, ValueError for a wrong value.
    """
    own = {f"axes.{axis}": values for axis, values in axes.items() if values is not None}
    grid = grid_file.load(params, [f"{key}={json.dumps(value)}" for key, value in {**changes, **own}.items()])
    with passing_lines() as say:
        run_missing(grid, apart=apart, log=say)
    return Results.of(grid)


def one_task(results: Results) -> Grid:
    """The grid, if it has one task: a front over several says nothing. Raises ValueError otherwise."""
    if results.frame.empty or len(set(results.frame["task"])) != 1:
        raise ValueError(f"tasks={sorted(results.frame.get('task', []))}; allowed: complete configurations of one task")
    return results.grid


def front(costs: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Which points no other point beats in both (Pareto): at least as good in each, better in one. Booleans [n]."""
    beaten = [bool(((costs >= c) & (gains >= g) & ((costs > c) | (gains > g))).any())
              for c, g in zip(costs, gains, strict=True)]
    return ~np.array(beaten)


def threshold_table(results: Results) -> pd.DataFrame:
    """One row per threshold, ascending: accuracy, points lost against the highest threshold (paired), tokens per
    forward, the cost model's tokens/s over those of the highest threshold (`predicted_speedup`), and whether the point
    is on the front of accuracy and tokens per forward.
    """
    one_task(results)
    table = results.frame.assign(predicted_seconds=predicted(results)).sort_values("threshold").reset_index(drop=True)
    speed = table["tokens"] / table["predicted_seconds"]
    table["predicted_speedup"] = speed / speed.iloc[-1]
    reference = results.outcomes[table["folder"].iloc[-1]]
    for i, folder in enumerate(table["folder"]):
        mine = results.outcomes[folder]
        if mine is None or reference is None or i == len(table) - 1:
            continue
        pair = stats.compare_paired(reference.correct, mine.correct)
        table.loc[i, ["lost", "lost_low", "lost_high"]] = [-100 * pair.difference, -100 * pair.high, -100 * pair.low]
    table["on_front"] = front(table["tokens_per_forward"].to_numpy(), table["accuracy"].to_numpy())
    return table


@styled
def threshold_figure(table: pd.DataFrame) -> Figure:
    """Accuracy with its interval and tokens per forward, a line for each threshold; filled: on the front of both."""
    figure, (left, right) = house.rows([f"threshold {value:g}" for value in table["threshold"]])
    for at, row in enumerate(table.itertuples()):
        house.interval(left, at, 100 * row.accuracy, 100 * row.low, 100 * row.high, color=BLUE, marker="o",
                       markerfacecolor=BLUE if row.on_front else "white")
    house.bars(right, table["tokens_per_forward"].tolist(), table["tokens_per_forward"].map("{:.2f}".format).tolist(),
               [BLUE if front else "#b5cfe0" for front in table["on_front"]])
    left.set_xlabel(f"accuracy % (95 % Wilson interval, n = {table['n'].iloc[0]})")
    right.set_xlabel("tokens per forward")
    return figure


def threshold_as_text(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text."""
    lost = [interval_text(row.lost, row.lost_low, row.lost_high) if row.lost == row.lost else "reference"
            for row in table.itertuples()] if "lost" in table else ["not measured"] * len(table)
    return pd.DataFrame({
        "threshold": [f"{value:g}" for value in table["threshold"]], "n": table["n"],
        "accuracy %": [interval_text(r.accuracy, r.low, r.high, scale=100) for r in table.itertuples()],
        "points lost": lost, "tokens / forward": table["tokens_per_forward"].map("{:.2f}".format),
        "forwards": table["nfe"], "predicted speed-up": table["predicted_speedup"].map("{:.2f}x".format),
        "on the front": table["on_front"].map({True: "yes", False: "no"})})
