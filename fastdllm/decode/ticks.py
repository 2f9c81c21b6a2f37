"""What forwards consist of when they are launched, and a packed tick: parts of all kinds in one launch, cut into rows
as long as a small block.

While its data are put together the device waits, and there are dozens of forwards: each adds to a few lists of plain
numbers, and the rest is done for all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdllm.decode.step import Forward

MOST_ROWS = 512         # of a launch: 4096 tokens at the usual small block


class Part(NamedTuple):
    """Tokens of a forward that see each other, and so go in together: a block of a prompt, or all of another forward.
    """

    index: int                       # of its forward among those of the call
    slot: int
    start: int
    end: int                         # keys below it are visible
    tokens: tuple[int, ...]
    entry: int                       # where among the stored outputs its first token reads or writes
    reuses: bool
    read: tuple[int, ...]            # offsets in the part whose predictions are wanted
    masked: tuple[bool, ...]         # of the positions that are predicted: one for each of `read`


def parts_of(index: int, forward: Forward, entry: int, reuses: bool, width: int) -> Iterable[Part]:
    """A forward as it goes in: a prompt by blocks of so many tokens, everything else whole."""
    if forward.kind != "prefill":
        return (Part(index, forward.slot, forward.start, forward.end, forward.tokens, entry, reuses, forward.read,
                     forward.masked or (True,) * len(forward.read)),)
    parts = []
    for begin, start in zip(range(0, forward.width, width), range(forward.start, forward.end, width), strict=True):
        read = tuple(offset - begin for offset in forward.read if begin <= offset < begin + width)
        parts.append(Part(index, forward.slot, start, start + width, forward.tokens[begin:begin + width], entry, reuses,
                          read, (True,) * len(read)))
    return parts


def launches(parts: list[Part], small: int) -> Iterator[list[Part]]:
    """As few launches as hold the parts, in order: MOST_ROWS rows of `small` tokens each, or a part that has more."""
    launch, size = list[Part](), 0
    for part in parts:
        rows = len(part.tokens) // small
        if launch and size + rows > MOST_ROWS:
            yield launch
            launch, size = [], 0
        launch.append(part)
        size += rows
    yield launch


class Tick:
    """One launch on its way: rows of `small` tokens, and readers of `read` positions anywhere among all tokens."""

    def __init__(self, small: int, read: int, idle: tuple[int, ...]):
        self.small, self.read = small, read
        self.idle = idle                    # fields of an idle row
        self.tokens, self.fields = list[int](), list[int]()
        self.firsts = list[int]()           # of each reader: where its part begins among all tokens
        self.readings = list[tuple[int, int]]()      # of each reader: the index of the forward that it reads, its own
        self.offsets, self.masked = list[int](), list[bool]()

    @property
    def rows(self) -> int:
        return len(self.tokens) // self.small

    @property
    def readers(self) -> int:
        return len(self.firsts)

    def add(self, parts: Iterable[Part]) -> None:
        """Rows of these parts, and a reader of each that is read."""
        small, read, tokens, fields = self.small, self.read, self.tokens, self.fields
        for index, slot, start, end, words, entry, _, offsets, masked in parts:
            if offsets:
                idle = read - len(offsets)
                self.readings.append((index, len(self.firsts)))
                self.firsts.append(len(tokens))
                self.offsets += offsets
                self.masked += masked
                if idle:
                    self.offsets += [0] * idle
                    self.masked += [False] * idle
            tokens += words
            for begin in range(0, len(words), small):
                fields += (slot, start + begin, end, entry + begin)

    def fill(self, rows: int) -> None:
        """Add idle rows up to so many."""
        missing = rows - self.rows
        self.tokens += [0] * (missing * self.small)
        self.fields += self.idle * missing

    def data(self) -> NDArray[np.int64]:
        """What `Graphs.launch` takes, [rows, columns of the shape]: reader i stands in row i."""
        small, read, readers = self.small, self.read, self.readers
        data = np.zeros((self.rows, small + 2 * read + len(self.idle)), dtype=np.int64)
        data[:, :small] = table(self.tokens, small)
        data[:, small + 2 * read:] = table(self.fields, len(self.idle))
        if readers:
            data[:readers, small:small + read] = table(self.offsets, read) + table(self.firsts, 1)
            data[:readers, small + read:small + 2 * read] = table(self.masked, read)
        return data


def table(values: list[int] | list[bool], columns: int) -> NDArray[np.int64]:
    """A flat list as rows of so many."""
    return np.fromiter(values, np.int64, len(values)).reshape(-1, columns)
