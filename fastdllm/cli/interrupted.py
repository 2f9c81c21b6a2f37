"""Ctrl-C while something runs: what is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastdllm.lab.config.grid import Configuration


class Interrupted(Exception):
    """The user stopped a run; the message says what of it is kept. (Click would make of a KeyboardInterrupt a bare
    "Aborted.")"""


ENDING = 5.0        # seconds within which a kernel notices that its worker is gone
REPORT = "all records are as they were; the same command makes the report anew"


@contextmanager
def saying(kept: Callable[[], str] | str) -> Iterator[None]:
    """Turn Ctrl-C into `Interrupted`: what is kept, and what the same command does then; a function is asked then."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        raise Interrupted(kept if isinstance(kept, str) else kept()) from stopped


@contextmanager
def counting(configurations: list[Configuration]) -> Iterator[None]:
    """`saying`, with the samples of these configurations."""
    from fastdllm.lab.jobs import status
    with saying(lambda: status.kept(configurations, ENDING)):
        yield
