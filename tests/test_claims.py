"""Every claim of every verdict comes out each way it can: on data that make it hold, fail, and leave it open.

A claim without such data fails `test_every_claim_is_tried_in_every_way`: no verdict can be a constant.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_support import every_claim, fill, phase6_results, shipped_of

from fastdllm import prior_results, stats
from fastdllm.display.claim import MOST_WORDS, Claim, RunLabel, claim, verdict, words_before_fold
from fastdllm.display.tables import PREDICTED
from fastdllm.investigation.collapse import (
    inspection,
    phase6,
    real_model,
    similarity,
    verdict_bisection,
    verdict_collapse,
    verdict_open_questions,
    verdict_real_model,
    verdict_revisions,
    verdict_subsets,
    verdict_suspects,
)
from fastdllm.investigation.collapse.bisection import BisectionResult, Divergence
from fastdllm.investigation.speed import real_model_speed, verdict_policies, verify_measurements
from fastdllm.investigation.speed import verdicts as speed
from fastdllm.lab.config.grid import Grid
from fastdllm.lab.config.parameters import Criteria
from fastdllm.report import audit_verdict, cell_report, criteria, hypotheses, prediction_claims
from fastdllm.report.audit.evidence import Evidence, Finding
from fastdllm.report.results import Results
from fastdllm.report.shipped import ShippedRecords
from fastdllm.ui import comparison

EMPTY = pd.DataFrame()


def compared(*rows: tuple[int, str, float, float, float, float], n: int = 100) -> pd.DataFrame:
    """A table as `phase6.compare` gives: k, layers, points, low, high, corrected p."""
    return pd.DataFrame([{"k": k, "layers": layers, "n": n, "lost": round(max(0, -points)), "relative": points / 100,
                          "gained": round(max(0, points)), "points": points, "low": low, "high": high, "p": p,
                          "p_holm": p} for k, layers, points, low, high, p in rows],
                        columns=[*phase6.COMPARED, "p_holm"])


NO_LOSS = compared((2, "first = middle = last", 0.0, -2.0, 2.0, 1.0))
COLLAPSED = compared((2, "first", -50.0, -60.0, -40.0, 1e-9), (2, "middle = last", -60.0, -70.0, -50.0, 1e-9))
ONE_SPARED = compared((2, "first", 0.0, -2.0, 2.0, 1.0), (2, "middle = last", -60.0, -70.0, -50.0, 1e-9))
NOT_COMPARED = compared()


def slices(*right: bool) -> pd.DataFrame:
    return pd.DataFrame({"right": list(right), "stored by": ["full"] * len(right)}, columns=["right", "stored by"])


def reproduced(*right: bool) -> pd.DataFrame:
    return pd.DataFrame({"reproduced": list(right)}, columns=["reproduced"])


def cache(**positions: int) -> pd.DataFrame:
    """Block-cache differences of layers 8 to 10; reused are 8 and 9."""
    return pd.DataFrame([{"prompt": 0, "forward": 3, "layer": layer, "positions": positions.get(f"layer_{layer}", 0),
                          "reused": layer < 10} for layer in (8, 9, 10)])


def served(*elsewhere: bool) -> pd.DataFrame:
    """Reusing forwards of prompts with two each."""
    return pd.DataFrame({"row": [i // 2 for i in range(len(elsewhere))], "other_small_block": list(elsewhere),
                         "other_block": [False] * len(elsewhere)})


def pairs(kind: str, same: int, n: int = 4) -> pd.DataFrame:
    return pd.DataFrame([{"k": 2, "kind": kind, "a": "output first", "b": "output middle", "n": n, "same": same}])


def logits(gap: float) -> pd.DataFrame:
    return pd.DataFrame([{"kind": "contiguous subsets", "gap": gap, "size": 20.0}])


def subsets(computations: int, differ: int = 0) -> pd.DataFrame:
    return pd.DataFrame([{"k": 2, "subsets": 3, "computations": computations, "n": 64, "answers that differ": differ}])


def run_1_cells(*layers: str, good: float = 0.95, bad: float = 0.02) -> pd.DataFrame:
    """`real_model.run_1` of k=2: Run 1's cells of these subsets, and `first` on the others' commit."""
    rows = [{"k": 2, "layers": one, "what": real_model.OF_THE_LOG, "accuracy": good if one == "first" else bad}
            for one in layers] + [{"k": 2, "layers": "first", "what": real_model.MOVED, "accuracy": bad}]
    return pd.DataFrame(rows).assign(path=[f"{row['layers']}-{row['what']}" for row in rows], kept=0.5)


def run_1_answers(first: int, last: int) -> Any:
    """The answers to 100 problems behind `run_1_cells`."""
    return SimpleNamespace(correct={f"{name}-{real_model.OF_THE_LOG}": np.arange(100) < count
                                    for name, count in (("first", first), ("last", last))})


def codes(reverted: int = 60, refreshed: int = 60) -> pd.DataFrame:
    """`verdict_bisection.reverted` of 64 problems: right answers of each code."""
    right = {"6c8822f": 20, "6c8822f+on_full_block=refresh": refreshed, "8e18baac+run_skipped=false": reverted}
    return pd.DataFrame([{"revision": name, "right": count, "n": 64, "points": (count - 60) / 0.64,
                          "p_holm": 1e-6 if count < 40 else 1.0} for name, count in right.items()])


def two_trees(tokens: int, other: str = "6f96d95-dirty") -> ShippedRecords:
    """k=2 first on January's code and on another (Run 1's changed tree), which takes so many tokens a problem; 20 is
    what January's takes.
    """
    return shipped_of({(code, 2, "first"): [1, 0] * 300 for code in ("8e18baac", other)},
                      tokens={(other, 2, "first"): tokens})


def thresholds_of(low: int, reuse: int) -> ShippedRecords:
    """Right answers of 100 at threshold 0.9 (half the forwards), and of k=2 at 1.0, where k=1 solves 96."""
    high = shipped_of({("26d6179", 1, "first"): [1] * 96 + [0] * 4, ("26d6179", 2, "first"): [1] * reuse + [0] * (
        100 - reuse)}, threshold=1.0)
    fast = shipped_of({("26d6179", 1, "first"): [1] * low + [0] * (100 - low)}, nfe_small=100, nfe_full=100)
    named = [part.frame.assign(path=part.frame["path"] + end) for part, end in ((high, "-1.0"), (fast, "-0.9"))]
    answers = {path + end: table for part, end in ((high, "-1.0"), (fast, "-0.9"))
               for path, table in part.problems.items()}
    return ShippedRecords(pd.concat(named), answers, "made up")


def parted(differ: int) -> pd.DataFrame:
    return pd.DataFrame([{"k": 2, "subsets": "first, last", "n": 100, "differ": differ}])


def capped_answers(capped: int) -> pd.DataFrame:
    return pd.DataFrame([{"revision": "26d6179", "k": 1, "layers": "", "n": 100, "capped": 3, "threshold": 1.0},
                         {"revision": "6c8822f", "k": 2, "layers": "last", "n": 100, "capped": capped,
                          "threshold": 1.0}]).assign(max_new_tokens=256)


def log(*runs: tuple[str, tuple[int, ...], tuple[float, ...]], first: str = "abc") -> pd.DataFrame:
    """Published rows of k=2 by run: token totals and accuracies of first, middle, last; the commit of `first`."""
    return pd.DataFrame([{"name": name, "commit": first if layers == "first" else "abc", "k": 2, "layers": layers,
                          "config": f"k2_{layers}", "tokens": total, "accuracy": accuracy}
                         for name, tokens, accuracies in runs
                         for layers, total, accuracy in zip(("first", "middle", "last"), tokens, accuracies,
                                                            strict=True)],
                        columns=["name", "commit", "k", "layers", "config", "tokens", "accuracy"])


RUN_1, RUN_2 = verdict_collapse.LOG.values()
LIKE, UNLIKE = (0.7, 0.7, 0.7), (0.7, 0.1, 0.1)


def stale(bad: float | None, good: float | None) -> pd.DataFrame:
    """What `phase6.foreign_share` says of Run 1's and Run 2's code."""
    return pd.DataFrame({revision: {} if share is None else {"share": share, "low": 0.3, "high": 0.5, "prompts": 16.0}
                         for revision, share in (("6c8822f", bad), ("26d6179", good))}).T


def january(*correct: int) -> pd.DataFrame:
    return pd.DataFrame([{"k": 2, "accuracy": c / 1319, "correct": c, "n": 1319} for c in correct],
                        columns=["k", "accuracy", "correct", "n"])


def bisected(changes: Any, tokens_by: Any, *reused: int, parted: bool = True) -> BisectionResult:
    """A result; the rows of its table reuse so many calls each."""
    table = pd.DataFrame([{"on_full_block": "bypass", "full_block_every_k": True, verdict_bisection.REUSED: count}
                          for count in reused])
    return BisectionResult(changes, tokens_by, Divergence(0, 3, ("output tokens",), None, None) if parted else None,
                           ("output tokens",), 7, 96, "ended", table)


BYPASS = {"on_full_block": ("refresh", "bypass")}
BOTH = BYPASS | {"full_block_every_k": (True, False)}


def similar(still: float, moved: float, changed: tuple[bool, ...] = (True, False, False, False)) -> pd.DataFrame:
    return pd.DataFrame([{"lag": 1, "output": moved if flag else still, "changed": flag} for flag in changed])


def side_by_side(*same: bool, work: str = "") -> pd.DataFrame:
    return pd.DataFrame([{"same tokens": flag, "first parting": "" if flag else "forward 3",
                          "differs in": work if flag else "output tokens"} for flag in same],
                        columns=["same tokens", "first parting", "differs in"])


def totals(dtype: str, differ: int) -> pd.DataFrame:
    return pd.DataFrame([{"dtype": dtype, "n": 32, verdict_open_questions.APART[0]: differ,
                          verdict_open_questions.APART[1]: 0}])


def nodes(*rows: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame([{"config": config, "node": node, "tokens_per_s": 20.0} for config, node in rows],
                        columns=["config", "node", "tokens_per_s"])


def full_tables(*rows: tuple[str, float]) -> pd.DataFrame:
    return pd.DataFrame([{"n": 1319, "middle is best": best, "interval low": low} for best, low in rows],
                        columns=["n", "middle is best", "interval low"])


def thresholds(lost: float | None, low: float = np.nan, high: float = np.nan) -> pd.DataFrame:
    return pd.DataFrame([{"threshold": 0.5, "tokens_per_forward": 4.0, "accuracy": 0.9, "lost": lost, "lost_low": low,
                          "lost_high": high},
                         {"threshold": 1.0, "tokens_per_forward": 1.0, "accuracy": 0.95, "lost": np.nan,
                          "lost_low": np.nan, "lost_high": np.nan}])


def batches(*ratios: float, equal: int = 10, runs: int = 3) -> pd.DataFrame:
    """`batching.table` of k=1: tokens/s over the smallest batch's, of one run without an interval or a ratio."""
    once = np.nan if runs == 1 else 1.0
    return pd.DataFrame([{"way": "k=1", "batch_size": 2 ** i, "tokens_per_second": 100.0 * ratio, "ratio": ratio,
                          "speedup": 1.0, "latency": 1.0, "n": 10, "equal": equal if i else 10, "runs": runs}
                         for i, ratio in enumerate(ratios)]).assign(
        ratio=lambda table: once * table["ratio"], ratio_low=lambda table: table["ratio"] - 0.2,
        ratio_high=lambda table: table["ratio"] + 0.2)


