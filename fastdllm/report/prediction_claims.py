"""What decides the predictions for the 7B (report/predictions.py): claims on records of the 7B, by configuration."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fastdllm import stats
from fastdllm.display.claim import Decision, claim
from fastdllm.settings import SUBSETS

REUSING = tuple(f"k{k}_{layers}" for k in (2, 3) for layers in SUBSETS)
APART = 0.01            # the share of problems that rounding may change
CLOSE = 10.0            # points
CEILING = 1.25          # times the tokens/s of k=1
# What each claim reads, by the configuration's name: of every experiment that it is called with.
WITH_BASE = ("k1_first", *REUSING)
FIRST, MIDDLE = ("k2_first", "k3_first"), ("k2_middle", "k3_middle")
SPEEDS = ("k1_first", *(f"k2_{layers}" for layers in SUBSETS))


@dataclass(frozen=True, eq=False)
class Run:
    """A record, as far as a prediction asks. problems: right (0 or 1), tokens, forwards, seconds, output, by id.

    capped: answers at the length cap. clock: what the seconds were taken on, in words; "" for a CPU, which others
    share.
    """

    problems: pd.DataFrame
    capped: int = 0
    clock: str = "a card"

    @property
    def right(self) -> int:
        return int(self.problems["right"].sum())


Cells = Mapping[str, Run]       # by the configuration's name, like k2_middle


def problems_apart(a: Run, b: Run, columns: Sequence[str]) -> np.ndarray:
    """Which problems of both [n] differ in these columns; a text that is not kept on both sides counts as alike."""
    one, other = a.problems.align(b.problems, join="inner", axis=0)
    apart = np.zeros(len(one), bool)
    for name in columns:
        known = one[name].notna() & other[name].notna()
        apart |= (known & (one[name] != other[name])).to_numpy()
    return apart


def points(a: Run, b: Run) -> float:
    """Right answers of b minus those of a, in percentage points of n; exact where it is a whole number."""
    n, m = len(a.problems), len(b.problems)
    return 100 * (b.right * n - a.right * m) / (n * m)


def absent(cells: Cells, names: Sequence[str]) -> str:
    """Which of these configurations did not run, in words; "" if all did."""
    missing = [name for name in names if name not in cells]
    return f"not run: {', '.join(missing)}" if missing else ""


def by_k(texts: Mapping[int, str]) -> str:
    return "; ".join(f"k={k}: {text}" for k, text in texts.items())


@claim(holds="Problems of which tokens, text, right or wrong, or forwards differ by subset: {counts} of {n}.",
       fails="More than 1 problem in 100 differs by subset: {counts} of {n}.", unknown="{why}.")
def subsets_agree(refresh: Cells) -> Decision:
    if why := absent(refresh, REUSING):
        return None, {"why": why}
    columns, counts = ("right", "tokens", "forwards", "output"), {}
    n = min(len(refresh[name].problems) for name in REUSING)
    for k in (2, 3):
        first, *others = (refresh[f"k{k}_{layers}"] for layers in SUBSETS)
        counts[k] = int(np.any([problems_apart(first, other, columns) for other in others], axis=0).sum())
    return max(counts.values()) <= APART * n, {"counts": by_k({k: str(count) for k, count in counts.items()}), "n": n}


@claim(holds="Of k=1's {base} right answers of {n} each subset keeps less than half: {right}.",
       fails="`first` stays within 10 points of k=1's {base} right answers of {n}: {right}.", unknown="{why}.")
def bypass_spares_no_subset(bypass: Cells) -> Decision:
    if why := absent(bypass, WITH_BASE):
        return None, {"why": why}
    base = bypass["k1_first"]
    told = by_k({k: ", ".join(f"{layers} {bypass[f'k{k}_{layers}'].right}" for layers in SUBSETS) for k in (2, 3)})
    values = {"base": base.right, "n": len(base.problems), "right": told}
    if any(points(base, bypass[f"k{k}_first"]) >= -CLOSE for k in (2, 3)):
        return False, values
    if all(bypass[name].right < base.right / 2 for name in REUSING):
        return True, values
    return None, {"why": "`first` is more than 10 points below k=1's {base} of {n} and not every subset is below half "
                         "of it: {right}".format(**values)}


@claim(holds="`first` has more right on its own commit than on `6c8822f`, of {n}: {right} (McNemar, Holm).",
       fails="`first` has no more right on its own commit than on `6c8822f`, of {n}: {right}.", unknown="{why}.")
def first_was_spared_on_its_own_commit(own: Cells, bypass: Cells) -> Decision:
    if why := absent(own, FIRST) or absent(bypass, FIRST):
        return None, {"why": why}
    pairs = {}
    for k, name in zip((2, 3), FIRST, strict=True):
        moved, stayed = bypass[name].problems["right"].align(own[name].problems["right"], join="inner")
        pairs[k] = stats.compare_paired(moved, stayed)
    adjusted = stats.holm([pair.p for pair in pairs.values()])
    values = {"n": min(pair.n for pair in pairs.values()),
              "right": by_k({k: f"{own[name].right} against {bypass[name].right}"
                             for k, name in zip((2, 3), FIRST, strict=True)})}
    if any(pair.gained <= pair.lost for pair in pairs.values()):
        return False, values
    if (adjusted < stats.SIGNIFICANT).all():
        return True, values
    return None, {"why": "more right, but not beyond chance at both k, of {n}: {right}".format(**values)}


@claim(holds="`middle` and `last` stay within 10 points of `first`; right of {n}: {right}.",
       fails="`middle` or `last` is more than 10 points from `first`; right of {n}: {right}.", unknown="{why}.")
def no_subset_collapses(refresh: Cells) -> Decision:
    if why := absent(refresh, REUSING):
        return None, {"why": why}
    gaps = [points(refresh[f"k{k}_first"], refresh[f"k{k}_{layers}"]) for k in (2, 3) for layers in SUBSETS[1:]]
    told = by_k({k: ", ".join(f"{layers} {refresh[f'k{k}_{layers}'].right}" for layers in SUBSETS) for k in (2, 3)})
    return max(map(abs, gaps)) <= CLOSE, {"n": len(refresh["k2_first"].problems), "right": told}


@claim(holds="{capped} of the {n} answers that reuse run into the length cap, {plain} of {base} at k=1.",
       fails="Fewer than half of the {n} answers that reuse run into the length cap: {capped} ({plain} of {base} at "
             "k=1).", unknown="{why}.")
def most_answers_run_to_the_cap(bypass: Cells) -> Decision:
    if why := absent(bypass, WITH_BASE):
        return None, {"why": why}
    capped, n = (sum(values) for values in zip(*((bypass[name].capped, len(bypass[name].problems)) for name in REUSING),
                                               strict=True))
    if 2 * capped == n:
        return None, {"why": f"exactly half of the {n} answers that reuse run into the length cap"}
    plain = bypass["k1_first"]
    return 2 * capped > n, {"capped": capped, "n": n, "plain": plain.capped, "base": len(plain.problems)}


@claim(holds="Problems of which tokens, text, or right or wrong differ from those of `output`: {counts} of {n}; "
             "forwards are fewer: {forwards}.",
       fails="`replay` is not `output`, or no cheaper: problems that differ {counts} of {n}; forwards {forwards}.",
       unknown="{why}.")
def replay_is_output(replay: Cells, refresh: Cells) -> Decision:
    if why := absent(replay, MIDDLE) or absent(refresh, MIDDLE):
        return None, {"why": why}
    pairs = {k: (refresh[name], replay[name]) for k, name in zip((2, 3), MIDDLE, strict=True)}
    n = min(len(run.problems) for pair in pairs.values() for run in pair)
    counts = {k: int(problems_apart(*pair, ("right", "tokens", "output")).sum()) for k, pair in pairs.items()}
    ran = {k: [int(run.problems["forwards"].sum()) for run in pair] for k, pair in pairs.items()}
    values = {"n": n, "counts": by_k({k: str(count) for k, count in counts.items()}),
              "forwards": by_k({k: f"{after} against {before}" for k, (before, after) in ran.items()})}
    return max(counts.values()) <= APART * n and all(after < before for before, after in ran.values()), values


@claim(holds="k=2 makes {ratios} times the tokens/s of k=1 (n = {n}).",
       fails="k=2 makes more than 1.25 times the tokens/s of k=1, with its whole interval: {ratios} (n = {n}).",
       unknown="{why}.")
def two_is_at_most_a_quarter_faster(speed: Cells) -> Decision:
    if why := absent(speed, SPEEDS):
        return None, {"why": why}
    clocks = {speed[name].clock for name in SPEEDS}
    if len(clocks) > 1 or "" in clocks:
        return None, {"why": "no times that compare: " + ", ".join(sorted(one or "a CPU" for one in clocks))}
    base, found = speed["k1_first"].problems, {}
    for layers in SUBSETS:
        one, other = base.align(speed[f"k2_{layers}"].problems, join="inner", axis=0)
        found[layers] = stats.ratio_bootstrap(one["tokens"], one["seconds"], other["tokens"], other["seconds"])
    values = {"n": len(base), "ratios": ", ".join(f"{layers} {ratio:.2f} ({stats.span(low, high, '.2f')})"
                                                  for layers, (ratio, low, high) in found.items())}
    if any(low > CEILING for _, low, _ in found.values()):
        return False, values
    if all(ratio <= CEILING for ratio, _, _ in found.values()):
        return True, values
    return None, {"why": "above 1.25, but not with its whole interval: {ratios} (n = {n})".format(**values)}
