"""A line in the notebook that says how far a long cell is; it goes away at the end, and no executed copy keeps it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from html import escape
from typing import TypeVar

from IPython.core.getipython import get_ipython
from IPython.display import HTML, DisplayHandle

EVERY = 0.5       # seconds between two changes of the line

T = TypeVar("T")


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The items one by one; in a notebook with a line like `3 of 12 prompts decoded, 8 s`. Elsewhere nothing is shown.

    what: the text behind the numbers, as in "prompts decoded"; total: how many items there are, where `items` doesn't
    know (left out where nobody does).
    """
    total = len(items) if total is None and isinstance(items, Sized) else total
    whole = "" if total is None else f" of {total}"
    began, drawn = time.monotonic(), -EVERY
    with _line() as say:
        for done, item in enumerate(items):
            now = time.monotonic() - began
            if say is not None and now - drawn >= EVERY:
                drawn = now
                say(f"{done}{whole} {what}, {now:.0f} s")
            yield item


@contextmanager
def passing_lines() -> Iterator[Callable[[str], None]]:
    """A function that says a line: in a notebook in the place of the one before, and gone at the end; else printed."""
    with _line() as say:
        yield say or print


@contextmanager
def _line() -> Iterator[Callable[[str], None] | None]:
    """A function that sets the text of a line of the notebook, which is empty again at the end; None elsewhere."""
    if not in_notebook():
        yield None
        return
    line = DisplayHandle()
    line.display(HTML(""))
    try:
        yield lambda text: line.update(HTML(f"<em>{escape(text)}</em>"))
    finally:
        line.update(HTML(""))


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this: only there can a line be taken back."""
    shell = get_ipython()
    if shell is None:
        return False
    from ipykernel.zmqshell import ZMQInteractiveShell
    return isinstance(shell, ZMQInteractiveShell)
