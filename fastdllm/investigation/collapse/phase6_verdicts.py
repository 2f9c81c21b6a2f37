"""The last cells of the phase 6 notebooks: each statement is computed from what the notebook measured."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fastdllm import prior_results, stats
from fastdllm.investigation.collapse.bisection import BisectionResult
from fastdllm.investigation.collapse.phase6 import Phase6Results, across_subsets, against
from fastdllm.report.audit import rules as audit
from fastdllm.report.audit import sources

LOG = pd.DataFrame([("feb15_run1", "Run 1 as published"), ("feb16_run2", "Run 2 as published")],
                   columns=["batch", "name"])


def points(row: pd.Series) -> str:
    """A paired difference in points with its interval, or that none was found."""
    return stats.say_difference(row.points, row.low, row.high, int(row.n))


def list_differences(table: pd.DataFrame) -> str:
    """One line per configuration of `against`."""
    return "\n".join(f"- k{row.k} {row.layers}: {points(row)}, p = {row.p_holm:.2g} after Holm"
                     for _, row in table.iterrows())


def range_text(values: pd.Series) -> str:
    """`70 % to 77 %`, or one value."""
    low, high = f"{values.min():.0%}", f"{values.max():.0%}"
    return low if low == high else f"{low} to {high}"


def replace_position(slices: pd.DataFrame, golden: pd.DataFrame, frozen: pd.DataFrame, table: pd.DataFrame) -> str:
    """A. slices: `inside.slices`; golden, frozen: `golden_cases` right and frozen; table: frozen against right."""
    if slices.empty:
        return "**Not measured**: no small forward reused anything on these prompts."
    n, right = len(slices), int(slices.right.sum())
    wide = int((slices["stored by"] == "full").sum())
    text = (f"**Yes, in this loop: in {right} of {n} reused layer calls of small forwards the served values are the "
            "ones "
            f"that the layer had computed for these very positions** ({wide} sliced out of a whole block, the rest "
            "stored "
            "at the small block's width).\n\n")
    if len(golden):
        text += (f"The published code slices the same way: {int(golden.reproduced.sum())} of {len(golden)} cases that "
                 "were "
                 "recorded from it on the checkpoint's own modelling code are reproduced token by token with this "
                 "slice, "
                 f"and {int(frozen.reproduced.sum())} of {len(frozen)} with the slice frozen at 0.\n\n")
    else:
        text += "The golden cases belong to another checkpoint's files; the published code is not tested here.\n\n"
    spread = table.groupby("k").points.agg(lambda p: p.max() - p.min())
    text += ("With the slice frozen, against the right one:\n" + list_differences(table) +
             f"\n\nThe subsets differ among each other by at most {spread.max():.1f} points: a wrong slice would hurt "
             "every subset alike, so it can't explain a collapse of middle and last alone. *A served value that "
             "belongs "
             "to other positions, or a golden case lost, would change this.*")
    return text


def full_blocks(found: Phase6Results, table: pd.DataFrame, stale: pd.DataFrame) -> str:
    """B. table: with periodic full forwards against without; stale: `stale_summary` by revision."""
    without, with_ = (found.frame[(found.frame.k > 1) & (found.frame.revision == r) & (found.frame.policy == "output")]
                      for r in ("26d6179", "26d6179+full_block_every_k=true"))
    significant = table[table.p_holm < 0.05]
    head = (f"**A difference at {len(significant)} of {len(table)} configurations**" if len(significant)
            else f"**No difference in accuracy found in any of {len(table)} configurations**")
    cost = with_.nfe_full.sum() / without.nfe_full.sum(), with_.nfe.sum() / without.nfe.sum()
    return (f"{head} (exact McNemar, Holm over the configurations):\n{list_differences(table)}\n\n"
            f"Periodic full forwards cost {cost[0]:.2f} times the full forwards and {cost[1]:.2f} times all forwards. "
            f"What is reused was {stale.loc[0, 'age in forwards']:.2f} forwards old without and "
            f"{stale.loc[1, 'age in forwards']:.2f} with them; {stale.loc[0, 'from another small block']:.0%} and "
            f"{stale.loc[1, 'from another small block']:.0%} came from another small block. There is no collapse for "
            "it "
            "to rescue: without it the accuracies at k >= 2 are "
            f"{range_text(without.accuracy)}. *An interval that leaves out 0 in favour of the full forwards on more "
            "problems would change this.*")


def skipped_layers(differences: pd.DataFrame, same: Sequence[bool], found: Phase6Results, table: pd.DataFrame) -> str:
    """C. differences: `inside.cache_differences`; same: per prompt and subset, whether the tokens agree."""
    if not differences.reused.any():
        return "**Not measured**: nothing was reused on these prompts."
    touched = differences[differences.positions > 0]
    reused = sorted(differences[differences.reused].layer.unique())
    hit = ", ".join(map(str, sorted(touched.layer.unique()))) or "none"
    answers = int(table.lost.sum() + table.gained.sum())
    return (f"**Running the skipped layers changes no token: {sum(same)} of {len(same)} decodes agree, and "
            f"{answers} of {int(table.n.sum())} answers differ over the grid.** Block-cache entries do differ, in "
            "layers "
            f"{hit} of the reused {reused[0]} to {reused[-1]}, after {touched.groupby(['prompt', 'forward']).ngroups} "
            "of "
            f"{differences.groupby(['prompt', 'forward']).ngroups} forwards. Only the first reused layer sees new "
            "input; "
            "the others would compute what they have stored already. And no entry is read before it is overwritten: a "
            "small forward writes all of its own positions first, and the next small block begins with a full forward. "
            "So the side effect was not load-bearing. *A decode whose tokens differ would change this.*")


def instrumentation(trace: pd.DataFrame, served: pd.DataFrame, name: str) -> str:
    """D. One configuration's trace and `phase6.staleness` of it."""
    counts = trace.decision.value_counts()
    calls = ", ".join(f"{counts.get(d, 0)} {d}" for d in ("recompute", "reuse", "fallback", "bypass"))
    if served.empty:
        return f"**{name}: {calls}: nothing was reused on these prompts.**"
    strange = (served.other_small_block | served.other_block).sum()
    low, high = stats.wilson(int(strange), len(served))
    distance = trace[trace.decision == "reuse"].groupby("layer").distance.median()
    return (f"**{name}: {calls} (layer calls). {int(strange)} of {len(served)} reusing forwards ({low:.0%} to "
            f"{high:.0%}) "
            f"served what was computed for another small block or block.** What was served was "
            f"{served.age.mean():.2f} forwards old (at most {int(served.age.max())}), with "
            f"{served.changed.mean():.2f} of "
            f"{int((served.slice_stop - served.slice_start).iloc[0])} positions changed since. The median distance to "
            "what "
            f"the layer would have returned is {distance.iloc[0]:.3f} in the first reused layer and at most "
            f"{distance.iloc[1:].max() if len(distance) > 1 else float('nan'):.3f} in the later ones, which see only "
            "what "
            "the first one serves. *Entries of other small blocks under `refresh`, or none under `bypass`, would "
            "change "
            "this.*")


