"""Audit rules over accuracies, token totals and counts of single configurations."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from fastdllm import prior_results, stats
from fastdllm.report.audit.evidence import Evidence, Finding, Rule, names

BLOCK = 32  # generated totals of the published loops are whole blocks less the prompt's share of its last block
EMPTY_SHARE = 0.05
CRITERION = 0.05  # the loss that the proposal wants told apart


def copied_accuracy(evidence: Evidence) -> Iterator[Finding]:
    """Accuracies equal to another run's, configuration by configuration, although the outputs were not."""
    for (task, _, _), rows in evidence.rows.groupby(["task", "limit", "setting"], sort=False):
        for a, b in combinations(rows["batch"].unique(), 2):
            both = rows[rows["batch"] == a].merge(rows[rows["batch"] == b], on=["config", "metric"])
            both = both[both["accuracy_x"].notna() & both["accuracy_y"].notna()]
            other = both[both["tokens_x"].notna() & both["tokens_y"].notna() & (both["tokens_x"] != both["tokens_y"])]
            if len(other) < 3 or not (both["accuracy_x"] == both["accuracy_y"]).all():
                continue
            single = other[other["n_x"].notna()].drop_duplicates(["tokens_x", "tokens_y"])
            correct = (single["accuracy_x"] * single["n_x"]).round()
            chance = float(np.prod(scipy_stats.betabinom.pmf(correct, single["n_x"], correct + 1,
                                                             single["n_x"] - correct + 1)))
            yield Finding(
                "copied_accuracy", "impossible" if chance < 0.01 else "doubtful",
                (*both["row_x"], *both["row_y"]),
                f"all {len(both)} accuracies of {b} equal those of {a} on {task} to the digit, "
                f"while the token totals of {len(other)} configurations differ",
                f"two independent runs would agree like this with a chance of about {chance:.1g}")


def must_agree(evidence: Evidence) -> Iterator[Finding]:
    """k=1 never reuses, so its rows over the subsets are one computation."""
    for name, rows in evidence.alike:
        one = rows[(rows["k"] == 1) & rows["accuracy"].notna()]
        if len(one) < 2 or (one["accuracy"].nunique() == 1 and one["tokens"].nunique() <= 1):
            continue
        same_code = one["code"].nunique() <= 1
        values = ", ".join(f"{r.config} {r.accuracy:.1%}"
                           + (f" with {r.tokens:.0f} tokens" if r.tokens == r.tokens else "")
                           for r in one.itertuples())
        yield Finding("must_agree", "impossible" if same_code else "doubtful", names(one),
                      f"{name}: k=1 is one computation under {len(one)} names, and they differ: {values}",
                      "certain for deterministic decoding on one code version" if same_code
                      else "likely: the rows name different commits, none of which should change k=1")


def equal_tokens(evidence: Evidence) -> Iterator[Finding]:
    """Equal token totals over subsets that are said to behave differently."""
    for name, rows in evidence.alike:
        same: dict[tuple[float, float], list[dict]] = {}    # plain rows: a large grid has hundreds of such groups
        for row in rows[(rows["k"] > 1) & rows["tokens"].notna()].to_dict("records"):
            same.setdefault((row["k"], row["tokens"]), []).append(row)
        for (k, tokens), part in sorted(same.items()):
            if len({row["layers"] for row in part if isinstance(row["layers"], str)}) < 2:
                continue
            members = tuple(row["row"] for row in part)
            if len({row["accuracy"] for row in part if row["accuracy"] == row["accuracy"]}) > 1:
                scores = ", ".join(f"{row['config']} {row['accuracy']:.1%}" for row in part)
                p = _spread(pd.DataFrame(part))
                yield Finding("equal_tokens", "impossible" if p < 0.01 else "doubtful", members,
                              f"{name}, k={k:.0f}: {tokens:.0f} tokens each, and yet {scores}",
                              f"equal totals mean equal or nearly equal outputs; the scores differ with p = {p:.2g}")
            else:
                yield Finding("equal_tokens", "note", members,
                              f"{name}, k={k:.0f}: {tokens:.0f} tokens and {part[0]['accuracy']:.1%} each",
                              "expected: output reuse of a contiguous subset does not depend on the subset")


def _spread(rows: pd.DataFrame) -> float:
    """Fisher-exact p of the largest against the smallest accuracy; 1 where n is unknown."""
    known = rows[rows["n"].notna()]
    if len(known) < 2:
        return 1.0
    best, worst = known.loc[known["accuracy"].idxmax()], known.loc[known["accuracy"].idxmin()]
    table = [[round(r["accuracy"] * r["n"]), r["n"] - round(r["accuracy"] * r["n"])] for r in (best, worst)]
    return float(scipy_stats.fisher_exact(table).pvalue)


def no_effect(evidence: Evidence) -> Iterator[Finding]:
    """Every reuse configuration scores exactly what the baseline scores: reuse did not act."""
    for name, rows in evidence.alike:
        scored = rows[rows["accuracy"].notna()]
        reused, base = scored[scored["k"] > 1], scored[scored["k"] == 1]
        if len(reused) < 2 or base.empty or scored["accuracy"].nunique() > 1 or scored["tokens"].nunique() > 1:
            continue
        n = scored["n"].max()
        if not n >= 20:
            continue
        blind = prior_results.tasks()["loglikelihood"].get(rows["task"].iloc[0], False)
        yield Finding("no_effect", "impossible", names(scored),
                      f"{name}: all {len(scored)} rows say {scored['accuracy'].iloc[0]:.4%}; "
                      "k and layers changed nothing",
                      "certain: the task is scored by log-likelihood, on which layer reuse does not act" if blind
                      else f"almost certain at n = {n:.0f}: reuse was not active")


