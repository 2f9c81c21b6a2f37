"""Where the tokens of a forward stand: what a captured graph takes in as data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RowPositions:
    """Where the rows of a forward stand: all tensors on the device. R rows, w positions each."""

    rows: int
    width: int
    slots: Int[Tensor, " R"]
    starts: Int[Tensor, " R"]
    ends: Int[Tensor, " R"]
    shared: bool                    # rows may share a slot (blocks of one prompt in a prefill)


STRETCHES = 4        # of a slot's cache that a token of a pack may see


@dataclass(frozen=True, eq=False)
class PackPositions:
    """Where each token of some packs stands: all tensors on the device, contiguous. R rows, w tokens each."""

    rows: int
    width: int
    slots: Int[Tensor, " R"]
    positions: Int[Tensor, "R w"]       # in the text
    places: Int[Tensor, " Rw"]          # where its keys go: slot * cache length + position in the slot's cache
    sees: Int[Tensor, "R w 4 2"]        # stretches of the slot's cache, the end excluded
    shared: bool                        # rows may share a slot (blocks of one prompt in a prefill)

    def mask(self, visible: int) -> Bool[Tensor, "R w visible"]:
        """Which of the slot's first `visible` cache positions each token sees."""
        keys = torch.arange(visible, device=self.sees.device)
        low, high = self.sees[..., None].unbind(3)
        return ((keys >= low) & (keys < high)).any(2)


Batch = RowPositions | PackPositions
