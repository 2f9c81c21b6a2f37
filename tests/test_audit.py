"""Each audit rule: planted faults that it must find, clean tables on which it must stay silent."""
# ruff: noqa: E501 (one planted case a line)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastdllm.report.audit import rules, sources
from fastdllm.report.audit.evidence import LEVELS, SETTINGS, Evidence, Finding

SUBSETS = ("first", "middle", "last")


def configuration(k: int = 1, layers: str = "first", batch: str = "a", task: str = "gsm8k", **values: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"row": f"{batch}/{task}/k{k}_{layers}", "batch": batch, "task": task, "k": k,
                            "config": f"k{k}_{layers}", "layers": layers, "n": 1319, "accuracy": 1061 / 1319,
                            "tokens": 436484, "origin": "published", "file": "x"}
    return base | values


def grid(**values: Any) -> list[dict[str, Any]]:
    """Nine healthy configurations: accuracy and tokens depend on k and a little on the subset."""
    return [configuration(k, layers, **({"accuracy": (1061 - 60 * (k - 1) + (i if k > 1 else 0)) / 1319,
                                "tokens": 436484 + 1000 * (k - 1) + (i if k > 1 else 0)} | values))
            for k in (1, 2, 3) for i, layers in enumerate(SUBSETS)]


def fired(rule: str, rows: list[dict[str, Any]], statements: list[dict[str, Any]] | None = None) -> list[Finding]:
    return rules.audit(Evidence.of(rows, statements or []), only=[rule])


def stated(kind: str, parameter: str, value: str, source: str, subject: str = "m") -> dict[str, str]:
    return {"kind": kind, "subject": subject, "parameter": parameter, "value": value, "source": source}


def small(batch: str, tokens: tuple[int, ...], right: tuple[int, ...]) -> list[dict[str, Any]]:
    configs = [(1, "first"), (2, "first"), (2, "middle"), (2, "last")]
    return [configuration(k, layers, batch, n=10, limit=10, tokens=t, accuracy=c / 10)
            for (k, layers), t, c in zip(configs, tokens, right, strict=True)]


def speeds(values: dict[tuple[int, str], tuple[float, str]]) -> list[dict[str, Any]]:
    return [configuration(k, layers, tokens_per_s=speed, node=node) for (k, layers), (speed, node) in values.items()]


# A node twice as slow as the others, at every k / the same speeds with the nodes exchanged so that k explains them.
SLOW_NODE = speeds({(1, "first"): (50, "n1"), (1, "middle"): (50.4, "n1"), (1, "last"): (25, "n2"), (2, "first"): (40, "n1"),
                    (2, "middle"): (20, "n2"), (2, "last"): (20.3, "n2"), (3, "first"): (34, "n1"),
                    (3, "middle"): (17, "n2"), (3, "last"): (17.1, "n2")})
K_ONLY = speeds({(1, "first"): (50, "n1"), (1, "middle"): (50.4, "n2"), (1, "last"): (49.8, "n2"), (2, "first"): (40, "n1"),
                 (2, "middle"): (40.2, "n2"), (2, "last"): (40.3, "n2"), (3, "first"): (34, "n1"),
                 (3, "middle"): (33.8, "n2"), (3, "last"): (34.1, "n2")})
LAUNCHED = [configuration(2, layers, finished=f"20260119_00534{i}", seconds=9000.0 + 3000 * i) for i, layers in enumerate(SUBSETS)]
FINISHED = [configuration(2, layers, finished=f"20260119_0{3 + i}5349", seconds=9000.0 + 3000 * i)
            for i, layers in enumerate(SUBSETS)]
BESIDE = [configuration(2, layers, origin="record", node="n1", finished=f"20260119_00000{i}", seconds=1.5, tokens_per_s=50.0 + i)
          for i, layers in enumerate(SUBSETS)]
AFTER = [*(row | {"seconds": 0.9} for row in BESIDE), BESIDE[0] | {"node": "n2"}, BESIDE[0] | {"seconds": 0.9}]
FILES = [configuration(origin="lm_eval", finished=f"2026021{day}_000000", accuracy=score, row=f"r{day}")
         for day, score in ((5, 0.1), (6, 0.7))]
