"""The figure of docs/verify.md: what a reuse step, a replay and a verified draft do: python -m tools.verify_figure

Plain SVG; a test draws it again and compares, so that it can't fall behind this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from fastdllm.lab import atomic
from fastdllm.lab.config.paths import root

PICTURE = "docs/images/verify.svg"
CELL, PASS, ROW, LEFT, WIDTH = 15, 150, 30, 170, 810      # pixels
COLORS = {"known": "#0072B2", "fresh": "#009E73", "guess": "#E69F00", "wrong": "#D55E00", "mask": "#e3e7eb"}


@dataclass(frozen=True)
class State:
    """One state of a small block of eight: `known` positions, then one that is fresh, guessed or wrong."""

    known: int
    then: str                     # a colour's name, for the position behind the known ones
    note: str
    runs: str = "all"             # which part of the network runs: all, some, none


# Each method: name, what it does, and its passes; a pass holds the states that run side by side.
METHODS: tuple[tuple[str, str, tuple[tuple[State, ...], ...]], ...] = (
    ("k = 1", "one state a pass",
     tuple((State(3 + i, "fresh", "its own logits"),) for i in range(4))),
    ("output, k = 2", "old outputs are served",
     ((State(3, "fresh", "its own logits"),), (State(4, "guess", "same logits as before", "some"),),
      (State(5, "fresh", "its own logits"),), (State(6, "guess", "same logits as before", "some"),))),
    ("replay, k = 2", "the same without a forward",
     ((State(3, "fresh", "its own logits"),), (State(4, "guess", "old logits, unchecked", "none"),),
      (State(5, "fresh", "its own logits"),), (State(6, "guess", "old logits, unchecked", "none"),))),
    ("verify, k = 2", "the replayed state is a draft",
     ((State(3, "fresh", "agrees with the draft"), State(4, "fresh", "draft: kept")),
      (State(5, "fresh", "does not agree"), State(5, "wrong", "draft: dropped")),
      (State(6, "fresh", "agrees with the draft"), State(7, "fresh", "draft: kept")))),
)
BOX = {"all": 'fill="#ffffff" stroke="#7a8794"', "some": 'fill="#f6f2e8" stroke="#7a8794" stroke-dasharray="4 3"',
       "none": 'fill="none"'}


def state(left: int, top: int, drawn: State) -> Iterator[str]:
    """A strip of eight cells, and under it what is said of it."""
    for i in range(8):
        kind = "known" if i < drawn.known else drawn.then if i == drawn.known else "mask"
        yield (f'<rect x="{left + i * CELL}" y="{top}" width="{CELL - 2}" height="{CELL - 2}" rx="2" '
               f'fill="{COLORS[kind]}"/>')
    yield f'<text x="{left}" y="{top + 24}" class="note">{escape(drawn.note)}</text>'


def svg() -> str:
    """The figure as text."""
    parts, top = list[str](), 34
    for name, says, passes in METHODS:
        states = max(map(len, passes))
        height = states * ROW + 16
        parts.append(f'<text x="12" y="{top + height / 2 - 2:g}" class="name">{escape(name)}</text>'
                     f'<text x="12" y="{top + height / 2 + 14:g}" class="note">{escape(says)}</text>')
        for i, each in enumerate(passes):
            left = LEFT + i * (PASS + 8)
            parts.append(f'<rect x="{left}" y="{top}" width="{PASS}" height="{height}" rx="3" '
                         f'{BOX[each[0].runs]}/>')
            for j, drawn in enumerate(each):
                parts += state(left + 14, top + 10 + j * ROW, drawn)
        top += height + 16
    legend = [("known", "unmasked before"), ("fresh", "unmasked by the state's own logits"),
              ("guess", "by old logits, unchecked"), ("wrong", "drafted, wrong")]
    left = 12
    for kind, text in legend:
        parts.append(f'<rect x="{left}" y="{top}" width="{CELL - 2}" height="{CELL - 2}" rx="2" '
                     f'fill="{COLORS[kind]}"/><text x="{left + 20}" y="{top + 11}" class="note">{text}</text>')
        left += 52 + 6 * len(text)
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 26}" width="{WIDTH}" '
            'font-family="system-ui, sans-serif" role="img"><title>What a reuse step, a replay and a verified draft do'
            '</title><style>.name{font-size:14px;font-weight:600}.note{font-size:11px;fill:#445}</style>'
            f'<rect width="{WIDTH}" height="{top + 26}" fill="#ffffff"/>'
            '<text x="12" y="20" class="note">Time runs to the right; a box is a pass that reads the weights (dashed: '
            'some of them).</text>')
    return head + "\n".join(parts) + "</svg>\n"


if __name__ == "__main__":
    atomic.write(root() / PICTURE, svg())
    print(PICTURE)
