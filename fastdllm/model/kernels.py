"""Triton kernels for forwards of few tokens, where reading the weights is the whole cost.

Needs a CUDA card from SM 8.0 on, float16 or bfloat16 and a head of 32, 64, 128 or 256; `usable` says
so, and everything here has a plain PyTorch counterpart in `static.py`. All sums are in float32 and in
a fixed order: the same input gives the same bits.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false

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
    def _join(best, index, total, masked, along, out, threshold, stretches, read, S: tl.constexpr, N: tl.constexpr,
              OVERLAP: tl.constexpr):
        """Put the stretches of one row's positions together, and choose the positions to unmask.

        out is [3, rows, read]: argmax, the bits of its probability, and whether the position is unmasked: masked ones
        above the threshold, and always the most confident one, ties to the left.
        """
        follow(OVERLAP)
        row, n, s = tl.program_id(0), tl.arange(0, N), tl.arange(0, S)
        there = (n[:, None] < read) & (s[None, :] < stretches)
        where = (row * read + n[:, None]) * stretches + s[None, :]
        peak = tl.load(best + where, mask=there, other=-1e30)
        summed = tl.load(total + where, mask=there, other=0.0)
        candidate = tl.load(index + where, mask=there, other=0)
        top = tl.max(peak, 1)
        token = tl.min(tl.where(peak == top[:, None], candidate, 2147483647), 1)
        confidence = 1.0 / tl.sum(summed * tl.exp(peak - top[:, None]), 1)
        open_ = (n < read) & (tl.load(masked + row * along + n, mask=n < read, other=0) != 0)
        highest = tl.max(tl.where(open_, confidence, -1.0), 0)
        first = tl.min(tl.where(open_ & (confidence == highest), n, N), 0)
        reveal = open_ & ((confidence > threshold) | (n == first))
        here, plane = out + row * read + n, tl.num_programs(0) * read
        tl.store(here, token, mask=n < read)
        tl.store(here + plane, confidence.to(tl.int32, bitcast=True), mask=n < read)
        tl.store(here + 2 * plane, reveal.to(tl.int32), mask=n < read)

    @triton.jit
    def _copy(source, into, size, BLOCK: tl.constexpr):
        """into = source, both [size]; the host's pinned memory is as good as the device's."""
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(into + i, tl.load(source + i, mask=i < size), mask=i < size)


def overlaps(device: torch.device) -> bool:
    """Whether a kernel may start before its predecessor has ended (Hopper and later)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


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


def predict(logits: Tensor, masked: Tensor, threshold: float) -> Tensor:
    """Tokens, the bits of their confidence in float32, and positions to unmask, int32 [3, R, n], from logits [R*n, V].

    masked is [R, n], its rows may lie apart. Confidence is nan where a logit is not finite.
    """
    (rows, read), (_, size), device = masked.shape, logits.shape, logits.device
    overlap, stretches = overlaps(device), min(32, triton.cdiv(size, 4096))
    best, total = (torch.empty(rows * read, stretches, device=device) for _ in range(2))
    index = torch.empty(rows * read, stretches, dtype=torch.int32, device=device)
    out = torch.empty(3, rows, read, dtype=torch.int32, device=device)
    _predict[(rows * read, stretches)](logits, best, index, total, size, triton.cdiv(size, stretches), BLOCK=2048,
                                       OVERLAP=overlap, launch_pdl=overlap, num_warps=8)
    _join[(rows,)](best, index, total, masked, masked.stride(0), out, threshold, stretches, read,
                   S=triton.next_power_of_2(stretches), N=triton.next_power_of_2(read), OVERLAP=overlap,
                   launch_pdl=overlap, num_warps=1)
    return out


def copy(source: Tensor, into: Tensor) -> None:
    """into = source, contiguous and of one size; between the device and pinned memory of the host, too.

    With one at either end, the graph of one row takes 9 to 15 us less than with the driver's copies (7B's shape, H100).
    """
    if size := source.numel():
        _copy[(triton.cdiv(size, 1024),)](source, into, size, BLOCK=1024)
