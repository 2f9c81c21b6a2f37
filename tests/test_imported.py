"""Old results: taken over as what they are."""

from __future__ import annotations

import json

import lab_support
import pytest

from fastdllm.lab import records
from fastdllm.lab.config import grid_file
from fastdllm.lab.jobs import status as states
from fastdllm.lab.records import importer


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
    assert lines[-1] == "imported 2 of 3"
    assert any("mmlu" in line and "never looked up in other files" in line for line in lines)
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


def test_imported_is_never_complete(tmp_path):
    old(tmp_path / "results" / "x" / "arithmetic_limit_4" / "k1_first", {"accuracy": 0.5})
    path = lab_support.params(tmp_path / "small.yml", tmp_path / "model")
    importer.take(tmp_path / "results", "small", tmp_path / "executed")
    found = {state.configuration.name: state for state in states.states(grid_file.load(path).configurations())}
    assert found["k1_first"].state == "imported"
    assert found["k1_first"].record is not None
    assert not states.all_complete(list(found.values()))
    assert "Completed: 0 / 4" in states.text(list(found.values()))


def test_our_own_records_are_not_overwritten(results, tmp_path):
    target = tmp_path / "executed"
    importer.take(results, target=target)
    place = target / "00_baseline" / "gsm8k" / "k2_middle"
    records.write(place, records.read(place).model_copy(update={"status": "complete"}))
    assert any("holds a record of a run of ours" in line for line in importer.take(results, target=target))
    assert records.read(place).status == "complete"


def test_nothing_to_import_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"holds no summary\.json"):
        importer.take(tmp_path)
    old(tmp_path / "a" / "b" / "c", {"accuracy": "high"})
    assert "nothing was imported" in lab_support.command("import", tmp_path, code=1)
