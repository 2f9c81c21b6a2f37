"""The results page of an experiment, what a terminal says of it, and the files of a report."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from fastdllm import stats
from fastdllm.display import claim as claims
from fastdllm.display.tables import REPEATS, Html, together
from fastdllm.lab import atomic
from fastdllm.lab.config.paths import short
from fastdllm.report import (
    log_entry,
    plain_control,
    summary_tables,
    tables,
    wrong_answers,
)
from fastdllm.report.audit import rules
from fastdllm.report.content import TABLE, Report

PAGE, ENTRY = "results.md", "log_entry.md"
MOST_LINES = 40
NOTES, NOTES_END = "<!-- notes: kept when this page is written again -->", "<!-- end of notes -->"
NO_NOTES = "_No notes yet. What stands between the two marks is kept._"


def page(report: Report, notes: str = NO_NOTES) -> str:
    """The results page: hypothesis, verdict, table, best configurations, rules, audit, coverage, notes."""
    results, verdict = report.results, report.verdict
    grid, goal = results.grid, results.grid.criteria
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    missing = "\n".join(f"- {state.configuration.path}: {state.state}{f' ({state.detail})' if state.detail else ''}"
                        for state in results.missing)
    return "\n".join([
        f"# {grid.experiment}", "", f"Written {written} by `fastdllm grid report`. "
        + (results.shipped or f"The records are in `{short(grid.directory)}`") + "."
        + (f" Author: {grid.author}." if grid.author else ""), "",
        "## Hypothesis", "", grid.hypothesis.strip() or "_none stated_", "",
        f"Success: speed-up > {goal.speedup}x at less than {goal.points_lost} points lost. Rejected: every reuse "
        f"configuration below {goal.negligible_speedup}x or above {goal.catastrophic_loss} points.", "",
        "## Verdict", "", report.answer, "", f"**{verdict.outcome}** — {verdict.why}.", "",
        f"Rule: {verdict.rule}.", "",
        Html(verdict.merged, JUDGED).markdown() if len(verdict.rows) else "", "",
        "## Results", "", Html(report.shown, report.caption).markdown(), "",
        "What the pairs say:", "", *[f"- {line}" for line in differences(report.table)], "",
        *([f"<details><summary>{wrong.fold}</summary>", "", wrong.markdown(), "", "</details>", ""]
          if (wrong := wrong_answers.shown(results)) else []),
        *plain_part(report), *([report.beside, ""] if report.beside else []),
        "## Best configuration per benchmark", "", Html(summary_tables.best(report.table), BEST).markdown(), "",
        "## Extraction rules", "", Html(summary_tables.rules_table(results), RULES).markdown(), "",
        "## Measured and published", "",
        Html(summary_tables.against_published(results), AGAINST_PUBLISHED).markdown(), "",
        "## Audit", "", rules.summary(report.findings) + ".", "",
        Html(rules.frame(report.findings), rules.FINDINGS).markdown() if report.findings else "", "",
        "## Coverage", "", Html(summary_tables.coverage(results), COVERAGE).markdown(), "",
        *(["Not complete:", "", missing, ""] if missing else []),
        "## Notes", "", NOTES, notes, NOTES_END, ""])


def plain_part(report: Report) -> list[str]:
    """The page's lines on whether reuse beats lowering the threshold; none where the grid has no such control."""
    rows = report.against_plain
    if rows is None:
        return []
    return ["## Against lowering the threshold", "", *(f"- {line}" for line in plain_control.sentences(rows)), "",
            Html(plain_control.as_text(rows), plain_control.caption(rows)).markdown(), ""]


COUNTED = ("NFE: forwards by kind; recompute, reuse and fallback: layer calls. Rows with the same counts are one "
           "computation.")
RULES = ("* the headline rule; a rule reads its own form of answer (strict: the number after ####, flexible: the last "
         "number, boxed: what stands in \\boxed{}) and counts all else as wrong, so that 0.0 beside a high score says "
         "that the outputs have another form, not that they are wrong")
AGAINST_PUBLISHED = "accuracy by the headline rule with 95 % Wilson interval, beside the score that the authors publish"
BEST = "accuracy by the headline rule; speed-up against k=1, as in the table above"
JUDGED = ("speed-up against k=1 and points of accuracy lost, with intervals that hold for all configurations together; "
          "meets, misses: the bar for success, surely; negligible, catastrophic: what rejection asks of every one")
