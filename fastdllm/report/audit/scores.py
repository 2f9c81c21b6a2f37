"""Audit rules over accuracies, token totals and counts: of single configurations, and of tables that are small."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

from collections.abc import Iterator

from fastdllm import power, stats
from fastdllm.lab.records.harness_results import RIGHT_OR_WRONG
from fastdllm.report.audit.evidence import Evidence, Finding, Rule, decimals, names, same_number

BLOCK = 32  # generated totals of the published loops are whole blocks less the prompt's share of its last block
EMPTY_SHARE = 0.05
EQUAL = 5e-5  # two means that are one, where a file rounds to four digits
CRITERION = 0.05  # the loss that the proposal wants told apart


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
                      f"{row.row}: {row.empty:.0f} of {row.n:.0f} answers are empty", "certain: counted in the samples")


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
                          f"{row.accuracy:.0%}{extra}",
                          "likely: outputs that did not end; its tokens/s then counts noise")


def too_few(evidence: Evidence) -> Iterator[Finding]:
    """Tables too small to show the loss that the success criterion asks about."""
    for name, rows in evidence.alike:
        base = rows[(rows["k"] == 1) & rows["accuracy"].notna() & rows["n"].notna()]
        if base.empty or not (rows["k"] > 1).any():
            continue
        p, n = float(base["accuracy"].mean()), int(base["n"].iloc[0])
        if p <= CRITERION:
            continue
        visible = power.smallest_loss(min(p, 1 - 1e-9), n)
        if visible <= CRITERION:
            continue
        low, high = stats.wilson(round(p * n), n)
        what = f"losses below {visible:.0%}" if visible == visible else "any loss at all"
        yield Finding("too_few", "doubtful", names(rows),
                      f"{name}: n = {n}; k=1 at {p:.1%} has the interval {stats.span(low, high, '.1%')}; {what} "
                      f"are missed more often than once in five; 5 points need n = {power.n_needed(p, p - CRITERION)}",
                      "computed: power 80 %, two-sided 5 %, independent samples")


def impossible_accuracy(evidence: Evidence) -> Iterator[Finding]:
    """An accuracy that is no whole number of n answers, however it was rounded (the GRIM test)."""
    known = evidence.rows[evidence.rows["accuracy"].notna() & evidence.rows["n"].notna()]
    for row in known.to_dict("records"):
        answers, means = row["accuracy"] * row["n"], row["group_means"]
        rounding = 0.5000001 * 10 ** -decimals(row["accuracy"]) * row["n"]
        if abs(answers - round(answers)) <= max(1e-6 * row["n"], rounding) or not _counts_answers(row):
            continue
        if abs(row["accuracy"] - means.get("unweighted", 2)) < EQUAL:
            continue                                    # said by group_mean
        reasons = ["n is worked out from the benchmark's size, not stated"] if row["n_stated"] is False else []
        reasons += [] if row["metric"] or row["origin"] == "record" else ["the metric is not named"]
        yield Finding("impossible_accuracy", "doubtful" if reasons else "impossible", (row["row"],),
                      f"{row['row']}: {row['accuracy']:.6f} of n = {row['n']:.0f} is {answers:.3f} answers"
                      + (f" ({row['metric']})" if row["metric"] else ""),
                      "; ".join(reasons) if reasons else "certain: the score is the mean of right and wrong")


def _counts_answers(row: dict) -> bool:
    """Whether the score can be a share of answers; a named metric such as f1 is none."""
    return row["origin"] != "lm_eval" or bool(RIGHT_OR_WRONG.match(row["metric"]))


def limit_per_subtask(evidence: Evidence) -> Iterator[Finding]:
    """A limit read as n where it counts per subtask."""
    for name, rows in evidence.tables():
        limit, n = rows["limit"].iloc[0], rows["n"].max()
        if not limit >= 1 or n != n or n == limit:
            continue
        count = rows["accuracy"].dropna() * limit
        broken = bool(((count - count.round()).abs() > 1e-3).any())
        yield Finding("limit_per_subtask", "note", names(rows), f"{name}: limit {limit:g} is n = {n:.0f}",
                      f"certain: the scores are no multiples of 1/{limit:g}" if broken
                      else "from the number of subtasks of the benchmark")


def group_mean(evidence: Evidence) -> Iterator[Finding]:
    """A group's score that is not the mean over its problems."""
    for row in evidence.rows[evidence.rows["accuracy"].notna()].to_dict("records"):
        means, accuracy = row["group_means"], row["accuracy"]
        if not means or abs(accuracy - means["weighted"]) < EQUAL:
            continue
        what = f"{row['row']}: {row['metric']} of {row['task']} is {accuracy:.4f}"
        if abs(accuracy - means["unweighted"]) < EQUAL:
            yield Finding("group_mean", "note", (row["row"],),
                          f"{what}, the unweighted mean of its parts; over its problems it is {means['weighted']:.4f}",
                          "certain: computed from the parts; intervals from n do not hold for it")
        elif not same_number(accuracy, means["weighted"]):
            yield Finding("group_mean", "doubtful", (row["row"],),
                          f"{what}; its parts give {means['weighted']:.4f} over problems and "
                          f"{means['unweighted']:.4f} over parts", "certain that it is neither mean of these parts")


def several_metrics(evidence: Evidence) -> Iterator[Finding]:
    """Scores under several metrics: which one the other rules compare, and what the others say."""
    for name, rows in evidence.tables():
        several = rows[rows["origin"].isin(["lm_eval", "summary"]) & (rows["metrics"].map(len) > 1)]
        if several.empty:
            continue
        parts = [f"{row['config']} " + ", ".join(
            f"{'*' if metric == row['metric'] else ''}{metric} {value:.4g}" for metric, value in row["metrics"].items())
            for row in several.to_dict("records")]
        yield Finding("several_metrics", "note", names(several),
                      f"{name}: {'; '.join(parts)} (* the headline, which is compared)", "as the files state them")


RULES: dict[str, Rule] = {rule.__name__: rule for rule in (
    reused_nothing, runaway, empty_answers, too_few, impossible_accuracy, limit_per_subtask, group_mean,
    several_metrics)}
