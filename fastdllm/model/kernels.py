"""Triton kernels for forwards of few tokens, where reading the weights is the whole cost.

Needs a CUDA card from SM 8.0 on, float16 or bfloat16 and a head of 32, 64, 128 or 256; `usable` says
so, and everything here has a plain PyTorch counterpart in `static.py`. All sums are in float32 and in
a fixed order: the same input gives the same bits.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from fastdllm.model.config import ModelConfig

if importlib.util.find_spec("triton") is None:
    AVAILABLE = False
else:
    AVAILABLE = True
    import triton
    import triton.language as tl

SPAN = 128                # cache positions of one program in `attend`, where several share a row
SPLIT_PROGRAMS = 256      # rows * heads up to which they do


def usable(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether these kernels can run this network on this device."""
    return (AVAILABLE and device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)
            and torch.cuda.get_device_capability(device) >= (8, 0)
            and config.head_dim in (32, 64, 128, 256) and config.hidden_size % 128 == 0
            and config.intermediate_size % 128 == 0)


if AVAILABLE:
    @triton.jit
    def follow(OVERLAP: tl.constexpr):
        """Let the next kernel start already, then wait for the one before: everything it wrote is visible then."""
        if OVERLAP:
            tl.extra.cuda.gdc_launch_dependents()
            tl.extra.cuda.gdc_wait()

    @triton.jit
    def prefetch(pointers):
        """Bring the cache lines of these addresses into L2."""
        tl.inline_asm_elementwise("prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [pointers], dtype=tl.int32,
                                  is_pure=False, pack=1)

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
            q1 = _half(qkv, at + head * D, 0, D, live).to(tl.float32)
            q2 = _half(qkv, at + head * D, 1, D, live).to(tl.float32)
            q1, q2 = (q1 * c - q2 * s).to(kind), (q2 * c + q1 * s).to(kind)
            top = tl.full([W], -1e30, tl.float32)
            total = tl.zeros([W], tl.float32)
            mixed = tl.zeros([W, D], tl.float32)
            if stretch == 0:
                k1 = _half(qkv, at + (HEADS + kv) * D, 0, D, live).to(tl.float32)
                k2 = _half(qkv, at + (HEADS + kv) * D, 1, D, live).to(tl.float32)
                k1, k2 = (k1 * c - k2 * s).to(kind), (k2 * c + k1 * s).to(kind)
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
                there = base + p * KV * D
                o1, o2 = _half(keys, there, 0, D, seen), _half(keys, there, 1, D, seen)
                old = (tl.dot(q1, tl.trans(o1)) + tl.dot(q2, tl.trans(o2))) * scale
                old = tl.where(seen[None, :], old, float("-inf"))
                new = tl.maximum(top, tl.max(old, 1))
                shrink = tl.exp(top - new)
                share = tl.exp(old - new[:, None])
                total = total * shrink + tl.sum(share, 1)
                older = tl.load(values + there[:, None] + d[None, :], mask=seen[:, None], other=0.0)
                mixed = tl.dot(share.to(kind), older, mixed * shrink[:, None])
                top = new
            done = True
            if SPLIT:
                group = row * HEADS + head
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
            if done:
                tl.store(out + ((row * width + i) * HEADS + head)[:, None] * D + d[None, :],
                         (mixed / total[:, None]).to(kind), mask=live[:, None])
        else:
            follow(OVERLAP)

    @triton.jit
    def _silu_mul(packed, out, size, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
        """out [M, size] = silu(packed[:, :size]) * packed[:, size:]."""
        follow(OVERLAP)
        m, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        gate = tl.load(packed + m * 2 * size + i, mask=i < size, other=0.0).to(tl.float32)
        up = tl.load(packed + m * 2 * size + size + i, mask=i < size, other=0.0).to(tl.float32)
        gate = (gate / (1 + tl.exp(-gate))).to(out.dtype.element_ty).to(tl.float32)
        tl.store(out + m * size + i, (gate * up).to(out.dtype.element_ty), mask=i < size)

    @triton.jit
    def _norm(hidden, weight, out, size, eps, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
        """RMS norm of one row, in float32."""
        row, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
        scale = tl.load(weight + i, mask=i < size, other=0.0).to(tl.float32)      # never changes: before the wait
        follow(OVERLAP)
        x = tl.load(hidden + row * size + i, mask=i < size, other=0.0).to(tl.float32)
        x = x * tl.rsqrt(tl.sum(x * x, 0) / size + eps)
        tl.store(out + row * size + i, (x * scale).to(out.dtype.element_ty), mask=i < size)

    @triton.jit
    def _predict(logits, best, index, total, V, share, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
        """Maximum, its first position and the sum of exp(logit - maximum) in one stretch of one row of logits."""
        follow(OVERLAP)
        row, stretch = tl.program_id(0).to(tl.int64), tl.program_id(1)
        end = tl.minimum(V, (stretch + 1) * share)
        v = tl.arange(0, BLOCK)
        top = tl.full([BLOCK], -1e30, tl.float32)
        where = tl.zeros([BLOCK], tl.int32)
        summed = tl.zeros([BLOCK], tl.float32)
        for begin in range(stretch * share, end, BLOCK):
            here = tl.load(logits + row * V + begin + v, mask=begin + v < end, other=0.0).to(tl.float32)
            here = tl.where(begin + v < end, here, -1e30)
            new = tl.maximum(here, top)
            summed = summed * tl.exp(top - new) + tl.exp(here - new) + here * 0.0     # nan for what is not finite
            where = tl.where(here > top, begin + v, where)
            top = new
        peak = tl.max(top, 0)
        out = row * tl.num_programs(1) + stretch
        tl.store(best + out, peak)
        tl.store(index + out, tl.min(tl.where(top == peak, where, V), 0))
        tl.store(total + out, tl.sum(summed * tl.exp(top - peak), 0))

    @triton.jit
    def _join(best, index, total, tokens, confidence, stretches, S: tl.constexpr, OVERLAP: tl.constexpr):
        """Put the stretches of one row together: argmax and its probability."""
        follow(OVERLAP)
        row, s = tl.program_id(0), tl.arange(0, S)
        where = row * stretches + s
        peak = tl.load(best + where, mask=s < stretches, other=-1e30)
        summed = tl.load(total + where, mask=s < stretches, other=0.0)
        top = tl.max(peak, 0)
        found = tl.load(index + where, mask=s < stretches, other=0)
        tl.store(tokens + row, tl.min(tl.where(peak == top, found, 2147483647), 0).to(tl.int64))
        tl.store(confidence + row, 1.0 / tl.sum(summed * tl.exp(peak - top), 0))


def overlaps(device: torch.device) -> bool:
    """Whether a kernel may start before its predecessor has ended (Hopper and later)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


class Scratch:
    """Partial results of `attend` for few rows, and the counters that say when they are complete."""

    def __init__(self, device: torch.device, heads: int, size: int, positions: int, most_width: int = 64):
        self.stretches = triton.cdiv(positions, SPAN)
        self.parts = torch.empty(SPLIT_PROGRAMS * self.stretches * most_width * (size + 2), device=device)
        self.arrived = torch.zeros(SPLIT_PROGRAMS, dtype=torch.int32, device=device)


def attend(qkv: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, slots: Tensor, starts: Tensor,
           ends: Tensor, heads: int, scratch: Scratch) -> Tensor:
    """Rotate, write the cache, attend: qkv [R, w, (heads + 2 kv) d] -> [R*w, heads*d].

    keys and values are the cache, [slots, P, kv, d]. cos and sin are the whole tables, [positions, d]. Rows must have different slots. Queries see all
    positions below `ends` [R]. slots, starts and ends have equal strides. With few rows, several
    programs share the cache of one.
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


def norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm over the last dimension of hidden [M, D]."""
    out, size, overlap = torch.empty_like(hidden), hidden.shape[-1], overlaps(hidden.device)
    _norm[(hidden.shape[0],)](hidden, weight, out, size, eps, BLOCK=triton.next_power_of_2(size), OVERLAP=overlap,
                              launch_pdl=overlap, num_warps=8)
    return out


def silu_mul(packed: Tensor) -> Tensor:
    """silu(first half) * second half of the last dimension, [M, 2I] -> [M, I]."""
    rows, size, overlap = packed.shape[0], packed.shape[1] // 2, overlaps(packed.device)
    out = torch.empty(rows, size, device=packed.device, dtype=packed.dtype)
    _silu_mul[(rows, triton.cdiv(size, 2048))](packed, out, size, BLOCK=2048, OVERLAP=overlap, launch_pdl=overlap)
    return out


def predict(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Argmax and its probability in float32 of logits [M, V]; nan confidence where a logit is not finite."""
    rows, size, device, overlap = *logits.shape, logits.device, overlaps(logits.device)
    stretches = min(32, triton.cdiv(size, 4096))
    best, total = (torch.empty(rows, stretches, device=device) for _ in range(2))
    index = torch.empty(rows, stretches, dtype=torch.int32, device=device)
    tokens, confidence = torch.empty(rows, dtype=torch.int64, device=device), torch.empty(rows, device=device)
    _predict[(rows, stretches)](logits, best, index, total, size, triton.cdiv(size, stretches), BLOCK=2048,
                                OVERLAP=overlap, launch_pdl=overlap, num_warps=8)
    _join[(rows,)](best, index, total, tokens, confidence, stretches, S=triton.next_power_of_2(stretches),
                   OVERLAP=overlap, launch_pdl=overlap, num_warps=1)
    return tokens, confidence
