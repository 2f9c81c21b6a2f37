"""Which executor ran is told by results, records and reports, and a small network keeps to one thread."""

import math
from dataclasses import replace

import pytest
import torch
from lab_support import checkpoint
from report_support import fill, timed_on_a_gpu

import fastdllm
from fastdllm import Decoding, Reuse
from fastdllm.lab import records
from fastdllm.lab.config.grid import Configuration, Grid
from fastdllm.lab.config.parameters import FAST_POLICIES, Parameters
from fastdllm.lab.evaluation.evaluate import evaluate
from fastdllm.lab.evaluation.prepare import PreparedRun
from fastdllm.report import cell_report, tables
from fastdllm.report.results import Results

SHORT = Decoding(max_new_tokens=40, threshold=0.9, mask_id=511, stop_ids=(510,))
OWN = "from fastdllm.decode.policies import OutputPolicy\n\n\nclass Policy(OutputPolicy):\n    pass\n"


@pytest.mark.parametrize(("keywords", "name"), [
    ({}, "fast"), ({"executor": "eager"}, "eager"), ({"executor": "fast"}, "fast"), ({"threads": 2}, "fast"),
    ({"trace": True, "reuse": Reuse(k=2, layers="middle")}, "eager")])
def test_a_result_tells_what_ran_it(golden, golden_prompts, keywords, name):
    prompts = [golden_prompts["p5"], golden_prompts["p40"]]
    out = fastdllm.generate(golden, prompts, decoding=SHORT, **keywords)
    assert [row.executor for row in out.rows] == [name, name]
    assert f"executor {name}" in repr(out)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("model") / "small")


@pytest.mark.parametrize(("policy", "name"), [("output", "fast"), ("own", "eager"), ("token", "eager")])
def test_a_record_tells_what_ran_it(model, tmp_path, policy, name):
    if policy == "own":
        policy = str(tmp_path / "own.py")
        (tmp_path / "own.py").write_text(OWN)
    parameters = Parameters.of(model=str(model), limit=2, max_new_tokens=32, k=2, layers="middle", policy=policy)
    directory = tmp_path / "x" / "arithmetic_limit_2" / "one"
    record = evaluate(PreparedRun(Configuration("x", "one", parameters, directory)), log=lambda _: None)
    assert record.executor == name == records.read(directory).executor
    assert f"| executor | {name} |" in cell_report.identity(record).markdown()
    assert records.row(record)["executor"] == name


def test_a_record_from_before_says_nothing_and_keeps_its_checksum(model, tmp_path):
    grid = Grid(experiment="x", output=str(tmp_path), limit=4, axes={"k": [1], "layers": ["middle"]})
    fill(grid)
    record = records.read(grid.configurations()[0].directory).model_copy(update={"executor": ""}).sealed()
    assert "executor" not in record.content()
    assert record.sealed().checksum == record.checksum
    assert "executor" in record.model_copy(update={"executor": "fast"}).content()


@pytest.mark.parametrize(("values", "said"), [
    ({"temperature": 0.5}, "decoding.temperature=0.5"), ({"k": 2, "layers": "middle", "policy": "token"}, "'token'")])
def test_what_the_fast_executor_can_not_do_is_refused_before_a_model_is_loaded(values, said):
    with pytest.raises(ValueError, match=f"executor='fast' with .*{said}.*; allowed: .*executor='eager'"):
        Parameters.of(executor="fast", **values)
    assert Parameters.of(executor="eager", **values)


@pytest.mark.parametrize("policy", FAST_POLICIES)
def test_the_policies_that_may_ask_for_the_fast_executor_are_those_it_runs(lm, policy):
    reuse = Reuse(k=2, layers=None if policy == "verify" else "0-1", policy=policy)
    decoding = Decoding(mask_id=511, stop_ids=(), max_new_tokens=8)
    [row] = fastdllm.generate(lm, [[5, 6, 7]], decoding=decoding, reuse=reuse, executor="fast").rows
    assert row.executor == "fast"


