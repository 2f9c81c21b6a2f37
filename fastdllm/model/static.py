"""Forwards on static buffers: everything that differs between two forwards is data, so they can be captured.

`TorchOps` runs anywhere (CPU, Turing, float32); `TritonOps` is for few tokens in half precision, where
a forward should cost what it costs to read the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fastdllm.model import kernels
from fastdllm.model.attention import attend
from fastdllm.model.attention_parts import Scratch
from fastdllm.model.cache import Cache
from fastdllm.model.network import DecoderLayer, Network, RMSNorm
from fastdllm.model.pack_attention import attend_packs
from fastdllm.model.positions import Batch, PackPositions
from fastdllm.model.products import MOST_ROWS, Tiling, Workspace, linear
from fastdllm.model.shared_attention import attend_shared


@dataclass(frozen=True, eq=False)
class Detail:
    """What the plain operations need besides: rotary tables, cache positions, mask."""

    cos: Float[Tensor, "R w d"]
    sin: Float[Tensor, "R w d"]     # first half negated
    flat: Int[Tensor, " Rw"]         # slot * cache length + position
    mask: Tensor                    # [R, 1, 1, P], or [R, 1, groups * w, P] of packs; True where a key may be seen

    @classmethod
    def of(cls, network: Network, cache: Cache, batch: Batch) -> Detail:
        """Work it out on the device."""
        if isinstance(batch, PackPositions):
            groups = network.config.num_attention_heads // network.config.num_key_value_heads
            return cls(network.cos[batch.positions].to(network.dtype), network.sin[batch.positions].to(network.dtype),
                       batch.places, batch.mask(cache.positions).repeat(1, groups, 1)[:, None])
        positions = batch.starts[:, None] + torch.arange(batch.width, device=batch.starts.device)
        keys = torch.arange(cache.positions, device=batch.starts.device)
        return cls(network.cos[positions].to(network.dtype), network.sin[positions].to(network.dtype),
                   (batch.slots[:, None] * cache.positions + positions).reshape(-1),
                   (keys < batch.ends[:, None])[:, None, None])


def pick(hidden: Float[Tensor, "Rw D"], wanted: Int[Tensor, "R n"] | Int[Tensor, " N"]) -> Float[Tensor, "Rn D"]:
    """Hidden states at some positions of each row, or [N, D] at some of all."""
    if wanted.ndim == 1:
        return hidden[wanted]
    return hidden.view(wanted.shape[0], -1, hidden.shape[-1]).gather(
        1, wanted[:, :, None].expand(-1, -1, hidden.shape[-1])).flatten(0, 1)


class TorchOps:
    """A layer in plain PyTorch operations, without a host decision in it."""

    def __init__(self, network: Network, cache: Cache):
        self.network, self.cache = network, cache
        self.layers = [layer for layer in network.model.layers if isinstance(layer, DecoderLayer)]
        self.detail: Detail | None = None

    def begin(self, batch: Batch) -> None:
        """Before the layers of a forward."""
        self.detail = Detail.of(self.network, self.cache, batch)

    def layer_range(self, first: int, last: int, hidden: Float[Tensor, "Rw D"], batch: Batch,
                    wanted: Int[Tensor, "R n"] | Int[Tensor, " N"] | None = None) -> Tensor:
        """Layers first .. last, both included: [R*w, D], or [R*n, D] at the `wanted` positions of each row, or [N, D]
        at those of all rows."""
        for index in range(first, last + 1):
            hidden = self.layer(index, hidden, batch)
        return hidden if wanted is None else pick(hidden, wanted)

    def layer(self, index: int, hidden: Float[Tensor, "Rw D"], batch: Batch) -> Float[Tensor, "Rw D"]:
        """One decoder layer; writes the cache at the rows' positions."""
        layer = self.layers[index]
        hidden = hidden + F.linear(self.attention(index, layer.input_layernorm(hidden), batch),
                                   layer.self_attn.o_proj.weight)
        return hidden + self.mlp(index, layer.post_attention_layernorm(hidden))

    def mlp(self, index: int, hidden: Tensor) -> Tensor:
        """SwiGLU of the normed hidden states."""
        return self.layers[index].mlp(hidden)

    def attention(self, index: int, hidden: Tensor, batch: Batch) -> Tensor:
        """Attention before its output projection, [R*w, D] -> [R*w, heads * d]."""
        attention = self.layers[index].self_attn
        rows, width, detail = batch.rows, batch.width, self.detail
        if detail is None:
            raise RuntimeError("begin() comes before the layers")
        query, key, value = attention.project(hidden.view(rows, width, -1), detail.cos[:, :, None],
                                              detail.sin[:, :, None])
        keys, values = self.cache.keys[index], self.cache.values[index]
        for buffer, new in ((keys, key), (values, value)):
            buffer.view(-1, *buffer.shape[2:]).index_copy_(0, detail.flat, new.reshape(-1, *new.shape[2:]))
        groups = attention.heads // attention.kv_heads
        query = (query.reshape(rows, width, attention.kv_heads, groups, -1).permute(0, 2, 3, 1, 4)
                 .reshape(rows, attention.kv_heads, groups * width, -1))
        out = F.scaled_dot_product_attention(query, keys[batch.slots].transpose(1, 2),
                                             values[batch.slots].transpose(1, 2), attn_mask=detail.mask)
        return (out.view(rows, attention.kv_heads, groups, width, -1).permute(0, 3, 1, 2, 4)
                .reshape(rows * width, -1))

    def plain_cache(self) -> Cache:
        """The cache as the network's own modules write and read it."""
        return self.cache

    def logits(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        """Final norm and head."""
        return self.network.logits(hidden)

    def predict(self, hidden: Float[Tensor, "N D"], masked: Bool[Tensor, "R n"],
                threshold: float) -> Int[Tensor, "3 R n"]:
        """Argmax, its probability in float32 (its bits; nan where a logit is not finite), and what to unmask.

        Unmasked are masked positions above the threshold, and always the most confident one, ties to the left.
        """
        logits = self.logits(hidden).float()
        top, tokens = logits.max(-1)
        confidence = 1.0 / (logits - top[:, None]).exp().sum(-1)
        confidence = torch.where(logits.sum(-1).isfinite(), confidence, torch.nan).view(masked.shape)
        return self.unmask(tokens.view(masked.shape), confidence, masked, threshold)

    @staticmethod
    def unmask(tokens: Tensor, confidence: Tensor, masked: Tensor, threshold: float) -> Tensor:
        """Choose the positions to unmask; all [R, n] in, int32 [3, R, n] out: confidence as its bits."""
        best = torch.where(masked, confidence, -torch.inf).argmax(1, keepdim=True)
        offsets = torch.arange(masked.shape[1], device=masked.device)
        reveal = ((confidence > threshold) | (offsets == best)) & masked
        return torch.stack([tokens.int(), confidence.view(torch.int32), reveal.int()])

    @staticmethod
    def copy(source: Tensor, into: Tensor) -> None:
        """into = source, of which one may be pinned memory of the host."""
        into.copy_(source, non_blocking=True)


# How products of few rows are cut, for up to 16 and up to 64 rows: found on an H200 with `benchmarks/tune.py`.
# None: cuBLAS. Splits are for products with few columns only, see `Workspace`.
TILINGS: dict[str, tuple[Tiling | None, Tiling | None]] = {
    "qkv": (None, None),
    "o": (Tiling(64, 128, 2, 6, 4, True, 16), Tiling(64, 128, 2, 6, 4, True, 16)),
    "gate_up": (Tiling(32, 128, 1, 5, prefetch=4), Tiling(64, 128, 1, 4, 4, True, 2)),
    "down": (Tiling(64, 128, 2, 6, 4, True, 4), Tiling(64, 128, 2, 6, 4, True, 2)),
    "head": (Tiling(128, 128, 1, 5, 4, True), Tiling(128, 128, 1, 5, 8, True, 4)),
}

# float16: the gated product of 17 rows or more takes 107 us as bfloat16 has it, so 100 (there 96; an H100, 32 rows).
FLOAT16 = TILINGS | {"gate_up": (TILINGS["gate_up"][0], Tiling(32, 256, 1, 4, 4, prefetch=2))}


class TritonOps(TorchOps):
    """The same layer in fused kernels where they pay: attention always, products up to 64 tokens."""

    def __init__(self, network: Network, cache: Cache,
                 tilings: dict[str, tuple[Tiling | None, Tiling | None]] | None = None):
        super().__init__(network, cache)
        config = network.config
        heads = config.num_attention_heads + 2 * config.num_key_value_heads
        self.work = Workspace(network.device, max(config.hidden_size, heads * config.head_dim))
        depth = {"qkv": config.hidden_size, "o": config.num_attention_heads * config.head_dim,
                 "gate_up": config.hidden_size, "down": config.intermediate_size, "head": config.hidden_size}
        self.packed = heads * config.head_dim
        self.scratch = Scratch(network.device, config.num_attention_heads, config.head_dim, cache.positions)
        self.cos, self.sin = network.cos.to(network.dtype), network.sin.to(network.dtype)
        usual = FLOAT16 if network.dtype == torch.float16 else TILINGS
        self.tilings = {name: tuple(tiling if tiling and depth[name] % (tiling.depth * tiling.splits) == 0 else None
                                    for tiling in pair) for name, pair in (tilings or usual).items()}

    def tiling(self, name: str, rows: int) -> Tiling | None:
        """How to cut a product of so many rows; None: by cuBLAS."""
        return None if rows > MOST_ROWS else self.tilings[name][0 if rows <= 16 else 1]

    def begin(self, batch: Batch) -> None:
        """Nothing: the kernels work it out."""

    def product(self, name: str, x: Tensor, weight: Tensor, bias: Tensor | None = None,
                residual: Tensor | None = None) -> Tensor:
        """x @ weight.T with bias or residual, by the kernel that suits the number of rows."""
        tiling = self.tiling(name, x.shape[0])
        if tiling is not None:
            return linear(x, weight, tiling, self.work, bias=bias, residual=residual)
        return F.linear(x, weight, bias) if residual is None else torch.addmm(residual, x, weight.t())

    def layer_range(self, first: int, last: int, hidden: Tensor, batch: Batch, wanted: Tensor | None = None) -> Tensor:
        for index in range(first, last):
            hidden = self.layer(index, hidden, batch)
        return self.layer(last, hidden, batch, wanted)

    def layer(self, index: int, hidden: Tensor, batch: Batch, wanted: Tensor | None = None) -> Tensor:
        """One decoder layer; behind its attention only `wanted` positions go on, see `layer_range`."""
        layer = self.layers[index]
        mixed = self.attention(index, self.norm(hidden, layer.input_layernorm), batch)
        if wanted is not None:
            mixed, hidden = pick(mixed, wanted), pick(hidden, wanted)
        hidden = self.product("o", mixed, layer.self_attn.o_proj.weight, residual=hidden)
        gate_up, x = layer.mlp.gate_up_proj.weight, self.norm(hidden, layer.post_attention_layernorm)
        tiling = self.tiling("gate_up", x.shape[0])
        if tiling is not None:
            x = linear(x, gate_up, tiling, self.work, gated=True)
        else:
            x = kernels.silu_mul(F.linear(x, gate_up))
        return self.product("down", x, layer.mlp.down_proj.weight, residual=hidden)

    def attention(self, index: int, hidden: Tensor, batch: Batch) -> Tensor:
        attention = self.layers[index].self_attn
        packed = self.product("qkv", hidden, attention.qkv_proj.weight, bias=attention.qkv_proj.bias)
        packed, cache = packed.view(batch.rows, batch.width, self.packed), self.cache
        if isinstance(batch, PackPositions):
            return attend_packs(packed, self.cos, self.sin, cache.keys[index], cache.values[index], batch,
                                attention.heads, self.scratch)
        if batch.shared:
            return attend_shared(packed, self.cos, self.sin, cache.keys[index], cache.values[index], batch,
                                 attention.heads, self.scratch)
        return attend(packed, self.cos, self.sin, cache.keys[index], cache.values[index], batch.slots, batch.starts,
                      batch.ends, attention.heads, self.scratch)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.product("head", self.norm(hidden, self.network.model.norm), self.network.lm_head.weight)

    def predict(self, hidden: Tensor, masked: Tensor, threshold: float) -> Tensor:
        return kernels.predict(self.logits(hidden), masked, threshold)

    @staticmethod
    def copy(source: Tensor, into: Tensor) -> None:
        """By a kernel, which begins earlier than the driver's copy."""
        kernels.copy(source, into)

    @staticmethod
    def norm(hidden: Tensor, module: RMSNorm) -> Tensor:
        """An RMS norm of the network, by the kernel."""
        return kernels.norm(hidden, module.weight, module.eps)
