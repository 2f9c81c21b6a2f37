"""What a pass of policy `verify` costs by the tokens that it carries, as measured on a GPU (benchmarks/bench_verify.py,
`fastdllm/data/verify.jsonl`), and from that the time of a run's passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np

from fastdllm import prior_results
from fastdllm.lab import atomic
from fastdllm.lab.records.record import Record

PATH = prior_results.DATA / "verify.jsonl"
SHAPE = "random-7b"
SMALL, BLOCK = 8, 32                      # widths of the states that were measured
WIDTH = {"small": SMALL, "small behind full": SMALL, "full": BLOCK, "commit": BLOCK, "next block": BLOCK,
         "first block": BLOCK}


@cache      # each verify row of a grid asks again
def milliseconds(executor: str, path: Path = PATH) -> Mapping[int, float]:
    """Milliseconds of a pass at the 7B's shape by the tokens that it carries, of "verify" or of "k=1" (plain forwards).
    Where states of several kinds have one width, the slower one.
    """
    times: dict[int, float] = {}
    for line in atomic.json_lines(path):
        if line["part"] == "rows" and line["model"] == SHAPE and line["executor"] == executor:
            times[line["width"]] = max(line["ms"], times.get(line["width"], 0.0))
    return MappingProxyType(dict(sorted(times.items())))


def relative_time(record: Record) -> float:
    """Time of a verify run's passes over that of its NFE without drafts, both at the measured times (prefills aside).

    A record knows how many states of which kind ran, not in which pass: every pass is taken to carry the mean. Time
    grows ever slower with the tokens, so that this is at least the time of passes of unequal widths. NaN for other
    blocks than those measured, 1 for a record without drafts.
    """
    decoding = record.parameters.decoding
    if record.forwards_run is None or not record.drafts:
        return 1.0
    if decoding.small_block != SMALL or decoding.block_size not in (None, BLOCK):
        return float("nan")
    small = record.nfe.get("small", 0)
    wide = record.nfe.get("full", 0) + record.nfe.get("commit", 0)
    # an accepted draft is one of these forwards, so what is carried besides them are the rejected ones; but the first
    # block's beside a prefill is carried by none of these passes
    aside = sum(draft.accepted for draft in record.drafts if draft.kind == "first block")
    carried = SMALL * small + BLOCK * (wide - aside) + sum((draft.offered - draft.accepted) * WIDTH[draft.kind]
                                                           for draft in record.drafts)
    passes = record.forwards_run - record.nfe.get("prefill", 0)
    plain, packed = milliseconds("k=1"), milliseconds("verify")
    one = float(np.interp(carried / passes, list(packed), list(packed.values())))
    return passes * one / (small * plain[SMALL] + wide * plain[BLOCK])
