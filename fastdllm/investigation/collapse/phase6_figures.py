"""Figures of the phase 6 notebooks."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastdllm import power
from fastdllm.decode.step import Step
from fastdllm.display import figures as house
from fastdllm.display.figures import BLUE, COLORS, DECISIONS, GREY, MARKERS, styled
from fastdllm.model.lm import LM

CELLS = [(1, "")] + [(k, layers) for k in (2, 3) for layers in ("first", "middle", "last")]


@styled
def denoise_figure(steps: Sequence[Step], lm: LM) -> Figure:
    """One block: a line per step, a column per position, coloured by the confidence with which it was unmasked."""
    shown = [step for step in steps if step.small_block is not None]
    width = len(shown[0].tokens)
    image = np.full((len(shown), width), np.nan)
    figure, axes = plt.subplots(figsize=(min(14, 0.42 * width + 2), 0.3 * len(shown) + 1.2))
    axes.grid(visible=False)
    for i, step in enumerate(shown):
        for position in range(width):
            if step.unmasked[position]:
                image[i, position] = step.confidence[position]
                text = house.token_label(lm.decode([step.tokens[position]]).replace(" ", "·"), 5) or "·"
                axes.text(position, i, text, ha="center", va="center", fontsize=8 if len(text) < 4 else 6.5,
                          color="white" if step.confidence[position] < 0.6 else "black")
    mesh = axes.imshow(image, aspect="auto", cmap="cividis", vmin=0, vmax=1)
    small = {step.small_block for step in shown}
    for edge in range(1, len(small)):
        axes.axvline(edge * width / len(small) - 0.5, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(shown)), [f"{step.step} {step.kind}" for step in shown], fontsize=8)
    axes.set_xlabel("position in the block (lines: small blocks)")
    axes.set_ylabel("step, kind of forward")
    figure.colorbar(mesh, label="confidence when unmasked", shrink=0.7)
    return figure


@styled
def revisions_figure(frame: pd.DataFrame, title: str = "", published: pd.DataFrame | None = None) -> Figure:
    """Accuracy with its interval over the configurations of the log's grid, one panel a revision; hollow: published."""
    names = list(dict.fromkeys(frame["name"]))
    cells = [cell for cell in CELLS if cell in {(k, "" if k == 1 else layers) for k, layers in zip(
        frame["k"], frame["layers"], strict=True)}]       # a grid without k=1 has no empty column for it
    figure, panels = plt.subplots(1, len(names), figsize=(min(15, max(5.4, 3.3 * len(names) + 0.8)), 3.6), sharey=True,
                                  squeeze=False)
    for axes, name in zip(panels[0], names, strict=True):
        _cells(axes, frame[frame.name == name], cells)
        if published is not None and (theirs := published[published.name == name]).size:
            _cells(axes, theirs, cells, hollow=True)
        axes.set_title(name, fontsize=9)
        axes.set_xticks(range(len(cells)), [f"k{k}\n{layers}" for k, layers in cells], fontsize=7.5)
        axes.set_xlim(-0.6, len(cells) - 0.4)
        axes.grid(axis="x", visible=False)
    panels[0][0].set_ylim(-3, 103)
    n = sorted(set(frame["n"].astype(int)))
    panels[0][0].set_ylabel(f"accuracy %, 95 % interval, n = {', '.join(map(str, n))}")
    figure.suptitle(title, x=0.01, ha="left")
    alone = published is None
    house.keys(figure, [("k=1", MARKERS[""], COLORS[""]) if layers == "" else (layers, MARKERS[layers], COLORS[layers])
                        for layers in dict.fromkeys(layers for _, layers in cells)]
               + ([] if alone else [("hollow: as published", "o", "#bbbbbb")]))
    return figure


def _cells(axes: Axes, rows: pd.DataFrame, cells: list[tuple[int, str]], hollow: bool = False) -> None:
    beside: dict[tuple[int, str], int] = {}      # runs of one cell stand beside each other, not upon each other
    for row in rows.itertuples():
        cell = (row.k, "" if row.k == 1 else row.layers)
        if cell not in cells:
            continue
        at = cells.index(cell) + (0.25 if hollow else 0.0) + 0.2 * beside.get(cell, 0)
        beside[cell] = beside.get(cell, 0) + 1
        house.interval(axes, at, 100 * row.accuracy, 100 * row.low, 100 * row.high, upright=True,
                       marker=MARKERS[cell[1]], color=COLORS[cell[1]], linewidth=1.2,
                       markerfacecolor="white" if hollow else COLORS[cell[1]],
                       alpha=0.6 if hollow else 1.0)


