"""What the attention kernels have in common: rotate, put into the cache, take in a stretch of keys, add parts up."""

# pyright: reportMissingImports=false, reportIndexIssue=false

from __future__ import annotations

import torch

from fastdllm.model.kernels import AVAILABLE

if AVAILABLE:
    import triton
    import triton.language as tl

SPAN = 128                # cache positions of one program, where several share a row
SPLIT_PROGRAMS = 256      # programs of a launch up to which they do


if AVAILABLE:
    @triton.jit
    def rotated(x1, x2, c, s):
        """The two halves of head vectors, turned; c and s are float32, the result is as x1."""
        kind = x1.dtype
        x1, x2 = x1.to(tl.float32), x2.to(tl.float32)
        return (x1 * c - x2 * s).to(kind), (x2 * c + x1 * s).to(kind)

    @triton.jit
    def put(qkv, cos, sin, keys, values, token, kv, position, place, HEADS: tl.constexpr, KV: tl.constexpr,
            D: tl.constexpr):
        """Rotate one key head of one token by its position; it and the value go to a place among all of the cache."""
        half = tl.arange(0, D // 2)
        turn = position * D + half
        c, s = tl.load(cos + turn).to(tl.float32), -tl.load(sin + turn).to(tl.float32)     # first half stored negated
        at, here = qkv + token * (HEADS + 2 * KV) * D + (HEADS + kv) * D + half, (place * KV + kv) * D + half
        k1, k2 = rotated(tl.load(at), tl.load(at + D // 2), c, s)
        tl.store(keys + here, k1)
        tl.store(keys + here + D // 2, k2)
        tl.store(values + here, tl.load(at + KV * D))
        tl.store(values + here + D // 2, tl.load(at + KV * D + D // 2))

    @triton.jit
    def taken_in(q1, q2, keys, values, there, inside, seen, top, total, mixed, scale, D: tl.constexpr):
        """One more stretch of keys in an online softmax: top [W], total [W] and mixed [W, D] with it.

        there [L] says where keys and values lie, inside [L] which of them may be loaded, seen [W or 1, L] which count.
        """
        half, d = tl.arange(0, D // 2), tl.arange(0, D)
        k1 = tl.load(keys + there[:, None] + half[None, :], mask=inside[:, None], other=0.0)
        k2 = tl.load(keys + there[:, None] + D // 2 + half[None, :], mask=inside[:, None], other=0.0)
        score = (tl.dot(q1, tl.trans(k1)) + tl.dot(q2, tl.trans(k2))) * scale
        score = tl.where(seen, score, float("-inf"))
        new = tl.maximum(top, tl.max(score, 1))
        shrink = tl.exp(top - new)
        share = tl.exp(score - new[:, None])
        v = tl.load(values + there[:, None] + d[None, :], mask=inside[:, None], other=0.0)
        return new, total * shrink + tl.sum(share, 1), tl.dot(share.to(q1.dtype), v, mixed * shrink[:, None])

    @triton.jit
    def gathered(mixed, top, total, parts, arrived, group, stretch, end, span, i, d, W: tl.constexpr, D: tl.constexpr):
        """Put a program's part down; the last of its group to arrive has the sum of all, added up in order.

        Returns whether this is the last one, and the sums mixed [W, D] and total [W].
        """
        size: tl.constexpr = W * (D + 2)
        mine = parts + (group * tl.num_programs(2) + stretch) * size
        tl.store(mine + i[:, None] * D + d[None, :], mixed)
        tl.store(mine + W * D + i, top)
        tl.store(mine + W * D + W + i, total)
        tl.debug_barrier()
        stretches = tl.cdiv(end, span)
        done = tl.atomic_add(arrived + group, 1, sem="acq_rel") == stretches - 1
        if done:
            top = tl.full([W], -1e30, tl.float32)
            total = tl.zeros([W], tl.float32)
            mixed = tl.zeros([W, D], tl.float32)
            for part in range(0, stretches):
                theirs = parts + (group * tl.num_programs(2) + part) * size
                peak = tl.load(theirs + W * D + i, cache_modifier=".cg")
                new = tl.maximum(top, peak)
                total = total * tl.exp(top - new) + tl.load(theirs + W * D + W + i,
                                                            cache_modifier=".cg") * tl.exp(peak - new)
                mixed = mixed * tl.exp(top - new)[:, None] + tl.load(
                    theirs + i[:, None] * D + d[None, :], cache_modifier=".cg") * tl.exp(peak - new)[:, None]
                top = new
            tl.store(arrived + group, 0)
        return done, mixed, total


class Scratch:
    """Partial results of attention for few rows, and the counters that say when they are complete."""

    def __init__(self, device: torch.device, heads: int, size: int, positions: int, most_width: int = 64):
        self.stretches, self.most_width = triton.cdiv(positions, SPAN), most_width
        self.parts = torch.empty(SPLIT_PROGRAMS * self.stretches * most_width * (size + 2), device=device)
        self.arrived = torch.zeros(SPLIT_PROGRAMS, dtype=torch.int32, device=device)
