"""Figures of the reports: readable in print, by colour-blind readers and at a glance."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fastdllm.display.figures import COLORS, GREY, MARKERS, style

LABELLED = 40  # more rows than this are drawn without names


def grid_figure(table: pd.DataFrame, title: str = "") -> Figure:
    """Accuracy with its interval and tokens/s, one line per configuration, baselines in grey.

    `table` as `tables.grid_table` or `tables.published_table` makes it.
    """
    rows = table.reset_index(drop=True)
    many = len(rows) > LABELLED
    height = 1.3 + (0.27 if not many else 0.02) * len(rows)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, min(height, 14)), sharey=True, layout="constrained")
    at = np.arange(len(rows))
    names = rows["layers"].map(_subset).where(rows["k"] > 1, "")
    colors = names.map(COLORS)
    for name, part in rows.groupby(names):
        value = 100 * part[["accuracy", "low", "high"]].to_numpy(float)
        left.errorbar(value[:, 0], part.index, xerr=np.abs(value[:, 1:] - value[:, :1]).T,
                      color=COLORS[name], markersize=6, fmt=MARKERS[name], linewidth=1.6, capsize=0 if many else 3)
    base = rows.loc[rows["k"] == 1, "accuracy"]
    if len(base) and rows["task"].nunique() == 1:
        left.axvline(100 * base.iloc[0], color=GREY, linewidth=0.9, linestyle="--")
    if many:
        right.scatter(rows["tokens_per_second"], at, c=colors, s=8)
        right.set_xlim(0)
    else:
        bars = right.barh(at, rows["tokens_per_second"], color=colors, height=0.62)
        right.bar_label(bars, [f" {speed:.1f}" + (f"  ({ratio:.2f}x)" if k > 1 and ratio == ratio else "")
                               for speed, ratio, k in zip(rows["tokens_per_second"], rows["speedup"], rows["k"],
                                                          strict=True)], fontsize=8.5)
        right.set_xlim(0, 1.28 * rows["tokens_per_second"].max())
    several = rows["task"].nunique() > 1
    if many:
        left.set_yticks([])         # a thousand ticks without a name would take longer to draw than all the rest
    else:
        left.set_yticks(at, [f"{t} {c}" if several else c for t, c in zip(rows["task"], rows["config"], strict=True)])
    left.invert_yaxis()
    left.set_xlabel(f"accuracy % (95 % Wilson interval, n = {_span(rows['n'])})")
    right.set_xlabel("tokens/s (and against k=1)")
    for axes in (left, right):
        style(axes)
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def tradeoff_figure(table: pd.DataFrame, criteria: tuple[float, float] = (1.2, 5.0), title: str = "") -> Figure:
    """Points lost against speed-up with both intervals; the shaded corner is where the criterion is met."""
    rows = table[(table["k"] > 1) & table["speedup"].notna()].reset_index(drop=True)
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    edge = max(1.3, float(np.nanmax([criteria[0], *rows["speedup"], *rows["speed_high"].clip(upper=3)]))) + 0.05
    axes.fill_between([criteria[0], edge], -100, criteria[1], color="#009E73", alpha=0.12, linewidth=0)
    axes.text(edge, criteria[1], " criterion met ", ha="right", va="bottom", color="#007a5a", fontsize=9)
    for k, marker in zip(sorted(rows["k"].unique()), "osD^v<>", strict=False):
        by_subset = dict(list(rows[rows["k"] == k].groupby(rows["layers"].map(_subset))))
        for name, part in ((name, by_subset[name]) for name in COLORS if name in by_subset):
            error_x = [(part["speedup"] - part["speed_low"]).clip(lower=0).fillna(0),
                       (part["speed_high"] - part["speedup"]).clip(lower=0).fillna(0)]
            error_y = [(part["lost"] - part["lost_low"]).clip(lower=0).fillna(0),
                       (part["lost_high"] - part["lost"]).clip(lower=0).fillna(0)]
            axes.errorbar(part["speedup"], part["lost"], xerr=error_x, yerr=error_y, fmt=marker, color=COLORS[name],
                          label=f"k={k} {name}".strip(), capsize=0 if len(rows) > LABELLED else 2, linewidth=1.2,
                          markersize=6)
    axes.axvline(1, color=GREY, linewidth=0.9, linestyle="--")
    axes.axhline(0, color=GREY, linewidth=0.9, linestyle="--")
    low = float(np.nanmin([0, *rows["lost_low"], *rows["lost"]]))
    high = float(np.nanmax([6, *rows["lost_high"], *rows["lost"]]))
    axes.set(xlabel="speed-up against k=1 (tokens/s)", ylabel="accuracy points lost against k=1",
             ylim=(low - 1, high + 1), xlim=(min(0.9, float(np.nanmin([1, *rows["speed_low"].clip(lower=0.3),
                                                                        *rows["speedup"]]))) - 0.03, edge))
    bars, names = axes.get_legend_handles_labels()
    figure.legend([bar[0] for bar in bars], names, loc="outside lower center", frameon=False, fontsize=8.5,
                  ncols=min(5, max(1, rows["k"].nunique())))     # outside, it covers no marker; markers alone tell more
    style(axes).grid(axis="y", color="#dddddd", linewidth=0.7)
    if title:
        axes.set_title(title, loc="left", fontsize=11)
    return figure


def _subset(layers: str) -> str:
    return layers if layers in COLORS else ""


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"


def runs_figure(rows: pd.DataFrame) -> Figure:
    """Accuracy against tokens per problem, one panel per published table: equal scores with unequal outputs stand out.

    `rows` as an audit reads them (`report.audit.evidence.COLUMNS`).
    """
    timed = rows[rows["tokens"].notna() & rows["accuracy"].notna() & rows["n"].notna()]
    groups = [(name, part) for name, part in timed.groupby(["batch", "task", "limit"], sort=False) if len(part) > 2][:6]
    if not groups:
        return _nothing("no table with tokens and accuracies")
    figure, axes = plt.subplots(1, len(groups), figsize=(3.1 * len(groups), 3.1), layout="constrained", squeeze=False)
    for panel, ((batch, task, limit), part) in zip(axes[0], groups, strict=True):
        for row in part.to_dict("records"):
            name = _subset(str(row["layers"]))
            panel.plot(row["tokens"] / row["n"], 100 * row["accuracy"], MARKERS[name] if row["k"] > 1 else "D",
                       color=COLORS[name] if row["k"] > 1 else GREY, alpha=0.85, markersize=7)
            panel.annotate(f" k{row['k']:.0f}", (row["tokens"] / row["n"], 100 * row["accuracy"]), fontsize=7.5,
                           xytext=(4, 3), textcoords="offset points", color=GREY)
        panel.set_title(f"{batch} {task}" + (f"\nlimit {limit}" if limit else "\nall problems"), fontsize=9, loc="left")
        panel.set_xlabel("tokens a problem")
        panel.set_ylim(-5, 105)
        panel.margins(x=0.15)
        style(panel).grid(axis="y", color="#dddddd", linewidth=0.7)
    axes[0, 0].set_ylabel("accuracy %")
    names = [name for name in COLORS if name]
    figure.legend(handles=[*(Line2D([], [], marker=MARKERS[n], color=COLORS[n], linestyle="", label=n)
                             for n in names),
                           Line2D([], [], marker="D", color=GREY, linestyle="", label="k=1")],
                  loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
    return figure


def nodes_figure(rows: pd.DataFrame) -> Figure:
    """tokens/s by k, one colour and marker per node: does speed follow the configuration or the machine?"""
    timed = rows[rows["tokens_per_s"].notna() & rows["node"].notna()]
    groups = [(name, part) for name, part in timed.groupby(["batch", "task", "limit"], sort=False)
              if part["node"].nunique() > 1][:4]
    if not groups:
        return _nothing("no table that was timed on more than one node")
    palette = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"]  # Okabe-Ito
    figure, axes = plt.subplots(1, len(groups), figsize=(3.6 * len(groups), 3.1), layout="constrained", squeeze=False)
    for panel, ((batch, task, limit), part) in zip(axes[0], groups, strict=True):
        for i, (node, own) in enumerate(part.groupby("node")):
            panel.plot(own["k"] + 0.09 * (i - (part["node"].nunique() - 1) / 2), own["tokens_per_s"], "osD^v<>"[i % 7],
                       color=palette[i % 6], label=node, linestyle="", markersize=7, alpha=0.85)
        panel.set_title(f"{batch} {task}" + (f" limit {limit}" if limit else ""), fontsize=9, loc="left")
        panel.set_xticks(sorted(part["k"].unique()), [f"k={k:.0f}" for k in sorted(part["k"].unique())])
        panel.set_ylim(0)
        panel.legend(frameon=False, fontsize=8)
        style(panel).grid(axis="y", color="#dddddd", linewidth=0.7)
    axes[0, 0].set_ylabel("tokens/s")
    return figure


def runs_caption(rows: pd.DataFrame) -> str:
    """Under `runs_figure`: which tables have subsets at the same length of output and other scores."""
    apart = []
    for (batch, task, limit, k), part in rows[rows["k"] > 1].groupby(["batch", "task", "limit", "k"], sort=False):
        if part["tokens"].notna().all() and part["tokens"].nunique() == 1 and part["accuracy"].nunique() > 1:
            apart.append(f"{batch} {task}{f' limit {limit}' if limit else ''} k={k}")
    return ("One point a configuration. Points above each other have equally long outputs and other scores: "
            + (", ".join(apart) or "none here") + ".")


def nodes_caption(rows: pd.DataFrame) -> str:
    """Under `nodes_figure`: how far k=1, one computation, spreads over the nodes."""
    one = rows[(rows["k"] == 1) & rows["tokens_per_s"].notna()].groupby(["batch", "task", "limit"])["tokens_per_s"]
    spread = float((one.max() / one.min()).max()) if len(one) else 1.0
    return ("Within a column only machine and layers differ; k=1 rows of one table, one computation, differ by "
            f"up to {spread:.1f} times.")


def _nothing(why: str) -> Figure:
    figure, axes = plt.subplots(figsize=(5, 0.6))
    axes.axis("off")
    axes.text(0, 0.5, f"nothing to draw: {why}", va="center")
    return figure
