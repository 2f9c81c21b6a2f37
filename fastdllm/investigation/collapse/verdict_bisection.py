"""F of the log's checklist: what a bisection says, and where its answer says nothing about accuracy."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from fastdllm.display.claim import Decision, claim, verdict
from fastdllm.investigation.collapse.bisection import BisectionResult

REUSED = "layer calls reused"      # column of the bisection's table


def spell(changes: Mapping[str, tuple[object, object]]) -> str:
    """`on_full_block: refresh -> bypass, ...`."""
    return ", ".join(f"{switch}: {a} -> {b}" for switch, (a, b) in changes.items()) or "no switch"


def idle(result: BisectionResult) -> pd.DataFrame:
    """Candidates of the table that reused nothing: their tokens are those of no reuse, whatever their switches say."""
    table = result.table
    return table[table[REUSED] == 0] if REUSED in table else table.iloc[:0]


@claim(holds="`{name}`: {changes} makes the bad decoder of the good one.",
       fails="`{name}`: none of the known switches does ({tried} of {combinations} combinations tried).",
       unknown="`{name}`: no observable separates the two decoders on these prompts{ending}.")
def known_switches_explain(name: str, result: BisectionResult) -> Decision:
    """Whether a combination of switches behaves as the bad decoder in everything that is observed."""
    ending = "" if result.outcome == "ended" else f", which both end in {result.outcome}"
    values = {"name": name, "tried": result.tried, "combinations": result.combinations, "ending": ending}
    if result.parting is None:
        return None, values
    return result.changes is not None, values | {"changes": spell(result.changes or {})}


@claim(holds="`{name}`: the tokens change by {switches}.",
       fails="`{name}`: no single switch is named for the tokens. Of {switches}, the combination with {idle} reuses "
             "nothing at this k: its tokens are plain decoding's, so neither they nor accuracy say anything about "
             "the switches' interaction.",
       unknown="`{name}`: no output token changes, or no part of the switches explains them.")
def tokens_have_a_cause(name: str, result: BisectionResult) -> Decision:
    """A combination that reuses nothing is no evidence: where one stands between good and bad, no interaction is
    named.
    """
    if not result.tokens_by:
        return None, {"name": name}
    values = {"name": name, "switches": spell(result.tokens_by)}
    if len(result.tokens_by) == 1:
        return True, values
    values["switches"] = f"the interaction of {values['switches']}"
    silent = idle(result).to_dict("records")
    if not silent:
        return True, values
    described = ", ".join(f"`{switch}={silent[0][switch]}`" for switch in result.tokens_by)
    return False, {"name": name, "switches": spell(result.tokens_by), "idle": described}


@claim(holds="**The tokens change by the same switches for every subset: {switches}.**",
       fails="**The tokens don't change by the same switches for every subset: {switches}.**",
       unknown="**No subset's tokens change by known switches.**")
def one_cause_for_every_subset(results: Sequence[tuple[str, BisectionResult]]) -> Decision:
    """results: (subset, its bisection)."""
    causes = [tuple(result.tokens_by or ()) for _, result in results]
    switches = "; ".join(dict.fromkeys(" with ".join(cause) or "none" for cause in causes))
    return (None if not any(causes) else len(set(causes)) == 1), {"switches": switches}


def describe(result: BisectionResult) -> str:
    """Where the two decoders part, as one line."""
    return "" if result.parting is None else (
        f"They part at {result.parting}; over the whole run in {', '.join(result.separates)}.")


def bisection(results: Sequence[tuple[str, BisectionResult]]) -> str:
    """F. What the subsets have in common, the tokens' cause for one of them, and each in full."""
    runs = sum(result.tried for _, result in results)
    name, first = next(((name, result) for name, result in results if result.tokens_by), results[0])
    lines = [f"- {known_switches_explain(name, result)} {describe(result)} {tokens_have_a_cause(name, result)}"
             for name, result in results]
    return verdict([one_cause_for_every_subset(results), tokens_have_a_cause(name, first)],
                   ["\n".join(lines), f"{runs} short runs of candidates, of {results[0][1].combinations} combinations "
                    "for each subset. Other prompts may part earlier, or in another observable."])