def beside(speedup: float, same: float, source: str = "3 repeats") -> pd.DataFrame:
    """`batching.table` of two sizes: `verify` saves forwards in the first, and in the second is k=1 again."""
    plain = batches(1.0, 1.8).assign(k=1, policy="output", forwards_run=100, nfe=100, speed_from="baseline")
    drafting = plain.assign(way="k=3 verify", k=3, policy="verify", speedup=[speedup, same], forwards_run=[70, 100],
                            speed_from=source)
    return pd.concat([plain, drafting], ignore_index=True).assign(
        sure_speed_low=lambda table: table["speedup"] - 0.05, sure_speed_high=lambda table: table["speedup"] + 0.05)


def test_one_run_each_tells_no_effect_of_the_clock_but_what_the_forwards_predict() -> None:
    larger = speed.a_larger_batch_is_faster(batches(1.0, 1.8, runs=1))
    assert larger.state is None and "batch 1, 2 ran once each" in larger.text
    counted = speed.reuse_is_faster_at_some_batch_size(beside(1.6, 1.0, PREDICTED))
    assert counted.state and "is predicted to make 1.60 times" in counted.text and "(the forwards at" in counted.text
    timed = speed.reuse_is_faster_at_some_batch_size(beside(1.6, 1.0))
    assert timed.state and "makes 1.60 (1.55 to 1.65) times" in timed.text
    assert speed.reuse_is_faster_at_some_batch_size(beside(np.nan, np.nan, "one run")).state is None