FULL = {"accuracy": 0.837, "n": 1000, "tokens": None}

KNOWN = dict.fromkeys(SETTINGS, "x")
SAME = {"settings": KNOWN, "code": "c", "torch": "2", "hardware": "cpu", "dirty": False}      # nothing is unknown
EQUAL_TOTALS = [configuration(2, layers, tokens=3572, accuracy=score, n=10, code="c")
                for layers, score in (("first", 0.7), ("middle", 0.1), ("last", 0.1))]
FROM_FILE = {"origin": "lm_eval", "n_stated": True, "metric": "exact_match,none"}

# rule -> (rows, statements) that must fire, and several (rows, statements) that must not
PLANTED: dict[str, tuple[tuple[list, list], list[tuple[list, list]]]] = {
    "equal_tokens": ((EQUAL_TOTALS, []), [(grid(), []),
                     ([row | {"settings": {"policy": "residual"}} for row in EQUAL_TOTALS], []),      # depends on the subset
                     ([row | {"k": 2 + i} for i, row in enumerate(EQUAL_TOTALS)], [])]),
    "must_agree": (([configuration(accuracy=0.6, n=10), configuration(1, "last", accuracy=0.7, n=10)], []), [(grid(), []),
                   ([configuration(accuracy=0.6, settings={"max_new_tokens": 64}), configuration(1, "last", accuracy=0.7, settings={"max_new_tokens": 256})], []),
                   ([configuration(accuracy=0.6), configuration(1, "last", accuracy=0.7, limit=10)], [])]),
    "copied_accuracy": ((small("a", (3540, 18493, 18717, 3508), (7, 1, 1, 6)) + small("b", (3540, 3572, 3571, 3316), (7, 1, 1, 6)), []),
                        [(small("a", (3540, 3572, 3571, 3316), (7, 1, 1, 6)) + small("b", (3540, 3572, 3571, 3316), (7, 1, 1, 6)), []),
                         (small("a", (3507, 3514, 3515, 3516), (10, 10, 10, 10)) + small("b", (3557, 3564, 3565, 3566), (10, 10, 10, 10)), []),
                         (small("a", (3507, 3514, 3515, 3516), (7, 0, 0, 6)) + small("b", (3557, 3564, 3565, 3566), (7, 0, 0, 6)), [])]),
    "no_effect": ((grid(accuracy=9342 / 14042, n=14042, tokens=None, task="mmlu"), []), [(grid(), []),
                  (grid(accuracy=1.0, n=100, tokens=None), []), (grid(accuracy=0.5, n=10, tokens=None), []),
                  (grid(accuracy=0.5, n=100, tokens=351, reuse=40), [])]),
    "same_accuracy": (([row | {"accuracy": 0.5} for row in grid()], []), [(grid(), []), ([row | {"accuracy": 1.0} for row in grid()], []),
                      ([row | {"accuracy": 0.5, "n": 10} for row in grid()], [])]),
    "reused_nothing": (([configuration(2, reuse=0)], []), [([configuration(1, reuse=0), configuration(2, reuse=400)], []), (grid(), [])]),
    "runaway": (([configuration(tokens=3540, n=10), configuration(2, tokens=18493, n=10, accuracy=0.1)], []),
                [(grid(), []), ([configuration(tokens=3540, settings={"max_new_tokens": 64}), configuration(2, tokens=18493, settings={"max_new_tokens": 512})], [])]),
    "empty_answers": (([configuration(empty=6, n=10)], []), [([configuration(empty=1, n=1319), configuration(2)], []), ([configuration(empty=0, n=10)], [])]),
    "too_few": ((small("a", (3540, 3572, 3571, 3316), (7, 7, 6, 6)), []), [(grid(), []), ([configuration(n=10, accuracy=0.7)], [])]),
    "impossible_accuracy": (([configuration(accuracy=0.80444, n=1319)], []), [(grid(), []),
                            ([configuration(accuracy=0.8044, n=1319), configuration(accuracy=0.737, n=1319), configuration(accuracy=0.8, n=1319)], []),
                            ([configuration(accuracy=0.123456789, n=10, **FROM_FILE | {"metric": "f1,none"})], []),
                            ([configuration(accuracy=0.4, n=3, group_means={"weighted": 1 / 3, "unweighted": 0.4}, **FROM_FILE)], [])]),
    "limit_per_subtask": (([configuration(task="minerva_math", limit=10, n=70, accuracy=30 / 70)], []),
                          [([configuration(limit=10, n=10, accuracy=0.7), configuration(2)], []), ([configuration(limit=0.1, n=132)], [])]),
    "group_mean": (([configuration(accuracy=0.4, group_means={"weighted": 1 / 3, "unweighted": 0.4})], []),
                   [([configuration(accuracy=1 / 3, group_means={"weighted": 1 / 3, "unweighted": 0.4})], []),
                    ([configuration(accuracy=0.3333, group_means={"weighted": 1 / 3, "unweighted": 1 / 3})], []), (grid(), [])]),
    "several_metrics": (([configuration(metrics={"exact_match,none": 0.5, "f1,none": 0.6}, **FROM_FILE)], []),
                        [([configuration(metrics={"exact_match,none": 0.5}, **FROM_FILE)], []), (grid(), [])]),
    "samples_disagree": (([configuration(n=10, accuracy=0.5, metrics={"exact_match,none": 0.5}, sample_means={"exact_match,none": (0.7, 10)}, **FROM_FILE)], []),
                         [([configuration(n=10, accuracy=0.5, metrics={"exact_match,none": 0.5}, sample_means={"exact_match,none": (0.5, 10)}, **FROM_FILE)], []),
                          ([configuration(n=3, accuracy=0.667, metrics={"exact_match,none": 0.667}, sample_means={"exact_match,none": (2 / 3, 3)}, **FROM_FILE)], []), (grid(), [])]),
    "unreadable": (([configuration(problem="the checksum does not fit", origin="record")], []), [(grid(), []), ([configuration(skipped=("x",))], [])]),
    "value_not_read": (([configuration(skipped=("tokens='431,492'; allowed: a number",))], []), [(grid(), []), ([configuration(skipped=(), interpreted=("x",))], [])]),
    "value_interpreted": (([configuration(interpreted=("accuracy=80.4 is read as 80.4 %",))], []), [(grid(), []), ([configuration(interpreted=(), skipped=("x",))], [])]),
    "throughput_follows_node": ((SLOW_NODE, []), [(K_ONLY, []), (grid(), [])]),
    "baseline_speed": (([configuration(tokens_per_s=22.75), configuration(1, "last", tokens_per_s=49.63)], []),
                       [([configuration(tokens_per_s=49.54), configuration(1, "last", tokens_per_s=49.63)], []),
                        ([configuration(tokens_per_s=22.75, settings={"batch_size": 1}), configuration(1, "last", tokens_per_s=49.63, settings={"batch_size": 8})], [])]),
    "arithmetic": (([configuration(seconds=100.0, tokens_per_s=50.0)], []),
                   [([configuration(seconds=436484 / 50, tokens_per_s=50.0)], []), ([configuration(seconds=100.0)], [])]),
    "launch_times": ((LAUNCHED, []), [(FINISHED, []), (LAUNCHED[:2], [])]),
    "side_by_side": ((BESIDE, []), [(AFTER, []), (BESIDE[:1], [])]),
    "mixed_code": (([configuration(code="6f96d95"), configuration(2, code="6c8822f")], []), [([configuration(code="6c8822f"), configuration(2, code="6c8822f")], []), (grid(), [])]),
    "dirty_tree": (([configuration(dirty=True, code="a"), configuration(2, dirty=False, code="a")], []), [([configuration(dirty=False, code="a"), configuration(2)], []), (grid(), [])]),
    "which_result": (([*FILES, configuration(origin="summary", accuracy=0.1, row="s")], []),
                     [([FILES[1], configuration(origin="summary", accuracy=0.7, row="s")], []),
                      ([row | {"settings": {"threshold": i}} for i, row in enumerate(FILES)], []),       # two configurations in one folder
                      ([row | {"file": f"{i}/x"} for i, row in enumerate(FILES)], [])]),
    "summary_disagrees": (([FILES[1], configuration(origin="summary", accuracy=0.1, row="s")], []),
                          [([FILES[1], configuration(origin="summary", accuracy=0.7, row="s")], []),
                           ([FILES[1] | {"metrics": {"exact_match,strict-match": 0.1}}, configuration(origin="summary", accuracy=0.1, row="s")], [])]),
    "stated_twice": (([], [stated("parameter", "threshold", "1.0", "guide"), stated("parameter", "threshold", "0.95", "proposal")]),
                     [([], [stated("parameter", "threshold", "1.0", "guide"), stated("parameter", "threshold", "1.0", "proposal")]),
                      ([], [stated("parameter", "threshold", "1.0", "guide"), stated("parameter", "threshold", "0.9", "proposal", subject="other")])]),
    "layer_tables": (([], [stated("model", "num_hidden_layers", "28", "config"), stated("layers", "last", "24-35", "guide")]),
                     [([], [stated("model", "num_hidden_layers", "28", "config"), stated("layers", "last", "16-27", "guide")]),
                      ([], [stated("layers", "last", "24-35", "guide")])]),
    "published_score": (([configuration()], []), [([configuration(**FULL), configuration(task="unknown")], []), ([configuration(model="another/model")], [])]),
    "stated_empty": (([], [stated("empty", "empty answers", "6", "status")]), [([], [stated("parameter", "x", "6", "status")]), (grid(), [])]),
}


