"""Counts what a generation file's loop does while it decodes: forwards by kind, and what the layers of reuse did.

What the probe's trace says of a layer call, without the probe's looking: no output is copied, and values are compared
only where a layer ran and another tensor than its result went on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from fastdllm.decode.step import DENOISING


class WorkCount:
    """The work of one row. `PublishedModel` tells it of every forward, and of every layer's output.

    In full and small forwards a layer of `layers` is a *recompute* if what goes on behind it is what it has just
    computed, itself or as a copy. All else is a *reuse*: the layer did not run, or it ran and its result was discarded.
    """

    def __init__(self, layers: Collection[int]):
        self.layers = frozenset(layers)
        self.forwards: Counter[str] = Counter()
        self.decisions: Counter[str] = Counter()
        self.kind = ""                                          # of the forward that runs
        self.computed: dict[int, list[Tensor]] = {}             # by layer: its outputs in this block, [1, w, hidden]

    def forward(self, kind: str, _rows: int) -> None:
        """A forward begins."""
        self.forwards[kind] += 1
        self.kind = kind
        if kind not in DENOISING:
            self.computed.clear()

    def layer(self, index: int, output: Tensor, computed: Tensor | None) -> None:
        """What goes on behind a layer, [1, w, hidden], and what the layer computed (None: it did not run)."""
        if index not in self.layers or self.kind not in DENOISING:
            return
        earlier = self.computed.setdefault(index, [])
        if computed is not None and (output.data_ptr() == computed.data_ptr() or is_copy(output, computed, earlier)):
            self.decisions["recompute"] += 1
            earlier.append(output)
        else:
            self.decisions["reuse"] += 1


def is_copy(output: Tensor, computed: Tensor, earlier: list[Tensor]) -> bool:
    """Whether `output` [1, w, hidden] holds the values of `computed`, and these are not those of an earlier output.

    A layer whose input and whose keys and values are those of an earlier forward computes the very values again: if
    its result is discarded, what goes on has the same values, but is the stored output.
    """
    return torch.equal(output, computed) and not any(True for each in earlier for _ in occurrences(output, each))


def occurrences(values: Tensor, stored: Tensor) -> Iterator[int]:
    """The offsets at which `stored` [R, W, hidden] holds the values [1, w, hidden]."""
    for row, offset in (stored == values[0, 0]).all(-1).nonzero().tolist():
        if torch.equal(stored[row, offset:offset + values.shape[1]], values[0]):
            yield offset