def front(speedup: float, low: float, high: float, gain: float = np.nan, p: float = np.nan,
          policy: str = "replay") -> pd.DataFrame:
    """k=1 and one reuse that surely loses `low` to `high` points, and wins `gain` over a threshold (p after Holm)."""
    return pd.DataFrame([{"config": "k1", "k": 1, "policy": "output"},
                         {"config": "k2_middle", "k": 2, "policy": policy, "speedup": speedup, "sure_low": low,
                          "sure_high": high, "gain": gain, "gain_holm": p}])


def against(*rows: tuple[float, float, float]) -> pd.DataFrame:
    """`pareto.against_thresholds`: threshold, points won, p after Holm."""
    return pd.DataFrame([{"threshold": t, "points": points, "p_holm": p, "predicted speed-up": 1.3, "n": 400}
                         for t, points, p in rows], columns=["threshold", "points", "p_holm",
                                                              "predicted speed-up", "n"])


def beside_k1(*differ: int) -> pd.DataFrame:
    return pd.DataFrame([{"differ": count, "n": 400, "speedup": 1.3} for count in differ],
                        columns=["differ", "n", "speedup"])


def verify_runs(speedup: float, equal: int = 16, noise: float = 1.02) -> pd.DataFrame:
    """`verify_measurements.runs`: k=2 in float32, and in bfloat16 on two sets of problems, one of them faster."""
    runs = [(1, "bfloat16", 1.0), (1, "bfloat16", 1.0), (2, "float32", 1.1), (2, "bfloat16", speedup),
            (2, "bfloat16", speedup + 0.5)]
    return pd.DataFrame([{"k": k, "dtype": dtype, "threshold": 0.9, "n": 16, "speedup": ratio, "equal_to_k1": equal,
                          "device": "a card", "data": "words", "forwards_run": 1000, "seconds": 2 * noise ** index}
                         for index, (k, dtype, ratio) in enumerate(runs)])


def gpu_forwards(share: float) -> pd.DataFrame:
    table = pd.DataFrame([{"batch": 1, "layers": 28, "kind": kind, "share_of_copy": share}
                          for kind in ("full", "small")])
    table.attrs = {"device": "H200"}
    return table


def mixes(k2: float, k3: float) -> pd.DataFrame:
    return pd.DataFrame({"run": ["k=1", "k=2 output", "k=3 output"], "h200_speed": [100.0, 100 * k2, 100 * k3]})


def dtypes(**correct: int) -> pd.DataFrame:
    return pd.DataFrame([{"dtype": dtype, "threshold": 1.0, "n": 500, "correct": count}
                         for dtype, count in correct.items()])


def same_node(*ratios: float) -> pd.DataFrame:
    return pd.DataFrame([{"k": 2, "ratio": ratio} for ratio in ratios], columns=["k", "ratio"])


def record(k: int, reused: int, finish: dict[str, int]) -> Any:
    return SimpleNamespace(decisions={"recompute": 10, "reuse": reused}, nfe={"full": 5, "replay": 0}, n=10,
                           parameters=SimpleNamespace(reuse=SimpleNamespace(k=k)), finish=finish)


def evidence(rows: int) -> Evidence:
    return Evidence.of([{"row": f"a/k1_{i}", "batch": "a", "task": "t", "config": "k1"} for i in range(rows)])


def finding(level: Any) -> list[Finding]:
    return [Finding("copied", level, ("a/k1_0",), "two rows are one", "certain")]


def goal(speed: tuple[float, float, float], lost: tuple[float, float, float]) -> pd.DataFrame:
    names = ("speedup", "speed_low", "speed_high", "lost", "lost_low", "lost_high")
    return pd.DataFrame([{"config": "k2", "n": 200, "k": 2} | dict(zip(names, (*speed, *lost), strict=True))])


def partings(at: int | None, reused: int, elsewhere: int = 0) -> pd.DataFrame:
    return pd.DataFrame([{"first differing forward": at, "same text": at is None, "layer calls reused": reused,
                          "from another small block": elsewhere}]).astype({"first differing forward": "Int64"})


