"""How a column of a table looks: on which side its text stands, with how many decimals, under how many lines."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Sequence

PAGE = 91       # characters of a table's line that a page of 800 pixels has room for
LINES = (60, 32, 20, 16, 12, 9)      # characters of a heading's line, the longest first: the first that fits is taken
WRAPPED = 22        # characters that a column of text which may take several lines is counted with
DIGITS = 4      # significant ones of a column's largest value
OFF = 0.02      # of a value: more must not be rounded away for the others' sake
NUMBER = re.compile(r"^[<>≤+\u2212-]? ?\d[\d.,  ]*(x|%)?( .*)?$")     # maybe with its unit, interval or whole
NO_VALUE = {"", "–", "-", "baseline", "reference", "none", "not run", "not measured", "not applicable"}
HERE = "\0"         # where a name may be broken: behind an underscore; taken out again, and in no text


def is_text(cells: Iterable[str]) -> bool:
    """Whether a column holds words rather than numbers: words begin at the left, numbers end at the right."""
    said = [value for value in cells if value not in NO_VALUE]
    return sum(bool(NUMBER.match(value)) for value in said) * 2 < len(said) or not said


def decimals(values: Sequence[float]) -> int | None:
    """How many decimals all numbers of a column are shown with, so that they stand below each other; None where one
    number of digits would hide the small ones or say more than four digits of the large ones.
    """
    sizes = [abs(value) for value in values if math.isfinite(value) and value]
    if not sizes or max(sizes) >= 10 ** DIGITS or max(sizes) / min(sizes) > 10 ** DIGITS:
        return None
    most = max(0, DIGITS - 1 - math.floor(math.log10(max(sizes))))
    needed = max(len(f"{size:.{DIGITS}g}".partition(".")[2]) for size in sizes)
    places = min(most, needed)
    return places if all(abs(round(size, places) - size) <= OFF * size for size in sizes) else None


def heading_lines(headings: Sequence[str], cells: Sequence[Iterable[str]], wrapped: Sequence[bool]) -> list[list[str]]:
    """The lines of each heading: as few as let the whole table stand in PAGE characters, and no line is broken that
    is shorter than its column. `wrapped`: columns whose cells may take several lines.
    """
    widths = [min(max(map(len, column), default=0), WRAPPED if wide else PAGE)
              for column, wide in zip(cells, wrapped, strict=True)]
    broken: list[list[str]] = []
    for most in LINES:
        broken = [_lines(text, max(most, width)) for text, width in zip(headings, widths, strict=True)]
        if sum(max(width, *map(len, lines)) + 1 for width, lines in zip(widths, broken, strict=True)) <= PAGE:
            break
    return broken


def _lines(text: str, most: int) -> list[str]:
    """Lines that break between words and behind underscores, but not around a sign of equality."""
    held = text.replace(" = ", "\u00a0=\u00a0").replace("_", f"_{HERE} ")
    lines = textwrap.wrap(held, most, break_long_words=False, break_on_hyphens=False) or [""]
    return [line.replace(f"{HERE} ", "").replace(HERE, "") for line in lines]