def test_every_rule_has_planted_cases() -> None:
    assert set(PLANTED) == set(rules.rules())
    assert all(len(silent) >= 2 for _, silent in PLANTED.values())


@pytest.mark.parametrize("rule", PLANTED)
def test_rule_fires_on_the_planted_fault(rule: str) -> None:
    (rows, statements), _ = PLANTED[rule]
    findings = fired(rule, rows, statements)
    assert findings and all(f.rule == rule and f.rows and f.statement and f.sure for f in findings)


@pytest.mark.parametrize("rule", PLANTED)
def test_rule_stays_silent_on_clean_tables(rule: str) -> None:
    for rows, statements in PLANTED[rule][1]:
        assert fired(rule, rows, statements) == []


def test_which_result_is_worst_when_the_summary_took_the_old_score() -> None:
    later = configuration(origin="summary", accuracy=0.1, row="s", finished="20260217_000000")
    assert fired("which_result", [*FILES, later])[0].level == "impossible"
    assert fired("which_result", [*FILES, later | {"finished": None}])[0].level == "doubtful"
    assert fired("which_result", [*FILES, configuration(origin="summary", accuracy=0.7, row="s")])[0].level == "note"


def test_every_run_that_overlapped_another_is_counted() -> None:
    pairs = [configuration(2, f"{i}", origin="record", node="n1", finished=f"20260119_0000{end}", seconds=5.0, tokens_per_s=50.0 + i)
             for i, end in enumerate((10, 12, 30, 32, 50))]
    assert "4 of 5 runs on n1 overlapped" in fired("side_by_side", pairs)[0].statement


