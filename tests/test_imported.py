"""Old results: taken over as what they are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import lab_support
import pytest

from fastdllm.lab import records
from fastdllm.lab.config import grid_file
from fastdllm.lab.jobs import status as states
from fastdllm.lab.records import importer
from fastdllm.report.audit import sources


def old(folder, values) -> None:
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(values))


@pytest.fixture
def results(tmp_path):
    top = tmp_path / "results"
    old(top / "00_baseline" / "gsm8k" / "k2_middle", {
        "task": "gsm8k", "reuse_k": 2, "layer_subset": "middle", "metrics": {"accuracy": 0.7362}, "num_samples": 1319,
        "throughput": 33.5, "total_tokens": 431492, "hostname": "gpu01", "git_commit": "8e18baac"})
    old(top / "00_baseline" / "gsm8k_limit_10" / "k1_first", {"accuracy": 60.0, "total_tokens": 3540})
    old(top / "00_baseline" / "mmlu" / "k1_last", {"accuracy": None, "throughput": 12.0})
    other = top / "00_baseline" / "mmlu" / "k1_last" / "results_2026.json"
    other.write_text('{"results": {"mmlu": {"acc,none": 0.6}}}')
    return top


def test_what_a_file_says_and_what_it_does_not(results, tmp_path):
    lines = importer.take(results, target=tmp_path / "executed")
    assert lines[-1] == "imported 3 of 4"
    assert any("mmlu" in line and "no accuracy could be read: accuracy=None" in line for line in lines)
    record = records.read(tmp_path / "executed" / "00_baseline" / "gsm8k" / "k2_middle")
    assert record.status == "imported"
    assert (record.headline.value, record.headline.correct, record.n) == (0.7362, 971, 1319)
    assert record.headline.low < 0.7362 < record.headline.high
    assert (record.parameters.reuse.k, record.parameters.reuse.layers) == (2, "middle")
    assert (record.environment.node, record.code.commit, record.checkpoint.name) == ("gpu01", "8e18baac", "unknown")
    small = records.read(tmp_path / "executed" / "00_baseline" / "gsm8k_limit_10" / "k1_first")
    assert (small.headline.correct, small.n, small.limit) == (6, 10, 10)
    table = records.frame([record, small])
    assert list(table["status"]) == ["imported", "imported"]


def test_no_default_of_ours_is_written_for_what_a_file_does_not_say(results, tmp_path):
    importer.take(results, target=tmp_path / "executed")
    home = tmp_path / "executed" / "00_baseline" / "gsm8k_limit_10" / "k1_first"
    content = json.loads((home / "summary.json").read_text())
    assert not {"batch_size", "dtype", "engine", "seed"} & set(content["parameters"])
    assert "threshold" not in content["parameters"]["decoding"]
    assert "policy" not in content["parameters"]["reuse"]
    assert "seconds" not in content
    assert {"threshold", "batch_size", "seconds", "tokens_per_second"} <= set(content["unknown"])
    record = records.read(home)
    assert set(record.stated()) >= {"k", "layers", "task"}
    assert not {"threshold", "batch_size"} & set(record.stated())
    row = records.row(record)
    assert row["threshold"] != row["threshold"]
    assert row["seconds"] != row["seconds"]
    assert (row["tokens"], row["dtype"]) == (3540, None)


def test_what_a_file_does_say_is_kept(tmp_path):
    old(tmp_path / "r" / "x" / "gsm8k" / "k2_last", {
        "accuracy": 0.5, "throughput": {"tokens_generated": 812, "total_time_s": 4.0, "tokens_per_s": 203.0},
        "model_args": {"reuse_k": 2, "layer_subset": "last", "threshold": "0.95", "use_block_cache": True,
                       "dtype": "torch.bfloat16"},
        "eval_params": {"num_fewshot": 3, "batch_size": "1", "limit": None}})
    importer.take(tmp_path / "r", target=tmp_path / "executed")
    record = records.read(tmp_path / "executed" / "x" / "gsm8k" / "k2_last")
    assert (record.tokens, record.seconds, record.tokens_per_second, record.n) == (812, 4.0, 203.0, 1319)
    stated = record.stated()
    assert (stated["batch_size"], stated["threshold"], stated["shots"], stated["block_cache"]) == (1, 0.95, 3, True)
    assert "dtype" in record.unknown
    assert record.notes["stated"]["settings"]["dtype"] == "torch.bfloat16"


def harness(folder, stamp="2026-01-19T00-54-18.123456", **scores):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"results_{stamp}.json").write_text(json.dumps({
        "results": scores, "n-samples": {name: {"effective": 100} for name in scores},
        "config": {"model_args": "pretrained=x,threshold=0.9", "batch_size": "auto", "limit": 100.0}}))


def test_results_of_the_harness_are_imported_as_the_help_promises(tmp_path):
    scores = {"exact_match,strict-match": 0.1, "exact_match,flexible-extract": 0.8}
    harness(tmp_path / "evals" / "layer_0.9" / "org__name", gsm8k=scores, mmlu_pro={"exact_match,custom-extract": 0.4})
    harness(tmp_path / "evals" / "layer_0.9" / "org__name", "2026-01-18T00-00-00.0", gsm8k={"exact_match,none": 0.2})
    lines = importer.take(tmp_path / "evals", target=tmp_path / "executed")
    assert lines[-1] == "imported 2 of 3"
    assert any("the newest" in line for line in lines)
    record = records.read(tmp_path / "executed" / "evals" / "gsm8k_limit_100" / "layer_0.9")
    assert (record.headline.value, record.metric, record.n) == (0.8, "exact_match,flexible-extract", 100)
    assert set(record.accuracy) == {"exact_match,strict-match", "exact_match,flexible-extract"}
    assert {"k", "layers", "batch_size"} <= set(record.unknown)
    assert records.row(record)["k"] != records.row(record)["k"]
    assert "lm-evaluation-harness" in lab_support.command("import", "--help")


def test_configurations_in_one_folder_are_told_apart_by_what_they_ran_with(tmp_path):
    ran_with = ("threshold=0.9", "threshold=0.8", "k=2,layers=[8,9],policy=residual", "threshold=0.9")
    for day, given in enumerate(ran_with, 1):
        folder = tmp_path / "evals" / "out"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"results_2026-01-0{day}T00-00-00.0.json").write_text(json.dumps({
            "results": {"gsm8k": {"exact_match,flexible-extract": day / 10}}, "config": {"model_args": given}}))
    lines = importer.take(tmp_path / "evals", target=tmp_path / "executed")
    assert lines[-1] == "imported 3 of 4"      # the first is an older result of the last one's configuration
    read = {path.parent.name: records.read(path.parent) for path in (tmp_path / "executed").rglob("summary.json")}
    assert {name: record.headline.value for name, record in read.items()} == {
        "out": 0.4, "out_k-2_layers-8,9_policy-residual": 0.3, "out_threshold-0.8": 0.2}
    assert {name: record.config for name, record in read.items()} == {name: name for name in read}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A project of its own, so that nothing is written into this one."""
    for name in ("notebooks", "params"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_after_import_the_other_commands_work(elsewhere):
    for k, layers, score in ((1, "first", 0.6), (2, "first", 0.7), (2, "middle", 0.1), (2, "last", 0.1)):
        old(elsewhere / "old" / "run" / "gsm8k_limit_10" / f"k{k}_{layers}", {
            "accuracy": score, "git_commit": "f7f4c2c0",
            "throughput": {"tokens_generated": 3572 if k > 1 else 3540, "total_time_s": 85.0}})
    old(elsewhere / "old" / "run" / "unheard_of" / "k1_first", {"accuracy": 0.5})
    assert "imported 5 of 5" in lab_support.command("import", "old")
    assert "impossible: equal_tokens" in lab_support.command("audit", "executed/run", code=1)
    lab_support.command("gallery")
    page = (elsewhere / "executed" / "gallery" / "index.html").read_text()
    assert page.count(">imported<") or "imported" in page
    assert ">nan<" not in page
    assert ">None<" not in page
    assert "imported (from" in lab_support.command("publish", "run", "--dry-run", code=1)
    assert "would publish run: 5 files" in lab_support.command("publish", "run", "--dry-run", "--anyway")


def test_the_logs_own_files_can_be_imported_whole(tmp_path):
    cases = Path(os.environ.get("FASTDLLM_SHARED", Path(__file__).parents[2] / "shared")) / "cases" / "20_old_results"
    if not cases.is_dir():
        pytest.skip(f"no {cases}")
    assert importer.take(cases, target=tmp_path)[-1] == "imported 46 of 46"
    record = records.read(tmp_path / "20_old_results" / "gsm8k_limit_10" / "k2_first")
    assert (record.tokens, record.n, record.parameters.batch_size, record.environment.torch) == (
        3572, 10, 1, "2.10.0+cu128")
    assert {"threshold", "max_new_tokens", "dtype", "policy"} <= set(record.unknown)


def test_imported_is_never_complete(tmp_path):
    old(tmp_path / "results" / "x" / "arithmetic_limit_4" / "k1_first", {"accuracy": 0.5})
    path = lab_support.params(tmp_path / "small.yml", tmp_path / "model")
    importer.take(tmp_path / "results", "small", tmp_path / "executed")
    by_name = {state.configuration.name: state for state in states.states(grid_file.load(path).configurations())}
    assert by_name["k1_first"].state == "imported"
    assert by_name["k1_first"].record is not None
    assert not states.all_complete(list(by_name.values()))
    assert "Completed: 0 / 4" in states.text(list(by_name.values()))


def test_our_own_records_are_not_overwritten(results, tmp_path):
    target = tmp_path / "executed"
    importer.take(results, target=target)
    directory = target / "00_baseline" / "gsm8k" / "k2_middle"
    records.write(directory, records.read(directory).model_copy(update={"status": "complete"}))
    assert any("holds a record of a run of ours" in line for line in importer.take(results, target=target))
    assert records.read(directory).status == "complete"


def test_nothing_to_import_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"holds no summary\.json and no results_"):
        importer.take(tmp_path)
    old(tmp_path / "a" / "b" / "c", {"accuracy": "high"})
    assert "nothing was imported" in lab_support.command("import", tmp_path, code=1)


