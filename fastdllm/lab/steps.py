"""The steps file: what `denoise` yielded, as a table. With the trace it is all that the player needs.

`steps.parquet` lies beside `trace.parquet`. Its metadata hold what the numbers mean (prompt ids, token
texts, mask and stop ids, settings, results), so that a run can be looked at without its model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fastdllm.decode.loop import resolve
from fastdllm.decode.revisions import Revision
from fastdllm.decode.step import KINDS, RowResult, Step
from fastdllm.model.lm import LM
from fastdllm.settings import Decoding, Reuse

STEPS = "steps.parquet"
NFE = (*KINDS, "replay")
COLUMNS = ("row", "forward", "block", "small_block", "step", "kind", "start", "tokens", "unmasked", "confidence",
           *(f"nfe_{kind}" for kind in NFE))
KEY = b"fastdllm"


def frame(steps: Iterable[Step]) -> pd.DataFrame:
    """One line per forward of each row: `forward` is its index in the row, as in the trace; nfe_* so far.

    tokens, unmasked and confidence are lists of the block's size.
    """
    count: dict[int, int] = {}
    lines = []
    for step in steps:
        forward = count.get(step.row, 0)
        count[step.row] = forward + 1
        lines.append((step.row, forward, step.block, step.small_block, step.step, step.kind, step.start,
                      list(step.tokens), list(step.unmasked), list(step.confidence),
                      *(step.nfe.get(kind, 0) for kind in NFE)))
    return pd.DataFrame(lines, columns=list(COLUMNS)).astype({"small_block": "Int64", "step": "Int64"})


def meta(lm: LM, prompts: Mapping[int, Sequence[int]], steps: Sequence[Step], decoding: Decoding, reuse: Reuse,
         revision: str | Revision, results: Mapping[int, RowResult]) -> dict[str, Any]:
    """What the numbers of a steps table mean, as plain JSON values. `results` may lack unfinished rows."""
    rules = resolve(lm, decoding, reuse, revision)
    used = {token for ids in prompts.values() for token in ids} | {rules.mask_id}
    used |= {token for step in steps for token in step.tokens}
    used |= {token for result in results.values() for token in result.tokens}
    return {
        "model": lm.name, "layers": lm.config.num_hidden_layers, "block": rules.block, "small": rules.small,
        "mask_id": rules.mask_id, "stop_ids": sorted(rules.stop_ids), "max_new_tokens": decoding.max_new_tokens,
        "decoding": decoding.model_dump(mode="json"), "reuse": reuse.model_dump(mode="json"),
        "revision": revision if isinstance(revision, str) else revision.name,
        "prompts": {str(row): list(map(int, ids)) for row, ids in prompts.items()},
        "pieces": {str(token): piece(lm, token) for token in sorted(used)},
        "results": {str(row): {"tokens": result.tokens, "text": result.text, "finish": result.finish,
                               "seconds": result.seconds, "nfe": result.nfe, "decisions": result.decisions}
                    for row, result in results.items()},
    }


def piece(lm: LM, token: int) -> str:
    """One token as text, special tokens included; its id where there is no tokenizer."""
    return str(token) if lm.tokenizer is None else str(lm.tokenizer.decode([token], skip_special_tokens=False))


def write(path: Path, table: pd.DataFrame, about: dict[str, Any]) -> None:
    """Write a steps table and its meaning as one Parquet file (by way of a temporary file)."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    table_ = pa.Table.from_pandas(table, preserve_index=False)
    known = table_.schema.metadata or {}
    part = path.with_name(path.name + ".part")
    pq.write_table(table_.replace_schema_metadata({**known, KEY: json.dumps(about).encode()}), part)
    part.replace(path)


def read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A steps table and its meaning. Raises ValueError for a Parquet file that `write` did not write."""
    import pyarrow.parquet as pq
    table = pq.read_table(path)
    if KEY not in (table.schema.metadata or {}):
        raise ValueError(f"{path}: not a steps file; allowed: a {STEPS} that a run wrote")
    steps = table.to_pandas()
    return steps.astype({"small_block": "Int64", "step": "Int64"}), json.loads(table.schema.metadata[KEY])
