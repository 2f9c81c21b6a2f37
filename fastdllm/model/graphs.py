"""The fast executor's network half: one captured CUDA graph for each shape of forward.

A graph reads one packed block of pinned host memory (tokens, slots, positions), runs the layers that
run, predicts, unmasks, and writes one packed block back: one host synchronisation a forward. On a
machine without CUDA the same code runs uncaptured, on `CpuOps` in float32.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdllm.model import cpu, kernels
from fastdllm.model.cache import Cache
from fastdllm.model.cpu import CpuOps
from fastdllm.model.network import Network
from fastdllm.model.positions import RowPositions
from fastdllm.model.static import TorchOps, TritonOps, pick

Run = tuple[int, int]                 # first and last of contiguous layers
Rows = list[list[int]] | NDArray[np.int64]                                # [rows, columns], see `Shape.columns`
Packed = tuple[list[list[int]], list[list[float]], list[list[bool]]]      # tokens, confidence, unmask: each [rows][n]
FIELDS = ("slot", "start", "end", "entry")


class Shape(NamedTuple):
    """What one graph computes. `entry` in the data says where among the stored outputs [slots * block] a row reads or
    writes: rows that do neither have the spare entry."""

    rows: int                         # a bucket: the last rows may be idle
    width: int
    read: int                         # positions whose prediction is wanted, of a row or of a reader; 0: none
    readers: int = 0                  # packed ticks: so many readings, each anywhere among all rows * width tokens
    skipped: tuple[Run, ...] = ()     # these layers do not run: the stored output of the last stands in
    running: int = 0                  # but for so many of the rows, the first ones, they run
    keep: tuple[Run, ...] = ()        # the output behind the last of these layers is stored where it is computed
    residual: bool = False            # stored is output - input of the run, and input is added when served
    everything: bool = False          # predictions of all positions are returned too (for `replay`)
    shared: bool = False              # rows may share a slot: blocks of one prompt, parts of one block

    @property
    def columns(self) -> int:
        """Integers a row goes in with: tokens, read offsets, masked flags, FIELDS.

        With `readers` the offsets and flags of row i are those of reader i, which is no row, and the rest say nothing.
        """
        return self.width + 2 * self.read + len(FIELDS)

    def stretches(self, layers: int) -> Iterator[Run]:
        """All layers in order, cut where something is skipped or kept."""
        begin = 0
        for first, last in sorted({*self.skipped, *self.keep}):
            if begin < first:
                yield begin, first - 1
            yield first, last
            begin = last + 1
        if begin < layers:
            yield begin, layers - 1


# Rows of a packed tick that take longer than a few more do: there the products' library cuts them badly. Found for the
# 7B's shape on an H100 with `benchmarks/bench_ticks.py`.
SLOW = frozenset({50, 52, 53, 55, 56, 60, 72, 104, 112, 152})


def step_of(rows: int) -> int:
    """In what steps the sizes grow that graphs are captured for, at so many rows: about a thirty-second of them."""
    return min(8, 1 << max(0, (rows - 1).bit_length() - 6))


def rounded(rows: int) -> int:
    """The size of a packed tick that graphs are captured for: a sixteenth more than it holds at most, and 7 rows."""
    step = step_of(rows)
    size = -(-rows // step) * step
    while size in SLOW:
        size += step
    return size


def buckets(most: int) -> list[int]:
    """Batch sizes that graphs are captured for: exact up to 4, then in steps of about a quarter."""
    sizes = [1, 2, 3, 4]
    while sizes[-1] < most:
        sizes.append(sizes[-1] + max(2, sizes[-1] // 4))
    return [size for size in sizes if size < most] + [most]


def packed(results: NDArray[np.int32]) -> Packed:
    """What a forward said, from [3, rows, n]: see `Graphs.compute`."""
    return results[0].tolist(), results[1].view(np.float32).tolist(), (results[2] != 0).tolist()


class Captured:
    """One shape on CUDA: its buffers and its graph. The buffers serve one forward at a time."""

    def __init__(self, graphs: Graphs, shape: Shape):
        device, self.stream = graphs.network.device, torch.cuda.current_stream(graphs.network.device)
        self.idle, self.readers, self.busy = graphs.idle_row(shape), shape.readers, False
        self.incoming = torch.tensor([self.idle] * shape.rows).pin_memory()
        self.rows, self.device_in = self.incoming.numpy(), self.incoming.to(device)
        graphs.ops.copy(self.incoming, self.device_in)       # warms up: not every driver loads kernels in a capture
        result = graphs.compute(shape, self.device_in)       # likewise, and sizes the output
        self.outgoing = torch.zeros(result.shape, dtype=torch.int32, pin_memory=True)
        graphs.ops.copy(result, self.outgoing)
        self.results, self.done = self.outgoing.numpy(), torch.cuda.Event()
        torch.cuda.synchronize(device)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=graphs.pool):
            graphs.ops.copy(self.incoming, self.device_in)
            graphs.ops.copy(graphs.compute(shape, self.device_in), self.outgoing)

    def launch(self, rows: Rows) -> Callable[[], Packed]:
        """Begin; what is returned waits for the end."""
        self.busy = True
        self.rows[:len(rows)] = rows
        if len(rows) < len(self.rows):
            self.rows[len(rows):] = self.idle
        self.graph.replay()
        self.done.record(self.stream)

        def result() -> Packed:
            while not self.done.query():      # the only wait; in `synchronize` the caches of what follows grow cold
                pass
            self.busy = False
            return packed(self.results[:, :self.readers or len(rows)])
        return result


class Graphs:
    """Runs forwards by shape; captures a shape when it is first seen.

    The cache must have one slot more than there are rows: idle rows of a bucket write there.
    Stored outputs stand in `stored[last layer of the run]`, [slots, block, hidden].
    """

    def __init__(self, network: Network, cache: Cache, block: int, threshold: float, most_rows: int):
        self.network, self.cache, self.block, self.threshold = network, cache, block, threshold
        fused = kernels.usable(network.config, network.device, network.dtype)
        kind = TritonOps if fused else CpuOps if cpu.usable(network) else TorchOps
        self.ops = kind(network, cache)
        self.stored: dict[int, Tensor] = {}
        self.buckets = buckets(most_rows)
        self.captured: dict[Shape, list[Captured]] = {}
        self.pool = torch.cuda.graph_pool_handle() if network.device.type == "cuda" else None
        self.synchronisations = 0

    @property
    def captures(self) -> bool:
        """Whether forwards are captured (on CUDA) or run as they come."""
        return self.pool is not None

    @property
    def spare_entry(self) -> int:
        """Where among the stored outputs a row writes whose output nobody is to read: in the spare slot."""
        return (self.cache.slots - 1) * self.block

    def bucket(self, rows: int) -> int:
        """The smallest batch size that graphs are captured for and that holds `rows`; without graphs, `rows`."""
        if not self.captures:
            return rows
        return self.buckets[bisect_left(self.buckets, rows)] if rows <= self.buckets[-1] else -(-rows // 8) * 8

    def idle_row(self, shape: Shape) -> list[int]:
        """Data of an idle row: it computes on the spare slot, and nobody reads it."""
        return [0] * (shape.width + 2 * shape.read) + [self.cache.slots - 1, 0, shape.width, self.spare_entry]

    def run(self, shape: Shape, rows: Rows) -> Packed:
        """Run one forward of `rows` (as `Shape.columns` says); tokens, confidence, unmask, each [rows][n].

        With `shape.everything` a second half follows: tokens and confidence at all positions, [rows][width]. With
        `shape.readers` they are [readers][n].
        """
        return self.launch(shape, rows)()

    def launch(self, shape: Shape, rows: Rows) -> Callable[[], Packed]:
        """Begin `run`; what is returned waits for its end. A shape that is under way already is captured once more."""
        self.synchronisations += 1
        for each in self.captured.get(shape, ()):
            if not each.busy:
                return each.launch(rows)
        with torch.inference_mode():
            for stored in (*shape.skipped, *shape.keep):
                self.store(stored)
            if not self.captures:
                done = packed(self.compute(shape, torch.as_tensor(rows)).numpy())
                return lambda: done
            captured = Captured(self, shape)
        self.captured.setdefault(shape, []).append(captured)
        return captured.launch(rows)

    def store(self, run: Run) -> Tensor:
        """The buffer of stored outputs behind a run of layers."""
        if run[1] not in self.stored:
            self.stored[run[1]] = torch.zeros(self.cache.slots, self.block, self.network.config.hidden_size,
                                              device=self.network.device, dtype=self.network.dtype)
        return self.stored[run[1]]

    def compute(self, shape: Shape, data: Tensor) -> Tensor:
        """The forward itself: no host decision depends on `data` [rows, columns].

        Returns int32 [3, rows, n]: tokens, the bits of their confidence in float32, and what to unmask; see `run`.
        """
        rows, width, read = shape.rows, shape.width, shape.read
        slots, starts, ends, entries = data[:, -len(FIELDS):].unbind(1)
        entry = entries
        if shape.skipped or shape.keep:
            entry = (entries[:, None] + torch.arange(width, device=data.device)).reshape(-1)
        hidden = self.network.model.embed_tokens(data[:, :width]).view(rows * width, -1)
        readers = shape.readers or rows
        where, masked = data[:readers, width:width + read], data[:readers, width + read:width + 2 * read]
        if shape.readers:
            where = where.reshape(-1)
        runs = list(shape.stretches(self.network.config.num_hidden_layers))
        trim = read > 0 and not shape.everything and runs[-1] not in (*shape.skipped, *shape.keep)
        batch = None
        for run in runs:
            running = shape.running if run in shape.skipped else rows
            before, served = hidden[:running * width], hidden[running * width:]
            if run in shape.skipped:
                stored = self.stored[run[1]].view(-1, hidden.shape[-1])[entry[running * width:]]
                served = served + stored if shape.residual else stored
            if not running:
                hidden = served
                continue
            if batch is None or batch.rows != running:
                batch = RowPositions(running, width, slots[:running], starts[:running], ends[:running], shape.shared)
                self.ops.begin(batch)
            hidden = self.ops.layer_range(*run, before, batch, where if trim and run == runs[-1] else None)
            if run in shape.keep:
                self.stored[run[1]].view(-1, hidden.shape[-1]).index_copy_(
                    0, entry[:running * width], hidden - before if shape.residual else hidden)
            if running < rows:
                hidden = torch.cat([hidden, served])
        if not read:
            return torch.zeros(3, rows, 0, dtype=torch.int32, device=data.device)
        if not shape.everything:
            return self.ops.predict(hidden if trim else pick(hidden, where), masked != 0, self.threshold)
        every = self.ops.predict(hidden, torch.ones(rows, width, dtype=torch.int64, device=data.device) != 0,
                                 self.threshold)
        tokens, confidence = every[0].gather(1, where), every[1].view(torch.float32).gather(1, where)
        return torch.cat([self.ops.unmask(tokens, confidence, masked != 0, self.threshold), every], dim=2)