def ran(right: int, differ: int = 0, *, capped: int = 0, forwards: int = 20, seconds: float = 1.0,
        clock: str = "a card, fast, batch 1") -> prediction_claims.Run:
    """100 problems of the 7B, the first of them right; the texts of the last `differ` are another run's."""
    texts = [f"answer {i}" if i < 100 - differ else f"another {i}" for i in range(100)]
    return prediction_claims.Run(pd.DataFrame({
        "right": [int(i < right) for i in range(100)], "tokens": 50, "forwards": forwards,
        "seconds": [seconds * (1 + 0.1 * (i % 3)) for i in range(100)], "output": texts}), capped, clock)


def cells_of(first: Any, middle: Any, last: Any, base: Any = None) -> dict[str, prediction_claims.Run]:
    """A grid's cells, the same at k=2 and 3."""
    reusing = {f"k{k}_{name}": run for k in (2, 3) for name, run in
               zip(("first", "middle", "last"), (first, middle, last), strict=True)}
    return reusing if base is None else reusing | {"k1_first": base}


def cut(capped: int) -> dict[str, prediction_claims.Run]:
    """So many of 100 answers of each cell that reuses are cut at the length cap."""
    one = ran(1, capped=capped)
    return cells_of(one, one, one, ran(80))


def replayed(differ: int, forwards: int = 10) -> dict[str, prediction_claims.Run]:
    """`replay` that differs from `output` in so many of 100 problems, in so many forwards a problem (20)."""
    return {name: ran(70, differ, forwards=forwards) for name in prediction_claims.MIDDLE}


def speeds(factor: float, **base: Any) -> dict[str, prediction_claims.Run]:
    """k=2 at so many times the tokens/s of k=1."""
    two = ran(80, seconds=1 / factor)
    return cells_of(two, two, two, ran(80, **base))


MET, MISSED, OPEN = (goal((1.3, 1.25, 1.35), (2.0, 1.0, 3.0)), goal((1.0, 0.9, 1.1), (2.0, 1.0, 3.0)),
                     goal((1.3, 1.1, 1.5), (2.0, 1.0, 3.0)))
