"""Layers for float32 on a CPU, where most operations cost more to launch than to compute.

So: as few operations as can be, launched from TorchScript, which takes a third of the time that
Python takes, and host decisions where they save work (slices for gathers, a mask only where rows
see different keys).
"""

# TorchScript reads the older spelling of types.
# ruff: noqa: UP006, UP035, UP045

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, List, Optional, Tuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fastdllm.model.cache import Cache
from fastdllm.model.network import DecoderLayer, Network
from fastdllm.model.static import Place, TorchOps

MOST_COPIED = 1 << 30        # bytes of parameters

Weights = List[Tensor]
Where = Tuple[Tensor, Tensor, Tensor, int, int, int, Optional[Tensor], Optional[Tensor]]


class CpuOps(TorchOps):
    """`TorchOps` by stretches of layers."""

    def __init__(self, network: Network, cache: Cache):
        super().__init__(network, cache)
        self.eps = torch.tensor(network.config.rms_norm_eps)
        *self.weights, self.head = columns(network)
        positions, half = torch.arange(cache.positions)[None], network.config.head_dim // 2
        cos, sin = (table[0, ..., half:].contiguous() for table in network.turns(positions))
        self.cos, self.sin = cos.unsqueeze(2), sin
        self.where: Where | None = None

    def begin(self, place: Place) -> None:
        slots, ends = place.slots.tolist(), place.ends.tolist()
        positions = (place.starts[:, None] + torch.arange(place.width)).view(-1)
        visible, mask = max(ends), None
        if min(ends) < visible:
            hidden = torch.arange(visible) >= place.ends[:, None]
            mask = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)[:, None, None]
        together = slots == list(range(slots[0], slots[0] + len(slots)))
        flat = torch.add(positions, place.slots.repeat_interleave(place.width), alpha=self.cache.positions)
        self.where = (self.cos[positions], self.sin[positions], flat, slots[0], int(place.starts[0]), visible,
                      None if together else place.slots, mask)

    def stretch(self, first: int, last: int, hidden: Float[Tensor, "Rw D"], place: Place,
                wanted: Int[Tensor, "R n"] | None = None) -> Tensor:
        if self.where is None:
            raise RuntimeError("begin() comes before the layers")
        return compiled(run)(hidden, self.weights[first:last + 1], self.cache.keys[first:last + 1],
                             self.cache.values[first:last + 1], place.rows, self.eps, wanted, *self.where)

    def predict(self, hidden: Tensor, masked: Tensor, threshold: float) -> Tensor:
        tokens, confidence = compiled(read)(hidden, *self.head, self.eps)
        return self.unmask(tokens.view(masked.shape), confidence.view(masked.shape), masked, threshold)


def columns(network: Network) -> list[Weights]:
    """The weights of each layer and of the head, matrices as [in, out] in a network's `prepared`.

    Stored column by column, a product of few rows reads them half as fast again. That is a copy, so
    networks of over a gigabyte are left as they are. It is made anew after a parameter was changed in place.
    """
    versions = tuple((parameter._version, parameter.data_ptr()) for parameter in network.parameters())
    if network.prepared is None or network.prepared[0] != versions:
        copy = sum(parameter.nbytes for parameter in network.parameters()) < MOST_COPIED
        layers = [[layer.input_layernorm.weight, layer.self_attn.qkv_proj.bias, layer.self_attn.qkv_proj.weight,
                   layer.self_attn.o_proj.weight, layer.post_attention_layernorm.weight,
                   layer.mlp.gate_up_proj.weight, layer.mlp.down_proj.weight]
                  for layer in network.model.layers if isinstance(layer, DecoderLayer)]
        layers.append([network.model.norm.weight, network.lm_head.weight])
        network.prepared = (versions, [[weight if weight.ndim == 1 else weight.t().contiguous() if copy else weight.t()
                                        for weight in layer] for layer in layers])
    return network.prepared[1]


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function in TorchScript, once a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(function)


def norm(hidden: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
    """RMS norm of hidden [N, D]; eps is a tensor of no dimensions, in host memory."""
    scale = torch.add(eps, (hidden * hidden).sum(1, True), alpha=1.0 / hidden.shape[1]).rsqrt_()
    return (hidden * scale).mul_(weight)


def run(hidden: Tensor, weights: List[Weights], all_keys: List[Tensor], all_values: List[Tensor], rows: int,
        eps: Tensor, wanted: Optional[Tensor], cos: Tensor, sin: Tensor, flat: Tensor, slot: int, start: int,
        visible: int, slots: Optional[Tensor], mask: Optional[Tensor]) -> Tensor:
    """Some layers on hidden [R*w, D], the last of them only at `wanted` [R, n] if given: [R*n, D].

    Writes the caches [slots, P, kv_heads, d] at `flat` = slot * P + position. cos [R*w, heads + 2 kv_heads, 1, d/2]
    and sin, without the 1, are 1 and 0 for the values. Rows lie in `slots`, or from `slot` on (a single row at
    `start`), and see the keys below `visible` where mask [R, 1, 1, visible] is not -inf.
    """
    width, kv, size = hidden.shape[0] // rows, all_keys[0].shape[2], all_keys[0].shape[3]
    packed, half = cos.shape[1], size // 2
    heads, groups = packed - 2 * kv, packed // kv - 2
    for index in range(len(weights)):
        before, bias, qkv, out, after, gate_up, down = weights[index]
        plain = torch.mm(norm(hidden, before, eps), qkv).add_(bias).view(-1, packed, 2, half)
        first, second = plain.unbind(2)
        turned = plain * cos
        turned_first, turned_second = turned.unbind(2)
        turned_first.addcmul_(second, sin, value=-1.0)
        turned_second.addcmul_(first, sin)
        turned = turned.view(-1, packed, size)
        query, new_keys, new_values = turned.split_with_sizes([heads, kv, kv], 1)
        keys, values = all_keys[index], all_values[index]
        if rows == 1:
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
        query = (query.view(rows, width, kv, groups, size).permute(0, 2, 3, 1, 4)
                 .reshape(rows, kv, groups * width, size))
        mixed = F.scaled_dot_product_attention(query, keys.transpose(1, 2), values.transpose(1, 2), mask)
        mixed = mixed.view(rows, kv, groups, width, size).permute(0, 3, 1, 2, 4).reshape(rows * width, -1)
        hidden = torch.mm(mixed, out).add_(hidden)
        gate, up = torch.mm(norm(hidden, after, eps), gate_up).chunk(2, 1)
        hidden = torch.mm(F.silu(gate).mul_(up), down).add_(hidden)
    return hidden


def read(hidden: Tensor, weight: Tensor, head: Tensor, eps: Tensor) -> Tuple[Tensor, Tensor]:
    """Argmax and its probability [N] for hidden [N, D]; nan where a logit is not finite."""
    logits = torch.mm(norm(hidden, weight, eps), head)
    top, tokens = logits.max(1, keepdim=True)
    confidence = (logits - top).exp_().sum(1).reciprocal_()
    return tokens.float(), confidence.masked_fill_(~logits.sum(1).isfinite(), float("nan"))
