"""What the audit reads of other people's files: everything that can be read, and by name what cannot."""
# ruff: noqa: E501 (one case a line)

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fastdllm import Reuse
from fastdllm.lab import records
from fastdllm.report.audit import rules, sources
from fastdllm.report.audit.evidence import Evidence, Finding

CASES = Path(os.environ.get("FASTDLLM_SHARED", Path(__file__).parents[2] / "shared")) / "cases"
PUBLISHED = Path(__file__).parents[1] / "executed" / "published" / "demo" / "arithmetic_limit_200"
GSM8K = {"exact_match,strict-match": 0.5, "exact_match_stderr,strict-match": "N/A", "exact_match,flexible-extract": 0.8}


def case(name: str) -> tuple[Evidence, dict[str, Finding]]:
    """An input of the collection: its evidence, and the findings by rule (the first of each)."""
    if not (CASES / name).is_dir():
        pytest.skip(f"no {CASES / name}")
    return audited(CASES / name)


def audited(folder: Path) -> tuple[Evidence, dict[str, Finding]]:
    evidence = sources.read(folder)
    return evidence, {finding.rule: finding for finding in reversed(rules.audit(evidence))}


def summary(folder: Path, **values: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(values))
    return folder


def harness(folder: Path, results: Any, stamp: str = "2026-01-19T00-54-18.123456", **others: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"results_{stamp}.json").write_text(json.dumps({"results": results, **others}))
    return folder


def samples(folder: Path, task: str, rows: list[Any], stamp: str = "2026-01-19T00-54-18.123456") -> None:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / f"samples_{task}_{stamp}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


# -- lm-evaluation-harness

def test_a_forks_folders_are_three_configurations_with_every_metric() -> None:
    evidence, findings = case("01_public_fork/eval_outputs")
    assert dict(zip(evidence.rows["config"], evidence.rows["accuracy"], strict=True)) == {
        "baseline": 0.8, "layer_0.90": 0.01, "layer_0.97": 0.8}
    assert set(evidence.rows["metric"]) == {"exact_match,flexible-extract"}
    assert "exact_match,strict-match 0" in findings["several_metrics"].statement
    assert "which_result" not in findings


def test_the_configuration_is_the_whole_path_and_the_model_args(tmp_path: Path) -> None:
    for name, arguments in (("t0.9/a", "pretrained=tiny,k=2,layers=[8,9,10],policy=residual,threshold=0.9"),
                            ("t0.9/b", {"pretrained": "tiny", "reuse_k": "3", "layer_subset": "last"})):
        harness(tmp_path / "out" / name / "org__name", {"gsm8k": GSM8K}, config={"model_args": arguments, "limit": None})
    evidence, findings = audited(tmp_path / "out")
    first, second = evidence.rows.to_dict("records")
    assert (first["config"], first["k"], first["layers"], first["settings"]["policy"]) == ("t0.9/a", 2, "8,9,10", "residual")
    assert (second["config"], second["k"], second["layers"]) == ("t0.9/b", 3, "last")
    assert first["settings"]["model"] == "tiny" and not {"k", "layers"} & set(first["settings"])
    assert set(findings) == {"several_metrics"}


@pytest.mark.parametrize(("shape", "accuracy", "said"), [
    ("a_stderr_NA", 0.8, ()), ("b_group_alias_only", 0.8, ("results.mmlu",)),
    ("c_nan", None, ("exact_match,flexible-extract=nan",)), ("d_null", None, ("results.gsm8k",)),
    ("e_nsamples_int", 0.8, ()), ("f_limit_fraction", 0.8, ()), ("g_threshold_none", 0.8, ()),
    ("h_samples_truncated", 0.8, ("samples_gsm8k", "line 4")), ("i_threshold_null_dict", 0.8, ()),
    ("k_config_null", 0.8, ()), ("o_k_as_string", 0.8, ()), ("q_samples_resps_empty", 0.8, ()),
    ("s_samples_resps_flat", 0.8, ()), ("u_mmlu_pro", 0.4, ()), ("x_humaneval", 0.4, ()),
    ("z_acc_string", 0.8, ("'0.8' is read as",))])
def test_shapes_of_results_files(shape: str, accuracy: float | None, said: tuple[str, ...]) -> None:
    evidence, findings = case(f"02_lmeval_shapes/{shape}")
    row = evidence.rows.iloc[0]
    assert (row["accuracy"] == accuracy) if accuracy is not None else row["accuracy"] != row["accuracy"]
    text = " ".join(f.statement for rule, f in findings.items() if rule.startswith("value_"))
    assert all(part in text for part in said) and bool(text) == bool(said)
    assert not rules.failing(findings.values())
    if shape == "f_limit_fraction":
        assert row["limit"] == 0.1 and row["n"] == 100
    if shape == "o_k_as_string":
        assert (row["k"], row["layers"]) == (2, "middle")


