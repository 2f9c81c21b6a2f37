"""Our network behind the interface that published generation files expect of their model.

`batch_sample(self, input_ids, tokenizer, ...)` calls `self.forward(...)` with `past_key_values`,
`update_past_key_values`, `use_block_cache`, `block_past_key_values` and `replace_position`, patches
`self.model.layers[i].forward`, samples with `self.sample_with_top_p` and trims `key_cache` and
`value_cache` of the past when rows leave the batch. All of it works here; semantics from docs/decoding.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastdllm.decode.sampling import sample
from fastdllm.model.cache import Cache, Context
from fastdllm.model.errors import MissingBlockCache, NothingUnmasked
from fastdllm.model.network import DecoderLayer, Network

MOST_REPEATS = 8      # forwards on the same tokens that a file may run, for looking at something


@dataclass
class Past:
    """Keys and values by layer, each [R, kv_heads, length, head_dim], in the published layout."""

    key_cache: list[Tensor] = field(default_factory=list)
    value_cache: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.key_cache)

    def __getitem__(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.key_cache[layer], self.value_cache[layer]

    def get_seq_length(self, layer: int = 0) -> int:
        """Positions held."""
        return self.key_cache[layer].shape[2] if self.key_cache else 0


@dataclass
class BlockCache:
    """Keys and values of the block by layer; a layer that was skipped while it was built has no entry."""

    entries: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.entries[layer]


@dataclass
class Outputs:
    """What the published `forward` returns."""

    logits: Tensor                                # [R, w, vocab] float32
    past_key_values: Past | None
    block_past_key_values: BlockCache | None


class OneForward(Cache):
    """The cache as the network's attention sees it during one forward over a Past and perhaps a BlockCache."""

    def __init__(self, past: Past | None, block: BlockCache | None, offset: int | None, append: Past | None,
                 layers: int, rows: int, positions: int):
        self.past, self.block, self.offset, self.append = past, block, offset, append
        self.now: dict[int, tuple[Tensor, Tensor]] = {}
        self.missing = [set(range(rows)) if offset is not None and block is not None and layer not in block.entries
                        else set() for layer in range(layers)]
        self.positions = positions

    def write(self, layer: int, context: Context, keys: Tensor, values: Tensor) -> None:
        """keys and values [R, w, kv_heads, head_dim]: appended, or written into the block cache in place."""
        new = keys.transpose(1, 2), values.transpose(1, 2)
        if self.offset is not None and self.block is not None:
            if layer not in self.block.entries:
                raise MissingBlockCache(f"layer {layer} has no block-cache entry: it was skipped in the full forward "
                                        "that built the block cache, and a small forward now needs it")
            for held, part in zip(self.block.entries[layer], new, strict=True):
                held[:, :, self.offset:self.offset + part.shape[2]] = part
            new = self.block.entries[layer]
        elif self.block is not None:
            self.block.entries[layer] = tuple(part.clone() for part in new)     # pyright: ignore
        self.now[layer] = new
        if self.append is not None:
            while len(self.append.key_cache) <= layer:
                self.append.key_cache.append(keys.new_empty(keys.shape[0], keys.shape[2], 0, keys.shape[3]))
                self.append.value_cache.append(values.new_empty(keys.shape[0], keys.shape[2], 0, keys.shape[3]))
            self.append.key_cache[layer] = torch.cat([self.append.key_cache[layer], new[0]], 2)
            self.append.value_cache[layer] = torch.cat([self.append.value_cache[layer], new[1]], 2)

    def read(self, layer: int, context: Context) -> tuple[Tensor, Tensor]:
        """Past and present, each [R, L, kv_heads, head_dim]; nan for a layer that holds nothing (see the probe)."""
        held = self.append or self.past
        if held is not None and self.append is not None:
            parts = held[layer]
        else:
            empty = self.block.entries.get(layer) if self.block is not None else None
            now = self.now.get(layer) or empty
            if now is None:
                now = tuple(torch.full_like(part, torch.nan) for part in next(iter(self.now.values())))
            before = [] if held is None or not len(held) else [held[layer]]
            parts = tuple(torch.cat([*(b[i] for b in before), now[i]], 2) for i in (0, 1))
        return parts[0].transpose(1, 2), parts[1].transpose(1, 2)


class PublishedLayer(nn.Module):
    """A decoder layer with the published call: keyword arguments in, a tuple out."""

    def __init__(self, layer: DecoderLayer):
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: Tensor, *, context: Context, cache: Cache, computed: list[Tensor],
                **_: Any) -> tuple[Tensor]:
        """The layer on hidden states [R, w, hidden_size]; what it computes is also put into `computed`."""
        computed.append(self.layer(hidden_states.contiguous(), context, cache))
        return (computed[-1],)


class PublishedDecoder(nn.Module):
    """`self.model` of the published model: its layers stand in `layers`."""

    def __init__(self, network: Network):
        super().__init__()
        self.embed_tokens, self.norm = network.model.embed_tokens, network.model.norm
        self.layers = nn.ModuleList(PublishedLayer(layer) for layer in network.model.layers)    # pyright: ignore


