"""Ctrl-C while something runs: what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastdllm.lab.config.grid import Configuration


class Interrupted(Exception):
    """The user stopped a run; the message says what of it is kept. (Click would make of a KeyboardInterrupt a bare
    "Aborted.")"""


@contextmanager
def counting(configurations: list[Configuration]) -> Iterator[None]:
    """Turn Ctrl-C into `Interrupted`, with the samples of these configurations that are on disk."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        from fastdllm.lab.jobs import status
        raise Interrupted(status.kept(configurations)) from stopped
