"""Where two configurations part, over several problems: the table behind the debugger's verdict."""

# pyright: reportArgumentType=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fastdllm.decode.revisions import Revision
from fastdllm.display import claim as claims
from fastdllm.display.claim import Decision, claim
from fastdllm.display.progress import progress
from fastdllm.lab.records.steps import Recorder
from fastdllm.model.lm import LM
from fastdllm.settings import Decoding, Reuse
from fastdllm.stats import wilson
from fastdllm.tasks.base import Problem, Task
from fastdllm.ui.recording import Recording, first_difference, judged, of_recorder, title


def record_all(lm: LM, problems: Sequence[Problem], decoding: Decoding, reuse: Reuse,
               revision: str | Revision = "fixed", distance: bool = True, task: Task | None = None) -> list[Recording]:
    """Each problem as a run, with trace; judged by `task`, if it is given."""
    recorder = Recorder(lm, [problem.prompt for problem in problems], decoding, reuse, revision, distance=distance)
    for _ in progress(recorder, f"forwards of {len(problems)} problems, {title(reuse, revision)}"):
        pass
    whole = of_recorder(recorder)
    trace = recorder.trace.frame()
    runs = [Recording(title(reuse, revision), whole.steps.query("row == @row").reset_index(drop=True),
                      trace.query("row == @row").reset_index(drop=True), whole.meta, row)
            for row in range(len(problems))]
    return runs if task is None else [judged(run, task, problem) for run, problem in zip(runs, problems, strict=True)]


def partings(problems: Sequence[Problem], baseline: Sequence[Recording], suspect: Sequence[Recording]) -> pd.DataFrame:
    """One line per problem: where the suspect's text leaves the baseline's, and what its layers did until then.

    Forwards are counted from 1, as in the player.
    """
    lines = []
    for problem, one, other in zip(problems, baseline, suspect, strict=True):
        at = first_difference(one, other)
        reused = other.trace.query("decision == 'reuse'") if other.trace is not None else pd.DataFrame()
        stale = (reused["served_block"] != reused["block"]) | (
            (reused["served_kind"] == "small") & (reused["served_small_block"] != reused["small_block"])) \
            if len(reused) else pd.Series(dtype=bool)
        lines.append({
            "problem": problem.id, "first differing forward": None if at is None else at + 1,
            "kind there": None if at is None else "ended" if at >= len(other.steps) else other.steps["kind"].iloc[at],
            "same text": one.result["text"] == other.result["text"],
            "forwards, baseline": len(one.steps), "forwards, suspect": len(other.steps),
            "layer calls reused": len(reused), "from another small block": int(stale.sum()),
            "median distance to fresh": float(reused["distance"].median()) if len(reused) else float("nan")})
    return pd.DataFrame(lines).astype({"first differing forward": "Int64"})


@claim(holds="**{suspect} leaves {baseline} on {parted} of {n} problems** (95 % interval {low:.0%} to {high:.0%}), "
             "half of them by forward {where:.0f}; the text is another one on {texts}.",
       fails="**{suspect} leaves {baseline} on 0 of {n} problems** (95 % interval {low:.0%} to {high:.0%}).",
       unknown="**No problem was compared.**")
def suspect_leaves(baseline: str, suspect: str, table: pd.DataFrame) -> Decision:
    """table: `partings`."""
    if table.empty:
        return None, {}
    parted, n = int(table["first differing forward"].notna().sum()), len(table)
    low, high = wilson(parted, n)
    return parted > 0, {"suspect": suspect, "baseline": baseline, "parted": parted, "n": n, "low": low, "high": high,
                        "where": table["first differing forward"].median() if parted else 0,
                        "texts": int((~table["same text"].astype(bool)).sum())}


@claim(holds="{stale} of {reused} reused layer calls served another small block's output.",
       fails="None of {reused} reused layer calls served another small block's output.",
       unknown="The suspect reused nothing.")
def suspect_serves_elsewhere(table: pd.DataFrame) -> Decision:
    """table: `partings`."""
    reused, stale = int(table["layer calls reused"].sum()), int(table["from another small block"].sum())
    return (stale > 0 if reused else None), {"stale": stale, "reused": reused}


def verdict(table: pd.DataFrame, baseline: str, suspect: str) -> str:
    """On how many problems the two part, where, and from what; Markdown."""
    return claims.verdict([suspect_leaves(baseline, suspect, table), suspect_serves_elsewhere(table)])