def test_a_single_odd_row_is_not_called_a_node_effect() -> None:
    odd = speeds({(1, "first"): (22.75, "n1"), (1, "middle"): (49.5, "n2"), (1, "last"): (49.6, "n3"),
                  (2, "first"): (40, "n3"), (2, "middle"): (33.5, "n3"), (2, "last"): (40.5, "n3"),
                  (3, "first"): (34.3, "n2"), (3, "middle"): (33.9, "n2"), (3, "last"): (34.1, "n2")})
    (finding,) = fired("throughput_follows_node", odd)
    assert finding.level == "note" and "k1_first" in finding.statement and "undecided" in finding.sure


def test_equal_tokens_and_equal_scores_are_expected() -> None:
    (finding,) = fired("equal_tokens", [configuration(2, layers, tokens=3572) for layers in SUBSETS])
    assert finding.level == "note" and "does not depend on the subset" in finding.sure


def test_published_table_shows_what_the_issue_lists() -> None:
    findings = rules.audit(sources.published())
    by_rule = {f.rule: f for f in reversed(findings)}
    assert {"copied_accuracy", "must_agree", "equal_tokens", "no_effect", "throughput_follows_node", "too_few",
            "layer_tables", "stated_twice", "stated_empty", "limit_per_subtask", "mixed_code", "baseline_speed",
            "published_score", "runaway"} <= set(by_rule)
    text = " ".join(f.statement for f in findings)
    for fact in ("all 9 accuracies of feb16_run2", "limit 10 is n = 70", "limit 10 is n = 570", "24-35", "0.95",
                 "6f96d959 (changed tree): k1_first, k2_first, k3_first", "9 of 10", "10 of 10"):
        assert fact in text
    nodes = [f for f in findings if f.rule == "throughput_follows_node"]
    assert {f.level: f.statement.split(":")[0] for f in nodes} == {
        "doubtful": "jan_limit minerva_math limit 10", "note": "jan_full gsm8k"}
    assert [f.level for f in findings] == sorted((f.level for f in findings), key=LEVELS.index)


