"""The log writes itself: an entry in the form of the log's template, and a results page per experiment."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from fastdllm import stats
from fastdllm.display import claim as claims
from fastdllm.display.tables import ONE_RUN, PREDICTED, REPEATS, Html, as_text, interval_text, only_predicted, together
from fastdllm.lab import atomic
from fastdllm.lab.config.paths import short
from fastdllm.report import cost_model, criteria, plain_control, shipped_beside, summary_tables, tables, wrong_answers
from fastdllm.report.audit import rules, sources
from fastdllm.report.audit.evidence import Finding
from fastdllm.report.results import Results

PAGE, ENTRY, TABLE = "results.md", "log_entry.md", "results.csv"
MOST_LINES = 40
NOTES, NOTES_END = "<!-- notes: kept when this page is written again -->", "<!-- end of notes -->"
NO_NOTES = "_No notes yet. What stands between the two marks is kept._"


@dataclass(frozen=True)
class Report:
    """Everything that a report says about one grid, computed once."""

    results: Results
    table: pd.DataFrame
    verdict: criteria.CriterionVerdict
    findings: list[Finding]

    @cached_property
    def answer(self) -> str:
        """The verdict's plain answer, and what its speeds are worth where a clock was read once, or side by side."""
        once = (" Where a configuration was timed once, its clock gives no speed-up; an axis `repeat: [0, 1, 2]` gives "
                "one.") if ONE_RUN in set(self.table["speed_from"]) else ""
        clocked = self.table["speedup"].notna() & ~self.table["speed_from"].isin({"baseline", PREDICTED})
        beside = " Cells ran side by side: speeds hold for this run, those of another can differ by a fifth." if (
            clocked.any() and any(finding.rule == "side_by_side" for finding in self.findings)) else ""
        return self.verdict.answer + once + beside

    @property
    def heading(self) -> str:
        """Markdown: the experiment, its hypothesis, when and where it ran and on what code, and the answer."""
        records = self.results.records
        days = sorted({record.day for record in records})
        where = sorted({f"{record.environment.device_name} ({record.parameters.device}, {record.parameters.dtype})"
                        for record in records})
        code = sorted({f"fastdllm {record.code.version}, "
                       + (f"commit {record.code.commit[:9]}" if record.code.commit else f"code {record.code.hash[:9]}")
                       + (" with changes" if record.code.dirty else "") for record in records})
        ran = " to ".join(dict.fromkeys((days[0], days[-1])))
        stated = f"\n\n{self.results.grid.hypothesis.strip()}" if self.results.grid.hypothesis.strip() else ""
        shipped = f"{self.results.shipped}.\n\n" if self.results.shipped else ""
        what = f"{_values(self.table['task'])}, rule {_values(self.table['metric'])}"
        return (f"# {self.results.grid.experiment}{stated}\n\n"
                f"*{ran}; {what}; {' and '.join(where)}; {'; '.join(code)}*\n\n{shipped}"
                f"**Answer.** {self.answer}")

    @property
    def caption(self) -> str:
        """Under the table."""
        return caption(self.table)

    @cached_property
    def shown(self) -> pd.DataFrame:
        """The table as text."""
        return as_text(self.table)

    @cached_property
    def against_plain(self) -> pd.DataFrame | None:
        """`plain_control.against_plain` of the grid; None for one that holds a single threshold, or no plain rows."""
        applies = plain_control.applies(self.table)
        return plain_control.against_plain(self.results, self.table) if applies else None

    @cached_property
    def beside(self) -> str:
        """Markdown: `shipped_beside.markdown` under its heading; "" for a model without shipped records."""
        shown = shipped_beside.markdown(self.results)
        return f"## The same model on GSM8K\n\n{shown}" if shown else ""

    def part(self, counts: bool) -> pd.DataFrame:
        """The table's columns that answer the question, or those that count: both fit into a page's width."""
        counted = self.shown.columns.str.fullmatch(COUNTS)
        named = self.shown.columns.isin(["task", "config"])
        return self.shown.loc[:, (counted if counts else ~counted) | named]

    @classmethod
    def of(cls, results: Results) -> Report:
        """Raises ValueError if no configuration of the grid has a record yet."""
        table = tables.grid_table(results.required())
        findings = rules.audit(sources.from_records(results.records))
        return cls(results, table, criteria.judge(results, table), findings)


