"""Layers for float32 on a CPU, where most operations cost more to launch than to compute.

So: as few operations as can be, launched from TorchScript, which takes a third of the time that
Python takes, and host decisions where they save work (slices for gathers, a mask only where rows
see different keys). Norm weights are multiplied into the matrices behind them, and the two halves of
a head that rotate together lie side by side, so that rotating is one product of complex numbers.
"""

# TorchScript reads the older spelling of types.
# ruff: noqa: UP006, UP035, UP045

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import copy
from functools import cache
from threading import Lock
from typing import Any, List, Optional, Tuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fastdllm.model.cache import Cache
from fastdllm.model.network import DecoderLayer, Network
from fastdllm.model.positions import Batch, PackPositions
from fastdllm.model.static import TorchOps, pick

MOST_COPIED = 1 << 30        # bytes of parameters
COMPILING = Lock()

Weights = List[Tensor]
Where = Tuple[Tensor, Tensor, int, int, int, Optional[Tensor], Optional[Tensor]]


def usable(network: Network) -> bool:
    """Whether `CpuOps` is for this network: its second copy of the weights is for small ones."""
    return (network.device.type == "cpu" and network.dtype == torch.float32 and network.config.head_dim % 2 == 0
            and sum(parameter.nbytes for parameter in network.parameters()) < MOST_COPIED)


class CpuOps(TorchOps):
    """`TorchOps` by stretches of layers. Keys lie in the cache as `paired` has them."""

    def __init__(self, network: Network, cache: Cache):
        super().__init__(network, cache)
        *self.weights, self.head = columns(network)
        half = network.config.head_dim // 2
        positions = torch.arange(min(cache.positions, network.config.max_position_embeddings))
        cos, sin = (table[0, ..., half:] for table in network.rotary_tables(positions[None]))
        self.rotary_tables = torch.complex(cos, sin)
        self.least = torch.tensor((network.config.hidden_size * network.config.rms_norm_eps) ** 0.5)
        self.where: Where | None = None

    def begin(self, batch: Batch) -> None:
        if isinstance(batch, PackPositions):
            visible = int(batch.sees.max())
            mask = torch.zeros(batch.rows, batch.width, visible).masked_fill_(~batch.mask(visible), -torch.inf)
            self.where = (self.rotary_tables[batch.positions.view(-1)], batch.places, int(batch.slots[0]), -1,
                          visible, None if batch.rows == 1 else batch.slots, mask[:, None])
            return
        slots, ends = batch.slots.tolist(), batch.ends.tolist()
        positions = (batch.starts[:, None] + torch.arange(batch.width)).view(-1)
        visible, mask = max(ends), None
        if min(ends) < visible:
            hidden = torch.arange(visible) >= batch.ends[:, None]
            mask = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)[:, None, None]
        together = slots == list(range(slots[0], slots[0] + len(slots)))
        flat = torch.add(positions, batch.slots.repeat_interleave(batch.width), alpha=self.cache.positions)
        self.where = (self.rotary_tables[positions], flat, slots[0], int(batch.starts[0]), visible,
                      None if together else batch.slots, mask)

    def layer_range(self, first: int, last: int, hidden: Float[Tensor, "Rw D"], batch: Batch,
                    wanted: Int[Tensor, "R n"] | Int[Tensor, " N"] | None = None) -> Tensor:
        if self.where is None:
            raise RuntimeError("begin() comes before the layers")
        anywhere = wanted if wanted is not None and wanted.ndim == 1 else None
        hidden = compiled(run)(hidden, self.weights[first:last + 1], self.cache.keys[first:last + 1],
                               self.cache.values[first:last + 1], batch.rows, self.least,
                               wanted if anywhere is None else None, *self.where)
        return hidden if anywhere is None else pick(hidden, anywhere)

    def plain_cache(self) -> Cache:
        plain = copy(self.cache)
        plain.keys = [keys.unflatten(3, (-1, 2)).transpose(3, 4).flatten(3) for keys in self.cache.keys]
        return plain

    def predict(self, hidden: Tensor, masked: Tensor, threshold: float) -> Tensor:
        tokens, confidence = compiled(read)(hidden, *self.head, self.least)
        return self.unmask(tokens.view(masked.shape), confidence.view(masked.shape), masked, threshold)


