"""The log's tables on the real model, out of the records that ship (report/shipped.py): grids, Run 1's cells, figures.

Nothing here runs a model. Cells without a record stay in the tables, as not run.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fastdllm import prior_results, stats
from fastdllm.display.figures import COLORS, GREY, MARKERS, styled
from fastdllm.display.tables import interval_text, whole
from fastdllm.investigation.collapse import phase6
from fastdllm.investigation.collapse.phase6 import Phase6Results
from fastdllm.lab.config.computation import generative
from fastdllm.report.shipped import COUNTS, ShippedRecords, label

TASK, THRESHOLD, DTYPE = "gsm8k_words", 0.9, "float32"      # the headline: the clearest instrument of the two formats
# The commits that Run 1's rows name, and the revision that is their code. `first` ran in a changed tree.
RUN_1_CODE = {"6f96d959": "6f96d95-dirty", "6d2a9a89": "6d2a9a8", "6c8822fc": "6c8822f"}
BYPASS = "6c8822f"
OF_LOG = 10      # problems of a cell of Run 1
ROUNDING = 0.01  # the share of decodes in which rounding may still change an answer, its tokens or its forwards
OF_THE_LOG, MOVED = "as in the log", "first, on the commit of the others"


def results(shipped: ShippedRecords, task: str = TASK, threshold: float = THRESHOLD, dtype: str = DTYPE, *,
            limit: int | None = None) -> Phase6Results:
    """The records of one task, threshold and dtype, all revisions, as the notebooks' grids have them; `config` is the
    record's path. Empty where nothing ships.
    """
    some = shipped.where(task=task, threshold=threshold, dtype=dtype, policy="output", engine="diffusion", limit=limit)
    frame = some.frame.assign(config=some.frame["path"],
                              name=[phase6.name(row.revision, row.policy) for row in some.frame.itertuples()])
    return Phase6Results(frame, {path: some.right(path) for path in frame["path"]}, {},
                         dict(zip(frame["path"], frame["computed"], strict=True)))


def on_400(shipped: ShippedRecords, threshold: float = THRESHOLD) -> Phase6Results:
    """The embedded checkpoint's phase 6 on 400 problems, run on a GPU (params/phase6_400.yml), as `results`."""
    return results(shipped.where(experiment="phase6_400"), "arithmetic", threshold, limit=400)


def caption_400(rows: pd.DataFrame) -> str:
    """What stands above tables of these shipped rows of `phase6_400`."""
    return f"The embedded checkpoint on 400 problems instead of 64: {label(rows)}"


def beside(shipped: ShippedRecords, revision: str, task: str = TASK, threshold: float = THRESHOLD, dtype: str = DTYPE,
           *, limit: int | None = None) -> pd.DataFrame:
    """The shipped rows of which `differing` tells: those with k >= 2 of which two subsets ran."""
    have = results(shipped, task, threshold, dtype, limit=limit).reusing(revision)
    return have[have.groupby("k")["layers"].transform("nunique") > 1]


def differing(shipped: ShippedRecords, revision: str, task: str = TASK, threshold: float = THRESHOLD,
              dtype: str = DTYPE, *, limit: int | None = None) -> pd.DataFrame:
    """Per k >= 2 of which two subsets ran: subsets, n, and in how many problems they `differ` in right or wrong, in
    tokens or in forwards.
    """
    have, rows = beside(shipped, revision, task, threshold, dtype, limit=limit), []
    for k, group in have.groupby("k"):
        counts = np.stack([shipped.problems[path][list(COUNTS)].to_numpy() for path in group["path"]])
        rows.append({"k": k, "subsets": ", ".join(group["layers"]), "n": counts.shape[1],
                     "differ": int((counts != counts[0]).any(axis=(0, 2)).sum()),
                     "right answers": ", ".join(map(str, group["correct"])),
                     "tokens": ", ".join(map(str, group["tokens"]))})
    return pd.DataFrame(rows, columns=["k", "subsets", "n", "differ", "right answers", "tokens"])


def rounding_only(differ: int, n: int) -> bool:
    """Whether rounding explains that so many of n decodes differ: surely fewer than ROUNDING of all do."""
    return stats.wilson(differ, n)[1] < ROUNDING