@pytest.mark.parametrize(("task", "scores", "headline"), [
    ("mmlu_pro", {"alias": "x", "exact_match,custom-extract": 0.4}, "exact_match,custom-extract"),
    ("bbh", {"exact_match,get-answer": 0.4, "exact_match_stderr,get-answer": "N/A"}, "exact_match,get-answer"),
    ("drop", {"em,none": 0.4, "f1,none": 0.5}, "em,none"), ("unheard_of", {"my_score,none": 0.4}, "my_score,none"),
    ("gsm8k_cot", {"exact_match,strict-match": 0.1, "exact_match,flexible-extract": 0.4}, "exact_match,flexible-extract"),
    ("wikitext", {"word_perplexity,none": 12.5, "acc,none": 0.4}, "acc,none")])
def test_tasks_that_we_do_not_know_are_read_as_they_are(task: str, scores: dict, headline: str, tmp_path: Path) -> None:
    harness(tmp_path / "a", {task: scores}, higher_is_better={task: {"word_perplexity": False}})
    evidence, findings = audited(tmp_path)
    row = evidence.rows.iloc[0]
    assert (row["task"], row["metric"], row["accuracy"]) == (task, headline, 0.4)
    assert set(row["metrics"]) == {name for name in scores if "stderr" not in name and name != "alias"}
    assert set(findings) <= {"several_metrics"}


def test_groups_are_one_row_and_unweighted_means_are_said_to_be_so(tmp_path: Path) -> None:
    parts, sizes = {"big": {"acc,none": 0.3}, "small": {"acc,none": 0.5}}, {"big": {"effective": 20}, "small": 10}
    for name, score in (("weighted", 1.1 / 3), ("unweighted", 0.4), ("neither", 0.45)):
        harness(tmp_path / name, {"both": {"acc,none": score}, **parts}, group_subtasks={"both": ["big", "small"]},
                **{"n-samples": sizes})
    evidence = sources.read(tmp_path)
    assert list(evidence.rows["task"]) == ["both"] * 3 and set(evidence.rows["n"]) == {30}
    findings = {f.rows[0].split("/")[0]: f for f in rules.audit(evidence, only=["group_mean", "impossible_accuracy"])}
    assert {name: f.level for name, f in findings.items()} == {"unweighted": "note", "neither": "doubtful"}
    assert "the unweighted mean of its parts" in findings["unweighted"].statement


def test_what_holds_no_task_of_its_own_is_named(tmp_path: Path) -> None:
    harness(tmp_path / "good", {"gsm8k": GSM8K})
    harness(tmp_path / "circle", {"a": {"acc,none": 0.5}, "b": {"acc,none": 0.5}}, group_subtasks={"a": ["b"], "b": ["a"]})
    (tmp_path / "folder" / "summary.json").mkdir(parents=True)
    (tmp_path / "results_gone.json").symlink_to(tmp_path / "nowhere")
    evidence = sources.read(tmp_path)
    unread = [f.statement for f in rules.audit(evidence, only=["unreadable"])]
    assert 0.8 in set(evidence.rows["accuracy"]) and len(unread) == 3
    assert all(any(name in text for text in unread) for name in ("circle/results_", "folder/summary.json", "results_gone"))


def test_the_means_of_a_group_of_groups_are_known_too(tmp_path: Path) -> None:
    scores = {"all": 0.4, "one": 0.3, "two": 0.5, "a": 0.3, "b": 0.5}
    harness(tmp_path / "x", {name: {"acc,none": score} for name, score in scores.items()},
            group_subtasks={"all": ["one", "two"], "one": ["a"], "two": ["b"]}, **{"n-samples": {"a": 20, "b": 10}})
    (finding,) = rules.audit(sources.read(tmp_path), only=["group_mean"])
    assert finding.level == "note" and "over its problems it is 0.3667" in finding.statement


def test_layers_of_model_args_are_one_however_they_are_written(tmp_path: Path) -> None:
    for name, given in (("a", "k=2,layers=[8,9]"), ("b", {"k": 2, "layers": [8, 9]}), ("c", {"k": "2", "layers": "8, 9"})):
        harness(tmp_path / name, {"gsm8k": GSM8K}, config={"model_args": given})
    rows = sources.read(tmp_path).rows
    assert set(zip(rows["k"], rows["layers"], strict=True)) == {(2, "8,9")}