GAP = {"published": 0.837, "measured": 0.804, "n": 1319, "low": 0.782, "high": 0.825, "p": 0.001}
# claim: data that make it hold, data that make it fail, data that leave it open (arguments of the claim)
CASES: dict[Claim, tuple[tuple, tuple, tuple]] = {
    hypotheses.score_is_above_chance: (
        (shipped_of({("fixed", 1, ""): [1] * 50 + [0] * 50}),), (shipped_of({("fixed", 1, ""): [1] * 25 + [0] * 75}),),
        (shipped_of({("fixed", 1, ""): [1]}).where(k=2),)),
    hypotheses.subsets_differ: (
        (shipped_of({("26d6179", 2, "first"): [1, 0], ("26d6179", 2, "last"): [0, 1]}),),
        (shipped_of({("26d6179", 2, "first"): [1, 0], ("26d6179", 2, "last"): [1, 0]}),),
        (shipped_of({("26d6179", 2, "first"): [1, 0]}),)),
    hypotheses.every_subset_collapses: (
        (shipped_of({("26d6179", 2, "first"): [1] * 30 + [0] * 10, ("6c8822f", 2, "first"): [1] * 5 + [0] * 35}),),
        (shipped_of({("26d6179", 2, "first"): [1] * 5 + [0] * 35, ("6c8822f", 2, "first"): [1] * 30 + [0] * 10}),),
        (shipped_of({("26d6179", 2, "first"): [1, 0], ("6c8822f", 2, "last"): [1, 0]}),)),
    hypotheses.verify_loses_as_often_as_it_wins: (
        (shipped_of({("fixed", 1, ""): [1, 1, 0, 0] * 10, ("fixed", 2, ""): [1, 0, 1, 0] * 10}, policy="verify"),),
        (shipped_of({("fixed", 1, ""): [1, 1, 0, 0] * 10, ("fixed", 2, ""): [1, 0, 0, 0] * 10}, policy="verify"),),
        (shipped_of({("fixed", 2, ""): [1, 0]}, policy="verify"),)),
    prediction_claims.subsets_agree: (
        (cells_of(ran(70), ran(70, 1), ran(70, 1)),), (cells_of(ran(70), ran(70), ran(70, 2)),),
        ({"k2_first": ran(70)},)),
    prediction_claims.bypass_spares_no_subset: (
        (cells_of(ran(30), ran(10), ran(10), ran(80)),), (cells_of(ran(70), ran(10), ran(10), ran(80)),),
        (cells_of(ran(60), ran(10), ran(10), ran(80)),)),
    prediction_claims.first_was_spared_on_its_own_commit: (
        ({"k2_first": ran(70), "k3_first": ran(60)}, {"k2_first": ran(20), "k3_first": ran(20)}),
        ({"k2_first": ran(70), "k3_first": ran(20)}, {"k2_first": ran(20), "k3_first": ran(20)}),
        ({"k2_first": ran(70), "k3_first": ran(22)}, {"k2_first": ran(20), "k3_first": ran(20)})),
    prediction_claims.no_subset_collapses: (
        (cells_of(ran(70), ran(60), ran(75)),), (cells_of(ran(70), ran(59), ran(70)),), ({},)),
    prediction_claims.most_answers_run_to_the_cap: (
        (cut(90),), (cut(40),), (cut(50),)),
    prediction_claims.replay_is_output: (
        (replayed(1), replayed(0, 20)), (replayed(2), replayed(0, 20)), ({}, replayed(0, 20))),
    prediction_claims.two_is_at_most_a_quarter_faster: (
        (speeds(1.1),), (speeds(1.5),), (speeds(1.1, clock=""),)),
    verdict_suspects.slices_are_right: ((slices(True, True),), (slices(True, False),), (slices(),)),
    verdict_suspects.published_code_slices_alike: (
        (reproduced(True), reproduced(False)), (reproduced(False), reproduced(False)), (reproduced(), reproduced())),
    verdict_suspects.frozen_slice_hurts_alike: (
        (compared((2, "first = middle", -9.0, -20.0, -1.0, 0.01)),), (ONE_SPARED,),
        (compared((2, "middle", -9.0, -20.0, -1.0, 0.01)),)),
    verdict_suspects.full_blocks_change_accuracy: ((COLLAPSED,), (NO_LOSS,), (NOT_COMPARED,)),
    verdict_suspects.there_is_a_collapse: (
        (COLLAPSED,), (NO_LOSS,), (compared((2, "first", -15.0, -40.0, 10.0, 0.5)),)),
    verdict_suspects.skipped_layers_matter: (
        ([True, False], cache(layer_8=2), NO_LOSS), ([True, True], cache(layer_8=2), NO_LOSS),
        ([True], cache().assign(reused=False), NO_LOSS)),
    verdict_suspects.only_the_first_reused_layer_differs: (
        (cache(layer_8=2),), (cache(layer_8=2, layer_9=1),), (cache(),)),
    verdict_suspects.serves_elsewhere: (("x", served(True, False)), ("x", served(False, False)), ("x", served())),
    verdict_subsets.subsets_agree: (
        (pairs("contiguous subsets", 4),), (pairs("contiguous subsets", 3),), (pairs("residual", 4),)),
    verdict_subsets.logits_are_old: ((logits(0.0),), (logits(0.5),), (EMPTY,)),
    verdict_subsets.replay_is_equivalent: ((pairs("replay", 4),), (pairs("replay", 0),), (pairs("residual", 4),)),
    verdict_subsets.residual_depends_on_the_subset: (
        (pairs("residual", 1),), (pairs("residual", 4),), (pairs("replay", 4),)),
    verdict_revisions.worse_than_january: (("Run 1", COLLAPSED), ("Run 1", NO_LOSS), ("Run 1", NOT_COMPARED)),
    verdict_revisions.hits_every_subset: ((COLLAPSED,), (ONE_SPARED,), (NO_LOSS,)),
    verdict_revisions.subsets_are_one_computation: (
        ("`x`", subsets(1)), ("`x`", subsets(3, 5)), ("`x`", subsets(1).iloc[:0])),
    verdict_revisions.shows: ((0.9, 0.1, 10), (0.7, 0.1, 10), (0.7, 0.7, 10)),
    verdict_revisions.records_are_reproduced: (
        (pd.DataFrame({"same tokens": [True]}),), (pd.DataFrame({"same tokens": [True, False]}),),
        (pd.DataFrame({"same tokens": []}),)),
    verdict_collapse.equal_tokens_score_differently: (
        (log((RUN_2, (3572,) * 3, UNLIKE)),), (log((RUN_2, (3572,) * 3, LIKE)),), (log(),)),
    verdict_collapse.second_run_repeats_the_first: (
        (log((RUN_1, (18493,) * 3, UNLIKE), (RUN_2, (3572,) * 3, UNLIKE)),),
        (log((RUN_1, (18493,) * 3, UNLIKE), (RUN_2, (3572,) * 3, LIKE)),),
        (log((RUN_1, (3572,) * 3, UNLIKE), (RUN_2, (3572,) * 3, UNLIKE)),)),      # a true repeat says nothing
    verdict_collapse.first_ran_on_another_commit: (
        (log((RUN_1, (9,) * 3, UNLIKE), first="def"),), (log((RUN_1, (9,) * 3, UNLIKE)),), (log(),)),
    verdict_collapse.collapse_goes_with_foreign_outputs: (
        (stale(0.4, 0.0),), (stale(0.4, 0.4),), (stale(None, 0.0),)),
    verdict_collapse.january_is_uniform: ((january(972, 971, 973),), (january(1000, 900, 1000),), (january(972),)),
    verdict_bisection.known_switches_explain: (
        ("first", bisected(BYPASS, BYPASS)), ("first", bisected(None, None)),
        ("first", bisected({}, {}, parted=False))),
    verdict_bisection.tokens_have_a_cause: (
        ("first", bisected(BYPASS, BYPASS)), ("first", bisected(BOTH, BOTH, 9, 0)), ("first", bisected(BOTH, None))),
    verdict_bisection.one_cause_for_every_subset: (
        ([("first", bisected(BYPASS, BYPASS)), ("last", bisected(BYPASS, BYPASS))],),
        ([("first", bisected(BYPASS, BYPASS)), ("last", bisected(BOTH, BOTH))],), ([("first", bisected({}, {}))],)),
    verdict_bisection.a_reverted_bug_changes_accuracy: (
        (codes(reverted=30),), (codes(reverted=60),), (codes(reverted=60).iloc[:2],)),
    verdict_bisection.bug_5_is_the_collapse: ((codes(refreshed=60),), (codes(refreshed=21),), (codes().iloc[:1],)),
    verdict_bisection.bugs_1_and_3_change_rounding_only: (
        (two_trees(20),), (two_trees(21),), (two_trees(20).where(k=3),)),
    verdict_bisection.bug_4_changes_rounding_only: (
        (two_trees(20, verdict_bisection.BUG_4),), (two_trees(21, verdict_bisection.BUG_4),), (two_trees(20),)),
    real_model_speed.a_lower_threshold_beats_reuse: tuple(
        (records, real_model_speed.front(records, "gsm8k_words"))
        for records in (thresholds_of(95, 60), thresholds_of(60, 95), thresholds_of(95, 60).where(k=1))),
    real_model_speed.likelihood_is_above_chance: (
        (shipped_of({("fixed", 1, ""): [1] * 50 + [0] * 50}, task="arc_easy", tokens_per_second=9.0),),
        (shipped_of({("fixed", 1, ""): [1] * 25 + [0] * 75}, task="arc_easy", tokens_per_second=9.0),),
        (shipped_of({("fixed", 1, ""): [1, 0]}),)),
    real_model_speed.two_tier_is_worse: tuple(
        (table, SimpleNamespace(frame=pd.DataFrame({"model": ["tiny"]})))
        for table in (COLLAPSED, NO_LOSS, NOT_COMPARED)),
    verdict_real_model.run_1_comes_back: (
        (run_1_cells("first", "middle", "last"), COLLAPSED), (run_1_cells("first", "middle", "last"), ONE_SPARED),
        (run_1_cells("first"), COLLAPSED)),
    verdict_real_model.a_few_problems_show_it: (
        (run_1_cells("first", "last"), run_1_answers(95, 2), 10), (run_1_cells("first", "last", good=0.12, bad=0.03),
                                                                   run_1_answers(12, 3), 10),
        (run_1_cells("first"), run_1_answers(95, 2), 10)),
    verdict_real_model.answers_run_to_the_cap: (
        (capped_answers(90),), (capped_answers(20),), (capped_answers(90).iloc[1:],)),
    verdict_real_model.points_flatter_the_loss: (
        (compared((2, "first", -4.0, -6.0, -2.0, 0.01)).assign(relative=-0.34),), (NO_LOSS,), (NOT_COMPARED,)),
    verdict_real_model.only_refresh_makes_them_one: (
        (parted(0), parted(9)), (parted(1), parted(9)), (parted(0), parted(0).iloc[:0])),
    verdict_real_model.subsets_agree_but_for_rounding: (
        (parted(1).assign(n=2000),), (parted(9),), (parted(0).iloc[:0],)),
    verdict_real_model.half_precision_parts_the_subsets: (
        ("float16", parted(5)), ("float16", parted(0)), ("float16", parted(0).iloc[:0])),
    similarity.outputs_stay_alike: ((similar(0.99, 0.5), 0.95), (similar(0.5, 0.5), 0.95), (EMPTY, 0.95)),
    similarity.changes_are_where_tokens_changed: (
        (similar(0.99, 0.5), 0.95), (similar(0.99, 0.99), 0.95), (similar(0.99, 0.5, (False, False)), 0.95)),
    inspection.file_agrees: (("f.py", "26d6179", side_by_side(True)), ("f.py", "26d6179", side_by_side(True, False)),
                             ("f.py", "26d6179", side_by_side())),
    inspection.file_does_the_same_work: (
        (side_by_side(True),), (side_by_side(True, work="layer calls"),), (side_by_side(),)),
    verdict_open_questions.published_score_is_missed: ((GAP,), (GAP | {"high": 0.85},), ({"n": 0},)),
    verdict_open_questions.node_and_run_are_confounded: (
        (nodes(("k1_first", "a"), ("k2_first", "b")),), (nodes(("k1_first", "a"), ("k2_first", "a")),), (nodes(),)),
    verdict_open_questions.loading_is_left_out: tuple(
        (pd.DataFrame({"of these in no throughput": values}, dtype=float),) for values in ([40, 50], [0.1, 50], [])),
    verdict_open_questions.half_precision_is_enough: (
        (totals("float16", 0), pd.concat([totals("float32", 0), totals("float16", 2)])),
        (totals("float16", 0), totals("float16", 0)), (totals("float32", 0), totals("float32", 0))),
    verdict_open_questions.middle_is_best: (
        (full_tables(("yes", 1.0)),), (full_tables(("yes", -1.0), ("no", -1.0)),), (full_tables(),)),
    verdict_open_questions.claims_are_left: (
        (pd.DataFrame({"claim": ["a"]}), pd.DataFrame({"claim": ["a"]})), (EMPTY, pd.DataFrame({"claim": ["a"]})),
        (EMPTY, EMPTY)),
    speed.several_tokens_a_forward: ((50, 20), (20, 20), (0, 0)),
    speed.all_solved: (([True, True],), ([True, False],), ([],)),
    speed.a_lower_threshold_is_safe: (
        (thresholds(1.0, -1.0, 2.0), 3.0), (thresholds(1.0, -1.0, 4.0), 3.0), (thresholds(None), 3.0)),
    speed.a_threshold_is_too_low: (
        (thresholds(9.0, 5.0, 12.0), 3.0), (thresholds(1.0, -1.0, 2.0), 3.0), (thresholds(None), 3.0)),
    speed.a_larger_batch_is_faster: ((batches(1.0, 1.8),), (batches(1.0, 0.9),), (batches(1.0),)),
    speed.reuse_is_faster_at_some_batch_size: (
        (beside(1.2, 1.05),), (beside(1.05, 0.9),), (beside(np.nan, np.nan),)),
    speed.answers_do_not_depend_on_the_batch: (
        (batches(1.0, 1.8),), (batches(1.0, 1.8, equal=9),), (batches(1.0),)),
    verdict_policies.a_lossy_policy_meets_the_criterion: (
        (front(1.5, 1.0, 3.0), 1.2, 5.0), (front(1.5, 1.0, 6.0), 1.2, 5.0),
        (front(1.5, 0.0, 0.0, policy="verify"), 1.2, 5.0)),
    verdict_policies.replay_beats_every_threshold: (
        (against((0.5, 9.0, 0.001), (0.52, 6.0, 0.01)),), (against((0.5, 9.0, 0.001), (0.52, 2.0, 0.3)),),
        (against(),)),
    verdict_policies.the_threshold_tells_policies_apart: (
        (front(1.5, 1.0, 3.0, -4.0, 0.01),), (front(1.5, 1.0, 3.0, -4.0, 0.2),), (front(1.5, 1.0, 3.0),)),
    verdict_policies.verify_answers_as_k1: ((beside_k1(0, 0),), (beside_k1(0, 3),), (beside_k1(),)),
    verify_measurements.verify_meets_the_criterion: (
        (verify_runs(1.3), 1.2, 5.0, 0.9), (verify_runs(1.3, equal=15), 1.2, 5.0, 0.9),
        (verify_runs(1.3), 1.2, 5.0, 0.7)),
    speed.bytes_explain_a_forward: ((gpu_forwards(0.8),), (gpu_forwards(0.2),), (gpu_forwards(0.8).iloc[:1],)),
    speed.the_cost_model_holds: ((pd.DataFrame({"off": [0.05, np.nan]}),), (pd.DataFrame({"off": [-0.4]}),),
                                 (pd.DataFrame({"off": [np.nan]}),)),
    speed.reuse_can_reach_the_goal: ((mixes(1.1, 1.3), 1.2), (mixes(1.1, 1.15), 1.2), (mixes(1.1, 1.3).head(1), 1.2)),
    speed.january_was_slower: ((same_node(0.8, 0.9),), (same_node(0.8, 1.1),), (same_node(),)),
    speed.half_precision_is_free: (
        (dtypes(float32=480, float16=478),), (dtypes(float32=480, float16=380),), (dtypes(float32=480),)),
    cell_report.reuse_acted: ((record(2, 5, {}),), (record(2, 0, {}),), (record(1, 0, {}),)),
    cell_report.answers_ended: (
        (record(1, 0, {"stop": 10}),), (record(1, 0, {"stop": 8, "length": 2}),), (record(1, 0, {}),)),
    audit_verdict.something_cannot_be: (
        (evidence(2), finding("impossible")), (evidence(2), finding("note")), (evidence(0), [])),
    audit_verdict.something_is_doubtful: (
        (evidence(2), finding("doubtful")), (evidence(2), finding("note")), (evidence(0), [])),
    criteria.goal_is_reached: ((MET, ["meets"], Criteria(), False), (MISSED, ["misses"], Criteria(), False),
                               (OPEN, ["open"], Criteria(), False)),
    comparison.suspect_leaves: (("a", "b", partings(4, 9)), ("a", "b", partings(None, 9)),
                                ("a", "b", partings(None, 9).iloc[:0])),
    comparison.suspect_serves_elsewhere: ((partings(4, 9, 3),), (partings(4, 9, 0),), (partings(None, 0),)),
}


