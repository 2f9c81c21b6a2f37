"""One axis at a time: what the threshold buys, and what the batch size buys. Tables and figures."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fastdllm import stats
from fastdllm.display import figures as house
from fastdllm.display.figures import BLUE, GREY, ORANGE, styled
from fastdllm.lab import records
from fastdllm.lab.config import grid_file
from fastdllm.lab.config.grid import Grid
from fastdllm.lab.evaluation.missing import run_missing
from fastdllm.report.results import Results


def complete(params: str, apart: bool = False, **changes: object) -> Results:
    """The results of a params file, what is missing run first: here, or `apart`, each in a process of its own
    (which its peak memory is then that of). `changes`: keys as for --set, "__" for the dot.

    Raises RuntimeError naming the directory if one fails, ValueError for a wrong value.
    """
    grid = grid_file.load(params, [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in changes.items()])
    run_missing(grid, apart=apart)
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


# -- threshold

def threshold_table(results: Results) -> pd.DataFrame:
    """One row per threshold, ascending: accuracy, points lost against the highest threshold (paired), tokens per
    forward and per second, and whether the point is on the front of accuracy and tokens per forward.
    """
    one_task(results)
    table = results.frame.sort_values("threshold").reset_index(drop=True)
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
    lost = [f"{row.lost:z.1f} [{row.lost_low:.1f}, {row.lost_high:.1f}]" if row.lost == row.lost else "reference"
            for row in table.itertuples()] if "lost" in table else ["not measured"] * len(table)
    return pd.DataFrame({
        "threshold": [f"{value:g}" for value in table["threshold"]], "n": table["n"],
        "accuracy %": [f"{100 * r.accuracy:.1f} [{100 * r.low:.1f}, {100 * r.high:.1f}]" for r in table.itertuples()],
        "points lost": lost, "tokens / forward": table["tokens_per_forward"].map("{:.2f}".format),
        "NFE": table["nfe"], "tokens/s": table["tokens_per_second"].map("{:.0f}".format),
        "on the front": table["on_front"].map({True: "yes", False: ""})})


# -- batch size

def batch_table(results: Results) -> pd.DataFrame:
    """One row per batch size, ascending: tokens/s and its ratio to the smallest batch, seconds per answer (mean and
    95th percentile, queueing not included), peak memory, and answers that equal the smallest batch's.
    """
    one_task(results)
    table = results.frame.sort_values("batch_size").reset_index(drop=True)
    by_folder = {str(state.configuration.directory): record for state, record in results.recorded}
    texts: list[list[str]] = []
    for i, folder in enumerate(table["folder"]):
        mine, notes = results.outcomes[folder], by_folder[folder].notes
        if mine is None:
            raise ValueError(f"{folder}: no samples are kept here; allowed: records with their samples")
        texts.append(list(records.samples(Path(folder))["output"]))
        table.loc[i, ["latency", "latency_95"]] = [mine.seconds.mean(), np.quantile(mine.seconds, 0.95)]
        table.loc[i, "memory"] = notes.get("peak_memory_bytes", np.nan)
        table.loc[i, "equal"] = sum(a == b for a, b in zip(texts[i], texts[0], strict=True))
    table["ratio"] = table["tokens_per_second"] / table["tokens_per_second"].iloc[0]
    table["memory_of"] = [by_folder[folder].notes.get("peak_memory_of", "") for folder in table["folder"]]
    return table


@styled
def batch_figure(table: pd.DataFrame) -> Figure:
    """Tokens/s, latency and memory against the batch size; dashed: as fast as rows that cost nothing would be."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4))
    sizes = table["batch_size"]
    axes[0].plot(sizes, table["tokens_per_second"], color=BLUE, marker="o")
    axes[0].plot(sizes, table["tokens_per_second"].iloc[0] * sizes / sizes.iloc[0], color=GREY, linestyle="--",
                 linewidth=0.9)
    axes[0].set(title="tokens/s of the run", ylim=(0, 1.25 * table["tokens_per_second"].max()))
    axes[1].plot(sizes, table["latency_95"], color=ORANGE, marker="s", label="95th percentile")
    axes[1].plot(sizes, table["latency"], color=BLUE, marker="o", label="mean")
    axes[1].set(title="seconds per answer", ylim=(0, 1.35 * table["latency_95"].max()))
    axes[1].legend(loc="upper left")
    axes[2].plot(sizes, table["memory"] / 1e6, color=BLUE, marker="o")
    axes[2].set(title=f"peak memory, MB ({table['memory_of'].iloc[0] or 'not measured'})")
    axes[2].set_ylim(0, 1.2 * np.nanmax([1.0, *table["memory"] / 1e6]))
    for each in axes:
        each.set_xscale("log", base=2)
        each.set_xticks(sizes, [f"{size}" for size in sizes])
        each.minorticks_off()
        each.set_xlabel(f"batch size (n = {table['n'].iloc[0]})")
    return figure


def batch_as_text(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text."""
    return pd.DataFrame({
        "batch size": table["batch_size"], "n": table["n"], "tokens/s": table["tokens_per_second"].map("{:.0f}".format),
        "against the smallest": table["ratio"].map("{:.2f}x".format),
        "seconds per answer": table["latency"].map("{:.2f}".format), "95th percentile": table["latency_95"].map(
            "{:.2f}".format), "peak memory, MB": (table["memory"] / 1e6).map("{:.0f}".format),
        "accuracy %": [f"{100 * r.accuracy:.1f} [{100 * r.low:.1f}, {100 * r.high:.1f}]" for r in table.itertuples()],
        "same answers": [f"{int(equal)} of {n}" for equal, n in zip(table["equal"], table["n"], strict=True)]})
