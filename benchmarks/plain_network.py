"""A plain Qwen2.5-style decoder, as published code writes it: eager, unpacked, concatenating its caches.

It exists to be compared with, in speed and in tokens. It shares no code with `fastdllm.model` but
the reading of config.json.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from fastdllm.model.config import ModelConfig

Layer = Callable[[Tensor], Tensor]
Wrap = Callable[[int, Layer, Tensor], Tensor]      # (layer index, the layer, its input) -> its output
KeyValue = tuple[Tensor, Tensor]                   # each [R, kv_heads, T, head_dim]


@dataclass
class Caches:
    """Prefix and block cache: one (keys, values) a layer, or None before anything was cached."""

    prefix: list[KeyValue] = field(default_factory=list)
    block: dict[int, KeyValue] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Positions in the prefix."""
        return self.prefix[0][0].shape[2] if self.prefix else 0

    def update(self, index: int, key: Tensor, value: Tensor, store: str | None,
               replace_position: int | None) -> KeyValue:
        """Put a layer's new keys and values where `PlainNetwork.forward` says; all that its queries see."""
        if replace_position is not None:
            layer_range = slice(replace_position, replace_position + key.shape[2])
            block_key, block_value = self.block[index]
            block_key[:, :, layer_range], block_value[:, :, layer_range] = key, value
            key, value = block_key, block_value
        elif store == "block":
            self.block[index] = (key, value)
        if index < len(self.prefix):
            key = torch.cat([self.prefix[index][0], key], dim=2)
            value = torch.cat([self.prefix[index][1], value], dim=2)
        if store == "prefix":
            self.prefix[index:index + 1] = [(key, value)]
        return key, value

    def keep(self, rows: Tensor) -> None:
        """Drop the rows that are False in `rows` [R]; copies all that stays."""
        self.prefix = [(k[rows], v[rows]) for k, v in self.prefix]
        self.block = {}


class PlainNetwork:
    """Weights by their Hugging Face names, and a forward in the words of the published modelling code."""

    def __init__(self, config: ModelConfig, weights: dict[str, Tensor]):
        self.config, self.weights = config, weights
        head = "lm_head.weight" if "lm_head.weight" in weights else "model.embed_tokens.weight"
        self.head = weights[head]
        inverse = 1.0 / config.rope_theta ** (torch.arange(0, config.head_dim, 2).float() / config.head_dim)
        self.inverse_frequency = inverse.to(self.head.device)

    @classmethod
    def load(cls, directory: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> PlainNetwork:
        """Read config.json and model.safetensors of `directory`."""
        weights = load_file(Path(directory) / "model.safetensors", device=device)
        return cls(ModelConfig.from_file(Path(directory) / "config.json"),
                   {name: weight.to(dtype) for name, weight in weights.items()})

    def norm(self, hidden: Tensor, name: str) -> Tensor:
        """RMS norm in float32, written out."""
        wide = hidden.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.config.rms_norm_eps)
        return self.weights[name] * wide.to(hidden.dtype)

    def rotary_tables(self, hidden: Tensor, positions: Tensor) -> KeyValue:
        """cos and sin at `positions` [w], each [w, head_dim], in the dtype of `hidden`."""
        angle = (positions.float()[:, None] * self.inverse_frequency).repeat(1, 2)
        return angle.cos().to(hidden.dtype), angle.sin().to(hidden.dtype)

    def heads(self, hidden: Tensor, name: str, count: int) -> Tensor:
        """One projection with bias, split into heads: [R, w, D] -> [R, count, w, head_dim]."""
        out = F.linear(hidden, self.weights[name + ".weight"], self.weights[name + ".bias"])
        return out.view(*hidden.shape[:2], count, self.config.head_dim).transpose(1, 2)

    def attention(self, index: int, hidden: Tensor, rotary: KeyValue, mask: Tensor | None, caches: Caches,
                  store: str | None, replace_position: int | None) -> Tensor:
        """Attention over prefix, then block cache (small forwards) or own keys (all others)."""
        config, name = self.config, f"model.layers.{index}.self_attn."
        query = rotate(self.heads(hidden, name + "q_proj", config.num_attention_heads), *rotary)
        key = rotate(self.heads(hidden, name + "k_proj", config.num_key_value_heads), *rotary)
        value = self.heads(hidden, name + "v_proj", config.num_key_value_heads)
        key, value = caches.update(index, key, value, store, replace_position)
        groups = config.num_attention_heads // config.num_key_value_heads
        out = F.scaled_dot_product_attention(query, repeat(key, groups), repeat(value, groups), attn_mask=mask)
        out = out.transpose(1, 2).reshape(*hidden.shape[:2], -1)
        return F.linear(out, self.weights[name + "o_proj.weight"])

    def mlp(self, index: int, hidden: Tensor) -> Tensor:
        """SwiGLU."""
        name = f"model.layers.{index}.mlp."
        gate = F.silu(F.linear(hidden, self.weights[name + "gate_proj.weight"]))
        up = F.linear(hidden, self.weights[name + "up_proj.weight"])
        return F.linear(gate * up, self.weights[name + "down_proj.weight"])

    def forward(self, tokens: Tensor, caches: Caches, *, store: str | None = None,
                replace_position: int | None = None, wrap: Wrap | None = None) -> Tensor:
        """Logits [R, w, vocab], float32, of `tokens` [R, w] behind the prefix in `caches`.

        `store` keeps the new keys and values: "prefix" appends them to the prefix cache, "block"
        makes them the block cache. With `replace_position` the tokens are a stretch of the block:
        their keys and values replace a part of the block cache and the whole of it is seen.
        """
        width, start = tokens.shape[1], caches.length + (replace_position or 0)
        positions = torch.arange(start, start + width, device=tokens.device)
        mask = None
        if replace_position is None:     # block-causal over absolute positions
            block = self.config.bd_size
            keys = torch.arange(start + width, device=tokens.device) // block
            mask = keys <= (positions // block)[:, None]
        hidden = F.embedding(tokens, self.weights["model.embed_tokens.weight"])
        rotary = self.rotary_tables(hidden, positions)
        for index in range(self.config.num_hidden_layers):
            def layer(hidden: Tensor, index: int = index) -> Tensor:
                name = f"model.layers.{index}."
                hidden = hidden + self.attention(index, self.norm(hidden, name + "input_layernorm.weight"), rotary,
                                                 mask, caches, store, replace_position)
                return hidden + self.mlp(index, self.norm(hidden, name + "post_attention_layernorm.weight"))
            hidden = layer(hidden) if wrap is None else wrap(index, layer, hidden)
        return F.linear(self.norm(hidden, "model.norm.weight"), self.head).float()


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions in the rotate-half layout: heads [R, n, w, d], cos and sin [w, d]."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-second, first], dim=-1) * sin


def repeat(heads: Tensor, times: int) -> Tensor:
    """Each head `times` times behind itself: [R, n, T, d] -> [R, n * times, T, d]."""
    rows, count, length, size = heads.shape
    return heads[:, :, None].expand(rows, count, times, length, size).reshape(rows, count * times, length, size)
