"""The palette and the one style of every figure: readable in print, by colour-blind readers and at a glance."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D

from fastdllm.characters import visible

# Okabe-Ito: told apart with every kind of colour vision; markers say the same without colour.
COLORS = {"first": "#0072B2", "middle": "#E69F00", "last": "#009E73", "": "#666666"}
MARKERS = {"first": "o", "middle": "s", "last": "^", "": "D"}
BLUE, ORANGE, GREEN, RED, PINK, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY = "#666666"
MONO = "DejaVu Sans Mono"     # comes with matplotlib; figures write tokens in it
# What was decided for a layer in a forward, in every map of the suite (the player's own colours).
DECISIONS = {"": "#f2f2f2", "recompute": BLUE, "reuse": ORANGE, "fallback": PINK, "bypass": "#bdbdbd", "replay": GREEN}
# A white ground of its own, so that a figure stands as a card on a dark page too.
STYLE: dict[str, Any] = {
    "figure.facecolor": "white", "savefig.facecolor": "white", "axes.facecolor": "white", "text.color": "#222222",
    "figure.dpi": 100, "font.size": 9.5, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.labelsize": 9.5,
    "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "legend.fontsize": 8.5, "legend.frameon": False,
    "figure.titlesize": 10.5, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.7, "image.cmap": "cividis",
    "figure.constrained_layout.use": True, "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06}

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """A function that draws a figure, in the one style. The figure is the caller's: no notebook shows it by itself."""
    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with plt.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()      # ticks take their style when they are first drawn
        plt.close(figure)
        return figure
    return drawn


def show(figure: Figure, alt: str, caption: str) -> None:
    """Display a figure in a notebook, with a text for those who don't see it and a line below that explains it."""
    display(figure, Markdown(caption), metadata={"image/png": {"alt": alt}})


def rows(labels: Sequence[str], panels: int = 2, width: float = 9.5) -> tuple[Figure, list[Axes]]:
    """A line for each label and panels beside each other on these lines: names that can't lie upon one another.

    Labels of more than 28 characters make the figure wider, so that the panels keep their room.
    """
    wider = 0.07 * max(0, max(map(len, labels), default=0) - 28)
    figure, axes = plt.subplots(1, panels, figsize=(width + wider, min(0.9 + 0.27 * len(labels), 30)), sharey=True,
                                squeeze=False)
    first = axes[0][0]
    first.set_yticks(range(len(labels)), labels)
    first.set_ylim(len(labels) - 0.5, -0.5)
    for panel in axes[0]:
        panel.grid(axis="y", visible=False)
        panel.tick_params(axis="y", length=0)
    return figure, list(axes[0])


@cache
def drawn_characters(family: str = MONO) -> frozenset[int]:
    """The code points that a font has glyphs for."""
    return frozenset(get_font(findfont(family)).get_charmap())


def token_label(text: str, most: int) -> str:
    """A token's text for a figure in the font MONO: on one line, cut after `most` signs, nothing missing or typeset.

    What the font can't draw stands as an escape (Chinese, emoji, control characters), so that one token is never
    mistaken for another; `$` is kept from matplotlib's mathematics.
    """
    return visible(text, drawn=drawn_characters())[:most].replace("$", r"\$")


def interval(axes: Axes, at: float, value: float, low: float, high: float, upright: bool = False,
             **looks: Any) -> None:
    """A point with its interval, along x or `upright` along y; the point alone where there is no interval."""
    error = [[max(0.0, value - low)], [max(0.0, high - value)]]
    point = {"x": at, "y": value, "yerr": error} if upright else {"x": value, "y": at, "xerr": error}
    if np.isnan(low) or np.isnan(high):
        point = {key: each for key, each in point.items() if "err" not in key}
    axes.errorbar(**point, **{"capsize": 2.5, "linewidth": 1.4, "markersize": 6, "linestyle": ""} | looks)


def bars(axes: Axes, values: Sequence[float], texts: Sequence[str], colors: Sequence[str]) -> BarContainer:
    """Lying bars on the lines 0, 1, 2 ..., each with its text, and room for it."""
    made = axes.barh(range(len(values)), values, color=colors, height=0.62)
    axes.bar_label(made, [f" {text}" for text in texts], fontsize=8.5)
    longest = max(map(len, texts), default=0)
    axes.set_xlim(0, max(1e-9, float(np.nanmax([0.0, *values]))) * (1.12 + 0.028 * longest))
    return made


def keys(figure: Figure, entries: Sequence[tuple[str, str, str]], columns: int = 6) -> None:
    """A legend below all panels: (label, marker, colour) each. Outside, it covers nothing."""
    handles = [Line2D([], [], marker=marker, color=color, linestyle="", label=label)
               for label, marker, color in entries]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, max(1, len(handles))))
