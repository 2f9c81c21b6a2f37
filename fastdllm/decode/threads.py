"""How many threads an operation of torch may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Each operation of torch may use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_one_thread(items: Iterator[T]) -> Iterator[T]:
    """The items, each computed with one thread; what the caller does between two of them is the caller's."""
    end = object()
    while True:
        with torch_threads(1):
            item = next(items, end)
        if item is end:
            return
        yield item      # pyright: ignore[reportReturnType]
