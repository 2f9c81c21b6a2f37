"""Forwards on static buffers: everything that differs between two forwards is data, so they can be captured.

`TorchOps` runs anywhere (CPU, Turing, float32); `TritonOps` is for few tokens in half precision, where
a forward should cost what it costs to read the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fastdllm.model import kernels
from fastdllm.model.cache import Cache
from fastdllm.model.kernels import Tiling
from fastdllm.model.network import Network, rotate


@dataclass(frozen=True, eq=False)
class Place:
    """Where the rows of a forward stand: all tensors on the device. R rows, w positions each."""

    rows: int
    width: int
    slots: Int[Tensor, "R"]
    starts: Int[Tensor, "R"]
    ends: Int[Tensor, "R"]
    cos: Float[Tensor, "R w d"]
    sin: Float[Tensor, "R w d"]     # first half negated
    flat: Int[Tensor, "Rw"]         # slot * cache length + position
    mask: Tensor                    # [R, 1, 1, P] True where a key may be seen
    shared: bool                    # rows may share a slot (blocks of one prompt in a prefill)

    @classmethod
    def of(cls, network: Network, cache: Cache, width: int, slots: Tensor, starts: Tensor, ends: Tensor,
           shared: bool) -> Place:
        """Work out positions, rotary tables and mask on the device."""
        offsets = torch.arange(width, device=slots.device)
        positions = starts[:, None] + offsets
        keys = torch.arange(cache.positions, device=slots.device)
        return cls(rows=len(slots), width=width, slots=slots, starts=starts, ends=ends,
                   cos=network.cos[positions].to(network.dtype), sin=network.sin[positions].to(network.dtype),
                   flat=(slots[:, None] * cache.positions + positions).reshape(-1),
                   mask=(keys < ends[:, None])[:, None, None], shared=shared)


class TorchOps:
    """A layer in plain PyTorch operations, without a host decision in it."""

    def __init__(self, network: Network, cache: Cache):
        self.network, self.cache = network, cache

    def layer(self, index: int, hidden: Float[Tensor, "Rw D"], place: Place) -> Float[Tensor, "Rw D"]:
        """One decoder layer; writes the cache at the rows' positions."""
        layer = self.network.model.layers[index]
        hidden = hidden + F.linear(self.attention(index, layer.input_layernorm(hidden), place),
                                   layer.self_attn.o_proj.weight)
        return hidden + self.mlp(index, layer.post_attention_layernorm(hidden))

    def mlp(self, index: int, hidden: Tensor) -> Tensor:
        """SwiGLU of the normed hidden states."""
        return self.network.model.layers[index].mlp(hidden)

    def attention(self, index: int, hidden: Tensor, place: Place) -> Tensor:
        """Attention before its output projection, [R*w, D] -> [R*w, heads * d]."""
        attention = self.network.model.layers[index].self_attn
        rows, width = place.rows, place.width
        query, key, value = attention.project(hidden.view(rows, width, -1), place.cos[:, :, None],
                                              place.sin[:, :, None])
        keys, values = self.cache.keys[index], self.cache.values[index]
        for buffer, new in ((keys, key), (values, value)):
            buffer.view(-1, *buffer.shape[2:]).index_copy_(0, place.flat, new.reshape(-1, *new.shape[2:]))
        groups = attention.heads // attention.kv_heads
        query = (query.reshape(rows, width, attention.kv_heads, groups, -1).permute(0, 2, 3, 1, 4)
                 .reshape(rows, attention.kv_heads, groups * width, -1))
        out = F.scaled_dot_product_attention(query, keys[place.slots].transpose(1, 2),
                                             values[place.slots].transpose(1, 2), attn_mask=place.mask)
        return (out.view(rows, attention.kv_heads, groups, width, -1).permute(0, 3, 1, 2, 4)
                .reshape(rows * width, -1))

    def head(self, hidden: Float[Tensor, "N D"]) -> tuple[Int[Tensor, "N"], Float[Tensor, "N"]]:
        """Final norm, head, argmax and its probability in float32 (nan where a logit is not finite)."""
        logits = self.network.logits(hidden)
        top, tokens = logits.max(-1)
        confidence = 1.0 / (logits - top[:, None]).exp().sum(-1)
        return tokens, torch.where(logits.sum(-1).isfinite(), confidence, torch.nan)


# How products of few rows are cut, by what they are: found on an H200 with `benchmarks/tune.py`. None: cuBLAS.
TILINGS: dict[str, Tiling | None] = {
    "qkv": Tiling(32, 128, splits=1, stages=5),
    "o": Tiling(32, 128, splits=2, stages=4),
    "gate_up": Tiling(32, 128, stages=4),
    "down": Tiling(32, 128, splits=2, stages=5),
}


class TritonOps(TorchOps):
    """The same layer in fused kernels where they pay: attention always, products up to 64 tokens."""

    def __init__(self, network: Network, cache: Cache, tilings: dict[str, Tiling | None] | None = None):
        super().__init__(network, cache)
        config = network.config
        self.work = kernels.Workspace(network.device, max(config.hidden_size, 2 * config.intermediate_size))
        heads = config.num_attention_heads + 2 * config.num_key_value_heads
        depth = {"qkv": config.hidden_size, "o": config.num_attention_heads * config.head_dim,
                 "gate_up": config.hidden_size, "down": config.intermediate_size}
        self.packed = heads * config.head_dim
        chosen = tilings or TILINGS
        self.tilings = {name: tiling if tiling and depth[name] % (tiling.depth * tiling.splits) == 0 else None
                        for name, tiling in chosen.items()}

    def product(self, name: str, x: Tensor, weight: Tensor, bias: Tensor | None = None,
                residual: Tensor | None = None) -> Tensor:
        """x @ weight.T with bias or residual, by the kernel that suits the number of rows."""
        tiling = self.tilings[name]
        if tiling is not None and x.shape[0] <= kernels.MOST_ROWS:
            return kernels.linear(x, weight, tiling, self.work, bias=bias, residual=residual)
        out = F.linear(x, weight, bias)
        return out if residual is None else out.add_(residual)

    def layer(self, index: int, hidden: Tensor, place: Place) -> Tensor:
        layer = self.network.model.layers[index]
        mixed = self.attention(index, layer.input_layernorm(hidden), place)
        hidden = self.product("o", mixed, layer.self_attn.o_proj.weight, residual=hidden)
        gate_up, x = layer.mlp.gate_up_proj.weight, layer.post_attention_layernorm(hidden)
        tiling = self.tilings["gate_up"]
        if tiling is not None and x.shape[0] <= kernels.MOST_ROWS:
            x = kernels.linear(x, gate_up, tiling, self.work, gated=True)
        else:
            x = kernels.silu_mul(F.linear(x, gate_up))
        return self.product("down", x, layer.mlp.down_proj.weight, residual=hidden)

    def attention(self, index: int, hidden: Tensor, place: Place) -> Tensor:
        if place.shared:      # a row must see what another row of the same prompt writes: in separate kernels
            return super().attention(index, hidden, place)
        attention = self.network.model.layers[index].self_attn
        packed = self.product("qkv", hidden, attention.qkv_proj.weight, bias=attention.qkv_proj.bias)
        return kernels.attend(packed.view(place.rows, place.width, self.packed), place.cos, place.sin,
                              self.cache.keys[index], self.cache.values[index], place.slots, place.starts, place.ends,
                              attention.heads)

    def head(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return kernels.predict(F.linear(self.network.model.norm(hidden), self.network.lm_head.weight))