def old_code(found: Phase6Results, small: int) -> str:
    """E. What each revision does over the grid, and what `small` problems can show of it."""
    lines = []
    for name, rows in found.frame[found.frame.policy == "output"].groupby("name", sort=False):
        subsets = across_subsets(found, str(rows.revision.iloc[0]))
        best = rows[rows.k == 1]
        base = "".join(f"k=1 {row.accuracy:.0%} ({row.low:.0%} to {row.high:.0%})" for row in best.head(1).itertuples())
        per_k = "; ".join(
            f"k={r['k']} {range_text(rows[rows.k == r['k']].accuracy)} over the subsets, {r['answers that differ']} of "
            f"{r['n']} answers differ between them" for r in subsets.to_dict("records"))
        lines.append(f"- **{name}**: {base}; {per_k}")
    rows = []
    n = int(found.frame.n.max())
    january, run1 = (found.frame[(found.frame.revision == r) & (found.frame.k > 1)] for r in ("8e18baac", "6c8822f"))
    for a, b in ((january.accuracy.mean(), run1.accuracy.mean()), (0.7, 0.1), (0.7369, 0.6717)):
        if round(a, 3) != round(b, 3):
            rows.append(f"{a:.0%} against {b:.0%}: power {stats.power(a, b, small):.0%} with n = {small}, "
                        f"{stats.power(a, b, n):.0%} with n = {n}, 80 % from n = {stats.n_needed(a, b)}")
    width = stats.wilson(round(0.7 * small), small)
    return (
        "\n".join(lines)
        + f"\n\nWhat n = {small} can show (two independent proportions, two-sided 5 %): "
        + "; ".join(rows)
        + f". At {small} problems 70 % has the interval {width[0]:.0%} to {width[1]:.0%}. "
        "So a collapse from 70 % to 10 % shows, a loss of a few points does not; which subsets it spares can't be "
        "told "
        "from configurations of different code versions. *A subset that stays apart on one code version "
        "would "
        "change this.*"
    )


def invariance(tokens: pd.DataFrame, logits: pd.DataFrame) -> str:
    """Subset invariance. tokens: one row a subset or exception (same, n, first); logits: `gap` by subset."""
    named = tokens[tokens.kind == "contiguous subset"]
    exact = logits[logits.kind == "contiguous subset"]
    others = "\n".join(f"- {row.layers}, {row.policy}: {row.same} of {row.n} decodes as with the first subset"
                       f"{'' if pd.isna(row.gap) else f'; largest difference of logits {row.gap:.2g}'}"
                       for row in tokens[tokens.kind != "contiguous subset"].itertuples())
    return (f"**{int(named.same.sum())} of {int(named.n.sum())} decodes are token for token those of the first "
            "subset, and "
            f"on {len(exact)} reuse steps the logits differ from those of the last recompute step by at most "
            f"{exact.gap.max():.2g}** (largest logit {exact['size'].max():.0f}; at the first position of a small "
            "block, "
            f"which is never masked then, by up to {exact['first'].max():.2g}).\n\n{others}\n\n"
            "So output reuse costs the layers that still run and returns nothing for them: `replay` gives these tokens "
            "without any forward. *A subset with other tokens in float32 would change this; in half precision GEMMs of "
            "other shapes may round differently (notebook 08).*")


