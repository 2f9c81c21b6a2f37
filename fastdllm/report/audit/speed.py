"""Audit rules over throughputs, times, nodes and code versions."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from fastdllm import stats
from fastdllm.report.audit.evidence import STAMP, Evidence, Finding, Rule, names, not_one_computation

SPREAD = 1.25  # k=1 rows whose tokens/s differ by more than this factor are not repeats of one measurement


def node_effect(rows: pd.DataFrame) -> tuple[float, float] | None:
    """p of the node at equal k, and the share of the variance left by k that it explains; None where not testable.

    Nested least-squares models of log tokens/s: k, against k and node (F test of the difference).
    """
    table = pd.DataFrame({"speed": np.log(rows["tokens_per_s"].to_numpy(float)), "k": rows["k"].astype(str).to_numpy(),
                          "node": rows["node"].astype(str).to_numpy()})
    return stats.nested_f(table, "speed ~ C(k)", "speed ~ C(k) + C(node)")


def throughput_follows_node(evidence: Evidence) -> Iterator[Finding]:
    """At equal k, does tokens/s follow the machine? Tested with every row left out in turn, not assumed."""
    for name, rows in evidence.alike:
        rows = rows[rows["tokens_per_s"].notna() & rows["node"].notna()]
        if rows["node"].nunique() < 2:
            continue
        rows = rows.drop_duplicates(["k", "seconds", "tokens_per_s", "node"]).reset_index(drop=True)  # one run
        whole = node_effect(rows) if len(rows) > 3 else None
        if whole is None or whole[0] >= 0.05 or whole[1] < 0.5:
            continue
        p, share = whole
        without = {r.config: node_effect(rows.drop(index=r.Index)) for r in rows.itertuples()}
        alone = [config for config, effect in without.items() if effect is None or effect[0] >= 0.05]
        speeds = "; ".join(f"k={k} " + ", ".join(f"{node} {speed:.1f}" for node, speed in part.items())
                           for k, part in ((k, g.groupby("node")["tokens_per_s"].mean())
                                           for k, g in rows.groupby("k") if g["node"].nunique() > 1))
        if len(alone) > 2:  # too many rows carry it: nothing stable to report
            continue
        if alone:
            yield Finding("throughput_follows_node", "note", tuple(rows.loc[rows["config"].isin(alone), "row"]),
                          f"{name}: the node explains {share:.1%} of the tokens/s that k leaves, but only through "
                          f"{', '.join(alone)}: without it nothing is left to see ({speeds})",
                          f"undecided: p = {p:.1g} rests on a single row; node and run can't be told apart in it")
        else:
            yield Finding("throughput_follows_node", "doubtful", names(rows),
                          f"{name}: at equal k the node explains {share:.1%} of the tokens/s that k leaves ({speeds})",
                          f"p = {p:.1g}, and below 0.05 with any one row left out")


def baseline_speed(evidence: Evidence) -> Iterator[Finding]:
    """k=1 rows are repeats of one computation: their spread is the noise of every speed-up in the table."""
    for name, rows in evidence.alike:
        one = rows[(rows["k"] == 1) & rows["tokens_per_s"].notna()]
        if len(one) < 2 or one["tokens_per_s"].max() <= SPREAD * one["tokens_per_s"].min():
            continue
        values = ", ".join(f"{r.config} {r.tokens_per_s:.2f}" + (f" on {r.node}" if isinstance(r.node, str) else "")
                           for r in one.itertuples())
        yield Finding("baseline_speed", "doubtful", names(one),
                      f"{name}: k=1 runs at {values} tokens/s; speed-ups against it are uncertain by a factor of "
                      f"{one['tokens_per_s'].max() / one['tokens_per_s'].min():.2f}",
                      (f"certain that the speeds differ; {reasons}" if (reasons := not_one_computation(one))
                       else "certain: the same computation")
                      + (" (with the same tokens)" if one["tokens"].nunique() == 1 else ""))


def arithmetic(evidence: Evidence) -> Iterator[Finding]:
    """tokens, seconds and tokens/s of one row that don't belong together."""
    rows = evidence.rows[evidence.rows[["tokens", "seconds", "tokens_per_s"]].notna().all(axis=1)]
    rows = rows[rows["seconds"] > 0]
    off = (rows["tokens"] / rows["seconds"] / rows["tokens_per_s"] - 1).abs()
    for row in rows[off > 0.01].itertuples():
        ours = row.origin == "record"       # whose tokens/s is the quotient; others may leave out loading or prompts
        yield Finding("arithmetic", "impossible" if ours else "doubtful", (str(row.row),),
                      f"{row.row}: {row.tokens:.0f} tokens in {row.seconds:.1f} s are "
                      f"{row.tokens / row.seconds:.2f} tokens/s, not {row.tokens_per_s:.2f}",
                      "certain" if ours else "certain, if the three are of the same tokens and the same time")


