"""The sentence under each figure of the collapse notebooks: what to see, with the numbers of this figure."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fastdllm import power
from fastdllm.decode.step import Step
from fastdllm.display.claim import RunLabel


def block(steps: Sequence[Step]) -> str:
    """Of `denoise_figure`."""
    denoising = [step for step in steps if step.small_block is not None]
    unmasked = sum(sum(step.unmasked) for step in denoising)
    full = sum(step.kind == "full" for step in denoising)
    return (f"Each line is one forward: {len(denoising)} forwards ({full} full, the others small) unmask {unmasked} "
            "positions of this block, each in the colour of its confidence. A full forward computes the whole block "
            "and rebuilds the block cache; a small one computes one small block and reads the rest from the cache.")


def revisions(frame: pd.DataFrame) -> str:
    """Of `revisions_figure`."""
    low, high = frame.loc[frame.accuracy.idxmin()], frame.loc[frame.accuracy.idxmax()]
    baseline = ", k=1 at the left" if (frame["k"] == 1).any() else ""
    ends = (f"{row['name']}, k{row.k}{f' {row.layers}' if row.k > 1 else ''}, {row.accuracy:.0%}"
            for row in (low, high))
    return (f"One panel a revision of the code{baseline}. Lowest: {'; highest: '.join(ends)}. Bars are 95 % Wilson "
            f"intervals; look whether the three subsets stand at one height. {of_what(frame)}")


def of_what(frame: pd.DataFrame) -> str:
    """Model, task, n and rule of `records.frame` as a sentence; of a published table, whose model and rule are not
    stated in it, the n alone."""
    return f"Of {RunLabel.of(frame)}." if {"model", "metric"} <= set(frame) else f"Of n = {frame['n'].max()} problems."


def served(frame: pd.DataFrame) -> str:
    """Of `served_figure`, all panels."""
    if frame.empty:
        return "Nothing was reused on these prompts."
    elsewhere = frame.assign(elsewhere=frame.other_block | frame.other_small_block).groupby("name", sort=False)
    shares = "; ".join(f"{name} {rows.elsewhere.sum()} of {len(rows)}" for name, rows in elsewhere)
    return ("A column is where stored outputs were served to, a row what they had been computed for, all prompts "
            f"together; a forward off the diagonal got another small block's outputs: {shares}.")


def layer_step(trace: pd.DataFrame, name: str) -> str:
    """Of `layer_step_figure`: the first row's calls."""
    one = trace[trace.row == 0]
    reused = one[one.decision == "reuse"]
    age = f"; what they served was {(reused.forward - reused.served_forward).mean():.1f} forwards old" if len(
        reused) else ""
    return (f"`{name}`: orange is a layer that did not run, {len(reused) / max(len(one), 1):.0%} of the wrapped calls "
            f"of this prompt{age}. White between two blocks is the commit, which reuses nothing.")


def distance(trace: pd.DataFrame, name: str) -> str:
    """Of `distance_figure`."""
    calls = trace[(trace.decision == "reuse") & trace.distance.notna()]
    if calls.empty:
        return f"`{name}`: nothing was reused on these prompts."
    return (f"`{name}`: 0 would be a perfect substitute; the median is {calls.distance.median():.3f}. Right: whether "
            "the distance grows with the positions whose token has changed.")


def cache(differences: pd.DataFrame) -> str:
    """Of `cache_figure`: the first prompt's forwards."""
    one = differences[differences.prompt == 0]
    touched = one[one.positions > 0]
    layers = sorted(set(touched.layer))
    where = f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}" if layers else "none"
    return (f"Coloured is an entry that differs between skipped layers run and not run: in {where} of "
            f"{one.layer.nunique()}. Between the dashed lines are the reused layers.")


def powers(pairs: Sequence[tuple[float, float, str]], n: int) -> str:
    """Of `power_figure` at the log's n."""
    shares = "; ".join(f"{label}: {power.independent(good, bad, n):.0%}" for good, bad, label in pairs)
    return f"Power of Fisher's exact test (two-sided, 5 %) to see each fall; at n = {n}: {shares}. Dashed is 80 %."


def similarity(table: pd.DataFrame, what: str = "output") -> str:
    """Of `similarity_figure`."""
    if table.empty:
        return "Nothing was measured: no small block took more than one step."
    medians = "; ".join(f"{lag} back {rows[what].median():.3f}" for lag, rows in table.groupby("lag"))
    beside = table[f"{what}_beside"].median()
    return (f"Bright is a layer whose {what} is nearly what it was; medians: {medians}. The scale begins at the "
            f"lowest; the baseline, two neighbouring positions in one forward, is {beside:.3f}.")
