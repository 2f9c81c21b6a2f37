"""The debugger on paper: the strip of the denoising above the layer x step decision map, as one figure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from fastdllm.display.figures import DECISIONS, MONO, token_label
from fastdllm.stats import number_of
from fastdllm.ui.recording import CODES, ROLES, Recording, first_difference

COLOURS = tuple(DECISIONS[name] for name in CODES)
HATCHES = ("", "", "//", "xx", "--", "\\\\")
KINDS = {"prefill": "P", "full": "F", "small": "S", "commit": "C", "replay": "R"}
# A place is coloured by its confidence; where it has none, and where it ends the answer, by its role.
BY_ROLE = {"prompt": "#c9c9c9", "unmasked": "#ffffff", "carried": "#56B4E9", "stop": "#D55E00", "cut": "#e6e6e6"}
NAMED = {"prompt": "prompt", "carried": "carried over (>)", "stop": "stop (■)"}
REJECTED = {"edgecolor": "#D55E00", "linewidth": 1.4}      # outline of a rejected draft's token, struck through
DIFFERS = {"color": "#000000", "linewidth": 1.6, "linestyle": (0, (4, 2))}
WINDOW = 160                                       # forwards that a figure shows
PROMPT = 8                                         # of its last positions are shown
LABELLED = 112                                     # positions that can carry their text


def figures(*runs: Recording) -> Iterator[Figure]:
    """A figure of each run; of two runs, with a line at the first forward after which their texts differ."""
    mark = first_difference(*runs) if len(runs) == 2 else None
    for run in runs:
        yield figure(run, mark=mark)


def figure(run: Recording, first: int = 0, window: int = WINDOW, mark: int | None = None) -> Figure:
    """Forwards `first` .. `first + window` of a run. Position p is coloured from the forward that unmasked it on.

    `first` counts from 0, the title from 1; a line stands before forward `mark`, the first one that differs from
    another run. Raises ValueError if the run has no such forward `first`.
    """
    if not 0 <= first < len(run.steps):
        raise ValueError(f"first={first}; allowed: 0 to {len(run.steps) - 1}")
    last = min(len(run.steps), first + window)
    has_text = bool(run.meta["block"])
    shown = last_positions(run, first, last) if has_text else np.array([], int)
    heights = [max(1.2, min(15.0, 0.16 * len(shown))), 2.6] if len(shown) else [0.01, 2.6]
    drawn = Figure(figsize=(min(14.0, 6.0 + 0.11 * (last - first)), sum(heights) + 1.4), layout="constrained")
    above, below = drawn.subplots(2, 1, sharex=True, height_ratios=heights)
    if len(shown):
        draw_text(above, run, shown, first, last, 72 * heights[0] / len(shown))
        above.legend(handles=signs(mark, bool(run.rejected)), loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3,
                     fontsize=8, frameon=False)
    else:
        above.set_axis_off()
    draw_map(below, run, first, last)
    if mark is not None and first <= mark < last:
        for axes in (above, below):
            axes.axvline(mark - 0.5, **DIFFERS)
    part = "" if (first, last) == (0, len(run.steps)) else f" (forwards {first + 1} to {last} of {len(run.steps)})"
    drawn.suptitle(f"{run.title}{part}", x=0.01, ha="left", fontsize=11)
    return drawn


def described(run: Recording) -> str:
    """The figure in words, for those who don't see it."""
    counts = np.bincount(run.decisions.ravel(), minlength=len(CODES))
    decided = ", ".join(f"{name} {counts[code]}" for code, name in enumerate(CODES) if name and counts[code])
    ended = f", ended by {run.result['finish']}" if run.result else ""
    accepted, wrong = int(np.count_nonzero(run.drafts)), len(run.rejected)
    drafted = (f"; {number_of(accepted, 'forward')} from accepted drafts, {number_of(wrong, 'token')} of rejected ones"
               if accepted or wrong else "")
    return (f"Denoising and decision map of {run.title}: {number_of(len(run.steps), 'forward')}{ended}; layer calls: "
            f"{decided or 'not wrapped'}{drafted}")


def last_positions(run: Recording, first: int, last: int) -> np.ndarray:
    """The positions that a figure of these forwards shows: the blocks that were open, without earlier prompt blocks."""
    starts = run.steps["start"].iloc[first:last]
    size = run.meta["block"]
    open_ = run.steps["kind"].iloc[first:last] != "prefill"
    used = starts[open_] if open_.any() else starts
    start = max(int(used.min()), len(run.prompt) - PROMPT)
    seen = np.flatnonzero(run.positions.when < len(run.steps))
    return np.arange(start, min(int(used.max()) + size, int(seen.max(initial=start)) + 1))