class PublishedModel(nn.Module):
    """Our network as a published generation file sees it.

    `on_forward(kind, rows)` is told of every forward, and `on_layer(index, output, computed)` of what goes on behind
    every layer and what the layer computed (None: it did not run), both [R, w, hidden_size]. What is sampled is drawn
    from `generator`, which is on the network's device (None: torch's global one).
    """

    def __init__(self, network: Network, on_forward: Callable[[str, int], None] | None = None,
                 generator: torch.Generator | None = None,
                 on_layer: Callable[[int, Tensor, Tensor | None], None] | None = None):
        super().__init__()
        self.network, self.on_forward, self.on_layer, self.config = network, on_forward, on_layer, network.config
        self.generator = generator
        self.repeated: dict[tuple[str, int], tuple[list[list[int]], int]] = {}      # see `_goes_on`
        self.model = PublishedDecoder(network)

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    @torch.inference_mode()
    def forward(self, input_ids: Tensor, use_cache: bool = True, past_key_values: Past | None = None,
                update_past_key_values: bool = False, use_block_cache: bool = False,
                block_past_key_values: BlockCache | None = None, replace_position: int | None = None,
                block_size: int | None = None) -> Outputs:
        """One forward of all rows. input_ids [R, w]; all rows have the same past.

        Raises ValueError for another block size than the checkpoint's, MissingBlockCache where the
        published code dies with a NoneType error, NothingUnmasked where it would go on for ever.
        """
        size = self.config.bd_size
        if block_size not in (None, size):
            raise ValueError(f"block_size={block_size}; allowed: {size}, the checkpoint's bd_size")
        rows, width = input_ids.shape
        small = block_past_key_values is not None
        before = past_key_values.get_seq_length() if past_key_values is not None else 0
        offset = (replace_position or 0) if small else None
        start = before + (offset or 0)
        end = before + (size if small else width)
        kind = "small" if small else "full"
        if update_past_key_values:
            kind = "commit" if width == size and before else "prefill"
        self._goes_on(kind, start, input_ids)
        if self.on_forward is not None:
            self.on_forward(kind, rows)
        past = past_key_values if past_key_values is not None else Past() if update_past_key_values else None
        block = block_past_key_values if small else BlockCache() if use_block_cache else None
        cache = OneForward(past, block, offset, past if update_past_key_values else None, len(self.model.layers), rows,
                           self.config.max_position_embeddings)
        context = self.network.context(cache, kind, tuple(range(rows)), [start] * rows, width, [end] * rows,
                                       (offset,) * rows)

        def run_layer(index: int, _layer: nn.Module, hidden: Tensor, context: Context, cache: Cache) -> Tensor:
            """The published layer around ours, whose `forward` the file may have patched."""
            computed: list[Tensor] = []
            output = self.model.layers[index](
                hidden, attention_mask=context.mask, position_ids=context.positions, past_key_value=past,
                use_cache=use_cache, update_past_key_values=update_past_key_values, use_block_cache=use_block_cache,
                block_past_key_values=block, replace_position=replace_position, context=context, cache=cache,
                computed=computed)
            output = output[0] if isinstance(output, tuple) else output
            if self.on_layer is not None:
                self.on_layer(index, output, computed[-1] if computed else None)
            return output

        return Outputs(self.network.logits(self.network(input_ids, context, cache, run_layer)), past, block)

    def _goes_on(self, kind: str, start: int, input_ids: Tensor) -> None:
        """Every denoising step of a loop must unmask something, or it never ends."""
        if kind in ("prefill", "commit"):
            self.repeated.clear()
            return
        tokens = input_ids.tolist()
        before, count = self.repeated.get((kind, start), ([], 0))
        count = count + 1 if tokens == before else 1
        self.repeated[kind, start] = tokens, count
        if count > MOST_REPEATS:
            raise NothingUnmasked(f"rows 0 to {len(tokens) - 1}, block {start // self.config.bd_size}: {count} {kind} "
                                  f"forwards on the same tokens from position {start} on: its steps unmask nothing, as "
                                  "when the mask token itself is predicted; allowed: a loop whose steps unmask a token")

    def sample_with_top_p(self, logits: Tensor, top_p: float = 0.95, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Tokens [R, n] and the distribution [R, n, vocab] they come from.

        At temperature > 0 every row is drawn from its own distribution (the published function draws all
        rows from row 0's).
        """
        if temperature == 0:
            probability = torch.softmax(logits, -1)
            return probability.argmax(-1), probability
        generators: list[Any] = [self.generator] * len(logits)      # torch takes None as well
        tokens, confidence = sample(logits, temperature, top_p, generators)
        probability = torch.zeros_like(logits).scatter_(-1, tokens[..., None], confidence[..., None])
        return tokens, probability