def test_equal_totals_with_different_scores_are_the_strongest_evidence() -> None:
    (finding,) = fired("equal_tokens", EQUAL_TOTALS)
    assert finding.level == "impossible"
    assert rules.audit(sources.published())[0].rule == "equal_tokens"


@pytest.mark.parametrize(("change", "reason"), [
    ({"tokens": 2560}, "at one cap"), ({"n": None}, "within what one scorer may do"), ({"code": None}, "the scorer"),
    ({"accuracy": None}, None)])
def test_equal_totals_that_another_cause_explains_are_not_called_impossible(change: dict, reason: str | None) -> None:
    findings = fired("equal_tokens", [row | change for row in EQUAL_TOTALS])
    assert {f.level for f in findings} <= {"doubtful", "note"}
    assert reason is None or reason in findings[0].sure
    (two,) = fired("equal_tokens", EQUAL_TOTALS[:2])
    assert two.level == "doubtful" and "only two" in two.sure


@pytest.mark.parametrize(("rows", "said"), [
    ([f"r/t/k{k}_{layers}" for k in (1, 2) for layers in ("first", "last")], "r/t: k1, k2 x first, last"),
    (["r/t/k1_first", "r/t/k2_first", "r/t/k2_last"], "r/t: k1 first and k2 first, last"),
    (["a/k1_t0.7", "b/k2_first"], "a: k1 t0.7; b: k2 first"), (["r/k1_first", "r/other_one"], "r: k1_first, other_one"),
    (["Fast_dLLM_v2_7B last"], "Fast_dLLM_v2_7B last")])
def test_rows_of_a_page_say_what_they_have_in_common_once(rows: list[str], said: str) -> None:
    assert rules.crossed(rows) == said


def test_a_page_folds_all_but_what_cannot_be() -> None:
    findings = rules.audit(sources.published())
    pages = {level: rules.shown(findings, level, fold=level != "impossible")._repr_html_() for level in LEVELS}
    assert [level for level, page in pages.items() if "<details>" in page] == ["doubtful", "note"]
    doubtful = [finding.rule for finding in findings if finding.level == "doubtful"]
    summary = pages["doubtful"].partition("<summary>")[2].partition("</summary>")[0]
    assert summary.startswith(f"{len(doubtful)} findings: ")
    assert f"<code>runaway</code> {doubtful.count('runaway')}, " in summary
    assert "<details>" not in rules.shown([], "note", fold=True)._repr_html_()


def test_baselines_are_impossible_only_where_everything_is_known_and_agrees() -> None:
    rows = [configuration(accuracy=0.6, n=10, **SAME), configuration(1, "last", accuracy=0.7, n=10, **SAME)]
    (finding,) = fired("must_agree", rows)
    assert finding.level == "impossible"
    for name, change in (("threshold", {"settings": {k: v for k, v in KNOWN.items() if k != "threshold"}}),
                         ("torch", {"torch": None}), ("hardware", {"hardware": None}), ("working tree", {"dirty": True}),
                         ("whether the working tree had changes", {"dirty": None}), ("not stated: limit", {"limit": None, "n": None}),
                         ("they differ in hardware", {"hardware": "gpu"}), ("they differ in code", {"code": "d"})):
        both = [row | change for row in rows] if "differ" not in name else [rows[0], rows[1] | change]
        (finding,) = fired("must_agree", both)
        assert finding.level == "doubtful" and name in finding.sure, name