def test_every_claim_is_tried_in_every_way() -> None:
    claims = every_claim()
    assert len(claims) > 50
    assert {name for name, one in claims.items() if one not in CASES} == set(), "claims that no data decide here"


@pytest.mark.parametrize("one", list(CASES), ids=lambda one: one.name)
def test_claim_comes_out_as_the_data_say(one: Claim) -> None:
    judged = [one(*data) for data in CASES[one]]
    assert [each.state for each in judged] == [True, False, None]
    assert len({each.text for each in judged}) == 3, "two states say the same"
    assert "nan" not in " ".join(each.text.lower() for each in judged).replace("finan", "")


def test_a_claim_reads_its_numbers_from_the_data() -> None:
    @claim(holds="All {n} right.", fails="{wrong} of {n} wrong.", unknown="Nobody asked.")
    def all_right(values: list[bool]):
        return (all(values) if values else None), {"n": len(values), "wrong": values.count(False)}
    assert [str(all_right(values)) for values in ([True, True], [True, False], [])] == [
        "All 2 right.", "1 of 2 wrong.", "Nobody asked."]
    text = verdict([all_right([True])], ["One more thing."])
    assert text.startswith("All 1 right.\n\n<details>") and text.endswith("</details>")
    assert words_before_fold(text) == 3
    assert verdict([all_right([True])]) == "All 1 right."