def bisection(found: Sequence[tuple[str, BisectionResult]]) -> str:
    """F. One line per subset, then what the culprits have in common."""
    lines = [f"- **{name}**: {verdict}" for name, verdict in found]
    culprits = {tuple(v.tokens_by) if v.tokens_by else () for _, v in found}
    runs = sum(v.tried for _, v in found)
    same = ("The same switches for every subset: " if len(culprits) == 1 else "Not the same for every subset: ")
    named = "; ".join(" with ".join(c) or "none that changes tokens" for c in culprits)
    return ("\n".join(lines) + f"\n\n**{same}{named}.** {runs} short runs of candidates, of "
            f"{found[0][1].combinations} combinations for each subset. *Prompts on which the decoders part earlier, "
            "or in "
            "another observable, would change this.*")


def audit_lines(rules: Sequence[str]) -> str:
    """What the audit of the published table says under some rules, one line a finding."""
    return "\n".join(f"- {f.statement} ({f.sure})" for f in audit.audit(sources.published(), only=rules)
                     if f.level != "note")


def log_runs() -> pd.DataFrame:
    """Run 1 and Run 2 of the log as published, in the columns of `Phase6Results.frame`."""
    table = prior_results.results()
    table = table[(table.task == "gsm8k")].merge(LOG, on="batch")
    bounds = [stats.wilson(row.correct, row.n) for row in table.itertuples()]
    return table.assign(low=[b[0] for b in bounds], high=[b[1] for b in bounds])


def phase6(found: Phase6Results, stale: pd.DataFrame) -> str:
    """The verdict: what collapsed, when, why; what did not; what stands; what next. `stale`: `stale_summary` of Run
    1's and Run 2's code."""
    configurations = {}
    for revision in ("6c8822f", "26d6179"):
        table = against(found, "8e18baac", revision)
        configurations[revision] = (
            table,
            table[(table.p_holm < 0.05) & (table.points < 0)],
            across_subsets(found, revision),
        )
    lines = ["**What collapsed.** " + _collapse(found, *configurations["6c8822f"], "Run 1's code (`6c8822f`)"),
             "**What did not.** " + _collapse(found, *configurations["26d6179"], "Run 2's code (`26d6179`)")]
    share = stale.set_index("revision").reindex(columns=["from another small block", "from another block"]).sum(axis=1)
    lines.append("**Why.** `6c8822f` switches the wrappers off in full forwards, so that only small-block outputs are "
                 f"ever stored: {share['6c8822f']:.0%} of its reusing forwards (k=3, middle, the prompts drawn above) "
                 "served outputs of another small block or block, "
                 f"{share['26d6179']:.0%} under `26d6179`, where every small block begins with a full forward that "
                 "refreshes them. Output reuse does not depend on the subset (notebook 06), so `first` could not be "
                 "spared "
                 "on the same code: in the log it had run on another commit.")
    lines.append("**What the log's figures say by themselves.**\n"
                 + audit_lines(("equal_tokens", "must_agree", "copied_accuracy", "mixed_code", "runaway")))
    lines.append("**Which published numbers stand.** January's full GSM8K accuracies fit the argument (one value a k, "
                 "the same for the subsets within their intervals); its throughputs don't carry a comparison "
                 "(notebook 13), Run 1 mixes code versions, and Run 2's accuracies contradict its own token totals and "
                 "are Run 1's to the digit: its own were most likely never recorded.")
    lines.append(
        "**What next.** Score Run 2's code on the 7B (this notebook with `model` and `params` changed); "
        "compare `replay`, which gives the tokens of output reuse for no compute, with plain threshold "
        "lowering at equal speed on more problems: notebook 09 says what each policy is worth so far. *What "
        "would change this: a configuration of `26d6179` that loses against January's on more problems, or subsets "
        "that differ on one code version. The embedded checkpoint is not the 7B, and this is float32.*"
    )
    return "\n\n".join(lines)


def _collapse(found: Phase6Results, table: pd.DataFrame, hit: pd.DataFrame, subsets: pd.DataFrame, code: str) -> str:
    rows = found.frame[found.frame.config.isin(found.correct) & (found.frame.k > 1)]
    rows = rows[rows.revision == code.split("`")[1]]
    low = ", ".join(f"{layers} {group.accuracy.mean():.0%}" for layers, group in rows.groupby("layers", sort=False))
    head = f"{code} is {'' if len(hit) else 'not found '}worse than January's "
    head += f"in {{}} of {len(table)} configurations at k >= 2"
    head = head.format(len(hit) or "any")
    worst = table.loc[table.points.idxmin()]
    apart = int(subsets["answers that differ"].max())
    return (f"{head} (paired, Holm; lowest k{worst.k} {worst.layers}: {points(worst)}). Mean accuracy: {low}; between "
            "the "
            f"subsets {f'at most {apart}' if apart else 'none'} of {int(subsets.n.max())} answers differ.")
