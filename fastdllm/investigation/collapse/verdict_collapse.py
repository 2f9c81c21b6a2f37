"""The verdict on the collapse of middle and last: the log's own figures first, then the same grid on one code each."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from fastdllm import prior_results, stats
from fastdllm.display.claim import Decision, Judged, RunLabel, claim, told, verdict
from fastdllm.investigation.collapse.phase6 import Phase6Results, against
from fastdllm.investigation.collapse.verdict_revisions import (
    JANUARY,
    RUN_1,
    RUN_2,
    block,
    hits_every_subset,
    worse_than_january,
)
from fastdllm.report.audit import rules as audit
from fastdllm.report.audit import sources

LOG = {"feb15_run1": "Run 1 as published", "feb16_run2": "Run 2 as published"}


def log_runs() -> pd.DataFrame:
    """Run 1 and Run 2 of the log as published (GSM8K, limit 10), in the columns of `Phase6Results.frame`."""
    table = prior_results.results()
    table = table[(table.task == "gsm8k") & table.batch.isin(list(LOG))]
    bounds = [stats.wilson(row.correct, row.n) for row in table.itertuples()]
    return table.assign(name=table.batch.map(LOG), low=[b[0] for b in bounds], high=[b[1] for b in bounds])


@claim(holds="**The log's scores contradict themselves.** {name}: {cases}. Equal totals are one "
             "computation.",
       fails="**The log's scores don't contradict themselves**: no run has subsets with equal token totals and "
             "different scores.",
       unknown="**Whether the log's scores contradict themselves can't be told**: no run has token totals of two "
               "subsets on one commit.")
def equal_tokens_score_differently(runs: pd.DataFrame) -> Decision:
    """runs: published rows (name, commit, k, layers, tokens, accuracy). Compared are subsets of one run, k, commit."""
    groups = [(name, k, rows) for (name, k, _), rows in runs[runs.k > 1].groupby(["name", "k", "commit"], sort=False)
              if rows.tokens.notna().all() and rows.layers.nunique() > 1]
    hit = [(name, k, rows) for name, k, rows in groups if rows.tokens.nunique() == 1 and rows.accuracy.nunique() > 1]
    if not groups:
        return None, {}
    cases = "; ".join(f"k={k}: {rows.tokens.iloc[0]:.0f} tokens {len(rows)} times, right "
                      + "/".join(f"{100 * value:.0f}" for value in rows.accuracy) + " %" for _, k, rows in hit)
    return len(hit) > 0, {"name": ", ".join(dict.fromkeys(name for name, *_ in hit)), "cases": cases}


@claim(holds="Run 2's {n} accuracies are Run 1's to the digit, while {changed} token totals changed: they were not "
             "scored again.",
       fails="Run 2's accuracies are its own: {differ} of {n} differ from Run 1's.",
       unknown="Run 2's accuracies can't be compared with Run 1's.")
def second_run_repeats_the_first(runs: pd.DataFrame) -> Decision:
    """runs: as `log_runs`. Equal accuracies say something only where the outputs changed."""
    one, two = (runs[runs["name"] == name].set_index("config") for name in LOG.values())
    both = one.join(two[["accuracy", "tokens"]].add_suffix("_2"), how="inner")
    if both.empty or (both.tokens == both.tokens_2).all():
        return None, {}
    differ = int((both.accuracy != both.accuracy_2).sum())
    return differ == 0, {"n": len(both), "differ": differ, "changed": int((both.tokens != both.tokens_2).sum())}


@claim(holds="**Why.** `6c8822f` stores nothing in full forwards: {bad:.0%} of its reusing forwards ({low:.0%} to "
             "{high:.0%}, {prompts} prompts) served another small block's outputs, none under `26d6179`.",
       fails="**Why stays open**: another small block's outputs were served in {bad:.0%} ({low:.0%} to {high:.0%}, "
             "{prompts} prompts) of the reusing forwards under `6c8822f`, in {good:.0%} under `26d6179`.",
       unknown="**Why can't be told**: nothing was reused on the traced prompts.")
def collapse_goes_with_foreign_outputs(stale: pd.DataFrame) -> Decision:
    """stale: `phase6.foreign_share` by revision, the index."""
    told_of = stale.dropna()
    if not {RUN_1, RUN_2} <= set(told_of.index):
        return None, {}
    bad, good = told_of.loc[RUN_1], told_of.loc[RUN_2]
    return bad["share"] > 0 and good["share"] == 0, {
        "bad": bad["share"], "low": bad["low"], "high": bad["high"], "prompts": int(bad["prompts"]),
        "good": good["share"]}


@claim(holds="`first` looked spared in Run 1 where it had run on another commit than `middle` and `last` ({first} "
             "against {others} at k >= 2).",
       fails="In Run 1 `first` ran on the commit of `middle` and `last` ({first}) at k >= 2: the code does not explain "
             "why it looked spared.",
       unknown="On which commits Run 1's subsets ran is not known.")
def first_ran_on_another_commit(runs: pd.DataFrame) -> Decision:
    """runs: as `log_runs`."""
    rows = runs[(runs["name"] == LOG["feb15_run1"]) & (runs.k > 1) & runs.commit.notna()]
    first, others = (sorted({commit[:7] for commit in part.commit})
                     for part in (rows[rows.layers == "first"], rows[rows.layers != "first"]))
    return (None if not first or not others else not set(first) & set(others)), {
        "first": ", ".join(first), "others": ", ".join(others)}


@claim(holds="January's full GSM8K scores are alike over the subsets: the largest gap is {gap:.1f} points at k={k}, "
             "interval {low:+.1f} to {high:+.1f}.",
       fails="January's full GSM8K scores differ over the subsets: by {gap:.1f} points at k={k}, interval {low:+.1f} "
             "to {high:+.1f}.",
       unknown="January's full GSM8K scores can't be compared over the subsets.")
def january_is_uniform(rows: pd.DataFrame) -> Decision:
    """rows: published rows of one full run; best against worst subset at each k, Newcombe's unpaired interval."""
    widest: dict[str, Any] = {}
    differs = False
    for k, part in rows[rows.k > 1].groupby("k"):
        best, worst = part.loc[part.accuracy.idxmax()], part.loc[part.accuracy.idxmin()]
        low, high = stats.difference_unpaired(int(worst.correct), int(worst.n), int(best.correct), int(best.n))
        if len(part) > 1 and (not widest or best.accuracy - worst.accuracy > widest["gap"] / 100):
            widest = {"gap": 100 * (best.accuracy - worst.accuracy), "k": k, "low": 100 * low, "high": 100 * high}
        differs |= len(part) > 1 and low > 0
    return (None if not widest else not differs), widest