def run_1(shipped: ShippedRecords, task: str = TASK, threshold: float = THRESHOLD) -> pd.DataFrame:
    """Run 1's cells, each on the commit that it really ran on, and `first` on the commit of the others besides.

    cell, k, layers, revision, what, log (right of 10), path ("" if not run), n, correct, accuracy, low, high, capped
    (answers at the length limit), kept (right answers as a share of k=1's in the same row of Run 1).
    """
    log = prior_results.results().query("batch == 'feb15_run1' and task == 'gsm8k'")
    cells = [{"cell": row.config, "k": row.k, "layers": row.layers, "revision": RUN_1_CODE[row.commit],
              "what": OF_THE_LOG, "log": row.correct} for row in log.itertuples()]
    cells += [cell | {"revision": BYPASS, "what": MOVED, "log": math.nan} for cell in cells
              if cell["layers"] == "first" and cell["k"] > 1]
    have = results(shipped, task, threshold)
    rows = [cell | measured(have, cell) for cell in cells]
    base = {row["layers"]: row["correct"] for row in rows if row["k"] == 1}
    return pd.DataFrame([row | {"kept": row["correct"] / (base[row["layers"]] or math.nan)} for row in rows])


def measured(have: Phase6Results, cell: dict[str, Any]) -> dict[str, Any]:
    """What the record of a cell says; NaN if there is none."""
    names = ["n", "correct", "accuracy", "low", "high", "capped"]
    frame = have.frame
    rows = frame[(frame["revision"] == cell["revision"]) & (frame["k"] == cell["k"])
                 & ((frame["layers"] == cell["layers"]) | (frame["k"] == 1))]
    if rows.empty:
        return {"path": "", **dict.fromkeys(names, math.nan)}
    return {"path": rows["path"].iloc[0], **rows[names].iloc[0].to_dict()}


def run_1_text(cells: pd.DataFrame, size: int = 10) -> pd.DataFrame:
    """`run_1` for people, with what `size` drawn problems would have shown in 95 of 100 draws."""
    rows, right = [], "right" + (f" of {cells['n'].max():.0f}" if cells["n"].notna().any() else "")
    for row in cells.to_dict("records"):
        shown: dict[str, Any] = {"config": row["cell"], "code": row["revision"], "what": row["what"],
                                 "Run 1, right of 10": "" if math.isnan(row["log"]) else whole(row["log"])}
        if row["path"]:
            low, high = central(int(row["correct"]), int(row["n"]), size)
            shown |= {right: whole(row["correct"]),
                      "accuracy %": accuracy_text(row),
                      "of k=1's right answers": f"{row['kept']:.0%}" if row["kept"] == row["kept"] else "k=1 not run",
                      "at the length cap": whole(row["capped"]), f"right of {size} drawn": f"{low} to {high}"}
        else:
            shown |= {right: "not run"}
        rows.append(shown)
    return pd.DataFrame(rows).fillna("")


def central(correct: int, n: int, size: int, level: float = stats.LEVEL) -> tuple[int, int]:
    """Between which counts of right answers the central `level` of all draws of `size` problems lies. Exact."""
    below = np.cumsum(stats.drawn(correct, n, size))
    tail = (1 - level) / 2
    return int(np.searchsorted(below, tail * (1 + 1e-9))), int(np.searchsorted(below, (1 - tail) * (1 - 1e-9)))