def launch_times(evidence: Evidence) -> Iterator[Finding]:
    """Finishing times that lie closer together than the run times allow: they are times of launch."""
    for name, rows in evidence.tables():
        rows = rows[rows["finished"].notna() & rows["seconds"].notna()]
        if len(rows) < 3:
            continue
        stamps = pd.to_datetime(rows["finished"].astype(str), format=STAMP, errors="coerce")
        window, spread = (stamps.max() - stamps.min()).total_seconds(), rows["seconds"].max() - rows["seconds"].min()
        if window == window and window < 0.1 * spread:
            yield Finding("launch_times", "note", names(rows),
                          f"{name}: the rows 'finished' within {window:.0f} s of each other, though they ran for "
                          f"{rows['seconds'].min():.0f} to {rows['seconds'].max():.0f} s: the stamp is the launch",
                          "almost certain: jobs of one submission start together and don't end together")


def side_by_side(evidence: Evidence) -> Iterator[Finding]:
    """Runs that overlapped in time on one machine: each took from the other's cores, memory or GPU.

    Not of runs in shards, whose seconds are a sum and tell no beginning.
    """
    rows = evidence.rows[(evidence.rows["origin"] == "record") & evidence.rows["finished"].notna()]
    rows = rows[~(pd.to_numeric(rows["shards"]) > 1)]
    rows = rows.drop_duplicates(["node", "seconds", "tokens_per_s", "finished"])    # a record under several names
    for (batch, node), part in rows.groupby(["batch", "node"], sort=False):
        ends = pd.to_datetime(part["finished"], format=STAMP).to_numpy()
        starts = ends - pd.to_timedelta(part["seconds"], unit="s").to_numpy()
        order = np.argsort(starts)
        starts, ends = starts[order], ends[order]
        beside = np.zeros(len(part), bool)
        beside[1:] |= starts[1:] < np.maximum.accumulate(ends)[:-1]     # before an earlier one's end
        beside[:-1] |= starts[1:] < ends[:-1]                           # the next one before its own end
        if beside.any():
            yield Finding("side_by_side", "note", names(part),
                          f"{batch}: {beside.sum()} of {len(part)} runs on {node} overlapped in time; side by side "
                          "on two cores, speeds differ by about a fifth from one time to the next: `--jobs 1` runs "
                          "one configuration after the other",
                          "certain: from the end and the seconds of each record")


def mixed_code(evidence: Evidence) -> Iterator[Finding]:
    """One table, several versions of the code."""
    for name, rows in evidence.alike:
        known = rows[rows["code"].notna()]
        if known["code"].nunique() < 2:
            continue
        parts = "; ".join(f"{code}{' (changed tree)' if part['dirty'].eq(True).any() else ''}: "
                          + ", ".join(part["config"]) for code, part in known.groupby("code", sort=False))
        yield Finding("mixed_code", "doubtful", names(known), f"{name} mixes code versions: {parts}",
                      "certain that the versions differ; whether it matters needs the code")


def dirty_tree(evidence: Evidence) -> Iterator[Finding]:
    """Rows whose commit does not say what ran."""
    for batch, rows in evidence.rows[evidence.rows["dirty"].notna()].groupby("batch", sort=False):
        dirty = rows[rows["dirty"].astype(bool)]
        if dirty.empty:
            continue
        mixed = [code for code, part in rows.groupby("code", sort=False) if part["dirty"].nunique() == 2]
        flag = (f"; {', '.join(map(str, mixed))} is called both changed and clean, so the flag itself is doubtful"
                if mixed else "")
        yield Finding("dirty_tree", "note", names(dirty),
                      f"{batch}: {len(dirty)} of {len(rows)} rows ran with uncommitted changes{flag}",
                      "certain that the commit alone does not name the code")


RULES: dict[str, Rule] = {rule.__name__: rule for rule in (
    throughput_follows_node, baseline_speed, arithmetic, launch_times, side_by_side, mixed_code, dirty_tree)}
