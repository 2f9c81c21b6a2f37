"""What a report says about one grid: its table, verdict, findings, and the sentences above and below the table."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from fastdllm.display.tables import ONE_RUN, PREDICTED, REPEATS, as_text, only_predicted
from fastdllm.report import cost_model, criteria, plain_control, shipped_beside, tables
from fastdllm.report.audit import rules, sources
from fastdllm.report.audit.evidence import Finding
from fastdllm.report.results import Results

TABLE = "results.csv"      # the table as data, beside the page
COUNTS = r"tokens|seconds|NFE .*|replayed|recompute|reuse|fallback"


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
        what = f"{values(self.table['task'])}, rule {values(self.table['metric'])}"
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
    return (f"accuracy by the rule {values(table['metric'])} with 95 % Wilson interval; points lost (also in "
            f"percent of k=1's right answers) against k=1 with 95 % interval, {paired}; the "
            f"verdict's intervals are wider, they hold for all configurations together; {speed}; NFE: forwards; as "
            f"data in {TABLE}" + (f". {ran_on}" if (ran_on := tables.executors(table)) else ""))


def values(column: pd.Series) -> str:
    """What stands in a column, each once."""
    return "/".join(dict.fromkeys(str(value) for value in column if str(value)))
