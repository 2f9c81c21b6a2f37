"""Keys and values of every row, in one buffer that holds the prefix and the current block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fastdllm.model.config import ModelConfig
from fastdllm.model.errors import MissingBlockCache


@dataclass(frozen=True, eq=False)
class Context:
    """What a layer must know besides its input. R rows, w positions each, L visible keys.

    A full forward computes all positions of the block, a small forward those of one small block, a
    commit those of the clean block, a prefill those of whole prompt blocks: to the layer they differ
    only in `positions`, in what may be seen and in which block-cache entries must exist already.
    """

    kind: str                                  # prefill, full, small or commit
    slots: tuple[int, ...]                     # R cache rows
    slot_index: Tensor                         # [R] the same on the device
    positions: Tensor                          # [R, w] absolute
    flat: Tensor                               # [R*w] slot * cache length + position
    cos: Tensor                                # [R, w, heads + 2 kv_heads, head_dim], 1 for the values
    sin: Tensor                                # the same, first half negated, 0 for the values
    visible: int                               # L
    mask: Tensor | None                        # [R, 1, 1 or w, L] True where a key may be seen
    replace_position: tuple[int | None, ...]   # per row: offset of the small block, None if not a small forward

    def at(self, rows: list[int], columns: Tensor, cache_length: int) -> Context:
        """The context of a part: rows by index, `columns` [len(rows), n] of the w positions."""
        index = torch.tensor(rows, device=self.positions.device)
        slots = self.slot_index[index]
        positions = self.positions[index].gather(1, columns)
        wide = columns[:, :, None, None].expand(-1, -1, *self.cos.shape[2:])
        mask = self.mask
        if mask is not None and mask.shape[0] > 1:
            mask = mask[index]
        return Context(kind=self.kind, slots=tuple(self.slots[i] for i in rows), slot_index=slots,
                       positions=positions, flat=(slots[:, None] * cache_length + positions).reshape(-1),
                       cos=self.cos[index].gather(1, wide), sin=self.sin[index].gather(1, wide),
                       visible=self.visible, mask=mask,
                       replace_position=tuple(self.replace_position[i] for i in rows))


class Cache:
    """Preallocated keys and values, [slots, positions, kv_heads, head_dim] per layer.

    Positions are absolute, so the block cache is simply the stretch behind the prefix: a full
    forward writes it, a small forward overwrites a part in place (upstream's `replace_position`),
    a commit overwrites all of it with the clean block, which then counts as prefix. `missing[layer]`
    holds the slots whose block entry has not been written since the block's last full forward began.
    """

    def __init__(self, config: ModelConfig, slots: int, positions: int, device: torch.device, dtype: torch.dtype):
        self.slots, self.positions = slots, positions
        shape = (slots, positions, config.num_key_value_heads, config.head_dim)
        try:
            self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.num_hidden_layers)]
            self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.num_hidden_layers)]
        except torch.OutOfMemoryError as error:
            each = self.bytes_per_row(config, positions, dtype)
            free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
            raise MemoryError(f"batch_size={slots}: the caches need {slots * each / 1e9:.1f} GB; "
                              f"allowed: at most {max(0, free // each)} rows of {positions} positions") from error
        self.missing: list[set[int]] = [set() for _ in range(config.num_hidden_layers)]

    @staticmethod
    def bytes_per_row(config: ModelConfig, positions: int, dtype: torch.dtype) -> int:
        """Bytes of one row: keys and values of all layers."""
        return (2 * config.num_hidden_layers * positions * config.num_key_value_heads * config.head_dim
                * dtype.itemsize)

    def begin_block_cache(self, slots: tuple[int, ...]) -> None:
        """A full forward rebuilds the block cache: until a layer writes its entry, it has none."""
        for missing in self.missing:
            missing.update(slots)

    def write(self, layer: int, context: Context, keys: Tensor, values: Tensor) -> None:
        """Store keys and values, both [R, w, kv_heads, head_dim], at the context's positions.

        Raises MissingBlockCache if a small forward finds that this layer was skipped when the block
        cache was built (revision 6d2a9a8 runs into this; upstream dies with a NoneType error).
        """
        missing = self.missing[layer]
        if missing:
            if context.kind == "small" and not missing.isdisjoint(context.slots):
                raise MissingBlockCache(
                    f"layer {layer} has no block-cache entry: it was skipped in the full forward that built the "
                    f"block cache, and a small forward at replace_position {context.replace_position} now needs it")
            missing.difference_update(context.slots)
        shape = (self.slots * self.positions, *keys.shape[2:])
        self.keys[layer].view(shape).index_copy_(0, context.flat, keys.reshape(-1, *keys.shape[2:]))
        self.values[layer].view(shape).index_copy_(0, context.flat, values.reshape(-1, *values.shape[2:]))

    def read(self, layer: int, context: Context) -> tuple[Tensor, Tensor]:
        """Visible keys and values, each [R, L, kv_heads, head_dim]; a view where the rows lie together."""
        keys, values = self.keys[layer], self.values[layer]
        first, rows = context.slots[0], len(context.slots)
        if context.slots[-1] - first == rows - 1:      # slots ascend
            keys, values = keys[first:first + rows], values[first:first + rows]
        else:
            keys, values = keys.index_select(0, context.slot_index), values.index_select(0, context.slot_index)
        return keys[:, :context.visible], values[:, :context.visible]

    @contextmanager
    def preserved(self, layer: int, context: Context) -> Iterator[None]:
        """Undo what a forward of this layer writes: for looking at what it would have computed."""
        shape = (self.slots * self.positions, *self.keys[layer].shape[2:])
        flat = [buffer[layer].view(shape) for buffer in (self.keys, self.values)]
        before, missing = [buffer[context.flat].clone() for buffer in flat], set(self.missing[layer])
        try:
            yield
        finally:
            for buffer, values in zip(flat, before, strict=True):
                buffer[context.flat] = values
            self.missing[layer] = missing