@pytest.mark.parametrize("task", ["..", "../../task", "/tmp/task", "org/task"])
def test_a_task_s_name_leads_nowhere_else(tmp_path, task):
    (tmp_path / "r" / "x").mkdir(parents=True)
    (tmp_path / "r" / "x" / "results_1.json").write_text(json.dumps({"results": {task: {"acc,none": 0.5}}}))
    importer.take(tmp_path / "r", target=tmp_path / "a" / "b" / "executed")
    [file] = (path for path in tmp_path.rglob("summary.json"))
    assert file.is_relative_to(tmp_path / "a" / "b" / "executed" / "r") and records.read(file.parent).task == task


@pytest.mark.parametrize(("limit", "read"), [(0.1, 0.1), (None, 0), (10, 10), (0, None), (1000000, 1000000)])
def test_a_limit_means_after_the_import_what_it_meant_before(tmp_path, limit, read):
    (tmp_path / "r" / "x").mkdir(parents=True)
    (tmp_path / "r" / "x" / "results_1.json").write_text(json.dumps({
        "results": {"gsm8k": {"exact_match,flexible-extract": 0.5}}, "config": {"limit": limit}}))
    importer.take(tmp_path / "r", target=tmp_path / "executed")
    for folder in (tmp_path / "r", tmp_path / "executed"):
        [value] = sources.read(folder).rows["limit"]
        assert value == read or (value != value and read is None)
