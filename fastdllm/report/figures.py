"""Figures of the reports: readable in print, by colour-blind readers and at a glance."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from fastdllm import stats
from fastdllm.display import figures as house
from fastdllm.display.figures import BLUE, COLORS, GREEN, GREY, MARKERS, ORANGE, PINK, RED, SKY, styled
from fastdllm.display.tables import PREDICTED, only_predicted, together

LABELLED = 160  # more rows than this, at the largest height of a figure, would lie upon one another: no names
LONGEST = 50    # characters of a line's name where it stands for several
BY_K = {1: "D", 2: "o", 3: "s", 4: "^", 5: "v", 6: "<", 7: ">", 8: "P"}      # markers by k


@styled
def grid_figure(table: pd.DataFrame, title: str = "") -> Figure:
    """Accuracy with its interval, and the cost beside it, one line per computation, k=1 in grey.

    The cost is forwards, with the speed-up that the cost model gives them, where the clock is no measure
    (`only_predicted`); else tokens/s where every speed-up comes from repeats, and tokens per forward where it doesn't.
    `table` as `tables.grid_table` or `summary_tables.published_table` makes it.
    """
    counted = only_predicted(table)
    lines = merged(table, "computation" if counted else "run")
    many = len(lines) > LABELLED
    several = lines["task"].nunique() > 1
    labels = [f"{task} {name}" if several else name for task, name in zip(lines["task"], lines["name"], strict=True)]
    figure, (left, right) = house.rows([""] * len(lines) if many else labels)
    names = lines["layers"].map(_subset).where(lines["k"] > 1, "")
    looks = [(BLUE if row.k > 1 and row.several else COLORS[name], MARKERS[name])
             for row, name in zip(lines.itertuples(), names, strict=True)]
    for at, (row, (color, marker)) in enumerate(zip(lines.itertuples(), looks, strict=True)):
        house.interval(left, at, 100 * row.accuracy, 100 * row.low, 100 * row.high, color=color, marker=marker,
                       capsize=0 if many else 2.5)
    base = lines.loc[lines["k"] == 1, "accuracy"]      # several of them: there is no one baseline
    if len(base) == 1 and not several:
        left.axvline(100 * base.iloc[0], color=GREY, linewidth=0.9, linestyle="--")
    cost, texts, said = _cost(lines, counted)
    house.bars(right, cost.tolist(), [""] * len(lines) if many else texts, [color for color, _ in looks])
    left.set_xlabel(f"accuracy % (95 % Wilson interval, n = {stats.least_to_most(lines['n'])})")
    right.set_xlabel(said)
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def _cost(lines: pd.DataFrame, counted: bool) -> tuple[pd.Series, list[str], str]:
    """The cost of each line, its text, and what the axis is called."""
    ratios = [f"{ratio:.2f}x" if k > 1 and ratio == ratio else "" for ratio, k in zip(lines["speedup"], lines["k"],
                                                                                     strict=True)]
    if counted:
        texts = [f"{value:,.0f}".replace(",", " ") + (f", predicted {ratio}" if ratio else "")
                 for value, ratio in zip(lines["forwards_run"], ratios, strict=True)]
        return lines["forwards_run"], texts, "forwards (predicted: speed-up in tokens/s)"
    reuse = lines[lines["k"] > 1]
    if len(reuse) and (reuse["speed_low"].notna() & (reuse["speed_from"] != PREDICTED)).all():
        texts = [f"{value:.1f}" + (f" ({ratio})" if ratio else "")
                 for value, ratio in zip(lines["tokens_per_second"], ratios, strict=True)]
        return lines["tokens_per_second"], texts, "tokens/s (and against k=1, from repeats)"
    rates = lines["tokens_per_forward"] if "tokens_per_forward" in lines else pd.Series(float("nan"), lines.index)
    return rates.fillna(0.0), [f"{rate:.2f}" if rate == rate else "not counted" for rate in rates], "tokens per forward"


def merged(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row for all rows of a task with one value of `column`: `name` says them (where that is too long, the first
    and how many), `several` that they are.

    A table without the column stays as it is.
    """
    by = ["task", column] if column in table else ["task", "config"]
    lines = table.drop_duplicates(by).copy()
    names = table.groupby(by, sort=False)["config"].agg(list)
    lines["name"] = [said if len(said := together(each)) <= LONGEST or len(each) == 1 else
                     f"{each[0]} and {len(each) - 1} more"
                     for each in names]
    lines["several"] = [len(each) > 1 for each in names]
    return lines.reset_index(drop=True)


def _subset(layers: str) -> str:
    return layers if layers in COLORS else ""


