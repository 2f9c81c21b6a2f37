"""Attention of rows that share slots, in two Triton kernels: the new keys go to their places, then all attend.

A row is a few tokens in a row of the text: a block of a prompt, a small block, or a small block's worth of a longer
forward. Rows of one slot see what each of them writes, so that writing must be over before reading begins. One program
serves as many query heads of a key head as make up a tile of the matrix units, and reads that head's keys once.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false

from __future__ import annotations

import torch
from torch import Tensor

from fastdllm.model.attention_parts import SPAN, SPLIT_PROGRAMS, Scratch
from fastdllm.model.kernels import AVAILABLE, overlaps
from fastdllm.model.positions import RowPositions

TILE = 64           # query heads times tokens of one program, at most

if AVAILABLE:
    import triton
    import triton.language as tl

    from fastdllm.model.attention_parts import gathered, put, rotated, taken_in
    from fastdllm.model.kernels import follow


if AVAILABLE:
    @triton.jit
    def _write(qkv, cos, sin, keys, values, slots, starts, along, positions, width, HEADS: tl.constexpr,
               KV: tl.constexpr, D: tl.constexpr, OVERLAP: tl.constexpr):
        """One key head of one token and its value go to where they belong in the cache."""
        token, kv = tl.program_id(0).to(tl.int64), tl.program_id(1)
        row = token // width
        slot, position = tl.load(slots + row * along), tl.load(starts + row * along) + token % width
        follow(OVERLAP)
        put(qkv, cos, sin, keys, values, token, kv, position, slot.to(tl.int64) * positions + position, HEADS, KV, D)

    @triton.jit
    def _attend(qkv, cos, sin, keys, values, slots, starts, ends, along, out, parts, arrived, scale, positions, width,
                span, HEADS: tl.constexpr, KV: tl.constexpr, D: tl.constexpr, G: tl.constexpr, W: tl.constexpr,
                BL: tl.constexpr, SPLIT: tl.constexpr, OVERLAP: tl.constexpr):
        """G query heads of one row over one stretch of its slot: tokens see all positions below the row's end.

        With SPLIT, the last program to arrive adds the parts of all of them up, in order.
        """
        row, part, stretch = tl.program_id(0), tl.program_id(1), tl.program_id(2)
        i, d, half = tl.arange(0, W), tl.arange(0, D), tl.arange(0, D // 2)
        live, head, at = i < G * width, part * G + i // width, row * width + i % width
        kv = part * G // (HEADS // KV)
        slot, start, end = tl.load(slots + row * along), tl.load(starts + row * along), tl.load(ends + row * along)
        low, high = stretch * span, tl.minimum(end, (stretch + 1) * span)
        follow(OVERLAP)
        if low < end:
            base = slot.to(tl.int64) * positions * KV * D + kv * D
            turn = (start + i % width)[:, None] * D + half[None, :]
            c = tl.load(cos + turn, mask=live[:, None], other=0.0).to(tl.float32)
            s = -tl.load(sin + turn, mask=live[:, None], other=0.0).to(tl.float32)
            kind = qkv.dtype.element_ty
            asked = qkv + (at.to(tl.int64) * ((HEADS + 2 * KV) * D) + head * D)[:, None] + half[None, :]
            q1, q2 = rotated(tl.load(asked, mask=live[:, None], other=0.0),
                             tl.load(asked + D // 2, mask=live[:, None], other=0.0), c, s)
            top = tl.full([W], -1e30, tl.float32)
            total = tl.zeros([W], tl.float32)
            mixed = tl.zeros([W, D], tl.float32)
            for begin in range(low, high, BL):
                p = begin + tl.arange(0, BL)
                there, inside = base + p.to(tl.int64) * KV * D, p < high
                top, total, mixed = taken_in(q1, q2, keys, values, there, inside, inside[None, :], top, total, mixed,
                                             scale, D)
            done = True
            if SPLIT:
                done, mixed, total = gathered(mixed, top, total, parts, arrived, row * tl.num_programs(1) + part,
                                              stretch, end, span, i, d, W, D)
            if done:
                tl.store(out + (at.to(tl.int64) * (HEADS * D) + head * D)[:, None] + d[None, :],
                         (mixed / total[:, None]).to(kind), mask=live[:, None])


def heads_together(groups: int, width: int) -> int:
    """How many of the query heads of a key head one program serves: the most that divide them and fit a tile."""
    return max(count for count in range(1, groups + 1) if groups % count == 0 and count * width <= max(TILE, width))


def attend_shared(qkv: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, batch: RowPositions, heads: int,
                  scratch: Scratch) -> Tensor:
    """Rotate, write the cache, attend: qkv [R, w, (heads + 2 kv) d] -> [R*w, heads*d].

    keys and values are the cache, [slots, P, kv, d]; cos and sin are the whole tables, [positions, d]. The slots,
    starts and ends of the batch have equal strides; no two rows write at the same place. With few rows, several
    programs share the cache of one.
    """
    (rows, width, _), (_, positions, kv_heads, size) = qkv.shape, keys.shape
    together = heads_together(heads // kv_heads, width)
    padded, programs = max(16, triton.next_power_of_2(together * width)), heads // together
    split = rows * programs <= SPLIT_PROGRAMS and padded <= scratch.most_width and positions > SPAN
    out = torch.empty(rows * width, heads * size, device=qkv.device, dtype=qkv.dtype)
    overlap, along = overlaps(qkv.device), batch.slots.stride(0)
    _write[(rows * width, kv_heads)](qkv, cos, sin, keys, values, batch.slots, batch.starts, along, positions, width,
                                     HEADS=heads, KV=kv_heads, D=size, OVERLAP=overlap, launch_pdl=overlap, num_warps=1)
    _attend[(rows, programs, scratch.stretches if split else 1)](
        qkv, cos, sin, keys, values, batch.slots, batch.starts, batch.ends, along, out, scratch.parts, scratch.arrived,
        size ** -0.5, positions, width, SPAN if split else positions, HEADS=heads, KV=kv_heads, D=size, G=together,
        W=padded, BL=64, SPLIT=split, OVERLAP=overlap, launch_pdl=overlap, num_warps=4, num_stages=2)
    return out
