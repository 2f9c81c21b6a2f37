"""Which reuse policies pay: accuracy measured here, against time predicted for the 7B, with thresholds as control.

Any reuse has to beat the plain alternative: no reuse and a lower threshold at the same time. Times are
those of the cost model at batch 1 on the 7B shape, for the forwards that this checkpoint needed.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fastdllm import stats
from fastdllm.display.figures import GREY, style
from fastdllm.investigation.speed import cost_model
from fastdllm.investigation.speed.sweeps import front, one_task
from fastdllm.report.results import Results

LAYERS = 12          # of the named subsets
LOOKS = {"": ("#666666", "D"), "output": ("#0072B2", "o"), "residual": ("#E69F00", "s"), "token": ("#009E73", "^"),
         "adaptive": ("#CC79A7", "v"), "replay": ("#D55E00", "P")}


def predicted_seconds(row: pd.Series, card: cost_model.Card = cost_model.H200) -> float:
    """Time of a run's forwards on the 7B shape at batch 1. `token` reads all weights: no saving at batch 1."""
    reused = row["reuse"] / LAYERS if row["policy"] in ("output", "residual", "adaptive") and row["k"] > 1 else 0.0
    share = row["nfe_full"] / max(1, row["nfe_full"] + row["nfe_small"]) if "full_forwards" in row["config"] else 0.0
    mix = cost_model.Mix(full=row["nfe_full"], small=row["nfe_small"], commit=row["nfe_commit"] + row["nfe_prefill"],
                    reused_full=share * reused, reused_small=(1 - share) * reused)
    replayed = row["nfe_replay"] * cost_model.REPLAY_SECONDS
    return cost_model.run_seconds(card, cost_model.SHAPE_7B, mix, skipped=LAYERS) + replayed


def table(results: Results, threshold: float = 0.9) -> pd.DataFrame:
    """One row per configuration, fastest last: predicted speed-up and points lost against k=1 at `threshold`
    (paired), and the same against the best plain threshold that is at least as fast.
    """
    one_task(results)
    rows = results.frame.copy()
    rows["predicted"] = [predicted_seconds(row) for _, row in rows.iterrows()]
    plain = rows[rows["k"] == 1]
    base = plain.loc[(plain["threshold"] - threshold).abs().idxmin()]
    rows["speedup"] = base["predicted"] / rows["predicted"]
    right = {folder: outcome.correct for folder, outcome in results.outcomes.items() if outcome is not None}
    for i, row in rows.iterrows():
        pair = stats.compare_paired(right[base["folder"]], right[row["folder"]])
        rows.loc[i, ["lost", "lost_low", "lost_high"]] = [-100 * pair.difference, -100 * pair.high, -100 * pair.low]
        faster = plain[plain["predicted"] <= 1.02 * row["predicted"]]
        if row["k"] > 1 and len(faster):
            control = faster.loc[faster["accuracy"].idxmax()]
            pair = stats.compare_paired(right[control["folder"]], right[row["folder"]])
            rows.loc[i, ["control", "gain", "gain_low", "gain_high"]] = [
                control["threshold"], 100 * pair.difference, 100 * pair.low, 100 * pair.high]
    for column in ("control", "gain", "gain_low", "gain_high"):
        rows[column] = rows.get(column, np.nan)
    rows["on_front"] = front(rows["speedup"].to_numpy(), rows["accuracy"].to_numpy())
    return rows.sort_values("speedup").reset_index(drop=True)


def figure(rows: pd.DataFrame) -> Figure:
    """Accuracy against predicted speed, and against forwards; the plain thresholds joined."""
    drawn, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    for axis, column, label in ((axes[0], "speedup", "predicted speed-up on an H200 at the 7B shape, batch 1"),
                                (axes[1], "nfe", "forwards (replayed steps not counted)")):
        plain = rows[rows["k"] == 1].sort_values(column)
        axis.plot(plain[column], 100 * plain["accuracy"], color=GREY, linewidth=1.2, zorder=1)
        for _, row in rows.iterrows():
            name = row["policy"] if row["k"] > 1 else ""
            color, marker = LOOKS.get(name, ("#000000", "x"))
            errors = [[100 * max(0.0, row["accuracy"] - row["low"])], [100 * max(0.0, row["high"] - row["accuracy"])]]
            axis.errorbar(row[column], 100 * row["accuracy"], yerr=errors, fmt=marker, color=color, markersize=7,
                          elinewidth=0.8, label=name or "no reuse, threshold as labelled")
            text = f"{row['threshold']:g}" if row["k"] == 1 else f"k{row['k']}"
            axis.annotate(text, (row[column], 100 * row["accuracy"]), xytext=(6, 4), textcoords="offset points",
                          fontsize=8)
        axis.set_xlabel(label)
        style(axis).grid(axis="y", color="#dddddd", linewidth=0.7)
    axes[0].set_ylabel(f"accuracy % (95 % Wilson interval, n = {rows['n'].iloc[0]})")
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    axes[0].legend(handles.values(), handles.keys(), frameon=False, loc="lower left", fontsize=8.5)
    return drawn


def as_text(rows: pd.DataFrame) -> pd.DataFrame:
    """The table as text."""
    def interval(value: float, low: float, high: float) -> str:
        return f"{value:z.1f} [{low:.1f}, {high:.1f}]" if value == value else ""
    return pd.DataFrame({
        "config": rows["config"], "n": rows["n"],
        "accuracy %": [f"{100 * r.accuracy:.1f}" for r in rows.itertuples()],
        "points lost": [interval(r.lost, r.lost_low, r.lost_high) for r in rows.itertuples()],
        "NFE": rows["nfe"], "replayed": rows["nfe_replay"], "layer calls reused": rows["reuse"],
        "predicted speed-up": rows["speedup"].map("{:.2f}x".format),
        "control": ["" if r.control != r.control else f"threshold {r.control:g}" for r in rows.itertuples()],
        "points won over it": [interval(r.gain, r.gain_low, r.gain_high) for r in rows.itertuples()]})
