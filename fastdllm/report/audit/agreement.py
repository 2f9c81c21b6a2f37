"""Audit rules over configurations that agree where they should differ, or differ where they should agree."""

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

from fastdllm import prior_results
from fastdllm.decode.revisions import REVISIONS
from fastdllm.report.audit.evidence import Evidence, Finding, Rule, names, not_one_computation, settings_key

ENOUGH = 20             # problems from which equal accuracies of different outputs are worth a word
SCORER_NOISE = 0.02     # of n: equal outputs may be scored as differently as this (a scorer's time limit), or by one
ACTS_AT_K1 = {"full_block_every_k": "bug 2", "termination": "the rule that ends a row"}      # switches of a revision


def equal_tokens(evidence: Evidence) -> Iterator[Finding]:
    """Equal token totals over subsets, with different scores: equal outputs have one score."""
    for name, rows in evidence.alike:
        same: dict[tuple[float, float], list[dict]] = {}    # plain rows: a large grid has hundreds of such groups
        for row in rows[(rows["k"] > 1) & rows["tokens"].notna()].to_dict("records"):
            same.setdefault((row["k"], row["tokens"]), []).append(row)
        for (k, tokens), part in sorted(same.items()):
            policy = part[0]["settings"].get("policy")
            if len({row["layers"] for row in part if isinstance(row["layers"], str)}) < 2:
                continue
            members, scores = tuple(row["row"] for row in part), sorted(
                {row["accuracy"] for row in part if row["accuracy"] == row["accuracy"]})
            what = f"{name}, k={k:.0f}: {tokens:.0f} tokens each"
            if len(scores) < 2:
                score = f" and {scores[0]:.1%} each" if scores else ""
                yield Finding("equal_tokens", "note", members, what + score,
                              "expected: output reuse of a contiguous subset does not depend on the subset")
                continue
            if policy not in (None, "output", "replay"):
                continue                                    # outputs do depend on the subset, and totals may coincide
            against = _against(part, tokens, scores)
            each = ", ".join(f"{row['config']} {row['accuracy']:.1%}" for row in part)
            yield Finding("equal_tokens", "doubtful" if against else "impossible", members, f"{what}, and yet {each}",
                          against or f"the strongest evidence there is: output reuse does not depend on the subset, so "
                          f"{len(part)} equal totals are equal outputs, and equal outputs have one score")


def _against(part: list[dict], tokens: float, scores: list[float]) -> str:
    """What else could explain equal totals with different scores; "" if nothing could."""
    n = part[0]["n"]
    reasons = []
    if n == n and tokens % n == 0:
        reasons.append(f"{tokens / n:.0f} tokens a problem: with every answer at one cap, totals agree by themselves")
    if n != n or (scores[-1] - scores[0]) * n <= max(1, SCORER_NOISE * n) + 0.5:
        reasons.append("the difference is within what one scorer may do to equal answers")
    if len(part) < 3 and part[0]["settings"].get("policy") is None:
        reasons.append("only two totals agree, and what is reused is not stated")
    codes = {row["code"] for row in part}
    if len(codes) > 1 or not all(isinstance(code, str) for code in codes):
        reasons.append("the code, and with it the scorer, is not known to be one")
    return "; ".join(reasons)


def must_agree(evidence: Evidence) -> Iterator[Finding]:
    """k=1 never reuses: rows over the subsets that are one computation have one result."""
    for name, rows in evidence.alike:
        one = rows[(rows["k"] == 1) & rows["accuracy"].notna()]
        if len(one) < 2 or (one["accuracy"].nunique() == 1 and one["tokens"].nunique() <= 1):
            continue
        reasons = not_one_computation(one)
        values = ", ".join(f"{r.config} {r.accuracy:.1%}"
                           + (f" with {r.tokens:.0f} tokens" if r.tokens == r.tokens else "")
                           for r in one.itertuples())
        yield Finding("must_agree", "doubtful" if reasons else "impossible", names(one),
                      f"{name}: k=1 is one computation under {len(one)} names, and they differ: {values}",
                      f"{_code_at_k1(one)}; {reasons}" if reasons
                      else "certain: all that shaped these rows is known and agrees, and decoding is deterministic")


def _code_at_k1(rows: pd.DataFrame) -> str:
    """Whether the code of these rows can explain that their k=1 differs."""
    codes = [str(code) for code in rows["code"].dropna().unique()]
    if not codes or rows["code"].isna().any():
        return "undecided: the code is not stated for each"
    if len(codes) == 1:
        return (f"all on one version of the code ({codes[0]}), so a mix of versions does not explain it"
                + ("; only its uncommitted changes could" if rows["dirty"].eq(True).any() else ""))
    known = {code: next((revision for name, revision in REVISIONS.items() if code.startswith(name)), None)
             for code in codes}
    if None in known.values():
        return "undecided: the versions of the code differ, and whether they do so at k=1 is not known"
    switches = [text for switch, text in ACTS_AT_K1.items()
                if len({getattr(revision, switch) for revision in known.values()}) > 1]
    if not switches:
        return "these versions of the code do not differ at k=1, so their mix does not explain it"
    return (f"the mix of versions can explain it: {' and '.join(switches)} acts at k=1, and is not in all of "
            f"{', '.join(codes)}")