COVERAGE = (
    "every benchmark of the suite: the problems of its test set; whether layer reuse can act (not where "
    "answers are scored by likelihood); configurations in the published log; complete configurations of this grid"
)


def differences(table: pd.DataFrame, most: int = 40) -> list[str]:
    """What was lost, one sentence for all configurations that lost the same.

    With McNemar's p, Holm-corrected over the grid's computations, where the samples are kept.
    """
    said: dict[tuple[str, str], list[str]] = {}
    for row in table[(table["k"] > 1) & table["lost"].notna()].itertuples():
        difference = stats.say_difference(-row.lost, -row.lost_high, -row.lost_low, row.n)
        relative = "" if math.isnan(row.lost_relative) else f", {-row.lost_relative:+z.1%} of k=1's right answers"
        p = f"; McNemar p = {row.p:.2g}, Holm over the grid {row.p_holm:.2g}" if row.p == row.p else ""
        said.setdefault((row.task, f"{difference}{relative}{p}"), []).append(row.config)
    return [f"{task} {together(configs)}{' each' if len(configs) > 1 else ''}: {text}"
            for (task, text), configs in said.items()][:most]


def verdict_text(report: Report) -> str:
    """The last cell of the report notebook: the outcome and why, its rule behind the fold; Markdown. The answer in
    words stands above (`Report.heading`).
    """
    judged = report.verdict
    return claims.verdict([f"**{judged.outcome.capitalize()}.** {judged.why[:1].upper()}{judged.why[1:]}."],
                          [f"Rule: {judged.rule}.",
                           "More problems or repeats narrow the intervals; another model, threshold or batch size is "
                           "another grid."])


def summary_text(report: Report) -> str:
    """What a terminal says of a written report: the main figures of each configuration, if they fit, and the files."""
    rows = report.table.to_dict("records")
    names = [f"{row['task']} {row['config']}" for row in rows]
    width = max(map(len, names))
    lines = [f"{name:{width}}  {100 * row['accuracy']:5.1f} % of {row['n']} "
             f"({stats.span(100 * row['low'], 100 * row['high'])})  "
             + (f"{row['nfe']:6.0f} forwards" if row["runs"] < REPEATS and row["nfe"] else log_entry.rate(row))
             + (f"  {row['lost']:.1f} points lost, {log_entry.ratio(row)}"
                if row["lost"] == row["lost"] and row["k"] > 1 else "")
             for name, row in zip(names, rows, strict=True)] if len(rows) <= MOST_LINES else []
    states = [state.state for state in report.results.states if state.state != "not applicable"]
    folder = report.results.grid.report_directory
    notes = filter(None, [report.results.shipped, tables.executors(report.table)])
    return "\n".join([*notes, *lines, report.answer, f"{states.count('complete')} of "
                      f"{stats.number_of(len(states), 'configuration')} complete",
                      f"log entry: {short(folder / ENTRY)}", f"results page: {short(folder / PAGE)}",
                      f"table: {short(folder / TABLE)}"])


def write(report: Report) -> list[Path]:
    """Write page, entry and table beside the records; free notes on an older page are kept."""
    folder = report.results.grid.report_directory
    old = folder / PAGE
    notes = kept_notes(old.read_text(encoding="utf-8")) if old.exists() else NO_NOTES
    atomic.write(old, page(report, notes))
    atomic.write(folder / ENTRY, log_entry.entry(report))
    atomic.write(folder / TABLE, report.table.drop(columns=[*tables.HERE]).to_csv(index=False))
    return [old, folder / ENTRY, folder / TABLE]


def kept_notes(text: str) -> str:
    """What stands between the marks of a page; ValueError if the marks are gone, so that no note is lost."""
    if NOTES not in text or NOTES_END not in text:
        raise ValueError(f"{PAGE}: the marks of the notes are missing; allowed: a page with {NOTES} and {NOTES_END} "
                         "(put them back around your notes, or move the page away)")
    return text.split(NOTES, 1)[1].rsplit(NOTES_END, 1)[0].strip("\n")
