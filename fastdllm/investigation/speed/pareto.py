"""Which reuse policies pay: accuracy measured here, against time predicted for the 7B, with thresholds as control.

Any reuse has to beat the plain alternative: no reuse and a lower threshold at the same time. Times are
those of the cost model at batch 1 on the 7B shape, for the forwards that this checkpoint needed.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fastdllm import stats
from fastdllm.display import figures as house
from fastdllm.display.figures import BLUE, GREEN, GREY, ORANGE, PINK, RED, styled
from fastdllm.investigation.speed.sweeps import front, one_task
from fastdllm.report import tables
from fastdllm.report.results import Results

LOOKS = {"": (GREY, "D"), "output": (BLUE, "o"), "residual": (ORANGE, "s"), "token": (GREEN, "^"),
         "adaptive": (PINK, "v"), "replay": (RED, "P")}


def table(results: Results, threshold: float = 0.9) -> pd.DataFrame:
    """One row per configuration, fastest last: predicted speed-up and points lost against k=1 at `threshold`
    (paired), and the same against the best plain threshold that is at least as fast.
    """
    one_task(results)
    rows = results.frame.copy()
    rows["predicted"] = tables.predicted(results)
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


@styled
def figure(rows: pd.DataFrame) -> Figure:
    """Predicted speed-up beside accuracy with its interval, a line for each configuration, the fastest below.

    Grey diamonds are plain decoding at a threshold; filled are those that no other beats in both.
    """
    drawn, (left, right) = house.rows(rows["config"].tolist())
    for at, row in enumerate(rows.itertuples()):
        color, marker = LOOKS.get(row.policy if row.k > 1 else "", ("#000000", "X"))
        looks = {"color": color, "marker": marker, "markerfacecolor": color if row.on_front else "white"}
        house.interval(left, at, row.speedup, np.nan, np.nan, **looks)
        house.interval(right, at, 100 * row.accuracy, 100 * row.low, 100 * row.high, **looks)
    left.axvline(1, color=GREY, linewidth=0.9, linestyle="--")
    left.set_xlabel("predicted speed-up (H200, the 7B's shape, batch 1)")
    right.set_xlabel(f"accuracy % (95 % Wilson interval, n = {rows['n'].iloc[0]})")
    used = set(rows["policy"].where(rows["k"] > 1, ""))
    house.keys(drawn, [(name or "no reuse, at a threshold", marker, color)
                       for name, (color, marker) in LOOKS.items() if name in used], 6)
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
