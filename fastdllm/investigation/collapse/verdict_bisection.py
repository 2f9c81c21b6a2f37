"""F of the log's checklist: what a bisection says, and where its answer says nothing about accuracy."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from fastdllm import stats
from fastdllm.display.claim import Decision, claim, verdict
from fastdllm.investigation.collapse import real_model
from fastdllm.investigation.collapse.bisection import OBSERVABLES, BisectionResult
from fastdllm.investigation.collapse.phase6 import Phase6Results
from fastdllm.investigation.collapse.verdict_revisions import JANUARY, RUN_1
from fastdllm.report.shipped import ShippedRecords

REUSED = "layer calls reused"      # column of the bisection's table
REFRESHED = f"{RUN_1}+on_full_block=refresh"
BUG_4 = f"{JANUARY}+trim_caches=true"      # January's code with bug 4 reverted


def spell(changes: Mapping[str, tuple[object, object]]) -> str:
    """`on_full_block: refresh → bypass, ...`."""
    return ", ".join(f"{switch}: {a} → {b}" for switch, (a, b) in changes.items()) or "no switch"


def idle(result: BisectionResult) -> pd.DataFrame:
    """Candidates of the table that reused nothing: their tokens are those of no reuse, whatever their switches say."""
    table = result.table
    return table[table[REUSED] == 0] if REUSED in table else table.iloc[:0]


def candidates_text(table: pd.DataFrame) -> pd.DataFrame:
    """The table of a bisection for people: the switches that vary, and of each decoder what it differs in and where."""
    switches = list(table.columns[:list(table.columns).index("outcome")]) if "outcome" in table else []
    shown = table[[switch for switch in switches if table[switch].nunique() > 1]].copy()
    if switches and set(table["outcome"]) != {"ended"}:
        shown["outcome"] = table["outcome"]
    if switches:
        shown[REUSED] = table[REUSED]
    for decoder in ("good", "bad"):
        if f"parts from {decoder}" not in table:
            continue
        differs = zip(table[f"differs from {decoder} in"], table[f"parts from {decoder}"], strict=True)
        shown[f"against the {decoder} one"] = [f"{_together(what)}; first at {where}" if what else "no difference"
                                               for what, where in differs]
        shown[f"its tokens ({decoder})"] = table[f"tokens of {decoder}"]
    return shown


def _together(observables: str) -> str:
    """What differs: by name, or, where that is nearly everything, what does not."""
    alike = [name for name in OBSERVABLES if name not in observables.split(", ")]
    return observables if len(alike) > 2 else "everything" + (f" but {', '.join(alike)}" if alike else "")


def candidate_tables(results: Iterable[tuple[str, BisectionResult]]) -> list[tuple[str, pd.DataFrame]]:
    """`candidates_text` of each subset; subsets with one and the same table share it: "middle, last"."""
    tables: list[tuple[str, pd.DataFrame]] = []
    for name, result in results:
        shown = candidates_text(result.table)
        at = next((i for i, (_, table) in enumerate(tables) if table.equals(shown)), None)
        if at is None:
            tables.append((name, shown))
        else:
            tables[at] = f"{tables[at][0]}, {name}", shown
    return tables


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


def reverted(results: Phase6Results, baseline: str = JANUARY) -> pd.DataFrame:
    """Accuracy of each code, one row a revision: right, n, accuracy, tokens, nfe, reuse (layer calls), and against
    `baseline` on the same problems points, low, high, relative (to its right answers), p, p_holm (over different
    tests, `Phase6Results.tested`), same (one computation).
    """
    frame, rows, seen = results.frame, [], {}
    base = str(frame.loc[frame["revision"] == baseline, "config"].iloc[0])
    before = float(results.correct[base].mean())
    for row in frame.itertuples():
        pair = stats.compare_paired(results.correct[base], results.correct[row.config])
        same = results.computation[row.config] == results.computation[base]
        rows.append({"revision": row.revision, "right": row.correct, "n": row.n, "accuracy": row.accuracy,
                     "tokens": row.tokens, "nfe": row.nfe, "reuse": row.reuse, "points": 100 * pair.difference,
                     "low": 100 * pair.low, "high": 100 * pair.high,
                     "relative": pair.difference / before if before else math.nan, "p": pair.p, "same": same})
        if not same:
            seen.setdefault(results.tested(base, row.config), pair.p)
    corrected = dict(zip(seen, stats.holm(list(seen.values())), strict=True))
    return pd.DataFrame(rows).assign(p_holm=[corrected.get(results.tested(base, config), 1.0)
                                             for config in frame["config"]])


@claim(holds="One bug of January's code, reverted by itself, changes accuracy: {names} (n = {n}).",
       fails="No bug of January's code, reverted by itself, changes accuracy beyond chance ({low:+.1f} to {high:+.1f} "
             "points, n = {n}).",
       unknown="Accuracy per reverted bug was not measured.")
def a_reverted_bug_changes_accuracy(table: pd.DataFrame) -> Decision:
    """table: `reverted`; its rows of January's code with one switch changed."""
    rows = table[table["revision"].str.startswith(f"{JANUARY}+")] if len(table) else table
    if rows.empty:
        return None, {}
    hit = rows[rows["p_holm"] < 0.05]
    names = ", ".join(f"`{row.revision.partition('+')[2]}` {row.points:+.1f} points" for row in hit.itertuples())
    return len(hit) > 0, {"names": names, "n": int(rows["n"].max()), "low": rows["points"].min(),
                          "high": rows["points"].max()}