def collapse(runs: Sequence[tuple[RunLabel, Phase6Results]], stale: pd.DataFrame, published: pd.DataFrame,
             january: pd.DataFrame, real: Sequence[Judged] = (), not_run: str = "",
             instead: Sequence[Judged] = ()) -> str:
    """The verdict. runs: sets of records, the real model's first: each claim is on the first that can tell; stale: what
    was served under Run 1's and Run 2's code (`phase6.foreign_share`); published: `log_runs`; january: the published
    full GSM8K run; real: `verdict_real_model.mystery`; not_run: what of the real model's grids did not run; instead:
    what is said of other ways than reuse.
    """
    runs = [(label, results) for label, results in runs if len(results.frame)]
    tables = [(against(results, JANUARY, RUN_1), against(results, JANUARY, RUN_2)) for _, results in runs]
    names = [f"{label.model} (n = {label.n})" for label, _ in runs]
    run_1 = [(f"On {name}, Run 1's code", bad) for name, (bad, _) in zip(names, tables, strict=True)]
    run_2 = [(f"On {name}, Run 2's code", good) for name, (_, good) in zip(names, tables, strict=True)]
    head = [one for one in real[:1] if one.state is not None] or [*real[:1], told(worse_than_january, *run_1)]
    details = [str(told(worse_than_january, *run_1)), *map(str, [*instead, *real[1:]]), not_run,
               str(told(hits_every_subset, *[[bad] for _, bad in run_1])),
               str(second_run_repeats_the_first(published)), str(january_is_uniform(january)),
               str(first_ran_on_another_commit(published)),
               *(f"{label}:\n\n" + "\n".join(block(results, *pair))
                 for (label, results), pair in zip(runs, tables, strict=True)),
               "What the audit finds in the published table (notebook 07):\n"
               + audit_lines(("equal_tokens", "must_agree", "copied_accuracy", "mixed_code", "runaway")),
               "What would change this: a configuration of `26d6179` that loses against January's on more problems, or "
               "subsets that differ under refresh in float32. A checkpoint that is not the 7B can't say how large the "
               "7B's losses are."]
    return verdict([equal_tokens_score_differently(published), *head, told(worse_than_january, *run_2),
                    collapse_goes_with_foreign_outputs(stale)], details)


def audit_lines(rules: Sequence[str]) -> str:
    """What the audit of the published table says under some rules, one line a finding."""
    return "\n".join(f"- {f.statement} ({f.sure})" for f in audit.audit(sources.published(), only=rules)
                     if f.level != "note")


def january_rows() -> pd.DataFrame:
    """January's nine configurations on all 1319 problems of GSM8K, as published."""
    table = prior_results.results()
    return table[(table.batch == "jan_full") & (table.task == "gsm8k")]
