"""Triton kernels for forwards of few tokens, where reading the weights is the whole cost.

Needs a CUDA card from SM 8.0 on, float16 or bfloat16 and a head of 32, 64, 128 or 256; `usable` says
so, and everything here has a plain PyTorch counterpart in `static.py`. All sums are in float32 and in
a fixed order: the same input gives the same bits.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch
from torch import Tensor

from fastdllm.model.config import ModelConfig

if importlib.util.find_spec("triton") is None:
    AVAILABLE = False
else:
    AVAILABLE = True
    import triton
    import triton.language as tl


def usable(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether these kernels can run this network on this device."""
    return (AVAILABLE and device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)
            and torch.cuda.get_device_capability(device) >= (8, 0)
            and config.head_dim in (32, 64, 128, 256) and config.hidden_size % 128 == 0
            and config.intermediate_size % 128 == 0)


@dataclass(frozen=True)
class Tiling:
    """How a product is cut: `columns` outputs and `depth` inputs a step, `splits` programs share one output."""

    columns: int
    depth: int
    splits: int = 1
    stages: int = 4
    warps: int = 4


MOST_ROWS = 64                    # beyond that cuBLAS is the better choice


if AVAILABLE:
    @triton.jit
    def _linear(x, w, bias, residual, out, partial, arrived, M, N, K,
                GATED: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr,
                BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLITS: tl.constexpr):
        """out [M, N] = x [M, K] @ w.T (+ bias) (+ residual); GATED: silu(x @ w[:N].T) * (x @ w[N:].T)."""
        tile, split = tl.program_id(0), tl.program_id(1)
        m, n, k = tl.arange(0, BM), tile * BN + tl.arange(0, BN), tl.arange(0, BK)
        depth = K // SPLITS
        first = tl.multiple_of(split * depth, 16)
        a = tl.zeros([BM, BN], tl.float32)
        b = tl.zeros([BM, BN], tl.float32)
        xs = x + m[:, None] * K + first + k[None, :]
        ws = w + n[None, :].to(tl.int64) * K + first + k[:, None]
        for _ in range(0, depth // BK):
            rows = tl.load(xs, mask=m[:, None] < M, other=0.0)
            a = tl.dot(rows, tl.load(ws, mask=n[None, :] < N, other=0.0, eviction_policy="evict_first"), a)
            if GATED:
                up = tl.load(ws + N.to(tl.int64) * K, mask=n[None, :] < N, other=0.0, eviction_policy="evict_first")
                b = tl.dot(rows, up, b)
            xs += BK
            ws += BK
        inside = (m[:, None] < M) & (n[None, :] < N)
        where = m[:, None] * N + n[None, :]
        done = True
        if SPLITS > 1:                       # the last to arrive adds all parts up, in order
            tl.store(partial + split * M * N + where, a, mask=inside)
            tl.debug_barrier()
            done = tl.atomic_add(arrived + tile, 1, sem="acq_rel") == SPLITS - 1
            if done:
                a = tl.zeros([BM, BN], tl.float32)
                for part in range(SPLITS):
                    a += tl.load(partial + part * M * N + where, mask=inside, other=0.0, cache_modifier=".cg")
                tl.store(arrived + tile, 0)
        if done:
            if GATED:
                a = a.to(out.dtype.element_ty).to(tl.float32)
                a = (a / (1 + tl.exp(-a))).to(out.dtype.element_ty).to(tl.float32)
                a = a * b.to(out.dtype.element_ty).to(tl.float32)
            if BIAS:
                a += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
            if RESIDUAL:
                a = a.to(out.dtype.element_ty).to(tl.float32)
                a += tl.load(residual + where, mask=inside, other=0.0).to(tl.float32)
            tl.store(out + where, a.to(out.dtype.element_ty), mask=inside)

    @triton.jit
    def _half(base, rows, half, D: tl.constexpr, mask):
        """One half of head vectors: rows [n] are offsets of their first element."""
        d = tl.arange(0, D // 2)
        return tl.load(base + rows[:, None] + half * (D // 2) + d[None, :], mask=mask[:, None], other=0.0)

    @triton.jit
    def _attend(qkv, cos, sin, keys, values, slots, starts, ends, out, scale, positions, width,
                HEADS: tl.constexpr, KV: tl.constexpr, D: tl.constexpr, W: tl.constexpr, BL: tl.constexpr):
        """One query head of one row: rotate, attend to the cache and to itself, write the cache.

        No program reads what another one writes: the new keys are rotated by each program for itself,
        and the cache is read only outside of start .. start + width.
        """
        row, head = tl.program_id(0), tl.program_id(1)
        slot, start, end = tl.load(slots + row), tl.load(starts + row), tl.load(ends + row)
        kv = head // (HEADS // KV)
        i, d, half = tl.arange(0, W), tl.arange(0, D), tl.arange(0, D // 2)
        live = i < width
        stride: tl.constexpr = (HEADS + 2 * KV) * D
        at = (row * width + i) * stride
        turn = (row * width + i)[:, None] * D + half[None, :]
        c = tl.load(cos + turn, mask=live[:, None], other=0.0).to(tl.float32)
        s = -tl.load(sin + turn, mask=live[:, None], other=0.0).to(tl.float32)     # the first half is stored negated
        q1, q2 = _half(qkv, at + head * D, 0, D, live).to(tl.float32), _half(qkv, at + head * D, 1, D, live).to(tl.float32)
        k1 = _half(qkv, at + (HEADS + kv) * D, 0, D, live).to(tl.float32)
        k2 = _half(qkv, at + (HEADS + kv) * D, 1, D, live).to(tl.float32)
        kind = qkv.dtype.element_ty
        q1, q2 = (q1 * c - q2 * s).to(kind), (q2 * c + q1 * s).to(kind)
        k1, k2 = (k1 * c - k2 * s).to(kind), (k2 * c + k1 * s).to(kind)
        v = tl.load(qkv + (at + (HEADS + KV + kv) * D)[:, None] + d[None, :], mask=live[:, None], other=0.0)
        base = slot.to(tl.int64) * positions * KV * D + kv * D
        if head % (HEADS // KV) == 0:
            here = base + (start + i) * KV * D
            tl.store(keys + here[:, None] + half[None, :], k1, mask=live[:, None])
            tl.store(keys + here[:, None] + D // 2 + half[None, :], k2, mask=live[:, None])
            tl.store(values + here[:, None] + d[None, :], v, mask=live[:, None])
        score = (tl.dot(q1, tl.trans(k1)) + tl.dot(q2, tl.trans(k2))) * scale
        score = tl.where(live[None, :], score, float("-inf"))
        top = tl.max(score, 1)
        weight = tl.exp(score - top[:, None])
        total = tl.sum(weight, 1)
        mixed = tl.dot(weight.to(kind), v)
        for begin in range(0, end, BL):
            p = begin + tl.arange(0, BL)
            seen = (p < end) & ((p < start) | (p >= start + width))
            there = base + p * KV * D
            k1, k2 = _half(keys, there, 0, D, seen), _half(keys, there, 1, D, seen)
            score = (tl.dot(q1, tl.trans(k1)) + tl.dot(q2, tl.trans(k2))) * scale
            score = tl.where(seen[None, :], score, float("-inf"))
            new = tl.maximum(top, tl.max(score, 1))
            shrink = tl.exp(top - new)
            weight = tl.exp(score - new[:, None])
            total = total * shrink + tl.sum(weight, 1)
            v = tl.load(values + there[:, None] + d[None, :], mask=seen[:, None], other=0.0)
            mixed = tl.dot(weight.to(kind), v, mixed * shrink[:, None])
            top = new
        mixed = mixed / total[:, None]
        tl.store(out + ((row * width + i) * HEADS + head)[:, None] * D + d[None, :], mixed.to(kind), mask=live[:, None])

    @triton.jit
    def _silu_mul(packed, out, I, BLOCK: tl.constexpr):
        """out [M, I] = silu(packed[:, :I]) * packed[:, I:]."""
        m, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        gate = tl.load(packed + m * 2 * I + i, mask=i < I, other=0.0).to(tl.float32)
        up = tl.load(packed + m * 2 * I + I + i, mask=i < I, other=0.0).to(tl.float32)
        gate = (gate / (1 + tl.exp(-gate))).to(out.dtype.element_ty).to(tl.float32)
        tl.store(out + m * I + i, (gate * up).to(out.dtype.element_ty), mask=i < I)

    @triton.jit
    def _predict(logits, tokens, confidence, V, BLOCK: tl.constexpr):
        """Argmax (the first of equals) and its probability for one row of logits; nan if any is not finite."""
        row = tl.program_id(0).to(tl.int64)
        v = tl.arange(0, BLOCK)
        top = tl.full([BLOCK], float("-inf"), tl.float32)
        index = tl.zeros([BLOCK], tl.int32)
        total = tl.zeros([BLOCK], tl.float32)
        plain = tl.zeros([BLOCK], tl.float32)
        for begin in range(0, V, BLOCK):
            here = tl.load(logits + row * V + begin + v, mask=begin + v < V, other=float("-inf")).to(tl.float32)
            plain += tl.where(begin + v < V, here * 0.0, 0.0)         # nan for nan and infinities, else 0
            better = here > top
            new = tl.where(better, here, top)
            total = total * tl.where(top == new, 1.0, tl.exp(top - new)) + tl.where(begin + v < V, tl.exp(here - new), 0.0)
            index = tl.where(better, begin + v, index)
            top = new
        best = tl.max(top, 0)
        total = tl.sum(tl.where(top == float("-inf"), 0.0, total * tl.exp(top - best)), 0)
        tl.store(tokens + row, tl.min(tl.where(top == best, index, V), 0))
        tl.store(confidence + row, 1.0 / total + tl.sum(plain, 0))


class Workspace:
    """Scratch memory of `linear`: partial sums and arrival counters, shared by all products of a stream."""

    def __init__(self, device: torch.device, most_columns: int, most_splits: int = 8):
        self.partial = torch.empty(most_splits * MOST_ROWS * most_columns, device=device)
        self.arrived = torch.zeros(most_columns, dtype=torch.int32, device=device)


def linear(x: Tensor, weight: Tensor, tiling: Tiling, work: Workspace, *, bias: Tensor | None = None,
           residual: Tensor | None = None, gated: bool = False) -> Tensor:
    """x [M, K] @ weight [N, K].T, M at most 64; `gated`: weight is [2N, K] and the result silu(first) * second."""
    rows, depth = x.shape
    columns = weight.shape[0] // (2 if gated else 1)
    if depth % (tiling.depth * tiling.splits) or (gated and tiling.splits > 1):
        raise ValueError(f"tiling={tiling}; allowed: depth * splits divides {depth}, one split if gated")
    out = torch.empty(rows, columns, device=x.device, dtype=x.dtype)
    _linear[(triton.cdiv(columns, tiling.columns), tiling.splits)](
        x, weight, bias if bias is not None else x, residual if residual is not None else x, out, work.partial,
        work.arrived, rows, columns, depth, GATED=gated, BIAS=bias is not None, RESIDUAL=residual is not None,
        BM=max(16, triton.next_power_of_2(rows)), BN=tiling.columns, BK=tiling.depth, SPLITS=tiling.splits,
        num_stages=tiling.stages, num_warps=tiling.warps)
    return out


def attend(qkv: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, slots: Tensor, starts: Tensor,
           ends: Tensor, heads: int) -> Tensor:
    """Rotate, write the cache, attend: qkv [R, w, (heads + 2 kv) d], keys and values [slots, P, kv, d] -> [R*w, heads*d].

    cos and sin are [R*w, d]. Rows must have different slots. Queries see all positions below `ends` [R].
    """
    rows, width, _ = qkv.shape
    _, positions, kv_heads, size = keys.shape
    out = torch.empty(rows * width, heads * size, device=qkv.device, dtype=qkv.dtype)
    _attend[(rows, heads)](qkv, cos, sin, keys, values, slots, starts, ends, out, size ** -0.5, positions, width,
                           HEADS=heads, KV=kv_heads, D=size, W=max(16, triton.next_power_of_2(width)), BL=64,
                           num_warps=4, num_stages=2)
    return out


def silu_mul(packed: Tensor) -> Tensor:
    """silu(first half) * second half of the last dimension, [M, 2I] -> [M, I]."""
    rows, size = packed.shape[0], packed.shape[1] // 2
    out = torch.empty(rows, size, device=packed.device, dtype=packed.dtype)
    _silu_mul[(rows, triton.cdiv(size, 2048))](packed, out, size, BLOCK=2048)
    return out


def predict(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Argmax and its probability in float32 of logits [M, V]; nan confidence where a logit is not finite."""
    tokens = torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)
    confidence = torch.empty(logits.shape[0], device=logits.device)
    _predict[(logits.shape[0],)](logits, tokens, confidence, logits.shape[1], BLOCK=4096, num_warps=8)
    return tokens, confidence