def caption(table: pd.DataFrame) -> str:
    """Under `tables.grid_table` as text: what its columns are, by which rule, and where its speeds come from."""
    if only_predicted(table):
        drafted = ("; policy verify: by its passes and what a pass costs by the tokens that it carries"
                   if table["forwards_run"].lt(table["nfe"]).any() else "")
        why = "a CPU that others share is no clock" if "cpu" in set(table["device"]) else (
            f"fewer than {REPEATS} runs of each give no speed-up by the clock")
        speed = (f"predicted speed-up: tokens/s against k=1 that the cost model gives the counted forwards at "
                 f"{cost_model.SHAPE}, because {why} (its interval is that of the problems); the clock's "
                 f"seconds and tokens/s are in {TABLE}{drafted}")
    else:
        batches = ", ".join(f"{size:.0f}" for size in sorted(set(table["batch_size"].dropna())))
        modelled = (f"; predicted: what the cost model gives the counted forwards at {cost_model.SHAPE}"
                    if PREDICTED in set(table["speed_from"]) else "")
        speed = (f"tokens/s at batch {batches}, of one run each; speed-up: tokens/s against k=1 from at least "
                 f"{REPEATS} runs of each, with a 95 % interval{modelled}; seconds without loading and warm-up")
    kept = table.loc[table["lost_low"].notna(), "p"].notna()
    paired = "paired over the same problems" if kept.all() else "as two samples where single answers are not kept"
    return (f"accuracy by the rule {_values(table['metric'])} with 95 % Wilson interval; points lost (also in percent "
            f"of k=1's right answers) against k=1 with 95 % interval, {paired}; the "
            f"verdict's intervals are wider, they hold for all configurations together; {speed}; NFE: forwards; as "
            f"data in {TABLE}" + (f". {ran_on}" if (ran_on := tables.executors(table)) else ""))


def entry(report: Report) -> str:
    """Log entries in the form of the template, one per task."""
    results, parts = report.results, []
    date = max(record.day for record in results.records)
    folders = pd.Series([state.configuration.directory.parent for state, _ in results.recorded], report.table.index)
    for folder, rows in report.table.groupby(folders, sort=False):
        used = next(record for record in results.records if record.task == rows["task"].iloc[0]).parameters
        one = rows[rows["k"] == 1]
        others = (f"threshold={_values(rows['threshold'])}, batch_size={_values(rows['batch_size'])}, "
                  f"policy={_values(rows['policy'])}, revision={_values(rows['revision'])}, model={used.model}, "
                  f"dtype={_values(rows['dtype'])}, limit={used.limit or 'none'}")
        notes = [report.verdict.outcome + ": " + report.verdict.why]
        notes += filter(None, [tables.executors(report.table)])
        notes += [f"{f.level}: {f.statement}" for f in report.findings if f.level != "note"]
        parts.append("\n".join([
            f"#### {date} - {results.grid.experiment}", f"- **Task**: {folder.name}", "- **Configuration**:",
            f"  - Layer Reuse: k={_values(rows['k'])}", f"  - Layer Subset: {_values(rows['layers'])}",
            f"  - Other params: {others}", "- **Results**:",
            f"  - Accuracy: {_list(rows, _accuracy)}",
            f"  - Throughput: {_list(rows, lambda r: _rate(r._asdict()))}",
            f"  - Speedup: {_list(rows[rows['k'] > 1], _speedup)}"
            if len(one) else "  - Speedup: not measured (no k=1 configuration)",
            "- **Notes**: " + "; ".join(notes), f"- **Logs**: `{short(folder)}`"]))
    return "\n\n".join(parts) + "\n"


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
COUNTS = r"tokens|seconds|NFE .*|replayed|recompute|reuse|fallback"
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
             + (f"{row['nfe']:6.0f} forwards" if row["runs"] < REPEATS and row["nfe"] else _rate(row))
             + (f"  {row['lost']:.1f} points lost, {_ratio(row)}" if row["lost"] == row["lost"] and row["k"] > 1
                else "")
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
    atomic.write(folder / ENTRY, entry(report))
    atomic.write(folder / TABLE, report.table.drop(columns=[*tables.HERE]).to_csv(index=False))
    return [old, folder / ENTRY, folder / TABLE]


def kept_notes(text: str) -> str:
    """What stands between the marks of a page; ValueError if the marks are gone, so that no note is lost."""
    if NOTES not in text or NOTES_END not in text:
        raise ValueError(f"{PAGE}: the marks of the notes are missing; allowed: a page with {NOTES} and {NOTES_END} "
                         "(put them back around your notes, or move the page away)")
    return text.split(NOTES, 1)[1].rsplit(NOTES_END, 1)[0].strip("\n")


def _values(column: pd.Series) -> str:
    return "/".join(dict.fromkeys(str(value) for value in column if str(value)))


def _list(rows: pd.DataFrame, text) -> str:
    return ", ".join(f"{row.config} {text(row)}" for row in rows.itertuples())


def _speedup(row) -> str:
    ratio = interval_text(row.speedup, row.speed_low, row.speed_high, 2, unit="x")
    return f"{ratio} predicted" if row.speed_from == PREDICTED else ratio


def _ratio(row: dict[str, Any]) -> str:
    """A speed-up in a line, or why there is none."""
    if row["speedup"] != row["speedup"]:
        return f"no speed-up ({row['speed_from']})"
    return f"{'predicted ' * (row['speed_from'] == PREDICTED)}{row['speedup']:.2f}x"


def _rate(row: dict[str, Any]) -> str:
    """Tokens/s where the clock was read often enough, else tokens per forward, else the one run's clock as such."""
    if row["runs"] < REPEATS and row["nfe"]:
        return f"{row['tokens_per_forward']:.2f} tokens/forward"
    return f"{row['tokens_per_second']:.1f} tokens/s" + ("" if row["runs"] >= REPEATS else " (one run)")


def _accuracy(row) -> str:
    return f"{100 * row.accuracy:.2f}% (n={row.n}, {stats.span(100 * row.low, 100 * row.high)})"