def test_a_group_without_scores_gives_its_parts(tmp_path: Path) -> None:
    harness(tmp_path / "a", {"both": {"alias": "both"}, "x": {"acc,none": 0.3}}, group_subtasks={"both": ["x"], "x": []})
    assert list(sources.read(tmp_path).rows["task"]) == ["x"]


def lines(task: str, right: int, rule: str = "strict-match", n: int = 10, answer: str = "text") -> list[dict]:
    return [{"doc_id": i, "resps": [[answer]], "filter": rule, "exact_match": float(i < right)} for i in range(n)]


def test_samples_beside_results_are_compared(tmp_path: Path) -> None:
    for name, right, n in (("honest", 5, 10), ("edited", 7, 10), ("lost", 5, 9)):
        folder = harness(tmp_path / name, {"gsm8k": GSM8K}, **{"n-samples": {"gsm8k": {"effective": 10}}})
        samples(folder, "gsm8k", lines("gsm8k", right, n=n) + lines("gsm8k", 8, "flexible-extract", n=n))
    findings = [f for f in rules.audit(sources.read(tmp_path)) if f.rule == "samples_disagree"]
    assert {(f.rows[0].split("/")[0], f.level) for f in findings} == {("edited", "impossible"), ("lost", "doubtful")}


def test_a_record_of_samples_ends_at_a_newline_and_nowhere_else(tmp_path: Path) -> None:
    folder = harness(tmp_path / "a", {"gsm8k": GSM8K}, **{"n-samples": {"gsm8k": {"effective": 10}}})
    odd = "one\u2028two\u0085three\u2029four\x1cfive"
    rows = lines("gsm8k", 5, answer=odd) + lines("gsm8k", 8, "flexible-extract", answer="")
    samples(folder, "gsm8k", rows)
    file = next(folder.glob("samples*"))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    evidence, findings = audited(tmp_path)
    assert evidence.rows["empty"].iloc[0] == 0 and len(evidence.rows["sample_means"].iloc[0]) == 2
    assert set(findings) == {"several_metrics"}


@pytest.mark.parametrize("content", ["", "null", "[]", '"x"', "{", '{"results": []}', '{"results": {"a": []}}',
                                     '{"results": {"a": {"acc,none": {}}}, "config": [], "n-samples": 3}',
                                     '{"results": {"a": {"acc,none": 0.5}}, "group_subtasks": {"a": ["a"]}}',
                                     '{"results": {"a": {"acc,none": 0.5}}, "group_subtasks": {"a": ["b"], "b": ["a"]}}',
                                     '{"results": {}}', '{"results": {"a": {"acc,none": "1e999"}}, "config": {"limit": "1e999"}}',
                                     '{"results": {"a": {"acc,none": 0.5}}, "x": 1' + "0" * 5000 + "}", '{"results": {"a": {"acc,none": 1' + "0" * 400 + "}}}",
                                     '{"results": {"a": {"acc,none": 1e999}}, "config": {"model_args": "k=,=,layers"}}'])
def test_nothing_ends_the_audit(content: str, tmp_path: Path) -> None:
    harness(tmp_path / "good", {"gsm8k": GSM8K})
    (tmp_path / "results_bad.json").write_text(content)
    (tmp_path / "summary.json").write_text(content)
    evidence = sources.read(tmp_path)
    assert 0.8 in set(evidence.rows["accuracy"])
    assert not [f for f in rules.audit(evidence) if f.level == "impossible"]


@pytest.mark.parametrize("task", ["org/task", "..", "../../task", "", "t" * 300, "a\u2028b", "a\0b"])
def test_a_task_may_have_any_name(task: str, tmp_path: Path) -> None:
    harness(tmp_path / "x", {task: {"acc,none": 0.5}, "gsm8k": GSM8K})
    assert sorted(sources.read(tmp_path).rows["accuracy"]) == [0.5, 0.8]


def test_two_files_of_one_configuration_are_told_apart_also_where_k_is_not_stated(tmp_path: Path) -> None:
    for day in ("19", "20"):
        harness(tmp_path / "x", {"gsm8k": GSM8K}, f"2026-01-{day}T00-54-18.1", config={"limit": 10})
    assert "2 result files in one folder" in audited(tmp_path)[1]["which_result"].statement
    harness(tmp_path / "x", {"gsm8k": GSM8K}, "2026-01-21T00-54-18.1", config={"limit": 10, "model_args": "k=2"})
    assert "2 result files in one folder" in audited(tmp_path)[1]["which_result"].statement


