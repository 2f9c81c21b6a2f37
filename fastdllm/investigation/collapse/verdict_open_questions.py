"""The open points of the log, each settled or not by what notebook 08 has before it."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fastdllm.display.claim import Decision, Judged, claim, verdict

APART = ["outputs differing, middle", "outputs differing, last"]
HALF = ["float16", "bfloat16"]
MANY = 1000      # problems from which a published table is a full run


@claim(holds="**{published:.1%} against {measured:.1%}**: the difference is settled (interval {low:.1%} to "
             "{high:.1%}), its cause is open.",
       fails="**{published:.1%} against {measured:.1%}**: chance may explain it (interval {low:.1%} to {high:.1%}).",
       unknown="**The published score**: open, nothing was measured.")
def published_score_is_missed(gap: dict[str, float]) -> Decision:
    """gap: `open_questions.published_gap`."""
    if not gap.get("n"):
        return None, {}
    return not gap["low"] <= gap["published"] <= gap["high"], gap


@claim(holds="**k1_first at {slow:.1f} tokens/s**: open; only it ran on its node, so node and run can't be told apart.",
       fails="**k1_first at {slow:.1f} tokens/s**: its node ran other timed rows too, as slow or not ({others}).",
       unknown="**k1_first's speed**: open, no timed row.")
def node_and_run_are_confounded(rows: pd.DataFrame) -> Decision:
    """rows: published rows of one batch with node and tokens_per_s."""
    timed = rows[rows["tokens_per_s"].notna() & rows["node"].notna()]
    one = timed[timed["config"] == "k1_first"]
    if one.empty:
        return None, {}
    others = timed[(timed["node"] == one["node"].iloc[0]) & (timed["config"] != "k1_first")]
    return others.empty, {"slow": one["tokens_per_s"].iloc[0], "others": ", ".join(
        f"{row.config} {row.tokens_per_s:.1f}" for row in others.itertuples())}


@claim(holds="**Loading in tokens/s**: settled for Run 2, it is not: {low:.0f} to {high:.0f} s between two runs are "
             "in neither's seconds.",
       fails="**Loading in tokens/s**: it may be: as little as {low:.0f} s pass between two runs.",
       unknown="**Loading in tokens/s**: open, no time stamps.")
def loading_is_left_out(gaps: pd.DataFrame) -> Decision:
    """gaps: `open_questions.loading_gaps`; no checkpoint of 15 GB loads in under 5 seconds."""
    lost = gaps["of these in no throughput"]
    return (None if lost.empty else lost.min() > 5), {"low": lost.min(), "high": lost.max()}


def outputs_apart(totals: pd.DataFrame, dtypes: list[str]) -> tuple[int, int]:
    """Outputs that differ from those of `first`, and outputs compared, in some dtypes."""
    rows = totals[totals["dtype"].isin(dtypes)]
    return int(rows[APART].sum().sum()), int(2 * rows["n"].sum())


def each_once(modules: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows without those under autocast that repeat the counts of the row without it; and what that says.

    modules: `prior_results.half_precision_modules`. Autocast over weights of its own dtype has nothing to cast.
    """
    if "autocast" not in modules or modules.empty:
        return modules, ""
    numbers = [name for name in modules if name != "autocast"]
    under = modules["autocast"].astype(bool)
    repeated = under & modules.sort_values("autocast", kind="stable").duplicated(numbers)
    said = (" (autocast: the same)" if repeated.sum() == under.sum() > 0 else
            f" (autocast: the same in {repeated.sum()} of {under.sum()} runs)" if repeated.any() else "")
    return modules[~repeated], said


def counted(differ: int, of: int) -> str:
    """Answers that differ, of those compared."""
    return f"{differ} of {of}" if of else "not measured"


@claim(holds="**Totals over the subsets**: rounding alone can explain them. In half precision {ours} answers differ "
             "on our path, {theirs} in transformers' order{autocast}; float32: {single}.",
       fails="**Totals over the subsets**: open. In half precision {ours} answers differ on our path, {theirs} in "
             "transformers' order{autocast}; float32: {single}.",
       unknown="**Totals over the subsets**: open, half precision was not measured. Answers differing in float32: "
               "{single}.")
def half_precision_is_enough(totals: pd.DataFrame, modules: pd.DataFrame) -> Decision:
    """Whether answers differ by subset in half precision, on one of the paths, and none does in float32.

    totals: `open_questions.totals_by_subset`, here and on a GPU; modules: `prior_results.half_precision_modules`.
    """
    modules, autocast = each_once(modules)
    (ours, of_ours), (theirs, of_theirs) = (outputs_apart(table, HALF) for table in (totals, modules))
    single, of_single = np.add(outputs_apart(totals, ["float32"]), outputs_apart(modules, ["float32"]))
    return (ours + theirs > 0 and single == 0 if of_ours + of_theirs else None), {
        "ours": counted(ours, of_ours), "theirs": counted(theirs, of_theirs), "single": counted(single, of_single),
        "autocast": autocast}


@claim(holds="**Middle is best**: supported: it is best in {best} of {of} full tables, and by more than chance.",
       fails="**Middle is best**: not supported: best in {best} of {of} full tables, no difference between subsets "
             "beyond chance.",
       unknown="**Middle is best**: open, no full table.")
def middle_is_best(subsets: pd.DataFrame) -> Decision:
    """subsets: `open_questions.subsets_published`."""
    full = subsets[subsets["n"] > MANY]
    best = full[full["middle is best"] == "yes"]
    beyond = best["interval low"] > 0
    return (None if full.empty else len(best) == len(full) and beyond.all()), {"best": len(best), "of": len(full)}


@claim(holds="**{n} published claims and scores** can't be tested here: other models, or the 7B.",
       fails="Every published claim can be tested here.",
       unknown="No published claim was read.")
def claims_are_left(untestable: pd.DataFrame, claims: pd.DataFrame) -> Decision:
    """untestable: `open_questions.untestable`, of all `prior_results.claims`."""
    return (None if claims.empty else len(untestable) > 0), {"n": len(untestable)}


def open_points(points: list[Judged], details: Sequence[Judged] = ()) -> str:
    """One line a point; details: what else bears on them."""
    return verdict(points, [*map(str, details),
                            "The 7B on one known GPU, with repeats, would settle the first two. Testable for the first "
                            "are threshold, stop rule, extraction, on this checkpoint: how large such effects can be, "
                            "not how large they are on the 7B. Missing: the samples of January's k=1 run, the 7B at "
                            "thresholds 1.0, 0.95 and 0.9, and the prompt that gave 83.7 %.",
                            "January's totals differ by whole blocks plus one token for each sample more at the "
                            "length cap: a few outputs tipped over."])