def test_label_of_records_names_model_task_n_and_machine(tmp_path) -> None:
    grid = Grid(experiment="x", output=str(tmp_path), limit=20, axes={"k": [1, 2], "layers": ["first"]})
    fill(grid)
    assert str(RunLabel.of(Results.of(grid).frame)) == "tiny, arithmetic, n = 20 problems, rule strict, cpu, 2026-11-21"


def test_the_verdict_of_one_configuration_is_short_and_says_when_nothing_was_reused(tmp_path) -> None:
    grid = Grid(experiment="x", output=str(tmp_path), limit=20, axes={"k": [1, 2], "layers": ["first"]})
    fill(grid)
    one, two = Results.of(grid).records
    assert "Nothing was to be reused" in cell_report.verdict(one)
    assert "67% of the 7200 wrapped layer calls were reused" in cell_report.verdict(two)
    idle = two.model_copy(update={"decisions": {"recompute": 7200, "reuse": 0}})
    assert "nothing was reused" in cell_report.verdict(idle)
    assert words_before_fold(cell_report.verdict(two)) <= MOST_WORDS


# -- the log's own figures

def test_the_log_contradicts_itself_in_run_2_at_both_k() -> None:
    text = str(verdict_collapse.equal_tokens_score_differently(verdict_collapse.log_runs()))
    assert "k=2: 3572 tokens 3 times, right 70/10/10 %" in text
    assert "k=3: 3316 tokens 3 times, right 60/0/0 %" in text
    assert "Run 2 as published" in text and "Run 1 as published" not in text


def test_the_log_s_second_run_repeats_the_first_and_january_is_uniform() -> None:
    assert verdict_collapse.second_run_repeats_the_first(verdict_collapse.log_runs()).state is True
    assert verdict_collapse.january_is_uniform(verdict_collapse.january_rows()).state is True
    assert len(prior_results.claims()) > 0


