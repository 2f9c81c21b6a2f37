"""Attention over the static caches in one Triton kernel: rotate, write the cache, attend."""

# pyright: reportMissingImports=false, reportIndexIssue=false

from __future__ import annotations

import torch
from torch import Tensor

from fastdllm.model.attention_parts import SPAN, SPLIT_PROGRAMS, Scratch
from fastdllm.model.kernels import AVAILABLE, overlaps

if AVAILABLE:
    import triton
    import triton.language as tl

    from fastdllm.model.attention_parts import gathered, rotated, taken_in
    from fastdllm.model.kernels import follow, prefetch


if AVAILABLE:
    @triton.jit
    def _half(base, rows, half, D: tl.constexpr, mask):
        """One half of head vectors: rows [n] are offsets of their first element."""
        d = tl.arange(0, D // 2)
        return tl.load(base + rows[:, None] + half * (D // 2) + d[None, :], mask=mask[:, None], other=0.0)

    @triton.jit
    def _attend(qkv, cos, sin, keys, values, slots, starts, ends, along, out, parts, arrived, scale, positions, width,
                span, HEADS: tl.constexpr, KV: tl.constexpr, D: tl.constexpr, W: tl.constexpr, BL: tl.constexpr,
                SPLIT: tl.constexpr, PREFETCH: tl.constexpr, OVERLAP: tl.constexpr):
        """One query head of one row over one stretch of the cache: rotate, attend, write the cache.

        The first stretch also attends to the new keys, which every head rotates for itself: no program
        reads what another one writes, and the cache is read only outside of start .. start + width.
        With SPLIT, the last stretch to arrive adds all of them up, in order.
        """
        row, head, stretch = tl.program_id(0), tl.program_id(1), tl.program_id(2)
        slot, start, end = (tl.load(slots + row * along), tl.load(starts + row * along), tl.load(ends + row * along))
        low, high = stretch * span, tl.minimum(end, (stretch + 1) * span)
        if low < end:
            kv = head // (HEADS // KV)
            i, d, half = tl.arange(0, W), tl.arange(0, D), tl.arange(0, D // 2)
            base = slot.to(tl.int64) * positions * KV * D + kv * D
            if PREFETCH:                      # the prefix was written long ago: fetch it while waiting
                for begin in range(low, high, BL):
                    lines = base + tl.minimum(begin + tl.arange(0, BL), end - 1)[:, None] * KV * D \
                        + tl.arange(0, D // 64)[None, :] * 64
                    prefetch(keys + lines)
                    prefetch(values + lines)
            follow(OVERLAP)
            live = i < width
            at = (row * width + i) * ((HEADS + 2 * KV) * D)
            turn = (start + i)[:, None] * D + half[None, :]
            c = tl.load(cos + turn, mask=live[:, None], other=0.0).to(tl.float32)
            s = -tl.load(sin + turn, mask=live[:, None], other=0.0).to(tl.float32)   # first half is stored negated
            kind = qkv.dtype.element_ty
            q1, q2 = rotated(_half(qkv, at + head * D, 0, D, live), _half(qkv, at + head * D, 1, D, live), c, s)
            top = tl.full([W], -1e30, tl.float32)
            total = tl.zeros([W], tl.float32)
            mixed = tl.zeros([W, D], tl.float32)
            if stretch == 0:
                k1, k2 = rotated(_half(qkv, at + (HEADS + kv) * D, 0, D, live),
                                 _half(qkv, at + (HEADS + kv) * D, 1, D, live), c, s)
                v = tl.load(qkv + (at + (HEADS + KV + kv) * D)[:, None] + d[None, :], mask=live[:, None], other=0.0)
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
            for begin in range(low, high, BL):
                p = begin + tl.arange(0, BL)
                seen = (p < high) & ((p < start) | (p >= start + width))
                top, total, mixed = taken_in(q1, q2, keys, values, base + p * KV * D, seen, seen[None, :], top, total,
                                             mixed, scale, D)
            done = True
            if SPLIT:
                done, mixed, total = gathered(mixed, top, total, parts, arrived, row * HEADS + head, stretch, end, span,
                                              i, d, W, D)
            if done:
                tl.store(out + ((row * width + i) * HEADS + head)[:, None] * D + d[None, :],
                         (mixed / total[:, None]).to(kind), mask=live[:, None])
        else:
            follow(OVERLAP)


def attend(qkv: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, slots: Tensor, starts: Tensor,
           ends: Tensor, heads: int, scratch: Scratch) -> Tensor:
    """Rotate, write the cache, attend: qkv [R, w, (heads + 2 kv) d] -> [R*w, heads*d].

    keys and values are the cache, [slots, P, kv, d]; cos and sin are the whole tables, [positions, d].
    Rows must have different slots. Queries see all positions below `ends` [R]. slots, starts and ends
    have equal strides. With few rows, several programs share the cache of one.
    """
    rows, width, _ = qkv.shape
    _, positions, kv_heads, size = keys.shape
    split = rows * heads <= SPLIT_PROGRAMS and positions > SPAN
    out = torch.empty(rows * width, heads * size, device=qkv.device, dtype=qkv.dtype)
    overlap = overlaps(qkv.device)
    _attend[(rows, heads, scratch.stretches if split else 1)](
        qkv, cos, sin, keys, values, slots, starts, ends, slots.stride(0), out, scratch.parts, scratch.arrived,
        size ** -0.5, positions, width, SPAN if split else positions, HEADS=heads, KV=kv_heads, D=size,
        W=max(16, triton.next_power_of_2(width)), BL=SPAN if width <= 16 else 64, SPLIT=split,
        PREFETCH=overlap and size >= 64, OVERLAP=overlap, launch_pdl=overlap, num_warps=4, num_stages=2)
    return out