def paired(heads: Float[Tensor, "n d ..."]) -> Tensor:
    """Heads (first half, second half) with the elements that rotate together side by side."""
    return heads.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def columns(network: Network) -> list[Weights]:
    """The weights of each layer and of the head, matrices as [in, out], in a network's `prepared`.

    Stored column by column, a product of few rows reads them half as fast again. It is a copy, made anew
    after a parameter was changed in batch.
    """
    versions = tuple((parameter._version, parameter.data_ptr()) for parameter in network.parameters())
    if network.prepared is None or network.prepared[0] != versions:
        config = network.config

        def behind(norm: Tensor, matrix: Tensor) -> Tensor:      # x / |x| @ this is norm(x) @ matrix.T
            return (matrix * norm * config.hidden_size ** 0.5).t().contiguous()

        def turning(rows: Tensor) -> Tensor:                     # rows of queries and keys paired, values as they are
            heads = rows.unflatten(0, (-1, config.head_dim))
            values = len(heads) - config.num_key_value_heads
            return torch.cat([paired(heads[:values]), heads[values:]]).flatten(0, 1)

        layers = [[turning(layer.self_attn.qkv_proj.bias),
                   behind(layer.input_layernorm.weight, turning(layer.self_attn.qkv_proj.weight)),
                   layer.self_attn.o_proj.weight.t().contiguous(),
                   behind(layer.post_attention_layernorm.weight, layer.mlp.gate_up_proj.weight),
                   layer.mlp.down_proj.weight.t().contiguous()]
                  for layer in network.model.layers if isinstance(layer, DecoderLayer)]
        network.prepared = (versions, [*layers, [behind(network.model.norm.weight, network.lm_head.weight)]])
    return network.prepared[1]


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function in TorchScript, once a process (its compiler is not for two threads at a time)."""
    with COMPILING, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(function)


def length(hidden: Tensor, least: Tensor) -> Tensor:
    """What an RMS norm divides hidden [N, D] by, times sqrt(D): [N, 1]; least is sqrt(D * eps), in host memory."""
    return torch.hypot(torch.norm(hidden, 2, [1], True), least)


def run(hidden: Tensor, weights: List[Weights], all_keys: List[Tensor], all_values: List[Tensor], rows: int,
        least: Tensor, wanted: Optional[Tensor], rotary_tables: Tensor, flat: Tensor, slot: int, start: int,
        visible: int, slots: Optional[Tensor], mask: Optional[Tensor]) -> Tensor:
    """Some layers on hidden [R*w, D], the last of them only at `wanted` [R, n] if given: [R*n, D].

    Writes the caches [slots, P, kv_heads, d] at `flat` = slot * P + position. rotary_tables
    [R*w, heads + 2 kv_heads, d/2] are complex, 1 for the values. Rows lie in `slots`, or from `slot` on (a single
    row at `start`, if that is not -1), and see the keys below `visible` where mask [R, 1, 1 or w, visible] is not -inf.
    """
    width, kv, size = hidden.shape[0] // rows, all_keys[0].shape[2], all_keys[0].shape[3]
    packed = rotary_tables.shape[1]
    heads, hidden = packed - 2 * kv, hidden.clone()      # what went in is the caller's
    for index in range(len(weights)):
        bias, qkv, out, gate_up, down = weights[index]
        plain = torch.addcdiv(bias, torch.mm(hidden, qkv), length(hidden, least)).view(-1, packed, size // 2, 2)
        turned = torch.view_as_real(torch.view_as_complex(plain) * rotary_tables).flatten(2)
        query, new_keys, new_values = turned.split_with_sizes([heads, kv, kv], 1)
        keys, values = all_keys[index], all_values[index]
        if rows == 1 and start >= 0:
            keys[slot, start:start + width].copy_(new_keys)
            values[slot, start:start + width].copy_(new_values)
        else:
            keys.view(-1, kv, size).index_copy_(0, flat, new_keys)
            values.view(-1, kv, size).index_copy_(0, flat, new_values)
        if slots is None:
            keys, values = keys[slot:slot + rows, :visible], values[slot:slot + rows, :visible]
        else:
            keys, values = keys[:, :visible].index_select(0, slots), values[:, :visible].index_select(0, slots)
        if wanted is not None and index == len(weights) - 1:
            flat_wanted = (wanted + torch.arange(rows).unsqueeze(1) * width).view(-1)
            query, hidden = query.index_select(0, flat_wanted), hidden.index_select(0, flat_wanted)
            width = wanted.shape[1]
            if mask is not None and mask.shape[2] > 1:
                mask = mask.gather(2, wanted[:, None, :, None].expand(-1, -1, -1, visible))
        mixed = F.scaled_dot_product_attention(query.unflatten(0, (rows, width)).transpose(1, 2), keys.transpose(1, 2),
                                               values.transpose(1, 2), mask, enable_gqa=True)
        hidden.addmm_(mixed.transpose(1, 2).reshape(rows * width, -1), out)
        gate, up = torch.mm(hidden / length(hidden, least), gate_up).chunk(2, 1)
        hidden.addmm_(F.silu(gate).mul_(up), down)
    return hidden


def read(hidden: Tensor, head: Tensor, least: Tensor) -> Tuple[Tensor, Tensor]:
    """Argmax and its probability [N] for hidden [N, D]; nan where a logit is not finite."""
    logits = torch.mm(hidden, head).div_(length(hidden, least))
    top, tokens = logits.max(1, keepdim=True)
    confidence = (logits - top).exp_().sum(1).reciprocal_()
    return tokens, confidence.masked_fill_(~logits.sum(1).isfinite(), float("nan"))