def test_ten_problems_miss_the_log_s_own_collapse_once_in_three() -> None:
    judged = verdict_revisions.shows(0.7, 0.1, 10)
    assert judged.state is False
    assert "power 67%" in judged.text


# -- whole verdicts

SUBSETS = ("first", "middle", "last")
GOOD, BAD = [1] * 38 + [0] * 2, [0] * 30 + [1] * 10


def three_codes(run_1: list[int], run_2: list[int]) -> phase6.Phase6Results:
    return phase6_results({(revision, k, s): GOOD if k == 1 else answers
                           for revision, answers in (("8e18baac", GOOD), ("6c8822f", run_1), ("26d6179", run_2))
                           for k, names in ((1, ("first",)), (2, SUBSETS)) for s in names})


def collapse_text(results: phase6.Phase6Results, shares: pd.DataFrame, published: pd.DataFrame | None = None) -> str:
    return verdict_collapse.collapse([(RunLabel.of(results.frame), results)], shares,
                                     verdict_collapse.log_runs() if published is None else published,
                                     verdict_collapse.january_rows())


def test_the_verdict_begins_with_the_log_and_turns_with_the_records() -> None:
    usual = collapse_text(three_codes(BAD, GOOD), stale(0.4, 0.0))
    assert usual.startswith("**The log's scores contradict themselves.**")
    assert "On tiny (n = 40), Run 1's code is worse than January's in 1 of 1 comparisons" in usual
    assert "Every subset is hit" in usual and "Run 2's code is not found worse" in usual
    other = collapse_text(three_codes(GOOD, BAD), stale(0.0, 0.0), log((RUN_2, (3572,) * 3, LIKE)))
    assert other.startswith("**The log's scores don't contradict themselves**")
    assert "On tiny (n = 40), Run 1's code is not found worse" in other and "Run 2's code is worse" in other
    assert "Why stays open" in other
    for text in (usual, other):
        assert words_before_fold(text) <= MOST_WORDS


def test_two_sets_of_records_stand_in_one_verdict_the_first_at_its_head() -> None:
    real, embedded = three_codes(BAD, GOOD), three_codes(GOOD, GOOD)
    labels = RunLabel("smol", "gsm8k", "strict", 1319, device="H100"), RunLabel("tiny", "arithmetic", "strict", 64)
    text = verdict_collapse.collapse([(labels[0], real), (labels[1], embedded)], stale(0.4, 0.0),
                                     verdict_collapse.log_runs(), verdict_collapse.january_rows())
    assert "On smol (n = 1319), Run 1's code is worse" in text.split("<details")[0]
    assert text.index("smol, gsm8k, n = 1319 problems, rule strict, H100:") < text.index("tiny, arithmetic, n = 64")


def test_a_bisection_does_not_name_an_interaction_that_rests_on_no_reuse() -> None:
    told = str(verdict_bisection.tokens_have_a_cause("last", bisected(BOTH, BOTH, 9, 9)))
    assert "interaction of on_full_block: refresh → bypass, full_block_every_k" in told
    silent = str(verdict_bisection.tokens_have_a_cause("last", bisected(BOTH, BOTH, 9, 0)))
    assert "reuses nothing at this k" in silent and "interaction of" not in silent


def test_losses_are_in_points_and_relative_and_one_test_counts_once() -> None:
    table = phase6.losses(three_codes(BAD, GOOD), "6c8822f")
    assert table.layers.tolist() == ["first = middle = last"]
    assert table.points.tolist() == [-70.0]
    assert table.relative.tolist() == [pytest.approx(-28 / 38)]
    assert table.p_holm.tolist() == table.p.tolist()
    apart = three_codes(BAD, GOOD)
    apart.frame.loc[apart.frame.config == "6c8822f-2-last", "tokens"] = 11      # other tokens: another computation
    table, across = phase6.losses(apart, "6c8822f"), phase6.across_subsets(apart, "6c8822f")
    assert table.layers.tolist() == ["first = middle = last"]      # ... but right on the same problems: one test
    assert table.p_holm.tolist() == table.p.tolist()
    said = str(verdict_revisions.subsets_are_one_computation("`x`", across))
    assert "tokens or forwards of some answer differ, but all have the same right answers (n = 40)" in said
    apart.correct["6c8822f-2-last"] = 1 - apart.correct["6c8822f-2-last"]      # right on others: a test of its own
    table = phase6.losses(apart, "6c8822f")
    assert table.layers.tolist() == ["first = middle", "last"]
    assert table.p_holm.tolist() == stats.holm(table.p).tolist() and (table.p_holm >= table.p).all()


def test_runs_under_autocast_that_change_no_count_are_counted_once() -> None:
    plain = totals("float16", 2).assign(autocast=False, k=2)
    for under, said in ((2, "2 of 64 in transformers' order (autocast: the same)"),
                        (3, "5 of 128 in transformers' order;")):
        both = pd.concat([plain, totals("float16", under).assign(autocast=True, k=2)], ignore_index=True)
        assert said in str(verdict_open_questions.half_precision_is_enough(totals("float16", 0), both))


def test_the_cap_is_named_here_and_for_the_7b() -> None:
    said = str(verdict_real_model.answers_run_to_the_cap(capped_answers(20)))
    assert "at 256 tokens, the 7B's at 2048" in said


def test_the_verdict_says_what_there_is_instead_of_reuse_behind_the_fold() -> None:
    results, other = three_codes(BAD, GOOD), speed.all_solved([True, True])
    text = verdict_collapse.collapse([(RunLabel.of(results.frame), results)], stale(0.4, 0.0),
                                     verdict_collapse.log_runs(), verdict_collapse.january_rows(), instead=[other])
    assert str(other) in text.partition("<details")[2]
    assert "40% of its reusing forwards (30% to 50%, 16 prompts)" in text.partition("<details")[0]