@claim(holds="Reverting bug 5 alone brings `6c8822f` from {bad} to {good} of {n} right: the others' price is small.",
       fails="Reverting bug 5 alone does not bring `6c8822f` back: {bad} and {good} of {n} right.",
       unknown="`6c8822f` with bug 5 alone reverted was not measured.")
def bug_5_is_the_collapse(table: pd.DataFrame) -> Decision:
    """table: `reverted`: Newcombe's interval of the gain lies above 0."""
    rows = table.set_index("revision") if len(table) else table
    if not {RUN_1, REFRESHED} <= set(rows.index):
        return None, {}
    bad, good = rows.loc[RUN_1], rows.loc[REFRESHED]
    low, _ = stats.difference_unpaired(int(bad["right"]), int(bad["n"]), int(good["right"]), int(good["n"]))
    return low > 0, {"bad": bad["right"], "good": good["right"], "n": bad["n"]}


@claim(holds="On the real model bugs 1 and 3 change no more than rounding: `8e18baac` and Run 1's changed tree differ "
             "in {differ} of {n} decodes.",
       fails="On the real model bugs 1 and 3 matter: `8e18baac` and Run 1's changed tree differ in {differ} of {n} "
             "decodes.",
       unknown="On the real model `8e18baac` and Run 1's changed tree did not both run.")
def bugs_1_and_3_change_rounding_only(shipped: ShippedRecords) -> Decision:
    """The records of `first` at k = 1, 2, 3 on both codes: answer, tokens and forwards of each problem."""
    return agree_but_for_rounding(shipped, JANUARY, "6f96d95-dirty")


@claim(holds="Bug 4 by itself changes no more than rounding on the real model: {differ} of {n} decodes differ.",
       fails="Bug 4 by itself matters on the real model: {differ} of {n} decodes differ.",
       unknown="Bug 4 by itself: not run on the real model.")
def bug_4_changes_rounding_only(shipped: ShippedRecords) -> Decision:
    """January's code with and without stored rows of finished samples, as `bugs_1_and_3_change_rounding_only`."""
    return agree_but_for_rounding(shipped, JANUARY, BUG_4)


def agree_but_for_rounding(shipped: ShippedRecords, a: str, b: str) -> Decision:
    """Whether two codes agree but for rounding in the decodes of `first` that both ran on the real model."""
    codes = [real_model.results(shipped).frame.query("revision == @name and layers == 'first'").set_index("k")["path"]
             for name in (a, b)]
    ks = sorted(set(codes[0].index) & set(codes[1].index))
    if not ks:
        return None, {}
    differ = [(shipped.problems[codes[0][k]] != shipped.problems[codes[1][k]]).any(axis=1) for k in ks]
    count, n = int(sum(each.sum() for each in differ)), sum(map(len, differ))
    return real_model.rounding_only(count, n), {"differ": count, "n": n}


def describe(result: BisectionResult) -> str:
    """Where the two decoders part, as one line."""
    return "" if result.parting is None else (
        f"They part at {result.parting}; over the whole run in {', '.join(result.separates)}.")


def bisection(results: Sequence[tuple[str, BisectionResult]], table: pd.DataFrame, shipped: ShippedRecords) -> str:
    """Accuracy per reverted bug, on the real model where it ran, and what the subsets have in common, each in full.

    table: `reverted`; shipped: the real model's records.
    """
    runs = sum(result.tried for _, result in results)
    lines = [f"- {known_switches_explain(name, result)} {describe(result)} {tokens_have_a_cause(name, result)}"
             for name, result in results]
    return verdict([bugs_1_and_3_change_rounding_only(shipped), bug_4_changes_rounding_only(shipped),
                    bug_5_is_the_collapse(table), a_reverted_bug_changes_accuracy(table),
                    one_cause_for_every_subset(results)],
                   ["\n".join(lines), f"{runs} short runs of candidates, of {results[0][1].combinations} combinations "
                    "for each subset. Other prompts may part earlier, or in another observable."])
