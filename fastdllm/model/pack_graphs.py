"""Packs on static buffers: forwards in which every token has a place and a view of its own.

As `Graphs`, captured on CUDA, with one host synchronisation a forward; see decode/packs.py for what is packed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastdllm.model.cache import Cache
from fastdllm.model.graphs import Graphs, Shape
from fastdllm.model.network import Network
from fastdllm.model.positions import STRETCHES, PackPositions

READ_TOGETHER = 8       # positions whose predictions one program puts together


def parts(shape: Shape) -> tuple[int, ...]:
    """The integers of a row: slot, tokens, positions, cache indices, what each token sees, offsets that are read.

    `read` of a shape is its width where all are predicted, in order, unless it has readers: then row i ends with where
    reader i looks, among all rows * width tokens. Every layer runs and no output is stored.
    """
    return (1, shape.width, shape.width, shape.width, 2 * STRETCHES * shape.width, shape.read)


class PackGraphs(Graphs):
    """Runs packs by shape; captures a shape when it is first seen. The cache has one slot more than there are rows."""

    def __init__(self, network: Network, cache: Cache, most_rows: int):
        super().__init__(network, cache, 0, 0.0, most_rows)

    def idle_row(self, shape: Shape) -> list[int]:
        """Data of an idle row: it computes on the spare slot, and nobody reads it."""
        width, spare = shape.width, (self.cache.slots - 1) * self.cache.positions
        return [self.cache.slots - 1, *[0] * (2 * width), *range(spare, spare + width),
                *[0, 1, *[0] * (2 * STRETCHES - 2)] * width, *[0] * shape.read]

    def compute(self, shape: Shape, data: Tensor) -> Tensor:
        """As `Graphs.compute`, each [rows or readers, read], with a flag that means nothing, from data
        [rows, sum(parts(shape))]."""
        rows, width, read = shape.rows, shape.width, shape.read
        slots, tokens, positions, places, sees, where = data.split_with_sizes(parts(shape), 1)
        # the kernels read each of these as if nothing else lay between its rows
        batch = PackPositions(rows, width, slots.reshape(-1).contiguous(), positions.contiguous(),
                              places.reshape(-1).contiguous(), sees.reshape(rows, width, STRETCHES, 2).contiguous(),
                              shape.shared)
        self.ops.begin(batch)
        hidden = self.network.model.embed_tokens(tokens).view(rows * width, -1)
        last = self.network.config.num_hidden_layers - 1
        wanted = where[:shape.readers].reshape(-1) if shape.readers else None if read == width else where
        hidden, rows = self.ops.layer_range(0, last, hidden, batch, wanted), shape.readers or rows
        together = READ_TOGETHER if rows * read % READ_TOGETHER == 0 else 1
        masked = torch.zeros(rows * read // together, together, dtype=torch.int64, device=data.device) != 0
        return self.ops.predict(hidden, masked, 0.0).view(3, rows, read)