def reused_nothing(evidence: Evidence) -> Iterator[Finding]:
    """A reuse configuration whose own counts say that no layer call was saved."""
    bad = evidence.rows[(evidence.rows["k"] > 1) & (evidence.rows["reuse"] == 0)]
    for row in bad.itertuples():
        yield Finding("reused_nothing", "impossible", (str(row.row),),
                      f"{row.row}: k={row.k:.0f} and not one layer call reused", "certain: counted by the wrappers")


def empty_answers(evidence: Evidence) -> Iterator[Finding]:
    """Answers of no text at all: a stop rule, not the model, decided them."""
    rows = evidence.rows[evidence.rows["empty"].notna() & evidence.rows["n"].notna()]
    for row in rows[rows["empty"] >= EMPTY_SHARE * rows["n"]].itertuples():
        yield Finding("empty_answers", "doubtful", (str(row.row),),
                      f"{row.row}: {row.empty:.0f} of {row.n:.0f} answers are empty", "certain: counted")


def runaway(evidence: Evidence) -> Iterator[Finding]:
    """Totals that are twice the baseline's: samples that ran into the length cap (one extra token each)."""
    for name, rows in evidence.alike:
        base = rows.loc[(rows["k"] == 1) & rows["tokens"].notna(), "tokens"]
        if base.empty or not rows["tokens"].max() >= 2 * base.iloc[0]:
            continue
        for row in rows[(rows["k"] > 1) & (rows["tokens"] >= 2 * base.iloc[0])].itertuples():
            capped = int(row.tokens - base.iloc[0]) % BLOCK
            extra = (f"; the total is {capped} above the baseline's modulo {BLOCK}, one extra token for each sample "
                     f"that ran into the cap: {capped} of {row.n:.0f}" if row.n == row.n and row.n < BLOCK else "")
            yield Finding("runaway", "doubtful", (str(row.row),),
                          f"{name}: {row.config} has {row.tokens:.0f} tokens against {base.iloc[0]:.0f} at k=1 and "
                          f"{row.accuracy:.0%}{extra}", "certain that outputs did not end; its tokens/s counts noise")


def too_few(evidence: Evidence) -> Iterator[Finding]:
    """Tables too small to show the loss that the success criterion asks about."""
    for name, rows in evidence.alike:
        base = rows[(rows["k"] == 1) & rows["accuracy"].notna() & rows["n"].notna()]
        if base.empty or not (rows["k"] > 1).any():
            continue
        p, n = float(base["accuracy"].mean()), int(base["n"].iloc[0])
        if p <= CRITERION:
            continue
        visible = stats.smallest_loss(min(p, 1 - 1e-9), n)
        if visible <= CRITERION:
            continue
        low, high = stats.wilson(round(p * n), n)
        what = f"losses below {visible:.0%}" if visible == visible else "any loss at all"
        yield Finding("too_few", "doubtful", names(rows),
                      f"{name}: n = {n}; k=1 at {p:.1%} has the interval {low:.1%} to {high:.1%}; {what} "
                      f"are missed more often than once in five; 5 points need n = {stats.n_needed(p, p - CRITERION)}",
                      "computed: power 80 %, two-sided 5 %, independent samples")


def impossible_accuracy(evidence: Evidence) -> Iterator[Finding]:
    """An accuracy that is no whole number of n answers (the GRIM test)."""
    known = evidence.rows[evidence.rows["accuracy"].notna() & evidence.rows["n"].notna()]
    count = known["accuracy"] * known["n"]
    for row in known[(count - count.round()).abs() > 1e-3].itertuples():
        yield Finding("impossible_accuracy", "impossible", (str(row.row),),
                      f"{row.row}: {row.accuracy:.6f} of n = {row.n:.0f} is {row.accuracy * row.n:.3f} answers",
                      "certain, if the score is a plain mean of right and wrong")


def limit_per_subtask(evidence: Evidence) -> Iterator[Finding]:
    """A limit read as n where it counts per subtask."""
    for name, rows in evidence.tables():
        limit, n = int(rows["limit"].iloc[0]), rows["n"].max()
        if not limit or n != n or n == limit:
            continue
        count = rows["accuracy"].dropna() * limit
        broken = bool(((count - count.round()).abs() > 1e-3).any())
        yield Finding("limit_per_subtask", "note", names(rows), f"{name}: limit {limit} is n = {n:.0f}",
                      f"certain: the scores are no multiples of 1/{limit}" if broken
                      else "from the number of subtasks of the benchmark")


def unreadable(evidence: Evidence) -> Iterator[Finding]:
    """Files that are no valid result: edited by hand, cut off, of an unknown layout."""
    for row in evidence.rows[evidence.rows["problem"].notna()].itertuples():
        yield Finding("unreadable", "impossible", (str(row.row),), f"{row.file}: {row.problem}", "certain")


RULES: dict[str, Rule] = {rule.__name__: rule for rule in (
    copied_accuracy, must_agree, equal_tokens, no_effect, reused_nothing, runaway, empty_answers, too_few,
    impossible_accuracy, limit_per_subtask, unreadable)}