@pytest.mark.parametrize("limit", [0, -1, True, "all", [5], float("nan")])
def test_a_limit_that_is_none_is_named_and_never_all_problems(limit: Any, tmp_path: Path) -> None:
    harness(tmp_path / "odd", {"gsm8k": GSM8K}, config={"limit": limit})
    harness(tmp_path / "all", {"gsm8k": GSM8K}, config={"limit": None})
    summary(tmp_path / "old" / "gsm8k" / "k1_first", accuracy=0.8, limit=limit)
    evidence = sources.read(tmp_path)
    limits = dict(zip(evidence.rows["file"].map(lambda file: file.split("/")[0]), evidence.rows["limit"], strict=True))
    assert limits.pop("all") == 0 and all(limit != limit for limit in limits.values()) and len(limits) == 2
    assert evidence.rows["n"].isna().all()
    assert "gsm8k limit not stated" in " ".join(name for name, _ in evidence.tables())
    text = " ".join(f.statement for f in rules.audit(evidence, only=["value_not_read"]))
    assert "config.limit=" in text and ": limit=" in text


@pytest.mark.parametrize("file", ["results_1.json", "summary.json"])
def test_a_key_with_two_values_is_named(file: str, tmp_path: Path) -> None:
    harness(tmp_path / "good", {"gsm8k": GSM8K})
    (tmp_path / file).write_text('{"results": {"a": {"acc,none": 0.5, "acc,none": 0.6}}, "accuracy": 1, "accuracy": 1}')
    (finding,) = rules.audit(sources.read(tmp_path), only=["unreadable"])
    assert file in finding.statement and "acc,none=0.5 and 0.6 in one object" in finding.statement


# -- old summaries

@pytest.mark.parametrize(("shape", "said"), [
    ("a_percent", "80.4 is read as 80.4 %"), ("c_tokens_commas", "tokens='431,492'"), ("e_acc_null", "accuracy=None"),
    ("g_k_str", "k is stated as 2"), ("i_limit_float", ""), ("l_n_zero", "n=0"), ("n_neg_acc", "accuracy=-0.1"),
    ("u_empty_obj", "accuracy is not stated"), ("y_acc_true", "accuracy=True")])
def test_shapes_of_old_summaries(shape: str, said: str) -> None:
    evidence, findings = case(f"24_old_summaries/{shape}")
    assert said in " ".join(f.statement for f in findings.values())
    assert not rules.failing(findings.values())
    if shape == "i_limit_float":
        assert evidence.rows["limit"].iloc[0] == 0.1 and evidence.rows["n"].isna().all()


@pytest.mark.parametrize(("values", "accuracy", "said"), [
    ({"accuracy": "80.4%"}, 0.804, "is read as 80.4 %"), ({"accuracy": "80,4"}, None, "accuracy='80,4'"),
    ({"accuracy": 101}, None, "accuracy=101"), ({"accuracy": [0.8]}, None, "accuracy=[0.8]"), ({"accuracy": {"gsm8k": 0.8}}, None, "accuracy={'gsm8k': 0.8}"),
    ({"accuracy": 0.8, "total_tokens": [1, 2]}, 0.8, "total_tokens=[1, 2]"), ({"accuracy": 0.8, "tokens": 10**400}, 0.8, "tokens=1000"),
    ({"accuracy": 0.8, "tokens": "1" * 5000}, 0.8, "tokens='1111"), ({"accuracy": "1e999"}, None, "accuracy='1e999'"), ({"accuracy": 0.8, "n": "1e999"}, 0.8, "n='1e999'"),
    ({"accuracy": 0.8, "total_tokens": -1}, 0.8, "tokens=-1"), ({"accuracy": 0.8, "total_time_s": "1:30"}, 0.8, "seconds='1:30'"),
    ({"accuracy": 0.8, "finished": "yesterday"}, 0.8, "finished='yesterday'"), ({"accuracy": 0.8, "git_dirty": "yes"}, 0.8, "dirty='yes'"),
    ({"accuracy": 0.8, "limit": "ten"}, 0.8, "limit='ten'"), ({"accuracy": 0.8, "k": 1.5}, 0.8, "k=1.5")])
def test_values_that_are_no_numbers_are_named(values: dict, accuracy: float | None, said: str, tmp_path: Path) -> None:
    summary(tmp_path / "x" / "gsm8k" / "k1_first", **values)
    evidence, findings = audited(tmp_path)
    shown = evidence.rows["accuracy"].iloc[0]
    assert shown == accuracy if accuracy is not None else shown != shown
    text = " ".join(f.statement for f in findings.values())
    assert said in text and "summary.json" in text