def draw_text(axes: Axes, run: Recording, shown: np.ndarray, first: int, last: int, line: float) -> None:
    """Position x forward: white while masked, then the confidence at which the token appeared (cividis).

    `line` is the height of a position's line in points.
    """
    places = run.positions
    when, role, sure = places.when[shown], places.role[shown], places.confidence[shown]
    visible = np.arange(first, last)[None, :] >= when[:, None]
    by_role = visible & (np.isnan(sure) | (role == ROLES.index("stop")))[:, None]
    extent = (first - 0.5, last - 0.5, len(shown) - 0.5, -0.5)
    axes.imshow(np.where(by_role, role[:, None], np.nan), cmap=ListedColormap([BY_ROLE[name] for name in ROLES]),
                vmin=-0.5, vmax=len(ROLES) - 0.5, aspect="auto", extent=extent, interpolation="nearest")
    image = axes.imshow(np.where(visible & ~by_role, sure[:, None], np.nan), cmap="cividis", vmin=0, vmax=1,
                        aspect="auto", extent=extent, interpolation="nearest")
    heads = {"unmasked": "", "carried": "> ", "stop": "■ ", "prompt": "", "cut": "(cut) "}
    if len(shown) <= LABELLED:
        labels = [heads[ROLES[r]] + text(run, i) for i, r in zip(shown, role, strict=True)]
        # Behind its end an answer is filled up with one special token.
        labels = labels[:1] + ["″" if one == before and "<|" in one else one for before, one in pairwise(labels)]
        axes.set_yticks(range(len(shown)), labels, fontsize=min(9.0, 0.8 * line), family=MONO)
    else:
        ticks = [i for i, p in enumerate(shown) if p % run.meta["block"] == 0]
        axes.set_yticks(ticks, [str(shown[i]) for i in ticks], fontsize=9)
        axes.set_ylabel("position")
    draw_rejected(axes, run, shown, first, last)
    for i in np.flatnonzero(role == ROLES.index("stop")).tolist():
        axes.axhline(i, color=BY_ROLE["stop"], linewidth=0.8, linestyle=":")
    axes.tick_params(labelbottom=False, length=0)
    axes.figure.colorbar(image, ax=axes, label="confidence when unmasked", pad=0.01, fraction=0.03, shrink=0.6)


def draw_rejected(axes: Axes, run: Recording, shown: np.ndarray, first: int, last: int) -> None:
    """Outline and strike through what a draft had wrong, in the column of the forward that rejected it."""
    for forward, position, _ in run.rejected:
        if first <= forward < last and len(shown) and shown[0] <= position <= shown[-1]:
            row = position - int(shown[0])
            axes.add_patch(Rectangle((forward - 0.5, row - 0.5), 1, 1, fill=False, **REJECTED))
            axes.plot([forward - 0.5, forward + 0.5], [row, row], color=REJECTED["edgecolor"],
                      linewidth=REJECTED["linewidth"])


def signs(mark: int | None, rejected: bool = False) -> list[Artist]:
    """What the legend of the text explains."""
    handles: list[Artist] = [Patch(facecolor=BY_ROLE[name], label=label) for name, label in NAMED.items()]
    handles.append(Patch(facecolor="white", edgecolor="#777", label="masked"))
    if rejected:
        handles.append(Patch(facecolor="none", label="rejected draft (−)", **REJECTED))
    if mark is not None:
        handles.append(Line2D([], [], label=f"first difference: forward {mark + 1}", **DIFFERS))
    return handles


def text(run: Recording, position: int) -> str:
    """The token at a position, short and on one line."""
    token = int(run.positions.token[position])
    return token_label(run.meta["pieces"].get(str(token), str(token)), 18)


def draw_map(axes: Axes, run: Recording, first: int, last: int) -> None:
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
    axes.grid(visible=False)
    axes.set_yticks(range(0, run.meta["layers"], 4))
    if last - first <= WINDOW:
        axes.set_xticks(range(first, last), forward_labels(run, first, last), fontsize=9 if last - first <= 80 else 7,
                        family=MONO)
    axes.tick_params(length=0)
    axes.set_xlabel("forward, counted from 1: P prefill, F full, S small, C commit, R replay"
                    + ("\n+ from an accepted draft" if run.drafts.any() else ""))
    names = [name or "not wrapped" for name in CODES]
    handles = [Patch(facecolor=COLOURS[code], hatch=HATCHES[code] * 2, edgecolor="#333", linewidth=0.3,
                     label=names[code]) for code in sorted(set(part.ravel().tolist()))]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=6, fontsize=8, frameon=False)


def forward_labels(run: Recording, first: int, last: int) -> list[str]:
    """A letter for every forward, a + below an accepted draft's; then, every 5 or 10 forwards, the number."""
    every = 5 if last - first <= 80 else 10
    letters = [KINDS.get(kind, "?") for kind in run.steps["kind"].iloc[first:last]]
    if run.drafts.any():
        signed = zip(letters, run.drafts[first:last], strict=True)
        letters = [f"{letter}\n{'+' if draft else ' '}" for letter, draft in signed]
    return [f"{letter}\n{i}" if i % every == 0 or i == 1 else letter for i, letter in enumerate(letters, first + 1)]