def copied_accuracy(evidence: Evidence) -> Iterator[Finding]:
    """Accuracies equal to another run's, configuration by configuration, although the outputs were not."""
    keys = evidence.rows["settings"].map(settings_key)
    for (task, _, _), rows in evidence.rows.groupby(["task", "limit", keys], sort=False, dropna=False):
        for a, b in combinations(rows["batch"].unique(), 2):
            both = rows[rows["batch"] == a].merge(rows[rows["batch"] == b], on=["config", "metric"])
            both = both[both["accuracy_x"].notna() & both["accuracy_y"].notna()]
            telling = both[~both["accuracy_x"].isin([0.0, 1.0]) & both["tokens_x"].notna() & both["tokens_y"].notna()
                           & (both["tokens_x"] != both["tokens_y"])]
            if len(telling) < 3 or not (both["accuracy_x"] == both["accuracy_y"]).all():
                continue
            single = telling[telling["n_x"].notna()].drop_duplicates(["tokens_x", "tokens_y"])
            correct = (single["accuracy_x"] * single["n_x"]).round()
            chances = scipy_stats.betabinom.pmf(correct, single["n_x"], correct + 1, single["n_x"] - correct + 1)
            sure = ("n is not known: no chance can be computed" if not len(single) else
                    f"were configurations independent, two runs would agree like this with a chance of about "
                    f"{float(np.prod(chances)):.1g}; they share their problems, and if one decides the others, it is "
                    f"{float(np.min(chances)):.1g}")
            yield Finding("copied_accuracy", "doubtful", (*both["row_x"], *both["row_y"]),
                          f"all {len(both)} accuracies of {b} equal those of {a} on {task} to the digit, while the "
                          f"token totals of {len(telling)} configurations between 0 and 100 % differ", sure)


def no_effect(evidence: Evidence) -> Iterator[Finding]:
    """Every configuration has the baseline's score and tokens: copied, or reuse did not act."""
    for name, rows in evidence.alike:
        scored = rows[rows["accuracy"].notna()]
        reused, base = scored[scored["k"] > 1], scored[scored["k"] == 1]
        if len(reused) < 2 or base.empty or scored["accuracy"].nunique() > 1 or scored["tokens"].nunique() > 1:
            continue
        accuracy, n, tokens = scored["accuracy"].iloc[0], scored["n"].max(), scored["tokens"].iloc[0]
        blind = not tokens > 0 and bool(prior_results.tasks()["loglikelihood"].get(rows["task"].iloc[0], False))
        told_apart = tokens == tokens and n == n and tokens % n != 0      # not one length for every answer
        if not blind and (n < ENOUGH or (accuracy in (0.0, 1.0) and not told_apart) or (reused["reuse"] > 0).any()):
            continue
        equal = f" and {tokens:.0f} tokens" if tokens == tokens else ""
        yield Finding("no_effect", "impossible" if blind else "doubtful", names(scored),
                      f"{name}: all {len(scored)} rows say {accuracy:.4%}{equal}; k and layers changed nothing",
                      "certain: the task is scored by log-likelihood, on which layer reuse does not act" if blind
                      else "one row was copied to the others, or reuse did not act"
                      + ("" if equal else " (token totals, which would tell, are not stated)"))


def same_accuracy(evidence: Evidence) -> Iterator[Finding]:
    """One accuracy for configurations whose token totals all differ: the score is probably copied."""
    for name, rows in evidence.alike:
        known = rows[rows["accuracy"].notna() & rows["tokens"].notna()]
        accuracy, n = known["accuracy"].max(), known["n"].max()
        if known["accuracy"].nunique() != 1 or known["tokens"].nunique() < 3 or accuracy in (0.0, 1.0) or n < ENOUGH:
            continue
        size = f" of n = {n:.0f}" if n == n else ""
        yield Finding("same_accuracy", "doubtful", names(known),
                      f"{name}: {known['tokens'].nunique()} different token totals, and {accuracy:.4%}{size} for all "
                      f"{len(known)} configurations",
                      "the score is probably copied: different outputs seldom have equally many right answers")


RULES: dict[str, Rule] = {rule.__name__: rule for rule in (
    equal_tokens, must_agree, copied_accuracy, no_effect, same_accuracy)}
