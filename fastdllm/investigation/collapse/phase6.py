"""Phase 6 of the log: what its notebooks compute. Records of params/phase6.yml, traces, and single looks inside."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from fastdllm import stats, tasks
from fastdllm.decode.generate import generate, generate_rows
from fastdllm.decode.revisions import Revision
from fastdllm.decode.trace import Trace
from fastdllm.display.progress import passing_lines, progress
from fastdllm.lab import atomic, records
from fastdllm.lab.config import grid_file
from fastdllm.lab.config.grid import Configuration
from fastdllm.lab.evaluation.missing import run_missing
from fastdllm.lab.jobs.plan import computations
from fastdllm.model.lm import LM
from fastdllm.settings import SUBSETS, Decoding, Reuse

COMPARED = ["k", "layers", "n", "lost", "gained", "points", "low", "high", "relative", "p"]      # of `compare`
NAMES = {"8e18baac": "8e18baac (January)", "6c8822f": "6c8822f (Run 1)", "26d6179": "26d6179 (Run 2)",
         "26d6179+full_block_every_k=true": "26d6179 + full block every k",
         "26d6179+run_skipped=true": "26d6179 + skipped layers run"}


@dataclass(frozen=True)
class Phase6Results:
    """Configurations: one row each in `frame`, and for each whether each problem was solved, in the task's order.

    configurations: of records that ran here. computed: for other records, equal where every problem took the same
    tokens and forwards (report/shipped.py).
    """

    frame: pd.DataFrame
    correct: dict[str, np.ndarray]
    configurations: dict[str, Configuration]
    computed: dict[str, str] = field(default_factory=dict)

    def first(self, n: int) -> pd.DataFrame:
        """The same table as if the grid had run on the first n problems only (the log's `--limit n`)."""
        frame = self.frame.copy()
        for index, config in frame["config"].items():
            right = self.correct[config][:n]
            low, high = stats.wilson(int(right.sum()), len(right))
            frame.loc[index, ["n", "correct", "accuracy", "low", "high"]] = (
                len(right), int(right.sum()), right.mean(), low, high)
        return frame

    def pick(self, revision: str, k: int, layers: str, policy: str = "output") -> str:
        """The name of a configuration. For k=1 the layers don't matter."""
        frame = self.frame
        rows = frame[(frame.revision == revision) & (frame.k == k) & ((frame.layers == layers) | (frame.k == 1))
                     & ((frame.policy == policy) | (frame.k == 1))]
        if rows.empty:
            raise ValueError(f"configuration: revision={revision}, k={k}, layers={layers}, policy={policy}; allowed: "
                             f"{', '.join(frame.config)}")
        return str(rows.config.iloc[0])

    def reusing(self, revision: str, policy: str = "output") -> pd.DataFrame:
        """The rows of one revision and policy with k >= 2."""
        frame = self.frame
        rows = frame[(frame.revision == revision) & (frame.policy == policy) & (frame.k > 1)]
        return rows.sort_values(["k", "layers"], key=_in_order, kind="stable")

    @cached_property
    def computation(self) -> dict[str, str]:
        """What a configuration computed: equal for two that agree, problem by problem, in answer, tokens and forwards.

        Where neither samples nor `computed` are at hand, the totals stand in for the tokens and forwards of each
        problem.
        """
        keys = {}
        for row in self.frame.itertuples():
            parts: list[object] = [int(row.k), row.policy, self.correct[row.config].tolist()]
            configuration = self.configurations.get(row.config)
            if configuration is None:
                parts += [self.computed.get(row.config), int(row.tokens), int(row.nfe)]
            else:
                samples = records.samples(configuration.directory)
                parts += [samples["output"].tolist(), samples["tokens"].tolist(), samples["nfe"].tolist()]
            keys[row.config] = atomic.sha256(atomic.canonical(parts))
        return keys

    def tested(self, baseline: str, other: str) -> tuple[object, ...]:
        """What a paired test of two configurations is made of: k and policy of the other, and which problems each has
        right. Subsets with equal keys are one test, whatever tokens their answers have.
        """
        row = self.frame.loc[self.frame["config"] == other].iloc[0]
        return int(row["k"]), row["policy"], self.correct[baseline].tobytes(), self.correct[other].tobytes()


def results(params: str, revisions: Sequence[str] = (), *, model: str = "", limit: int = 0, ks: Sequence[int] = (),
            subsets: Sequence[str] = (), policies: Sequence[str] = (), output: str = "",
            log: Callable[[str], None] | None = None) -> Phase6Results:
    """The records of a grid; what is missing or stale is run here. Empty arguments mean all, 0 the file's limit.

    k=1 is run once a revision, whatever the subset. A configuration that another process works on is waited for. log:
    gets a line for each run (None: shown while it is new).
    """
    changes = [f"{name}={value}" for name, value in (("model", model), ("limit", limit), ("output", output)) if value]
    grid = grid_file.load(params, changes)
    chosen = []
    for configuration in grid.configurations():
        reuse = configuration.parameters.reuse
        if ((not revisions or configuration.parameters.revision in revisions) and (not ks or reuse.k in ks)
                and (not subsets or reuse.layers in subsets or reuse.k == 1)
                and (not policies or Path(reuse.policy).stem in policies or reuse.k == 1)):
            chosen.append(configuration)
    with passing_lines() as say:
        run_missing(grid, chosen, log=log or say)
    rows, correct, configurations = [], {}, {}
    for first, *_ in computations(chosen):
        record, samples = records.read(first.directory), records.samples(first.directory)
        rows.append(record)
        correct[first.name] = np.array([row[record.metric] for row in samples["correct"]], int)
        configurations[first.name] = first
    frame = records.frame(rows)
    frame["config"] = list(correct)
    frame["name"] = [name(row.revision, row.policy) for row in frame.itertuples()]
    return Phase6Results(frame, correct, configurations)


def name(revision: str, policy: str) -> str:
    """How a revision (or a policy of one's own) is called in tables and figures."""
    return f"{revision} + slice frozen at 0" if policy == "frozen_slice" else NAMES.get(revision, revision)


def accuracy_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in percent with its interval, one row a revision, one column a configuration of the log's grid."""
    return _by_configuration(frame, [f"{row.accuracy:.0%} ({stats.span(row.low, row.high, '.0%')})"
                                     for row in frame.itertuples()])


def tokens_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Tokens written, one row a revision, one column a configuration of the log's grid."""
    return _by_configuration(frame, frame["tokens"].tolist())


def _by_configuration(frame: pd.DataFrame, values: list[object]) -> pd.DataFrame:
    names = [f"k{row.k}" if row.k == 1 else f"k{row.k} {row.layers}" for row in frame.itertuples()]
    table = frame.assign(configuration=names, value=values)
    order = list(dict.fromkeys(table.sort_values(["k"], kind="stable").configuration))
    return table.pivot(index="name", columns="configuration", values="value").reindex(columns=order)


def _in_order(column: pd.Series) -> pd.Series:
    """Subsets as they lie in the network, not by the alphabet; others behind them."""
    order = {name: at for at, name in enumerate(SUBSETS)}
    return column.map(lambda name: order.get(name, len(order))) if column.name == "layers" else column


def compare(results: Phase6Results, pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Configurations in pairs (baseline, other), on the same problems; one row a test (`Phase6Results.tested`).

    points, low, high: accuracy of the other minus the baseline's; relative: the same as a share of the baseline's
    accuracy; p_holm: exact McNemar, Holm over the rows. Subsets right on the same problems share a row (`layers`).
    """
    frame, rows = results.frame.set_index("config"), {}
    for baseline, other in pairs:
        key = results.tested(baseline, other)
        layers = str(frame.loc[other, "layers"])
        if key in rows:
            rows[key]["layers"] += f" = {layers}"
            continue
        pair = stats.compare_paired(results.correct[baseline], results.correct[other])
        before = float(results.correct[baseline].mean())
        rows[key] = {"k": int(frame.loc[other, "k"]), "layers": layers, "n": pair.n, "lost": pair.lost,
                     "gained": pair.gained, "points": 100 * pair.difference, "low": 100 * pair.low,
                     "high": 100 * pair.high, "relative": pair.difference / before if before else math.nan,
                     "p": pair.p}
    table = pd.DataFrame(rows.values(), columns=COMPARED)
    return table.assign(p_holm=stats.holm(table["p"]))


def against(results: Phase6Results, revision: str, other: str, policy: str = "output") -> pd.DataFrame:
    """Every k >= 2 configuration of `other` against the same one of `revision`, as `compare` has it."""
    have = set(results.frame[results.frame.revision == revision][["k", "layers"]].itertuples(index=False, name=None))
    return compare(results, [(results.pick(revision, row.k, row.layers), row.config)
                             for row in results.reusing(other, policy).itertuples() if (row.k, row.layers) in have])


def losses(results: Phase6Results, revision: str) -> pd.DataFrame:
    """Every k >= 2 configuration of a revision against its own k=1, as `compare` has it; empty without a k=1."""
    frame = results.frame
    baseline = frame[(frame.revision == revision) & (frame.k == 1)]
    return compare(results, [(str(baseline.config.iloc[0]), row.config)
                             for row in results.reusing(revision).itertuples()] if len(baseline) else [])


def worse(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `compare` that lost points, surely: p after Holm below 0.05."""
    return table[(table["p_holm"] < 0.05) & (table["points"] < 0)]


def across_subsets(results: Phase6Results, revision: str) -> pd.DataFrame:
    """Per k: do the subsets agree? Computations, problems answered differently, tokens, the largest gap in points."""
    rows = []
    for k, group in results.reusing(revision).groupby("k"):
        right = np.stack([results.correct[config] for config in group.config])
        rows.append({"k": k, "subsets": len(group), "computations": len({results.computation[c] for c in group.config}),
                     "n": right.shape[1], "answers that differ": int((right != right[0]).any(0).sum()),
                     "gap in points": 100 * float(right.mean(1).max() - right.mean(1).min()),
                     "tokens": ", ".join(map(str, group.tokens))})
    return pd.DataFrame(rows, columns=["k", "subsets", "computations", "n", "answers that differ", "gap in points",
                                       "tokens"])


def foreign_share(trace: pd.DataFrame) -> dict[str, float]:
    """The share of reusing forwards that served another small block's or block's outputs, with its 95 % interval by
    prompt (forwards of one are alike): share, low, high, prompts. Empty where nothing was reused.
    """
    served = staleness(trace)
    if served.empty:
        return {}
    foreign = foreign_by_prompt(served)
    share, low, high = stats.share_by_cluster(foreign["sum"], foreign["size"])
    return {"share": share, "low": low, "high": high, "prompts": len(foreign)}


def foreign_by_prompt(served: pd.DataFrame) -> pd.DataFrame:
    """served: `staleness`. By prompt the forwards that served another small block's or block's outputs (`sum`), and
    all (`size`)."""
    return (served.other_small_block | served.other_block).groupby(served.row).agg(["sum", "size"])


def prompts(lm: LM, task: str, n: int, longest: int = 0) -> list[list[int]]:
    """The first n prompts of a task as token ids; made-up ids for a checkpoint without tokenizer."""
    if lm.tokenizer is None:
        draw = np.random.default_rng(0)
        top = min(i for i in (lm.mask_id, *lm.stop_ids, lm.config.vocab_size) if i is not None)
        return [draw.integers(0, top, size=9 + 13 * i).tolist() for i in range(n)]
    encoded = [lm.encode(problem.prompt) for problem in tasks.get(task).problems(n)]      # pyright: ignore
    return [ids[:longest] if longest else ids for ids in encoded]


def traced(lm: LM, ids: list[list[int]], decoding: Decoding, reuse: Reuse, revision: str | Revision,
           distance: bool = False) -> pd.DataFrame:
    """The trace of some prompts, one after the other (so that each forward is one row's)."""
    trace = Trace(distance=distance)
    rows = generate_rows(lm, ids, decoding=decoding, reuse=reuse, revision=revision, batch_size=1, trace=trace)
    for _ in progress(rows, f"prompts traced, {revision}", len(ids)):
        pass
    return trace.frame()


def staleness(trace: pd.DataFrame) -> pd.DataFrame:
    """What was served, one row a denoising forward that reused: age in steps, changed positions, from where."""
    served = trace[trace.decision == "reuse"].groupby(["row", "forward"], sort=True).first().reset_index()
    return served.assign(age=served.forward - served.served_forward,
                         other_block=served.block != served.served_block,
                         other_small_block=(served.block == served.served_block) & (served.served_kind == "small")
                         & (served.small_block != served.served_small_block),
                         share_changed=served.changed / (served.slice_stop - served.slice_start))


def stale_summary(trace: pd.DataFrame) -> dict[str, float]:
    """Means over the forwards that reused something, for a table of revisions."""
    served = staleness(trace)
    forwards = trace[trace.kind.isin(["full", "small"])].groupby(["row", "forward"]).ngroups
    if served.empty:
        return {"denoising forwards": forwards, "reusing": 0}
    return {"denoising forwards": forwards, "reusing": len(served), "age in forwards": float(served.age.mean()),
            "changed positions": float(served.changed.mean()),
            "from another small block": float(served.other_small_block.mean()),
            "from another block": float(served.other_block.mean())}


def tokens_of(lm: LM, ids: list[list[int]], decoding: Decoding, reuse: Reuse, revision: str | Revision = "fixed",
              batch_size: int = 1) -> list[list[int]]:
    """Generated tokens of some prompts."""
    return generate(lm, ids, decoding=decoding, reuse=reuse, revision=revision, batch_size=batch_size).tokens


def spot_check(lm: LM, results: Phase6Results, config: str, n: int) -> pd.DataFrame:
    """Decode the first n problems of a configuration again and compare with its record's tokens."""
    configuration = results.configurations[config]
    samples, record = records.samples(configuration.directory).head(n), records.read(configuration.directory)
    parameters = record.parameters
    every = tasks.get(parameters.task).problems(parameters.limit)[:n]
    again = generate(lm, [problem.prompt for problem in every], decoding=parameters.decoding, reuse=parameters.reuse,
                     revision=parameters.revision, batch_size=parameters.batch_size)
    return pd.DataFrame({"id": samples.id, "tokens": samples.tokens, "decoded again": [len(t) for t in again.tokens],
                         "same tokens": [list(a) == b for a, b in zip(samples.token_ids, again.tokens, strict=True)]})
