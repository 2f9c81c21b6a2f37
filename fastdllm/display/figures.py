"""The palette and the style of every figure: readable in print, by colour-blind readers and at a glance."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import matplotlib.pyplot as plt
from IPython.display import Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe-Ito: told apart with every kind of colour vision; markers say the same without colour.
COLORS = {"first": "#0072B2", "middle": "#E69F00", "last": "#009E73", "": "#666666"}
MARKERS = {"first": "o", "middle": "s", "last": "^", "": "D"}
GREY = "#666666"


def show(figure: Figure, alt: str, caption: str) -> None:
    """Display a figure in a notebook, with a text for those who don't see it and a line below that explains it."""
    display(figure, Markdown(caption), metadata={"image/png": {"alt": alt}})
    plt.close(figure)


def style(axes: Axes) -> Axes:
    """No box, a light grid along the values."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    return axes
