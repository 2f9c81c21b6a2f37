"""Matrix products of few rows: a Triton kernel that streams the weights once, with what belongs to it fused in.

On Hopper it starts before its predecessor has ended (programmatic dependent launch) and brings the
first stretch of its weights into the cache while it waits. Sums are in float32 and in a fixed order.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastdllm.model.kernels import AVAILABLE, overlaps

if AVAILABLE:
    import triton
    import triton.language as tl

    from fastdllm.model.kernels import follow, prefetch

MOST_ROWS = 64                    # beyond that cuBLAS is the better choice


@dataclass(frozen=True)
class Tiling:
    """How a product is cut: `columns` outputs and `depth` inputs a step, `splits` programs share one output."""

    columns: int
    depth: int
    splits: int = 1
    stages: int = 4
    warps: int = 4
    swap: bool = False            # outputs x rows instead of rows x outputs on the matrix units
    prefetch: int = 0             # 128-byte lines of each weight row to fetch while waiting


if AVAILABLE:
    @triton.jit
    def _linear(x, w, bias, residual, out, partial, arrived, M, N, K,
                GATED: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                BK: tl.constexpr, SPLITS: tl.constexpr, SWAP: tl.constexpr, PREFETCH: tl.constexpr,
                OVERLAP: tl.constexpr):
        """out [M, N] = x [M, K] @ w.T (+ bias) (+ residual); GATED: silu(x @ w[:N].T) * (x @ w[N:].T)."""
        tile, split = tl.program_id(0), tl.program_id(1)
        m, n, k = tl.arange(0, BM), tile * BN + tl.arange(0, BN), tl.arange(0, BK)
        depth = K // SPLITS
        first = tl.multiple_of(split * depth, 16)
        if PREFETCH > 0:
            lines = w + (n[:, None].to(tl.int64) * K + first + tl.arange(0, PREFETCH)[None, :] * 64)
            prefetch(lines)
            if GATED:
                prefetch(lines + N.to(tl.int64) * K)
        follow(OVERLAP)
        if SWAP:
            m, n = m[None, :], n[:, None]
            xs, ws = x + m * K + first + k[:, None], w + n.to(tl.int64) * K + first + k[None, :]
            a = tl.zeros([BN, BM], tl.float32)
        else:
            m, n = m[:, None], n[None, :]
            xs, ws = x + m * K + first + k[None, :], w + n.to(tl.int64) * K + first + k[:, None]
            a = tl.zeros([BM, BN], tl.float32)
        b = a
        for _ in range(0, depth // BK):
            rows = tl.load(xs, mask=m < M, other=0.0)
            weights = tl.load(ws, mask=n < N, other=0.0, eviction_policy="evict_first")
            a = tl.dot(weights, rows, a) if SWAP else tl.dot(rows, weights, a)
            if GATED:
                up = tl.load(ws + N.to(tl.int64) * K, mask=n < N, other=0.0, eviction_policy="evict_first")
                b = tl.dot(up, rows, b) if SWAP else tl.dot(rows, up, b)
            xs += BK
            ws += BK
        inside = (m < M) & (n < N)
        where = m * N + n
        done = True
        if SPLITS > 1:                       # the last to arrive adds all parts up, in order
            tl.store(partial + split * M * N + where, a, mask=inside)
            tl.debug_barrier()
            done = tl.atomic_add(arrived + tile, 1, sem="acq_rel") == SPLITS - 1
            if done:
                a = tl.zeros_like(a)
                for part in range(SPLITS):
                    a += tl.load(partial + part * M * N + where, mask=inside, other=0.0, cache_modifier=".cg")
                tl.store(arrived + tile, 0)
        if done:
            kind = out.dtype.element_ty
            if GATED:
                a = a.to(kind).to(tl.float32)
                a = (a / (1 + tl.exp(-a))).to(kind).to(tl.float32) * b.to(kind).to(tl.float32)
            if BIAS:
                a += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)
            if RESIDUAL:
                a = a.to(kind).to(tl.float32) + tl.load(residual + where, mask=inside, other=0.0).to(tl.float32)
            tl.store(out + where, a.to(kind), mask=inside)


class Workspace:
    """Scratch memory of `linear`: partial sums and arrival counters, shared by all products of a stream."""

    def __init__(self, device: torch.device, most_columns: int, most_splits: int = 8):
        self.partial = torch.empty(most_splits * MOST_ROWS * most_columns, device=device)
        self.arrived = torch.zeros(most_columns, dtype=torch.int32, device=device)
        self.overlaps = overlaps(device)
        capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (8, 6)
        # Bytes a program may use; cards between these (SM 8.6, 8.9) have 99 kB.
        self.shared_memory = {(9, 0): 220_000, (8, 0): 160_000}.get(capability, 96_000)


def linear(x: Tensor, weight: Tensor, tiling: Tiling, work: Workspace, *, bias: Tensor | None = None,
           residual: Tensor | None = None, gated: bool = False) -> Tensor:
    """x [M, K] @ weight [N, K].T, M at most 64; `gated`: weight is [2N, K] and the result silu(first) * second."""
    rows, depth = x.shape
    columns = weight.shape[0] // (2 if gated else 1)
    if depth % (tiling.depth * tiling.splits) or (gated and tiling.splits > 1):
        raise ValueError(f"tiling={tiling}; allowed: depth * splits divides {depth}, one split if gated")
    out = torch.empty(rows, columns, device=x.device, dtype=x.dtype)
    height = max(16, triton.next_power_of_2(rows))
    stage = (height + tiling.columns * (2 if gated else 1)) * tiling.depth * x.element_size()
    _linear[(triton.cdiv(columns, tiling.columns), tiling.splits)](
        x, weight, bias if bias is not None else x, residual if residual is not None else x, out, work.partial,
        work.arrived, rows, columns, depth, GATED=gated, BIAS=bias is not None, RESIDUAL=residual is not None,
        BM=height, BN=tiling.columns, BK=tiling.depth, SPLITS=tiling.splits,
        SWAP=tiling.swap, PREFETCH=tiling.prefetch if work.overlaps else 0, OVERLAP=work.overlaps,
        num_stages=max(1, min(tiling.stages, work.shared_memory // stage)), num_warps=tiling.warps,
        launch_pdl=work.overlaps)
    return out