@styled
def runs_figure(rows: pd.DataFrame) -> Figure:
    """Accuracy against tokens per problem, one panel per published table: equal scores with unequal outputs stand out.

    `rows` as an audit reads them (`report.audit.evidence.COLUMNS`).
    """
    timed = rows[rows["tokens"].notna() & rows["accuracy"].notna() & rows["n"].notna()]
    groups = [(name, part) for name, part in timed.groupby(["batch", "task", "limit"], sort=False) if len(part) > 2][:6]
    if not groups:
        return _nothing("no table with tokens and accuracies")
    figure, axes = plt.subplots(1, len(groups), figsize=(max(5.5, 3.1 * len(groups)), 3.4), squeeze=False,
                                sharey=True)
    for panel, ((batch, task, limit), part) in zip(axes[0], groups, strict=True):
        for row in part.to_dict("records"):
            name = _subset(str(row["layers"]))
            panel.plot(row["tokens"] / row["n"], 100 * row["accuracy"], BY_K.get(int(row["k"]), "X"),
                       color=COLORS[name] if row["k"] > 1 else GREY, alpha=0.85, markersize=7)
        counts = ", ".join(f"{n:.0f}" for n in sorted(set(part["n"])))
        shown = f"limit {limit:.0f}" if limit else "all problems"
        panel.set_title(f"{batch} {task}\n{shown}, n = {counts}", fontsize=9)
        panel.set_xlabel("tokens a problem")
        panel.set_ylim(-5, 105)
        panel.margins(x=0.15)
        panel.locator_params(axis="x", nbins=4)
    axes[0, 0].set_ylabel("accuracy %")
    ks = sorted({int(k) for _, part in groups for k in part["k"]})
    house.keys(figure, [*((name, "o", COLORS[name]) for name in COLORS if name), ("k=1", "D", GREY),
                        *((f"k={k}", BY_K.get(k, "X"), "#bbbbbb") for k in ks if k > 1)], 8)
    return figure


@styled
def nodes_figure(rows: pd.DataFrame) -> Figure:
    """tokens/s by k, one colour and marker per node: does speed follow the configuration or the machine?"""
    timed = rows[rows["tokens_per_s"].notna() & rows["node"].notna()]
    groups = [(name, part) for name, part in timed.groupby(["batch", "task", "limit"], sort=False)
              if part["node"].nunique() > 1][:4]
    if not groups:
        return _nothing("no table that was timed on more than one node")
    palette = [BLUE, ORANGE, GREEN, RED, PINK, SKY]
    figure, axes = plt.subplots(1, len(groups), figsize=(max(5.5, 3.6 * len(groups)), 3.6), squeeze=False)
    for panel, ((batch, task, limit), part) in zip(axes[0], groups, strict=True):
        nodes = list(part.groupby("node"))
        for i, (node, own) in enumerate(nodes):
            panel.plot(own["k"] + 0.09 * (i - (len(nodes) - 1) / 2), own["tokens_per_s"], "osD^v<>"[i % 7],
                       color=palette[i % 6], label=node, linestyle="", markersize=7, alpha=0.85)
        panel.set_title(f"{batch} {task}" + (f" limit {limit:.0f}" if limit else ""), fontsize=9)
        panel.set_xticks(sorted(part["k"].unique()), [f"k={k:.0f}" for k in sorted(part["k"].unique())])
        panel.set_ylim(0, 1.1 * part["tokens_per_s"].max())      # no marker at the edge
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=8)
        panel.set_ylabel("tokens/s")      # of its own scale
    return figure


def runs_caption(rows: pd.DataFrame) -> str:
    """Under `runs_figure`: which tables have subsets at the same length of output and other scores."""
    apart = []
    for (batch, task, limit, k), part in rows[rows["k"] > 1].groupby(["batch", "task", "limit", "k"], sort=False):
        if part["tokens"].notna().all() and part["tokens"].nunique() == 1 and part["accuracy"].nunique() > 1:
            apart.append(f"{batch} {task}{f' limit {limit:.0f}' if limit else ''} k={k}")
    return ("One point a configuration. Points above each other have equally long outputs and other scores: "
            + (", ".join(apart) or "none here") + ".")


def nodes_caption(rows: pd.DataFrame) -> str:
    """Under `nodes_figure`: how far k=1, one computation, spreads over the nodes."""
    one = rows[(rows["k"] == 1) & rows["tokens_per_s"].notna()].groupby(["batch", "task", "limit"])["tokens_per_s"]
    spread = float((one.max() / one.min()).max()) if len(one) else 1.0
    return ("Within a column only machine and layers differ; k=1 rows of one table, one computation, differ by "
            f"up to {spread:.1f} times in tokens/s.")


def _nothing(why: str) -> Figure:
    figure, axes = plt.subplots(figsize=(6, 0.6))
    axes.axis("off")
    axes.text(0, 0.5, f"nothing to draw: {why}", va="center")
    return figure
