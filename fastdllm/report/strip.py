"""The debugger on paper: the strip of the denoising above the layer x step decision map, as one figure."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from fastdllm.report.player import CODES, ROLES, Run

COLOURS = ("#f2f2f2", "#0072B2", "#E69F00", "#CC79A7", "#bdbdbd", "#009E73")     # as CODES; Okabe-Ito
HATCHES = ("", "", "//", "xx", "--", "\\\\")
KINDS = {"prefill": "P", "full": "F", "small": "S", "commit": "C", "replay": "R"}
CARRIED = "#56B4E9"
WINDOW = 160                                       # forwards that a figure shows
PROMPT = 8                                         # of its last positions are shown
LABELLED = 112                                     # positions that can carry their text


def figure(run: Run, first: int = 0, window: int = WINDOW) -> Figure:
    """Forwards `first` .. `first + window` of a run. Position p is coloured from the forward that unmasked it on.

    `first` counts from 0, the title from 1. Raises ValueError if the run has no such forward.
    """
    if not 0 <= first < len(run.steps):
        raise ValueError(f"first={first}; allowed: 0 to {len(run.steps) - 1}")
    last = min(len(run.steps), first + window)
    has_text = bool(run.meta["block"])
    shown = last_positions(run, first, last) if has_text else np.array([], int)
    heights = [max(1.2, min(13.0, 0.15 * len(shown))), 2.6] if len(shown) else [0.01, 2.6]
    drawn = Figure(figsize=(min(14.0, 6.0 + 0.11 * (last - first)), sum(heights) + 1.2), layout="constrained")
    above, below = drawn.subplots(2, 1, sharex=True, height_ratios=heights)
    if len(shown):
        draw_text(above, run, shown, first, last)
    else:
        above.set_axis_off()
    draw_map(below, run, first, last)
    part = "" if (first, last) == (0, len(run.steps)) else f" (forwards {first + 1} to {last} of {len(run.steps)})"
    drawn.suptitle(f"{run.title}{part}", fontsize=11)
    return drawn


def described(run: Run) -> str:
    """The figure in words, for those who don't see it."""
    counts = np.bincount(run.decisions.ravel(), minlength=len(CODES))
    decided = ", ".join(f"{name} {counts[code]}" for code, name in enumerate(CODES) if name and counts[code])
    ended = f", ended by {run.result['finish']}" if run.result else ""
    return (f"Denoising and decision map of {run.title}: {len(run.steps)} forwards{ended}; layer calls: "
            f"{decided or 'not wrapped'}")


def last_positions(run: Run, first: int, last: int) -> np.ndarray:
    """The positions that a figure of these forwards shows: the blocks that were open, without earlier prompt blocks."""
    starts = run.steps["start"].iloc[first:last]
    size = run.meta["block"]
    open_ = run.steps["kind"].iloc[first:last] != "prefill"
    used = starts[open_] if open_.any() else starts
    start = max(int(used.min()), len(run.prompt) - PROMPT)
    seen = np.flatnonzero(run.positions.when < len(run.steps))
    return np.arange(start, min(int(used.max()) + size, int(seen.max(initial=start)) + 1))


def draw_text(axes: Axes, run: Run, shown: np.ndarray, first: int, last: int) -> None:
    """Position x forward: white while masked, then the confidence at which the token appeared (cividis)."""
    places = run.positions
    when, role, forwards = places.when[shown], places.role[shown], np.arange(first, last)
    visible = forwards[None, :] >= when[:, None]
    values = np.where(visible, np.nan_to_num(places.confidence[shown], nan=-1.0)[:, None], np.nan)
    unmasked = np.where(values >= 0, values, np.nan)
    extent = (first - 0.5, last - 0.5, len(shown) - 0.5, -0.5)
    plain = np.where(values == -1.0, np.where(role == ROLES.index("prompt"), 0.0, 1.0)[:, None], np.nan)
    axes.imshow(plain, cmap=ListedColormap(["#c9c9c9", CARRIED]), vmin=0, vmax=1, aspect="auto", extent=extent,
                interpolation="nearest")
    image = axes.imshow(unmasked, cmap="cividis", vmin=0, vmax=1, aspect="auto", extent=extent, interpolation="nearest")
    signs = {"unmasked": "", "carried": "> ", "stop": "■ ", "prompt": "", "cut": "(cut) "}
    if len(shown) <= LABELLED:
        labels = [signs[ROLES[r]] + text(run, i) for i, r in zip(shown, role, strict=True)]
        axes.set_yticks(range(len(shown)), labels, fontsize=6.5, family="DejaVu Sans Mono")
    else:
        ticks = [i for i, p in enumerate(shown) if p % run.meta["block"] == 0]
        axes.set_yticks(ticks, [str(shown[i]) for i in ticks], fontsize=7)
        axes.set_ylabel("position")
    for i in np.flatnonzero(role == ROLES.index("stop")).tolist():
        axes.axhline(i, color="#D55E00", linewidth=0.8, linestyle=":")
    axes.tick_params(labelbottom=False)
    axes.figure.colorbar(image, ax=axes, label="confidence when unmasked", pad=0.01, fraction=0.03, shrink=0.6)
    handles = [Patch(facecolor="#c9c9c9", label="prompt"), Patch(facecolor=CARRIED, label="carried over (>)"),
               Patch(facecolor="white", edgecolor="#777", label="masked")]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, fontsize=7, frameon=False)


def text(run: Run, position: int) -> str:
    """The token at a position, short and on one line; $ is masked from matplotlib's mathematics."""
    token = int(run.positions.token[position])
    return run.meta["pieces"].get(str(token), str(token)).replace("\n", "↵")[:18].replace("$", r"\$")


def draw_map(axes: Axes, run: Run, first: int, last: int) -> None:
    """Layer x forward: what was decided; letters below name the forwards."""
    part = run.decisions[first:last]
    extent = (first - 0.5, last - 0.5, run.meta["layers"] - 0.5, -0.5)
    axes.imshow(part.T, cmap=ListedColormap(list(COLOURS)), vmin=-0.5, vmax=len(COLOURS) - 0.5, aspect="auto",
                extent=extent, interpolation="nearest")
    for column, codes in enumerate(part):                            # colour is never the only sign
        edges = [0, *(np.flatnonzero(np.diff(codes.astype(int))) + 1).tolist(), len(codes)]
        for low, high in pairwise(edges):
            if HATCHES[codes[low]]:
                axes.add_patch(Rectangle((first + column - 0.5, low - 0.5), 1, high - low, fill=False, linewidth=0,
                                         edgecolor="#333", hatch=HATCHES[codes[low]]))
    axes.set_ylabel("layer")
    axes.set_yticks(range(0, run.meta["layers"], 4))
    kinds = run.steps["kind"].iloc[first:last]
    if last - first <= WINDOW:
        axes.set_xticks(range(first, last), [KINDS.get(kind, "?") for kind in kinds], fontsize=5)
    axes.set_xlabel("forward: P prefill, F full, S small, C commit, R replay")
    names = [name or "not wrapped" for name in CODES]
    handles = [Patch(facecolor=COLOURS[code], hatch=HATCHES[code] * 2, edgecolor="#333", linewidth=0.3,
                     label=names[code]) for code in sorted(set(part.ravel().tolist()))]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=6, fontsize=7, frameon=False)
