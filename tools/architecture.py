"""The picture of the architecture page, from the imports themselves: python -m tools.architecture

One box for each room, one line where files of a room import from another; what follows from other lines (A imports B,
B imports C) gets no line of its own. Plain SVG; a test draws it again and compares, so that it can't fall behind.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from html import escape
from pathlib import Path

from fastdllm.display.figures import COLORS
from fastdllm.lab import atomic
from fastdllm.lab.config.paths import root

PICTURE = "docs/images/architecture.svg"
# Rows from the top down; every import points from a row to a lower one. What stands in a row does not import its
# neighbours, except from left to right.
ROWS = (("cli",), ("investigation", "share"), ("report", "ui"), ("display",),
        ("lab.evaluation",), ("lab.jobs", "lab.instrument"), ("lab.records", "lab.config", "lab.atomic"),
        ("train", "tasks"), ("decode",), ("model",), ("settings", "prior_results", "stats", "power", "errors",
                                                     "characters", "version"))
SAYS = {
    "cli": "commands", "investigation": "who broke it, what it costs", "share": "gallery, publish, redact",
    "report": "reads records, runs nothing", "ui": "debugger and chat", "display": "palette, tables, notebook pages",
    "lab.jobs": "missing work, here or Slurm", "lab.evaluation": "prompts to a record",
    "lab.instrument": "decoders from outside", "lab.records": "what ran, crash-safe", "lab.config": "what is to run",
    "lab.atomic": "whole files", "train": "checkpoints of our own", "tasks": "prompts and scores",
    "decode": "the loop, policies, revisions", "model": "network, cache, checkpoint", "settings": "Decoding, Reuse",
    "prior_results": "the log's figures", "stats": "intervals, tests", "power": "what n can show",
    "errors": "validation", "characters": "what can be seen", "version": "one line"}
WIDTH, HEIGHT, ROW, MARGIN = 176, 44, 84, 16     # pixels
LINE = "#7a8794"


def room(name: str) -> str:
    """The room of a dotted name of the package; of `lab`, the room inside it. Empty for what belongs to none."""
    parts = name.split(".")
    if parts[0] != "fastdllm" or len(parts) < 2:
        return ""
    inner = ".".join(parts[1:3])
    return inner if inner in SAYS else parts[1] if parts[1] in SAYS else ""


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a file imports from the package, whatever the form, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph(package: Path) -> set[tuple[str, str]]:
    """(room, room that it imports from), each pair once."""
    edges: set[tuple[str, str]] = set()
    for path in sorted(package.rglob("*.py")):
        own = room(".".join(path.relative_to(package.parent).with_suffix("").parts))
        edges |= {(own, other) for other in map(room, imported(path)) if own and other not in ("", own)}
    return edges


def reduced(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The edges that no longer way through others stands for."""
    below: dict[str, set[str]] = {own: {other for first, other in edges if first == own} for own, _ in edges}

    def reach(name: str) -> set[str]:
        return set().union(*({other} | reach(other) for other in below.get(name, ())))
    return {(own, other) for own, other in edges if not any(other in reach(by) for by in below[own])}


def boxes() -> dict[str, tuple[float, float]]:
    """Upper left corner of each room's box, in pixels; every row is centred."""
    most = max(len(row) for row in ROWS)
    corners = {}
    for level, row in enumerate(ROWS):
        left = MARGIN + (most - len(row)) * (WIDTH + MARGIN) / 2
        for number, name in enumerate(row):
            corners[name] = (left + number * (WIDTH + MARGIN), MARGIN + level * ROW)
    return corners


def svg(edges: set[tuple[str, str]]) -> str:
    """The picture. Raises ValueError for a room that imports and has no box, or an import that points up."""
    corners = boxes()
    for own, other in edges:
        above, below = (next(i for i, row in enumerate(ROWS) if name in row) for name in (own, other))
        if above > below or (above == below and ROWS[above].index(own) > ROWS[above].index(other)):
            raise ValueError(f"{own} imports {other}, which stands above it; allowed: ROWS in tools/architecture.py")
    width = max(x for x, _ in corners.values()) + WIDTH + MARGIN
    height = MARGIN + len(ROWS) * ROW - (ROW - HEIGHT) + MARGIN
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
             'font-family="sans-serif" role="img">',
             "<title>The rooms of the package; every line is an import and points down</title>",
             f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>']
    for own, other in sorted(reduced(edges)):
        (x, y), (u, v) = corners[own], corners[other]
        if y == v:                      # a neighbour in the row; under the boxes between where it is not the next one
            x, u, y = x + WIDTH - 20, u + 20, y + HEIGHT
            line = f"M{x:.0f} {y:.0f} C{x + 20:.0f} {y + 22:.0f} {u - 20:.0f} {y + 22:.0f} {u:.0f} {y:.0f}"
        else:
            x, u, y = x + WIDTH / 2, u + WIDTH / 2, y + HEIGHT
            line = f"M{x:.0f} {y:.0f} C{x:.0f} {y + 30:.0f} {u:.0f} {v - 30:.0f} {u:.0f} {v:.0f}"
        parts.append(f'<path d="{line}" fill="none" stroke="{LINE}" stroke-opacity="0.6" stroke-width="1.2">'
                     f"<title>{own} imports {other}</title></path>")
    for name, (x, y) in corners.items():
        colour = COLORS["middle" if name.startswith("lab.") else "first"]
        parts.append(f'<rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="white" '
                     f'stroke="{colour}" stroke-width="1.6"/>'
                     f'<text x="{x + WIDTH / 2:.0f}" y="{y + 18:.0f}" text-anchor="middle" font-size="13" '
                     f'font-weight="bold" fill="#1c2733">{name.replace(".", "/")}</text>'
                     f'<text x="{x + WIDTH / 2:.0f}" y="{y + 34:.0f}" text-anchor="middle" font-size="10" '
                     f'fill="#44525f">{escape(SAYS[name])}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    atomic.write(root() / PICTURE, svg(graph(root() / "fastdllm")))