def test_the_mix_of_commits_explains_run_1_and_not_run_2() -> None:
    run1, run2 = rules.audit(sources.published(), only=["must_agree"])
    assert "feb15_run1" in run1.statement and "the mix of versions can explain it: bug 2" in run1.sure
    assert "feb16_run2" in run2.statement and "a mix of versions does not explain it" in run2.sure
    unknown = [configuration(accuracy=0.6, code="abc"), configuration(1, "last", accuracy=0.7, code="6d2a9a89")]
    assert "whether they do so at k=1 is not known" in fired("must_agree", unknown)[0].sure
    alike = [configuration(accuracy=0.6, code="6c8822fc"), configuration(1, "last", accuracy=0.7, code="6d2a9a89")]
    assert "do not differ at k=1" in fired("must_agree", alike)[0].sure


def test_copied_accuracies_are_no_proof_by_themselves() -> None:
    (rows, _), _ = PLANTED["copied_accuracy"]
    (finding,) = fired("copied_accuracy", rows)
    assert finding.level == "doubtful" and "they share their problems" in finding.sure


def test_what_a_named_metric_and_a_stated_n_make_certain() -> None:
    row = configuration(accuracy=0.123456789, n=10, **FROM_FILE)
    assert fired("impossible_accuracy", [row])[0].level == "impossible"
    assert fired("impossible_accuracy", [row | {"n_stated": False}])[0].level == "doubtful"
    assert fired("impossible_accuracy", [row | {"metric": "", "origin": "summary"}])[0].level == "doubtful"


def harness_file(folder: Path, stamp: str, score: float, task: str = "gsm8k") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"results_{stamp}.json").write_text(json.dumps({
        "results": {task: {"alias": task, "exact_match,strict-match": score, "exact_match_stderr,strict-match": 0.1}},
        "group_subtasks": {task: []}, "n-samples": {task: {"original": 1319, "effective": 10}},
        "config": {"limit": 10.0, "model_args": "model_path=Efficient-Large-Model/Fast_dLLM_v2_7B,threshold=1,reuse_k=2"},
        "git_hash": "26d6179"}))
    (folder / f"samples_{task}_{stamp}.jsonl").write_text(
        "\n".join(json.dumps({"doc_id": i, "resps": [["" if i < 6 else "text"]]}) for i in range(10)))


def test_reading_a_folder_of_the_old_layout_finds_the_old_bug(tmp_path: Path) -> None:
    """Two result files in one folder, and a summary that took the first one a directory listing gives."""
    folder = tmp_path / "results" / "00_baseline" / "gsm8k_limit_10" / "k2_middle"
    harness_file(folder / "model__name", "2026-02-15T21-37-39.123456", 0.1)
    harness_file(folder / "model__name", "2026-02-16T00-29-10.123456", 0.7)
    (folder / "summary.json").write_text(json.dumps({
        "accuracy": 0.1, "total_tokens": 3572, "total_time": 86.22, "throughput": 41.43, "timestamp": "20260216_002910",
        "config": {"threshold": 0.95, "reuse_k": 2, "layer_subset": "middle"}, "git_commit": "26d6179", "git_dirty": True}))
    evidence = sources.read(tmp_path / "results")
    assert len(evidence.rows) == 3 and set(evidence.rows["n"]) == {10}
    findings = {f.rule: f for f in rules.audit(evidence)}
    assert findings["which_result"].level == "impossible"
    assert "threshold is stated as" in findings["stated_twice"].statement
    assert "6 of 10 answers are empty" in findings["empty_answers"].statement
    assert rules.failing(findings.values()) >= {"00_baseline/gsm8k_limit_10/k2_middle"}


def test_broken_and_foreign_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "x" / "gsm8k" / "k1_first"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text("{")
    (folder / "results_1.json").write_text("[]")
    findings = rules.audit(sources.read(tmp_path))
    assert {f.rule for f in findings} == {"unreadable"} and len(findings) == 2


def test_wrong_arguments_say_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allowed: a folder of results"):
        sources.read(tmp_path / "none")
    with pytest.raises(ValueError, match=r"summary.json or results_"):
        sources.read(tmp_path)
    with pytest.raises(ValueError, match="allowed: equal_tokens"):
        rules.audit(Evidence.of([]), only=["nonsense"])
    with pytest.raises(ValueError, match="columns"):
        Evidence.of([{"acuracy": 1}])
