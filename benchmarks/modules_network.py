"""The plain network out of the modules of transformers' Qwen2, from which the published modelling code is made.

Same weights and results as `PlainNetwork`; it costs what those modules cost to call.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2DecoderLayer,
    Qwen2RMSNorm,
    Qwen2RotaryEmbedding,
    apply_rotary_pos_emb,
    repeat_kv,
)

from benchmarks.plain_network import Caches, KeyValue, PlainNetwork
from fastdllm.model.config import ModelConfig


class ModulesNetwork(PlainNetwork):
    """`PlainNetwork` whose layers are transformers' modules; the caches are concatenated here, as there."""

    def __init__(self, config: ModelConfig, weights: dict[str, Tensor]):
        super().__init__(config, weights)
        theirs = Qwen2Config(
            hidden_size=config.hidden_size, intermediate_size=config.intermediate_size, vocab_size=config.vocab_size,
            num_hidden_layers=config.num_hidden_layers, num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads, rms_norm_eps=config.rms_norm_eps,
            max_position_embeddings=config.max_position_embeddings, attn_implementation="sdpa",
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta})
        with torch.device("meta"):
            self.layers = [Qwen2DecoderLayer(theirs, index) for index in range(config.num_hidden_layers)]
            self.final = Qwen2RMSNorm(config.hidden_size, config.rms_norm_eps)
        for index, layer in enumerate(self.layers):
            prefix = f"model.layers.{index}."
            layer.load_state_dict({name: weights[prefix + name] for name in layer.state_dict()}, assign=True)
        self.final.load_state_dict({"weight": weights["model.norm.weight"]}, assign=True)
        self.rotary = Qwen2RotaryEmbedding(theirs).to(self.head.device)

    def attention(self, index: int, hidden: Tensor, rotary: KeyValue, mask: Tensor | None, caches: Caches,
                  store: str | None, replace_position: int | None) -> Tensor:
        attention, (rows, width, _) = self.layers[index].self_attn, hidden.shape
        shape = (rows, width, -1, attention.head_dim)
        query = attention.q_proj(hidden).view(shape).transpose(1, 2)
        key = attention.k_proj(hidden).view(shape).transpose(1, 2)
        value = attention.v_proj(hidden).view(shape).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *rotary)
        key, value = caches.update(index, key, value, store, replace_position)
        groups = attention.num_key_value_groups
        out = F.scaled_dot_product_attention(query, repeat_kv(key, groups), repeat_kv(value, groups), attn_mask=mask,
                                             scale=attention.scaling)
        return attention.o_proj(out.transpose(1, 2).contiguous().reshape(rows, width, -1).contiguous())

    def norm(self, hidden: Tensor, name: str) -> Tensor:
        _, *inside, kind, _ = name.split(".")      # model.norm.weight or model.layers.3.input_layernorm.weight
        return (self.layers[int(inside[1])].get_submodule(kind) if inside else self.final)(hidden)

    def mlp(self, index: int, hidden: Tensor) -> Tensor:
        return self.layers[index].mlp(hidden)

    def rotary_tables(self, hidden: Tensor, positions: Tensor) -> KeyValue:
        return self.rotary(hidden, positions[None])
