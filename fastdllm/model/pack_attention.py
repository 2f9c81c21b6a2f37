"""Attention of packs over the static caches, in two Triton kernels: the new keys go to their places, then all attend.

Other than in attention.py, a token may see what another token of the same forward wrote (a draft behind the full
forward that it builds on), so that writing must be over before reading begins.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false

from __future__ import annotations

import torch
from torch import Tensor

from fastdllm.model.attention_parts import SPAN, SPLIT_PROGRAMS, Scratch
from fastdllm.model.kernels import AVAILABLE, overlaps
from fastdllm.model.positions import PackPositions

if AVAILABLE:
    import triton
    import triton.language as tl

    from fastdllm.model.attention_parts import gathered, put, rotated, taken_in
    from fastdllm.model.kernels import follow


if AVAILABLE:
    @triton.jit
    def _write(qkv, cos, sin, keys, values, positions, places, HEADS: tl.constexpr, KV: tl.constexpr, D: tl.constexpr,
               OVERLAP: tl.constexpr):
        """One key head of one token and its value go to the token's place in the cache."""
        token, kv = tl.program_id(0).to(tl.int64), tl.program_id(1)
        follow(OVERLAP)
        put(qkv, cos, sin, keys, values, token, kv, tl.load(positions + token), tl.load(places + token), HEADS, KV, D)

    @triton.jit
    def _attend(qkv, cos, sin, keys, values, slots, positions, sees, out, parts, arrived, scale, along, width, span,
                HEADS: tl.constexpr, KV: tl.constexpr, D: tl.constexpr, W: tl.constexpr, BL: tl.constexpr,
                SPLIT: tl.constexpr, OVERLAP: tl.constexpr):
        """One query head of one pack over one stretch of its slot: each token sees four stretches of its own.

        With SPLIT, the last program to arrive adds the parts of all of them up, in order.
        """
        row, head, stretch = tl.program_id(0), tl.program_id(1), tl.program_id(2)
        i, d, half = tl.arange(0, W), tl.arange(0, D), tl.arange(0, D // 2)
        live, kv = i < width, head // (HEADS // KV)
        follow(OVERLAP)
        view = sees + (row * width + i) * 8
        low0 = tl.load(view, mask=live, other=0).to(tl.int32)
        high0 = tl.load(view + 1, mask=live, other=0).to(tl.int32)
        low1 = tl.load(view + 2, mask=live, other=0).to(tl.int32)
        high1 = tl.load(view + 3, mask=live, other=0).to(tl.int32)
        low2 = tl.load(view + 4, mask=live, other=0).to(tl.int32)
        high2 = tl.load(view + 5, mask=live, other=0).to(tl.int32)
        low3 = tl.load(view + 6, mask=live, other=0).to(tl.int32)
        high3 = tl.load(view + 7, mask=live, other=0).to(tl.int32)
        end = tl.max(tl.maximum(tl.maximum(high0, high1), tl.maximum(high2, high3)), 0)
        low, high = stretch * span, tl.minimum(end, (stretch + 1) * span)
        if low < end:
            base = tl.load(slots + row) * along * KV * D + kv * D
            turn = tl.load(positions + row * width + i, mask=live, other=0)[:, None] * D + half[None, :]
            c = tl.load(cos + turn).to(tl.float32)
            s = -tl.load(sin + turn).to(tl.float32)
            kind = qkv.dtype.element_ty
            at = qkv + ((row * width + i) * ((HEADS + 2 * KV) * D) + head * D)[:, None] + half[None, :]
            q1, q2 = rotated(tl.load(at, mask=live[:, None], other=0.0),
                             tl.load(at + D // 2, mask=live[:, None], other=0.0), c, s)
            top = tl.full([W], -1e30, tl.float32)
            total = tl.zeros([W], tl.float32)
            mixed = tl.zeros([W, D], tl.float32)
            for begin in range(low, high, BL):
                p = begin + tl.arange(0, BL)
                there, inside = base + p.to(tl.int64) * KV * D, p < high
                seen = (((p[None, :] >= low0[:, None]) & (p[None, :] < high0[:, None]))
                        | ((p[None, :] >= low1[:, None]) & (p[None, :] < high1[:, None]))
                        | ((p[None, :] >= low2[:, None]) & (p[None, :] < high2[:, None]))
                        | ((p[None, :] >= low3[:, None]) & (p[None, :] < high3[:, None]))) & inside[None, :]
                top, total, mixed = taken_in(q1, q2, keys, values, there, inside, seen, top, total, mixed, scale, D)
            done = True
            if SPLIT:
                done, mixed, total = gathered(mixed, top, total, parts, arrived, row * HEADS + head, stretch, end, span,
                                              i, d, W, D)
            if done:
                tl.store(out + ((row * width + i) * HEADS + head)[:, None] * D + d[None, :],
                         (mixed / total[:, None]).to(kind), mask=live[:, None])


def attend_packs(qkv: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, batch: PackPositions, heads: int,
                 scratch: Scratch) -> Tensor:
    """Rotate, write the cache, attend: qkv [R, w, (heads + 2 kv) d] -> [R*w, heads*d].

    keys and values are the cache, [slots, P, kv, d]; cos and sin are the whole tables, [positions, d]. The integers of
    the batch are contiguous. With few tokens, several programs share the cache of one pack.
    """
    (rows, width, _), (_, along, kv_heads, size) = qkv.shape, keys.shape
    padded = max(16, triton.next_power_of_2(width))
    split = rows * heads * padded <= SPLIT_PROGRAMS * scratch.most_width and rows * heads <= SPLIT_PROGRAMS \
        and along > SPAN
    out = torch.empty(rows * width, heads * size, device=qkv.device, dtype=qkv.dtype)
    overlap = overlaps(qkv.device)
    _write[(rows * width, kv_heads)](qkv, cos, sin, keys, values, batch.positions, batch.places, HEADS=heads,
                                     KV=kv_heads, D=size, OVERLAP=overlap, launch_pdl=overlap, num_warps=1)
    _attend[(rows, heads, scratch.stretches if split else 1)](
        qkv, cos, sin, keys, values, batch.slots, batch.positions, batch.sees, out, scratch.parts, scratch.arrived,
        size ** -0.5, along, width, SPAN if split else along, HEADS=heads, KV=kv_heads, D=size, W=padded,
        BL=SPAN if width <= 16 else 64, SPLIT=split, OVERLAP=overlap, launch_pdl=overlap, num_warps=4, num_stages=2)
    return out
