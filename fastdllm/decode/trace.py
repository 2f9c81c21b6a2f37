"""The trace: one row per forward and layer that the policy acts in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from torch import Tensor

from fastdllm.decode.step import Forward
from fastdllm.decode.store import Source, changed

COLUMNS = ("row", "forward", "block", "small_block", "step", "kind", "layer", "decision", "reason", "input_shape",
           "cache_shape", "served_kind", "served_block", "served_small_block", "served_step", "served_forward",
           "replace_position", "slice_start", "slice_stop", "changed", "distance")
WHOLE = ("small_block", "step", "served_block", "served_small_block", "served_step", "served_forward",
         "replace_position", "slice_start", "slice_stop", "changed")


@dataclass
class Trace:
    """Collects what the policy did, layer by layer; `distance=True` also computes what a reused layer would have said.

    `served_*` tell in which forward the served entry was filled, `changed` how many of the served
    positions hold another token since then, `distance` is |served - fresh| / |fresh|.
    """

    distance: bool = False
    rows: list[tuple[object, ...]] = field(default_factory=list)

    def add(self, forward: Forward, layer: int, decision: str, reason: str, hidden: Tensor,
            source: Source | None, start: int, distance: float) -> None:
        """Log one layer call of one row; `source` and `start` count for reused entries only."""
        shape = f"1x{hidden.shape[1]}x{hidden.shape[2]}"
        head = (forward.row, forward.index, forward.block, forward.small_block, forward.step, forward.kind, layer,
                decision, reason, shape)
        if decision != "reuse" or source is None:
            self.rows.append((*head, None, None, None, None, None, None, forward.replace_position, None, None, None,
                              distance))
            return
        self.rows.append((*head, f"1x{source.width}x{hidden.shape[2]}", source.kind, source.block,
                          source.small_block, source.step, source.forward, forward.replace_position, start,
                          start + forward.width, len(changed(source, forward, start)), distance))

    def frame(self) -> pd.DataFrame:
        """The trace as a table; whole numbers that may be missing are nullable integers."""
        frame = pd.DataFrame(self.rows, columns=list(COLUMNS))
        return frame.astype(dict.fromkeys(WHOLE, "Int64")).astype({"distance": "float64"})

    def write(self, path: str | Path) -> None:
        """Write the table as Parquet."""
        self.frame().to_parquet(path, index=False)