@styled
def layer_step_figure(trace: pd.DataFrame, row: int = 0) -> Figure:
    """Heat maps layer x forward of one row: the decision, the age of what was served, the positions changed since."""
    one = trace[trace.row == row].assign(age=lambda f: (f.forward - f.served_forward).astype("Float64"))
    figure, panels = plt.subplots(3, 1, figsize=(12, 7.4), sharex=True)
    codes = {name: code for code, name in enumerate(DECISIONS)}
    _heat(panels[0], one.assign(code=one.decision.map(codes)), "code", ListedColormap(list(DECISIONS.values())),
          0, len(codes) - 1)
    for name in (name for name in DECISIONS if name in set(one.decision)):
        panels[0].scatter([], [], marker="s", color=DECISIONS[name], edgecolor=GREY, linewidth=0.5, label=name)
    panels[0].legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(DECISIONS), borderaxespad=0.2)
    panels[0].set_title("what was decided")
    for axes, column, title, unit in (
            (panels[1], "age", "how old the served output was", "forwards"),
            (panels[2], "changed", "positions whose token has changed since it was computed", "positions")):
        axes.set_title(title)
        _bar(figure, _heat(axes, one, column, "cividis", 0), axes, unit)
    panels[2].set_xlabel("forward of the row (dotted: a new block)")
    return figure


def _bar(figure: Figure, mesh: Any, axes: Axes, unit: str) -> None:
    """A colour bar with its unit, in whole numbers; where nothing was drawn or all is one number, that in words."""
    values = mesh.get_array().compressed() if np.ma.isMaskedArray(mesh.get_array()) else mesh.get_array()
    values = np.unique(np.asarray(values, float)[np.isfinite(values)])
    if len(values) > 1:
        figure.colorbar(mesh, ax=axes, label=unit, shrink=0.9, pad=0.01).locator = MaxNLocator(integer=True, nbins=5)
    elif len(values):
        axes.set_title(f"{axes.get_title(loc='left')}: {values[0]:g} {unit} wherever coloured")
    else:
        axes.set_title(f"{axes.get_title(loc='left')}: none")


def _heat(axes: Axes, rows: pd.DataFrame, column: str, cmap: object, low: float | None = None,
          high: float | None = None):
    table = rows.pivot(index="layer", columns="forward", values=column).astype(float)
    layers, forwards = table.index.to_numpy(), table.columns.to_numpy()
    whole = table.reindex(index=range(layers.min(), layers.max() + 1),
                          columns=range(forwards.min(), forwards.max() + 1))
    mesh = axes.imshow(whole, aspect="auto", origin="lower", cmap=cmap, vmin=low, vmax=high, interpolation="nearest",
                       extent=(forwards.min() - 0.5, forwards.max() + 0.5, layers.min() - 0.5, layers.max() + 0.5))
    for start in rows.groupby("block").forward.min().iloc[1:]:
        axes.axvline(start - 0.5, color="black", linewidth=0.8, linestyle=":")
    axes.set_ylabel("layer")
    axes.grid(visible=False)
    return mesh


