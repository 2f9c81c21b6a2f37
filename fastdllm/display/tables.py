"""Numbers as text: the grid table for people, as HTML that needs no script and as Markdown."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from itertools import takewhile
from typing import Any

import numpy as np
import pandas as pd

from fastdllm.characters import visible
from fastdllm.display.columns import decimals, heading_lines, is_text
from fastdllm.stats import span

# Colours are those of the page around, so that a table can be read on a light ground and on a dark one.
STYLE = """<style>
.fd{border-collapse:collapse;font:12.5px/1.4 system-ui,sans-serif;margin:.5em 0}
.fd th{border-bottom:2px solid;text-align:right;padding:3px 6px;vertical-align:bottom;white-space:normal}
.fd th span{display:block;white-space:nowrap}
.fd td{border-bottom:1px solid #8885;text-align:right;padding:3px 6px;white-space:nowrap}
.fd td{font-variant-numeric:tabular-nums;vertical-align:top}
.fd td.l,.fd th.l{text-align:left}.fd td.w{white-space:normal;text-align:left;min-width:11em;max-width:38em}
.fd.fd th+th.l,.fd.fd td+:is(.l,.w){padding-left:12px}
.fd tbody tr:nth-child(n){background:none}.fd tbody tr.base:nth-child(n) td{background:#8882}
.fdc{font:12.5px/1.4 system-ui,sans-serif;opacity:.75;margin:0 0 .8em;max-width:70em}
.fd.fd code,.fdc.fdc code{background:none;padding:0;font-size:1em}.fd td .o{white-space:nowrap}
.fds{overflow-x:auto}.fds::-webkit-scrollbar{height:11px;background:#8883}
.fds::-webkit-scrollbar-thumb{background:#888;border-radius:6px}
@media (max-width:900px){.fd{font-size:11px}.fd th,.fd td{padding:2px 3px}.fd td.w{min-width:6em}
.fd td.i{white-space:normal}.fd.fd th+th.l,.fd.fd td+:is(.l,.w){padding-left:6px}}
</style>"""
PREDICTED = "predicted"      # in speed_from: the speed-up is the cost model's, not a clock's
ONE_RUN = "one run"          # in speed_from: there is no speed-up, for a clock that was read once gives none
REPEATS = 3     # runs of each side from which a clock's interval is made: two say nothing of their spread
MOST = 100      # rows that a page shows: who wants more reads them as data
LONG = 24       # characters of a cell from which it may take several lines, so that no table is cut off
WIDE = {"statement", "how sure", "rows", "why", "answer", "what is missing", "claim", "note"}
QUOTED = {"answer", "output", "question", "prompt", "text", "target"}      # as it was written
# What columns of frames are called in a table for people; the names of settings and switches stay as they are.
HEADINGS = {"p_holm": "p after Holm", "nfe": "NFE", "small_block": "small block", "input_shape": "input shape",
            "tokens_per_s": "tokens/s", "served_forward": "served from forward", "slice_start": "slice starts at",
            "dirty": "uncommitted changes", "tokens_per_forward": "tokens / forward", "speedup": "speed-up"}
INTERVAL = re.compile(r" (\([^()]+ to [^()]+\))$")
P_VALUES = {"p", "p_holm"}
PERCENT = {"accuracy"}      # shares of one that are shown in percent
AS_ONE = ("points", "low", "high", "relative", "p", "p_holm")      # of a comparison: not shown as they are


def number(value: float, digits: int = 1) -> str:
    """Rounded, and never -0.0."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def interval_text(value: Any, low: Any, high: Any, digits: int = 1, scale: float = 1.0, unit: str = "") -> str:
    """`82.0 (76.1 to 86.7)`, the unit behind the value; without brackets where there is no interval, a dash where
    there is no value.
    """
    if value is None or math.isnan(value):
        return "–"
    shown = number(scale * value, digits) + unit
    if math.isnan(low) or math.isnan(high):
        return shown
    return f"{shown} ({span(scale * low, scale * high, f'z.{digits}f')})"


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of the nine-row table as text, from `tables.grid_table` (or what there is of it).

    Where the clock is no measure of speed (`only_predicted`), its columns are left out: results.csv has them.
    """
    if table.empty:
        return table
    mixed = not only_predicted(table)
    speed = "speed-up" if mixed else "predicted speed-up"
    rows = []
    for row in table.to_dict("records"):
        shown: dict[str, Any] = {"task": row["task"], "config": row["config"]}
        if row["state"] != "complete":
            shown["state"] = row["state"]
        shown |= {
            "accuracy %": interval_text(row["accuracy"], row["low"], row["high"], scale=100),
            "n": f"{row['n']:.0f}",
            "points lost": interval_text(row["lost"], row["lost_low"], row["lost_high"])
            if row["k"] > 1
            else "baseline",
            "of k=1's, %": number(100 * row["lost_relative"])
            if row["k"] > 1 and row.get("lost_relative", math.nan) == row.get("lost_relative", math.nan) else "",
            speed: "baseline" if row.get("speed_from") == "baseline" else interval_text(
                row["speedup"], row["speed_low"], row["speed_high"], 2)
            + (f" {PREDICTED}" if mixed and row.get("speed_from") == PREDICTED else "")
            + (f" ({row['batching']})" if row.get("batching") and row.get("speed_from") != PREDICTED else ""),
            "tokens/s": f"{row['tokens_per_second']:.1f}",
            "tokens": whole(row["tokens"]),
            "seconds": f"{row['seconds']:.1f}",
        }
        if "nfe" in row:
            shown |= {"NFE": whole(row["nfe"]), "forwards run": whole(row.get("forwards_run", row["nfe"])),
                      "tokens / forward": f"{row['tokens_per_forward']:.2f}",
                      **{f"NFE {kind}": whole(row[f"nfe_{kind}"]) for kind in ("prefill", "full", "small", "commit")},
                      "replayed": whole(row["nfe_replay"]),
                      "recompute": whole(row["recompute"]), "reuse": whole(row["reuse"]),
                      "fallback": whole(row["fallback"])}
        rows.append(shown)
    shown_table = pd.DataFrame(rows).fillna("")
    if "replayed" in shown_table and (shown_table["replayed"] == "0").all():
        shown_table = shown_table.drop(columns="replayed")
    if "forwards run" in shown_table and (shown_table["forwards run"] == shown_table["NFE"]).all():
        shown_table = shown_table.drop(columns="forwards run")      # policy verify alone runs fewer
    if speed != "speed-up":
        shown_table = shown_table.drop(columns=["tokens/s", "seconds"])
    return shown_table.drop(columns="task") if shown_table["task"].nunique() == 1 else shown_table


def only_predicted(table: pd.DataFrame) -> bool:
    """Whether no clock measures speed in this table: every speed-up is the cost model's, or none was asked for and
    nothing was timed REPEATS times, but forwards are counted.
    """
    if "speed_from" not in table:
        return False
    sources = set(table["speed_from"]) - {"baseline", "not measured"}
    return sources == {PREDICTED} or (not sources and table["runs"].max() < REPEATS and table["nfe"].gt(0).all())


def together(names: Sequence[str]) -> str:
    """Names that begin alike, said once: k2_first, k2_middle -> k2 first, middle. Each keeps a part of its own."""
    if len(names) == 1:
        return names[0]
    parts = [name.split("_") for name in names]
    alike = begin_alike([part[:-1] for part in parts])
    return " ".join(["_".join(parts[0][:alike])] * bool(alike) + [", ".join("_".join(p[alike:]) for p in parts)])


def begin_alike(names: Sequence[Sequence[str]]) -> int:
    """How many parts all of these names begin with."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*names, strict=False)))


def whole(value: Any) -> str:
    """A count with thin separators; a dash where there is none."""
    return "–" if value is None or value != value else f"{int(value):,}".replace(",", " ")


def pairs_as_text(pairs: pd.DataFrame, caption: str = "") -> Html:
    """Paired comparisons (points with low and high, p, p_holm, and relative: the points as a share of the baseline's
    accuracy, where they have it; what else they hold stands before these) as text.
    """
    relative = {"of the baseline's right answers, %": [number(100 * value) if value == value else "–"
                                                       for value in pairs["relative"]]} if "relative" in pairs else {}
    return Html(pd.DataFrame({
        **{"right answers" if column == "right" else column: pairs[column] for column in pairs if column not in AS_ONE},
        "points": [interval_text(row.points, row.low, row.high) for row in pairs.itertuples()],
        **relative, "McNemar p": pairs["p"].map(p_text), "p after Holm": pairs["p_holm"].map(p_text)}),
        caption or "lost and gained: problems right on one side only; points of accuracy with 95 % interval, paired")


def p_text(p: float) -> str:
    """A p-value for people: never 0.00."""
    return "–" if p != p else "< 0.0001" if p < 1e-4 else f"{p:.2g}"


class Html:
    """A table that notebooks, HTML exports and Markdown pages can show.

    Any frame can be read as it is: numbers are rounded, `HEADINGS` names columns, text between backticks is code (but
    not in what models were asked and said), and of a table without rows its caption says so.
    fold: the line that a page shows until it is asked for the table.
    """

    def __init__(self, table: pd.DataFrame, caption: str = "", fold: str = "") -> None:
        self.table, self.caption, self.fold = table, caption, fold

    def _repr_html_(self) -> str:
        shown = _as_shown(self.table.head(MOST))
        columns = [list(shown.iloc[:, i]) for i in range(shown.shape[1])]
        wide = [name in WIDE or max(map(len, column), default=0) > LONG
                for name, column in zip(shown.columns, columns, strict=True)]
        kinds = ["w" if wraps else "l" if i == 0 or is_text(column) else
                 "i" if any(map(INTERVAL.search, column)) else ""
                 for i, (wraps, column) in enumerate(zip(wide, columns, strict=True))]
        lines = heading_lines(list(shown.columns), columns, wide)
        head = "".join(f'<th class="{"l" if kind in ("l", "w") else ""}">{heading(each)}</th>'
                       for each, kind in zip(lines, kinds, strict=True))
        body = []
        for row in shown.itertuples(index=False):
            base = ' class="base"' if "baseline" in row else ""
            body.append(f"<tr{base}>" + "".join(
                f'<td class="{kind}">{escape(value) if name in QUOTED else marked(value, kind)}</td>'
                for name, value, kind in zip(shown.columns, row, kinds, strict=True)) + "</tr>")
        caption = f'<p class="fdc">{marked(self._said())}</p>' if self._said() else ""
        if self.table.empty:
            return STYLE + caption
        whole = (f'<div class="fds" tabindex="0"><table class="fd"><thead><tr>{head}</tr></thead>'
                 f"<tbody>{''.join(body)}</tbody></table></div>{caption}")
        return STYLE + (f"<details><summary>{marked(self.fold)}</summary>{whole}</details>" if self.fold else whole)

    def _said(self) -> str:
        if self.table.empty:
            return f"{self.caption}: none" if self.caption else "none"
        return "; ".join(filter(None, [f"the first {MOST} of {len(self.table)} rows" if len(self.table) > MOST else "",
                                       self.caption]))

    def __repr__(self) -> str:
        return self.markdown()

    def markdown(self) -> str:
        """A Markdown table with its caption below."""
        if self.table.empty:
            return self._said()
        shown = _as_shown(self.table)
        lines = ["| " + " | ".join(shown.columns) + " |", "|" + " --- |" * len(shown.columns)]
        lines += ["| " + " | ".join(value.replace("|", "\\|").replace("\n", " ") for value in row) + " |"
                  for row in shown.itertuples(index=False)]
        return "\n".join(lines + (["", self.caption] if self.caption else []))


def _as_shown(table: pd.DataFrame) -> pd.DataFrame:
    """Every cell and every heading as text; the fractions of a column with as many decimals each."""
    columns, names = [], []
    for i, name in enumerate(table.columns):
        values, fractions = list(table.iloc[:, i]), pd.api.types.is_float_dtype(table.dtypes.iloc[i])
        share = str(name) in PERCENT and fractions
        places = decimals(values) if fractions else None
        names.append(f"{name} %" if share else HEADINGS.get(name, str(name)))
        columns.append([p_text(value) if name in P_VALUES and isinstance(value, float)
                        else number(100 * value) if share and value == value
                        else number(value, places) if places is not None and value == value else cell(value)
                        for value in values])
    return pd.DataFrame(list(zip(*columns, strict=True)), dtype=object, columns=names)


def cell(value: Any) -> str:
    """A value as a table shows it: yes or no, four digits of a fraction, nothing where there is nothing."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        whole_part = abs(value) >= 1000
        return "" if math.isnan(value) else f"{value:.0f}" if whole_part else f"{float(value):.4g}"
    return "" if value is None or value is pd.NA else visible(str(value), lines=True)


def heading(lines: Sequence[str]) -> str:
    """A column's heading as HTML, from its lines."""
    return " ".join(f"<span>{marked(line)}</span>" for line in lines) if len(lines) > 1 else marked(lines[0])


def marked(text: str, kind: str = "") -> str:
    """Text as HTML, escaped; what stands between backticks as code. kind "w", in lines: long names may break behind
    their underscores, the options of a command not behind their dashes; "i": an interval stands on one line.
    """
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    if kind == "i":
        return INTERVAL.sub(r' <span class="o">\1</span>', html)
    return re.sub(r"(?<=\s)--\w[\w-]*", r'<span class="o">\g<0></span>', html).replace("_", "_<wbr>") \
        if kind == "w" else html


def without_zeros(table: pd.DataFrame) -> pd.DataFrame:
    """A table without the columns in which nothing was counted (zeros alone): what never happened needs no column."""
    return table.loc[:, [not (pd.api.types.is_integer_dtype(kind) and (table.iloc[:, i] == 0).all())
                         for i, kind in enumerate(table.dtypes)]]