def test_lists_of_an_old_summary_are_read(tmp_path: Path) -> None:
    summary(tmp_path / "x" / "gsm8k" / "one", accuracy=0.8, k=2, layers=[8, 9], stop_strings=["\n"], config={"stop_ids": []})
    row = sources.read(tmp_path).rows.iloc[0]
    assert (row["k"], row["layers"], row["settings"]["stop_strings"]) == (2, "8,9", '["\\n"]')


def test_the_logs_own_files_are_read_and_show_their_strongest_contradiction() -> None:
    evidence, _ = case("20_old_results")
    row = evidence.rows[evidence.rows["row"] == "gsm8k_limit_10/k2_first"].iloc[0]
    assert (row["tokens"], row["seconds"], row["tokens_per_s"], row["n"]) == (3572, 85.9, 41.58, 10)
    assert row["settings"]["batch_size"] == 1 and "threshold" not in row["settings"]
    findings = [f for f in rules.audit(evidence) if f.rule == "equal_tokens" and f.level == "impossible"]
    assert [f.statement.split(": ", 1)[1].split(" ")[0] for f in findings] == ["3572", "3316"]


def test_equal_scores_are_spoken_of_with_equal_tokens_and_with_different_ones() -> None:
    assert "or reuse did not act" in case("19_equal/same_tokens")[1]["no_effect"].sure
    assert "probably copied" in case("19_equal/diff_tokens")[1]["same_accuracy"].sure


def test_rounded_and_saturated_scores_accuse_nobody() -> None:
    assert "impossible_accuracy" not in case("25_rounded_accuracy/exp")[1]
    _, findings = case("27_saturated")
    assert set(findings) == {"too_few"}


# -- our own records

def baseline(**changes: Any) -> records.Record:
    record = records.read(PUBLISHED / "k1_first")
    decoding = record.parameters.decoding.model_copy(update={k: v for k, v in changes.items() if k == "max_new_tokens"})
    flat = {k: v for k, v in changes.items() if k in ("shots", "prompt", "seed", "batch_size", "dtype")}
    rest = {k: v for k, v in changes.items() if k in ("config", "accuracy", "dataset", "checkpoint", "code", "environment")}
    return record.model_copy(update={"parameters": record.parameters.model_copy(update={**flat, "decoding": decoding}),
                                     **rest})


def worse(record: records.Record) -> dict[str, records.Accuracy]:
    score = record.headline
    return {record.metric: score.model_copy(update={"correct": score.correct - 20, "value": score.value - 20 / score.n})}


@pytest.mark.parametrize("changes", [{"max_new_tokens": 17}, {"shots": 3}, {"prompt": "boxed"}, {"seed": 5},
                                     {"batch_size": 3}, {"dtype": "bfloat16"}])
def test_runs_with_other_settings_are_not_accused_of_differing(changes: dict[str, Any]) -> None:
    first = baseline()
    other = baseline(config="k1_first_other", accuracy=worse(first), **changes)
    findings = rules.audit(sources.from_records([first, other]))
    assert not [f for f in findings if f.level == "impossible"] and not rules.failing(findings)


def test_other_data_weights_code_or_machine_are_other_computations() -> None:
    first = baseline()
    for name in ("dataset", "checkpoint"):
        part = getattr(first, name).model_copy(update={"fingerprint": "another"})
        other = baseline(config="other", accuracy=worse(first), **{name: part})
        assert not [f for f in rules.audit(sources.from_records([first, other])) if f.rule == "must_agree"]
    for name, change in (("code", {"hash": "another"}), ("environment", {"device_name": "another"})):
        other = baseline(config="other", accuracy=worse(first), **{name: getattr(first, name).model_copy(update=change)})
        (finding,) = [f for f in rules.audit(sources.from_records([first, other])) if f.rule == "must_agree"]
        assert finding.level == "doubtful"


@pytest.mark.parametrize(("policy", "accused"), [("output", True), ("residual", True), ("verify", False)])
def test_a_policy_that_skips_no_layer_is_not_accused_of_reusing_nothing(policy: str, accused: bool) -> None:
    record = records.read(PUBLISHED / "k1_first")
    reuse = Reuse(k=2, policy=policy, layers=None if policy == "verify" else "first")
    record = record.model_copy(update={"parameters": record.parameters.model_copy(update={"reuse": reuse})})
    fired = [finding.rule for finding in rules.audit(sources.from_records([record]))]
    assert ("reused_nothing" in fired) == accused


def test_one_computation_with_two_results_is_impossible() -> None:
    first = baseline()
    findings = rules.audit(sources.from_records([first, baseline(config="other", accuracy=worse(first))]))
    assert [f.rule for f in findings if f.level == "impossible"] == ["must_agree"]