@styled
def run_1_figure(cells: pd.DataFrame, size: int = 10) -> Figure:
    """Left: accuracy of Run 1's cells over all problems; right: chances of each count among `size` drawn problems.

    Hollow: `first` on the commit of `middle` and `last`; crosses: Run 1's own counts, of ten problems on the 7B. Cells
    without a record keep their place, empty.
    """
    figure, (whole_set, draws) = plt.subplots(1, 2, figsize=(12, 4.1))
    kinds = [("first", OF_THE_LOG), ("middle", OF_THE_LOG), ("last", OF_THE_LOG), ("first", MOVED)]
    places = [(k, *kind) for k in (1, 2, 3) for kind in kinds if k > 1 or MOVED not in kind]
    for row in cells[cells["path"] != ""].itertuples():
        at = places.index((row.k, row.layers, row.what))
        color, fill = COLORS[row.layers], "white" if row.what == MOVED else COLORS[row.layers]
        value, low, high = 100 * row.accuracy, 100 * row.low, 100 * row.high
        whole_set.errorbar(at, value, yerr=[[max(0.0, value - low)], [max(0.0, high - value)]], fmt=MARKERS[row.layers],
                           color=color, markerfacecolor=fill, markersize=7, capsize=2)
        chances = stats.drawn(int(row.correct), int(row.n), size)
        likely = np.flatnonzero(chances > 1e-3)
        draws.scatter([at] * len(likely), likely, s=240 * chances[likely], color=color, facecolor=fill)
    if size == OF_LOG:
        log = cells[cells["log"].notna()]
        draws.scatter([places.index((row.k, row.layers, row.what)) for row in log.itertuples()], log["log"], marker="x",
                      color="black", s=30, label="Run 1's own counts, 7B")
        draws.legend(frameon=False, fontsize=8, loc="upper right")
    names = [f"k{k}\n{layers}" + ("\n6c8822f" if what == MOVED else "") for k, layers, what in places]
    for axes in (whole_set, draws):
        for at, (k, layers, what) in enumerate(places):
            if cells[(cells.k == k) & (cells.layers == layers) & (cells.what == what)]["path"].eq("").all():
                axes.text(at, 0.02, "not run", rotation=90, color=GREY, fontsize=8, ha="center", va="bottom",
                          transform=axes.get_xaxis_transform())
        axes.set_xticks(range(len(places)), names, fontsize=7)
        axes.set_xlim(-0.6, len(places) - 0.4)
        axes.grid(axis="x", visible=False)
    ran = cells.loc[cells["path"] != "", "n"]
    whole_set.set_ylabel(f"accuracy %, 95 % interval, n = {ran.max():.0f}" if len(ran) else "accuracy %")
    whole_set.set_ylim(bottom=0)
    whole_set.set_title("Run 1's table, each cell on the commit that it ran on")
    draws.set_ylabel(f"right of {size} drawn problems")
    draws.set_ylim(-0.6, size + 0.4)
    draws.set_title(f"what {size} of these problems show: dots as large as their chance")
    return figure


def published_beside(shipped: ShippedRecords, task: str = TASK, threshold: float = THRESHOLD) -> pd.DataFrame:
    """The log's nine cells: the real model under each revision beside January's run and Run 2, as published."""
    have, rows = results(shipped, task, threshold), []
    log = prior_results.results().query("task == 'gsm8k'")
    for k in (1, 2, 3):
        for layers in ("first", "middle", "last"):
            row: dict[str, Any] = {"config": f"k{k}_{layers}"}
            for revision in ("26d6179", "6c8822f", "8e18baac"):
                cell = measured(have, {"revision": revision, "k": k, "layers": layers})
                row[f"real model, {revision}: right %"] = accuracy_text(cell)
            for batch, title in (("jan_full", "January, 7B, {commit}, n = {n}"),
                                 ("feb16_run2", "Run 2, 7B, {commit}, n = {n}")):
                one = log[(log.batch == batch) & (log.config == row["config"])].iloc[0]
                row[title.format(commit=one.commit, n=one.n) + ": right %"] = f"{100 * one.accuracy:.1f}"
            rows.append(row)
    return pd.DataFrame(rows)


def accuracy_text(cell: dict[str, Any]) -> str:
    """Percent with the 95 % interval, or that the cell was not run."""
    if not cell["path"]:
        return "not run"
    return interval_text(cell["accuracy"], cell["low"], cell["high"], scale=100)


def overview(shipped: ShippedRecords) -> pd.DataFrame:
    """Every benchmark, threshold, precision and code of these records: the problems, and right answers in percent by k,
    over the subsets that ran ("5.5 to 5.6" where they differ).
    """
    rows = []
    for (task, threshold, dtype, n), part in shipped.frame.groupby(["task", "threshold", "dtype", "n"], sort=True):
        how = f", threshold {threshold:g}" if generative(task) else ", by likelihood"
        for revision in dict.fromkeys(("26d6179", BYPASS, "8e18baac", *sorted(set(part["revision"])))):
            own = part[part["revision"] == revision]
            if len(own):
                rows.append({"benchmark": f"{task}{how}, {dtype}", "code": revision, "n": n,
                             **{f"k={k}, right %": _span(own.loc[own["k"] == k, "accuracy"]) for k in (1, 2, 3)}})
    return pd.DataFrame(rows)


def _span(values: pd.Series) -> str:
    """Shares of one as percent, lowest to highest."""
    low, high = (f"{100 * end:.1f}" for end in (values.min(), values.max()))
    return "not run" if values.empty else low if low == high else f"{low} to {high}"