@styled
def served_figure(served: pd.DataFrame) -> Figure:
    """Served from: where a small block (column) got its stored outputs (row), one panel per value of `name`.

    Everything off the diagonal was computed for other positions.
    """
    names = list(dict.fromkeys(served["name"])) if "name" in served and len(served) else [""]
    pairs = {name: _small_blocks(served[served["name"] == name] if name else served) for name in names}
    labels = sorted({label for here, there in pairs.values() for label in (*here, *there)},
                    key=lambda text: tuple(map(int, text.split("."))))
    counts = {name: np.zeros((len(labels), len(labels))) for name in names}
    for name, (here, there) in pairs.items():
        for a, b in zip(here, there, strict=True):
            counts[name][labels.index(b), labels.index(a)] += 1
    most = max((count.max(initial=1) for count in counts.values()), default=1)       # one scale for all panels
    figure, panels = plt.subplots(1, len(names), figsize=(4.8 * len(names) + 0.8, 4.6), squeeze=False)
    for axes, name in zip(panels[0], names, strict=True):
        here, there = pairs[name]
        if not here:
            axes.set_title("nothing was reused on these prompts", fontsize=9)
            continue
        mesh = axes.imshow(np.where(counts[name], counts[name], np.nan), cmap="cividis", origin="lower", vmin=1,
                           vmax=most)
        axes.plot([-0.5, len(labels) - 0.5], [-0.5, len(labels) - 0.5], color=GREY, linewidth=0.7)
        axes.grid(visible=False)
        few = range(0, len(labels), 1 + len(labels) // 24)
        axes.set_xticks(few, [labels[i] for i in few], rotation=90, fontsize=7)
        axes.set_yticks(few, [labels[i] for i in few], fontsize=7)
        axes.set_xlabel("served to: block.small block")
        axes.set_ylabel("computed for: block.small block")
        off = float((np.array(here) != np.array(there)).mean())
        axes.set_title(f"{name}\n{off:.0%} of {len(here)} served from elsewhere", fontsize=9)
        bar = figure.colorbar(mesh, ax=axes, label="forwards", shrink=0.8)
        bar.locator = MaxNLocator(integer=True)
    return figure


def _small_blocks(rows: pd.DataFrame) -> tuple[list[str], list[str]]:
    """`block.small block` that each reusing forward stands at, and the one whose output it was served."""
    if rows.empty:
        return [], []
    here = [f"{b}.{s}" for b, s in zip(rows.block, rows.small_block, strict=True)]
    wide = rows.served_kind == "full"
    there = [f"{b}.{s}" for b, s in zip(rows.served_block, rows.small_block.where(wide, rows.served_small_block),
                                        strict=True)]
    return here, there


@styled
def distance_figure(trace: pd.DataFrame) -> Figure:
    """Distance |served - fresh| / |fresh| by layer and by changed positions."""
    served = trace[trace.decision == "reuse"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
    by_layer = served.groupby("layer").distance.quantile([0.1, 0.5, 0.9]).unstack()
    left.fill_between(by_layer.index, by_layer[0.1], by_layer[0.9], color="#D5E8F5", label="10 to 90 %")
    left.plot(by_layer.index, by_layer[0.5], color=BLUE, marker="o", markersize=4, label="median")
    left.set_xlabel("layer")
    left.set_ylabel("distance to the fresh output")
    left.legend()
    first = served[served.layer == served.layer.min()]      # the others see only what it serves
    groups = [(int(c), g.distance.dropna()) for c, g in first.groupby("changed")]
    if groups:
        right.boxplot([g for _, g in groups], positions=[c for c, _ in groups], showfliers=False, widths=0.6,
                      patch_artist=True, boxprops={"facecolor": "#D5E8F5", "edgecolor": BLUE},
                      medianprops={"color": BLUE, "linewidth": 1.6},
                      **{f"{part}props": {"color": BLUE} for part in ("whisker", "cap")})
    right.set_xlabel("positions changed since it was computed")
    right.set_title("first reused layer" + ("" if groups else ": nothing was reused"))
    left.set_title("by layer")
    for axes in (left, right):
        axes.set_ylim(bottom=0)
    return figure


@styled
def cache_figure(differences: pd.DataFrame) -> Figure:
    """Block-cache entries that differ, layer x forward of the first prompt; grey: reused layers' rows start and end."""
    one = differences[differences.prompt == 0]
    figure, axes = plt.subplots(figsize=(11, 3.8))
    table = one.pivot(index="layer", columns="forward", values="positions")
    mesh = axes.imshow(table.where(table > 0), aspect="auto", origin="lower", cmap="cividis", interpolation="nearest")
    reused = one[one.reused].layer
    for edge in (reused.min() - 0.5, reused.max() + 0.5) if len(reused) else ():
        axes.axhline(edge, color=GREY, linewidth=0.9, linestyle="--")
    axes.grid(visible=False)
    axes.set_title("positions whose block-cache entry differs")
    axes.set_xlabel("forward")
    axes.set_ylabel("layer (between the dashes: reused ones)")
    _bar(figure, mesh, axes, "positions")
    return figure


@styled
def power_figure(pairs: Sequence[tuple[float, float, str]], ns: Sequence[int], marks: Sequence[int] = (10,)) -> Figure:
    """Power of Fisher's test against n for pairs of accuracies (good, bad, label); dotted lines at `marks`."""
    figure, axes = plt.subplots(figsize=(7.5, 3.8))
    for (good, bad, label), color in zip(pairs, list(COLORS.values()) * 3, strict=False):
        axes.plot(ns, [100 * power.independent(good, bad, n) for n in ns], color=color, label=label)
    for mark in marks:
        axes.axvline(mark, color=GREY, linestyle=":")
        axes.text(mark, 103, f"n = {mark} ", fontsize=8, ha="right")
    axes.axhline(80, color=GREY, linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.set_ylim(0, 112)
    axes.set_xlabel("problems per configuration (dashed: 80 % power)")
    axes.set_ylabel("power %")
    figure.legend(loc="outside lower center")
    return figure


@styled
def similarity_figure(table: pd.DataFrame, by: str, what: str = "output") -> Figure:
    """Median cosine, layer x `by` (position, step ...), one panel a lag; `what` is output or residual.

    The scale begins at the lowest median, and the title has the baseline: the cosine of two neighbouring positions in
    one forward, which is what unrelated outputs of this network have in common anyway.
    """
    lags = sorted(table.lag.unique())
    figure, panels = plt.subplots(1, len(lags), figsize=(3.9 * len(lags) + 0.8, 4.4), sharey=True, squeeze=False)
    medians = {lag: table[table.lag == lag].groupby(["layer", by])[what].median().unstack() for lag in lags}
    lowest = min(float(np.nanmin(values.to_numpy())) for values in medians.values())
    for axes, (lag, values) in zip(panels[0], medians.items(), strict=True):
        mesh = axes.imshow(values, aspect="auto", origin="lower", cmap="cividis", vmin=np.floor(20 * lowest) / 20,
                           vmax=1, extent=(values.columns.min() - 0.5, values.columns.max() + 0.5, -0.5,
                                           values.index.max() + 0.5))
        axes.grid(visible=False)
        axes.set_title(f"{lag} step{'s' if lag > 1 else ''} before")
        axes.set_xlabel({"position": "position in the small block", "step": "step of the block"}.get(by, by))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0][0].set_ylabel("layer")
    figure.suptitle(f"Median cosine of the {what} to itself; between neighbouring positions of one forward it is "
                    f"{table[f'{what}_beside'].median():.2f}", x=0.01, ha="left")
    figure.colorbar(mesh, ax=panels[0].tolist(), label=f"median cosine of the {what}")
    return figure
