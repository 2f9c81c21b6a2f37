"""Subset invariance: whether output reuse depends on which layers are reused, on what notebook 06 measured."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fastdllm.display.claim import Decision, Judged, claim, verdict


def pooled(pairs: pd.DataFrame, kind: str) -> dict[str, int]:
    """Decodes compared and alike over the rows of one kind of `inspection.subset_pairs`."""
    rows = pairs[pairs.kind == kind]
    return {"same": int(rows.same.sum()), "n": int(rows.n.sum()), "differ": int(rows.n.sum() - rows.same.sum())}


@claim(holds="**The subset does not matter: all {n} comparisons of two different contiguous subsets give the same "
             "tokens.**",
       fails="**The subset matters: in {differ} of {n} comparisons of two different contiguous subsets the tokens "
             "differ.**",
       unknown="**Can't be told: no two contiguous subsets were compared.**")
def subsets_agree(pairs: pd.DataFrame) -> Decision:
    """pairs: `inspection.subset_pairs`."""
    counts = pooled(pairs, "contiguous subsets")
    return (counts["differ"] == 0 if counts["n"] else None), counts


@claim(holds="On {n} reuse steps the logits are bit for bit those of the step that was served.",
       fails="On {n} reuse steps the logits differ from those of the step that was served by up to {gap:.2g} (largest "
             "logit {size:.0f}).",
       unknown="The logits of reuse steps can't be told: none was seen.")
def logits_are_old(logits: pd.DataFrame) -> Decision:
    """logits: `inspection.reuse_logits` with kind; the first position of a small block is left out (see there)."""
    rows = logits[logits.kind == "contiguous subsets"] if len(logits) else logits
    if rows.empty:
        return None, {}
    return rows.gap.max() == 0, {"n": len(rows), "gap": rows.gap.max(), "size": rows["size"].max()}


@claim(holds="`replay`, which skips the whole forward, gives the same tokens in all {n} decodes: the layers that still "
             "run under `output` buy nothing.",
       fails="`replay`, which skips the whole forward, gives other tokens in {differ} of {n} decodes.",
       unknown="`replay` was not compared.")
def replay_is_equivalent(pairs: pd.DataFrame) -> Decision:
    """pairs: `inspection.subset_pairs`."""
    counts = pooled(pairs, "replay")
    return (counts["differ"] == 0 if counts["n"] else None), counts


@claim(holds="With `residual` the subset does matter: {differ} of {n} comparisons of two subsets differ.",
       fails="With `residual` no comparison of two subsets differs either (0 of {n}), though it may.",
       unknown="`residual` was not compared over the subsets.")
def residual_depends_on_the_subset(pairs: pd.DataFrame) -> Decision:
    """pairs: `inspection.subset_pairs`."""
    counts = pooled(pairs, "residual")
    return (counts["differ"] > 0 if counts["n"] else None), counts


def invariance(pairs: pd.DataFrame, logits: pd.DataFrame, real: Sequence[Judged] = ()) -> str:
    """pairs: tokens compared in pairs of configurations; logits: those of reuse steps against the served ones; real:
    what the real model's records say.
    """
    lines = "\n".join(f"- k={row.k}: {row.a} and {row.b}: {row.same} of {row.n} decodes alike"
                      for row in pairs.itertuples())
    return verdict(
        [*real[:1], subsets_agree(pairs), logits_are_old(logits), replay_is_equivalent(pairs),
         residual_depends_on_the_subset(pairs)],
        [*map(str, real[1:]), lines,
         "The premise is that stored outputs are refreshed in every full forward (`26d6179`, `fixed`): then this is a "
         "theorem. Under `6c8822f` (wrappers bypassed in full forwards) the premise fails: tokens may differ by subset "
         "there, and which subsets collapse is an observation (notebook 05), no theorem.",
         "In half precision matrix products of other shapes may round differently (notebook 08)."])
