"""Forward and loss over packed rows: FlexAttention on a GPU, a dense mask elsewhere (it has no backward there)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from fastdllm.model.network import rotate
from fastdllm.train.delta.adapter import FINAL_NORM, Adapter
from fastdllm.train.delta.packing import LIST_BLOCK, PackedBatch

VIEW_BITS = 2          # copies 0, 1, 2 beside the document's number in one code
LOGIT_ROWS = 8192      # logits made at once: the head is the largest tensor of a step


class PackedForward:
    """The network under an adapter, over packed rows. `compile_layer`: FlexAttention and one compiled layer."""

    def __init__(self, adapter: Adapter, compile_layer: bool) -> None:
        self.adapter, self.flex = adapter, compile_layer
        self.device = adapter.network.device
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        attention = adapter.layers()[0].self_attn
        self.heads, self.eps = attention.split, adapter.network.config.rms_norm_eps
        self.run: Callable[..., Tensor] = torch.compile(layer, dynamic=False) if compile_layer else layer
        self.tables = tuple(table.to(self.dtype) for table in (adapter.network.cos, adapter.network.sin))

    def __call__(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Weighted mean cross-entropy in nats, and the share of full-weight targets that the argmax hits."""
        learned = np.flatnonzero(batch.weights)   # found here: asking the GPU would make it wait
        put = {name: torch.from_numpy(value).to(self.device, non_blocking=True)
               for name, value in (vars(batch) | {"learned": learned}).items() if name != "examples"}
        embedding = self.adapter.embedding(self.dtype)
        hidden = self.hidden(put, embedding)
        hidden, targets, weights = (part.flatten(0, 1).index_select(0, put["learned"])
                                    for part in (hidden, put["targets"].long(), put["weights"]))
        norm = self.adapter.parameters[FINAL_NORM]
        hidden = F.rms_norm(hidden.float(), norm.shape, norm, self.eps).to(self.dtype)
        head = self.adapter.head(embedding)
        loss, hits, full = weights.new_zeros(()), weights.new_zeros(()), weights == 1
        for part in zip(*(each.split(LOGIT_ROWS) for each in (hidden, targets, weights, full)), strict=True):
            states, wanted, weight, counted = part
            logits = F.linear(states, head).float()
            loss = loss + (F.cross_entropy(logits, wanted, reduction="none") * weight).sum()
            hits = hits + ((logits.detach().argmax(-1) == wanted) & counted).sum()
        return loss / weights.sum(), hits / full.sum()

    def hidden(self, put: dict[str, Tensor], embedding: Tensor) -> Float[Tensor, "n S hidden"]:
        """Hidden states behind the last layer."""
        mask = self.mask(put)
        cos, sin = (table[put["positions"].long()][:, :, None] for table in self.tables)
        hidden = F.embedding(put["tokens"].long(), embedding)
        for index in range(self.adapter.network.config.num_hidden_layers):
            hidden = self.run(hidden, cos, sin, mask, self.heads, self.eps, *self.adapter.layer(index, self.dtype))
        return hidden

    def mask(self, put: dict[str, Tensor]) -> BlockMask | Tensor:
        """Who sees whom: documents apart, clean copies block-causal, views their own block and earlier clean ones."""
        block, code = put["blocks"], (put["documents"] << VIEW_BITS) | put["copies"]

        def sees(row: Any, head: Any, query: Any, key: Any) -> Any:
            asking, seen = code[row, query], code[row, key]
            here, there = block[row, query], block[row, key]
            copy, other = asking & 3, seen & 3
            clean = (other == 0) & ((there < here) | ((there == here) & (copy == 0)))
            return ((asking >> VIEW_BITS) == (seen >> VIEW_BITS)) & (
                clean | ((other > 0) & (other == copy) & (there == here)))
        if self.flex:
            return BlockMask.from_kv_blocks(put["list_sizes"][:, None], put["lists"][:, None], BLOCK_SIZE=LIST_BLOCK,
                                            mask_mod=sees)
        positions = torch.arange(code.shape[1], device=code.device)
        return torch.stack([sees(row, 0, positions[:, None], positions[None]) for row in range(len(code))])[:, None]


def layer(hidden: Tensor, cos: Tensor, sin: Tensor, mask: Any, split: tuple[int, int, int], eps: float,
          first: Tensor, qkv: Tensor, bias: Tensor, out: Tensor, second: Tensor, gate_up: Tensor,
          down: Tensor) -> Tensor:
    """One layer over packed rows: hidden [n, S, hidden]; cos, sin [n, S, 1, d]; norms in float32."""
    rows, length, _ = hidden.shape
    heads, kv_heads, _ = split
    inner = F.rms_norm(hidden.float(), first.shape, first, eps).to(qkv.dtype)
    packed = F.linear(inner, qkv, bias).view(rows, length, sum(split), -1)
    turned = rotate(packed[:, :, :heads + kv_heads], cos, sin)
    groups = heads // kv_heads
    query = turned[:, :, :heads].transpose(1, 2).contiguous()
    key, value = (part.repeat_interleave(groups, 2).transpose(1, 2).contiguous()
                  for part in (turned[:, :, heads:], packed[:, :, heads + kv_heads:]))
    if isinstance(mask, Tensor):
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    else:
        mixed = flex_attention(query, key, value, block_mask=mask)
    hidden = hidden + F.linear(mixed.transpose(1, 2).reshape(rows, length, -1), out)  # pyright: ignore
    inner = F.rms_norm(hidden.float(), second.shape, second, eps).to(gate_up.dtype)
    gate, up = F.linear(inner, gate_up).chunk(2, -1)
    return hidden + F.linear(F.silu(gate) * up, down)
