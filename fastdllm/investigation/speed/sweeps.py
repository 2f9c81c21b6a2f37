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
from fastdllm.display.figures import GREY, style
from fastdllm.lab import records
from fastdllm.lab.config import grid_file
from fastdllm.lab.config.grid import Grid
from fastdllm.lab.evaluation.missing import run_missing
from fastdllm.report.results import Results

BLUE, ORANGE = "#0072B2", "#E69F00"


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


def threshold_figure(table: pd.DataFrame) -> Figure:
    """Accuracy against tokens per forward, the front joined; and both against the threshold."""
    figure, (plane, axis) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    value = 100 * table[["accuracy", "low", "high"]]
    errors = [(value["accuracy"] - value["low"]).clip(lower=0), (value["high"] - value["accuracy"]).clip(lower=0)]
    best = table[table["on_front"]].sort_values("tokens_per_forward")
    plane.plot(best["tokens_per_forward"], 100 * best["accuracy"], color=BLUE, linewidth=1.2, label="Pareto front")
    plane.errorbar(table["tokens_per_forward"], value["accuracy"], yerr=errors, fmt="none", ecolor=GREY, capsize=2,
                   linewidth=1)
    for held, filled in ((True, BLUE), (False, "white")):
        part = table[table["on_front"] == held]
        plane.scatter(part["tokens_per_forward"], 100 * part["accuracy"], color=filled, edgecolor=BLUE, zorder=3)
    for x, y, threshold in zip(table["tokens_per_forward"], 100 * table["accuracy"], table["threshold"], strict=True):
        plane.annotate(f"{threshold:g}", (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8.5)
    plane.set(xlabel="tokens per forward (labels: threshold)",
              ylabel=f"accuracy % (95 % Wilson interval, n = {table['n'].iloc[0]})")
    plane.legend(frameon=False, loc="lower left")
    axis.errorbar(table["threshold"], value["accuracy"], yerr=errors, color=BLUE, marker="o", capsize=2)
    axis.set(xlabel="threshold", ylabel="accuracy %")
    axis.yaxis.label.set_color(BLUE)
    twin = axis.twinx()
    twin.plot(table["threshold"], table["tokens_per_forward"], color=ORANGE, marker="s")
    twin.set_ylabel("tokens per forward", color="#a86f00")
    twin.spines[["top"]].set_visible(False)
    for axes in (plane, axis):
        style(axes).grid(axis="y", color="#dddddd", linewidth=0.7)
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


def batch_figure(table: pd.DataFrame) -> Figure:
    """Tokens/s, latency and memory against the batch size."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    sizes = table["batch_size"]
    axes[0].plot(sizes, table["tokens_per_second"], color=BLUE, marker="o")
    axes[0].plot(sizes, table["tokens_per_second"].iloc[0] * sizes / sizes.iloc[0], color=GREY, linestyle="--",
                 linewidth=0.9, label="if rows were free")
    axes[0].set(ylabel="tokens/s", ylim=(0, 1.25 * table["tokens_per_second"].max()))
    axes[0].legend(frameon=False)
    axes[1].plot(sizes, table["latency"], color=BLUE, marker="o", label="mean")
    axes[1].plot(sizes, table["latency_95"], color=ORANGE, marker="s", label="95th percentile")
    axes[1].set(ylabel="seconds per answer", ylim=(0, 1.2 * table["latency_95"].max()))
    axes[1].legend(frameon=False)
    axes[2].plot(sizes, table["memory"] / 1e6, color=BLUE, marker="o")
    axes[2].set(ylabel=f"peak memory, MB ({table['memory_of'].iloc[0] or 'not measured'})")
    axes[2].set_ylim(0, 1.2 * np.nanmax([1.0, *table["memory"] / 1e6]))
    for each in axes:
        each.set_xscale("log", base=2)
        each.set_xticks(sizes, [f"{size}" for size in sizes])
        each.set_xlabel("batch size")
        style(each).grid(axis="y", color="#dddddd", linewidth=0.7)
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
