"""Training-side use of the network: initial weights, a forward over whole sequences, the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fastdllm.model.network import DecoderLayer, Network

LayerForward = Callable[[DecoderLayer, Tensor, Tensor, Tensor, "Tensor | None"], Tensor]


def initialise(network: Network, seed: int) -> None:
    """Draw the initial weights: linear maps with std 1/sqrt(fan_in), those that write into the residual stream
    divided by sqrt(2 * layers) more, embedding 0.3, head 0.02, biases 0, norms 1."""
    generator = torch.Generator().manual_seed(seed)
    residual = math.sqrt(2 * network.config.num_hidden_layers)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                std = 1 / math.sqrt(parameter.shape[1])
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    std /= residual
                std = {"model.embed_tokens.weight": 0.3, "lm_head.weight": 0.02}.get(name, std)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def layer_forward(layer: DecoderLayer, hidden: Float[Tensor, "n S hidden"], cos: Tensor, sin: Tensor,
                  mask: Bool[Tensor, "S S"] | None) -> Float[Tensor, "n S hidden"]:
    """One layer over whole sequences, without caches. mask None: causal. cos, sin [1, S, 1, head_dim]."""
    attention = layer.self_attn
    query, key, value = attention.project(layer.input_layernorm(hidden), cos, sin)     # [n, S, heads, d]
    groups = attention.heads // attention.kv_heads
    query, key, value = (part.transpose(1, 2) for part in (
        query, key.repeat_interleave(groups, dim=2), value.repeat_interleave(groups, dim=2)))
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
    hidden = hidden + attention.o_proj(mixed.transpose(1, 2).flatten(2))
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def sequence_logits(network: Network, tokens: Int[Tensor, "n S"], positions: Int[Tensor, " S"],
                    mask: Bool[Tensor, "S S"] | None, run_layer: LayerForward = layer_forward,
                    ) -> Float[Tensor, "n S vocab"]:
    """Logits of whole sequences at the given absolute positions under any attention mask."""
    hidden = network.model.embed_tokens(tokens)
    cos, sin = (table[positions][None, :, None] for table in (network.cos, network.sin))
    for layer in cast(Iterable[DecoderLayer], network.model.layers):
        hidden = run_layer(layer, hidden, cos, sin, mask)
    return network.lm_head(network.model.norm(hidden))


def weighted_loss(logits: Float[Tensor, "n S vocab"], targets: Int[Tensor, "n S"],
                  weights: Float[Tensor, "n S"]) -> tuple[Tensor, Tensor]:
    """Weighted mean cross-entropy in nats, and the share of full-weight targets that the argmax hits."""
    each = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    weights = weights.flatten()
    loss = (each * weights).sum() / weights.sum()
    full = weights == 1.0
    hits = (logits.flatten(0, 1).argmax(-1) == targets.flatten()) & full
    return loss, hits.sum() / full.sum()


def decayed(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters with weight decay (matrices) and without (norms, biases, embedding)."""
    matrices, others = [], []
    for name, parameter in network.named_parameters():
        (matrices if parameter.ndim == 2 and "embed" not in name else others).append(parameter)
    return matrices, others