OTHERS = ("k2_last_r0", "k2_last_r1", "k2_last_r2")


@pytest.mark.parametrize(("executor", "device", "said"), [
    ("eager", "a card", "executor eager, baseline's fast"), ("fast", "cpu", "device cpu, baseline's a card"),
    ("", "a card", "executor not recorded, baseline's fast"),
    ("eager", "cpu", "executor eager, baseline's fast; device cpu, baseline's a card")])
def test_a_speed_of_another_executor_or_device_is_not_compared(tmp_path, executor, device, said):
    grid = Grid(experiment="x", output=str(tmp_path), limit=30,
                axes={"k": [1, 2], "layers": ["middle", "last"], "repeat": [0, 1, 2]})
    fill(grid)
    for configuration in grid.configurations():
        ran = (executor, device) if configuration.name in OTHERS else ("fast", "a card")
        record = records.read(configuration.directory)
        records.write(configuration.directory, timed_on_a_gpu(
            record, executor=ran[0], environment=record.environment.model_copy(update={"device_name": ran[1]})))
    table = tables.grid_table(Results.of(grid)).set_index("config")
    assert table.loc[list(OTHERS), "speedup"].isna().all() and not math.isnan(table.loc["k2_middle_r0", "speedup"])
    assert set(table.loc[list(OTHERS), "speed_from"]) == {f"not compared: {said}"}
    assert table.loc[list(OTHERS), "lost"].notna().all()


def test_repeats_by_another_executor_are_no_repeats_of_a_clock(tmp_path):
    grid = Grid(experiment="x", output=str(tmp_path), limit=30,
                axes={"k": [1, 2], "layers": ["middle"], "repeat": [0, 1, 2]})
    fill(grid)
    for configuration in grid.configurations():
        executor = "eager" if configuration.name == "k2_middle_r2" else "fast"
        records.write(configuration.directory, timed_on_a_gpu(records.read(configuration.directory), executor=executor))
    table = tables.grid_table(Results.of(grid)).set_index("config").filter(like="k2", axis=0)
    assert table["runs"].tolist() == [2, 2, 1] and set(table["speed_from"]) == {"predicted"}


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("executor", ["eager", "fast"])
def test_a_small_network_decodes_in_one_thread_whoever_asks(golden, golden_prompts, two_threads, monkeypatch, executor):
    from fastdllm.decode import executor as eager
    from fastdllm.decode import fast
    seen = []
    kind = {"eager": eager.Eager, "fast": fast.Fast}[executor]
    launch = kind.launch
    monkeypatch.setattr(kind, "launch", lambda *asked: (seen.append(torch.get_num_threads()), launch(*asked))[1])
    for _ in fastdllm.denoise(golden, [golden_prompts["p40"]], decoding=SHORT, executor=executor):
        assert torch.get_num_threads() == 2      # what the caller does between two forwards is the caller's
    assert seen and set(seen) == {1}


def test_an_output_shows_what_it_cost_and_how_it_begins(tiny):
    question = "Leo needs 461 cards. Leo finds 29 of them. At 8 per hour, how many hours does Leo need?"
    out = fastdllm.generate(tiny, [question] * 10, decoding=Decoding(max_new_tokens=64),
                            reuse=Reuse(k=2, layers="middle"))
    text, page = repr(out), out._repr_html_()
    for part in (f"10 answers in {out.seconds:.2f} s", "NFE", "[0] stop", "... and 2 more in .texts", "reused"):
        assert part in text and part in page
    assert out.texts[0].splitlines()[0] in text
    assert "[8]" not in text and "<script" not in page


def test_a_text_cannot_leave_its_place_in_a_page(golden, golden_prompts):
    out = fastdllm.generate(golden, [golden_prompts["p5"]], decoding=SHORT)
    page = replace(out, texts=["</pre><b>bold</b>"])._repr_html_()
    assert "&lt;/pre&gt;&lt;b&gt;bold&lt;/b&gt;" in page and "<b>" not in page
