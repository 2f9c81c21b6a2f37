"""The golden checkpoint's cases: what the published loops gave on it (golden/README.md), in our settings."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

from fastdllm import Decoding

GOLDEN = Path(__file__).parent / "golden"
DATA = json.loads((GOLDEN / "golden.json").read_text())
# What the cases call their loops, and the revision that is the same code.
VARIANTS = {"upstream": "upstream", "run2": "26d6179", "run1C": "6c8822f", "old": "8e18baac",
            "two_tier": "26d6179+cache_source=full"}


def rows(case: dict[str, Any]) -> list[list[int]]:
    """The prompts of a case."""
    return DATA["prompts"][case["prompt"]]["rows"]


def covering(cases: list[dict[str, Any]], *names: str, together: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """A few of the cases: any two values, of two names or of a name and the number of rows, that some case has are
    together in one of these, and so are all values of the names `together`."""
    def sets(case: dict[str, Any]) -> set[tuple[str, ...]]:
        pairs = combinations([f"{name}={case[name]}" for name in names] + [f"rows={len(rows(case))}"], 2)
        return {*pairs, tuple(f"{name}={case[name]}" for name in together)}
    missing, chosen = set().union(*map(sets, cases)), []
    while missing:
        best = max(cases, key=lambda case: (len(sets(case) & missing), -len(rows(case))))
        chosen.append(best)
        missing -= sets(best)
    return chosen


def decoding(case: dict[str, Any]) -> Decoding:
    """The settings of a case; the stop token 9999 is outside the vocabulary: it never stops."""
    stop = case["stop_token"]
    return Decoding(threshold=case["threshold"], max_new_tokens=case["max_new_tokens"], mask_id=511,
                    small_block=case["small_block_size"], block_cache=case["use_block_cache"],
                    stop_ids=() if stop == 9999 else (stop,))
