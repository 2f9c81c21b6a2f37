"""`fastdllm bench` and the benchmarks: they run with a small network, and predictions follow from what was measured."""

import collections
import dataclasses

import lab_support
import pytest
import torch

from benchmarks import bench_autoregressive, bench_batches, tune
from benchmarks.random_model import random_lm, small_geometry
from fastdllm import Decoding
from fastdllm.decode import autoregressive
from fastdllm.investigation.speed import bench, measure
from fastdllm.investigation.speed.measure import ForwardTime
from fastdllm.investigation.speed.random_weights import random_prompts
from fastdllm.lab.config import geometry, grid_file
from fastdllm.model.products import Tiling
from fastdllm.model.static import TILINGS
from fastdllm.report import cost_model

KINDS = {"prefill": (40.0, 1), "full": (10.0, 20), "small": (5.0, 60), "commit": (10.0, 2)}


def device(*rows):
    """A card on which forwards over so many rows take so many times what one row takes."""
    forwards = [ForwardTime(kind, count, times * ms, number, ms / 2) for kind, (ms, number) in KINDS.items()
                for count, times in rows]
    return bench.Device("card", torch.bfloat16, 1e12, 1e14, forwards)


def test_milliseconds_between_and_above_the_measured_rows():
    card = device((1, 1.0), (5, 2.0))
    assert [card.ms("full", rows) for rows in (1, 3, 5, 10)] == [10.0, 15.0, 20.0, 40.0]
    assert card.forwards[0].share == pytest.approx(0.5)


def test_a_grid_of_the_7b_in_minutes(tmp_path):
    path = lab_support.params(tmp_path / "g.yml", "Efficient-Large-Model/Fast_dLLM_v2_7B", task="gsm8k", limit=None,
                              batch_size=1, decoding={}, reuse={"policy": "output"},
                              axes={"k": [1, 2], "layers": ["first", "middle"]})
    shape = bench.shape_of("Efficient-Large-Model/Fast_dLLM_v2_7B")
    one, *reused = bench.predictions(device((1, 1.0)), shape, grid_file.load(path).configurations())
    assert (one.configuration.name, one.problems) == ("k1_first", 1319)
    assert one.tokens == pytest.approx(331, abs=1) and one.source == "as in the published runs"
    expected = 1319 * (40 + one.tokens / 32 * 10 + one.tokens * (0.25 * 10 + 0.75 * 5)) / 1e3
    assert one.seconds[0] == pytest.approx(expected)
    assert one.seconds[0] / 2 < one.seconds[1] < one.seconds[0], "twice the tokens a forward, the prefill once"
    assert len(reused) == 2, "k=1 is one computation"
    for other in reused:
        saved = 1319 * one.tokens * 0.75 * 5e-3 * 0.5 * bench.saving(other.configuration.parameters.reuse, shape)
        assert other.seconds[0] == pytest.approx(one.seconds[0] - saved)
    assert one.memory > cost_model.memory_bytes(shape, 1, 256)
    assert "1319 problems of 331 tokens (as in the published runs), batch 1: " in one.line()


def test_a_shape_that_is_not_here_is_named():
    with pytest.raises(ValueError, match=r"model='somebody/else': its config\.json is not on this machine; allowed"):
        bench.shape_of("somebody/else")


def test_a_shape_that_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(bench, "free_bytes", lambda device: 10_000_000)
    with pytest.raises(ValueError, match=r"needs 30\.\d GB in float32, CPU has 0\.0 GB free"):
        next(bench.measure(cost_model.SHAPE_7B, torch.device("cpu"), torch.float32))


def test_the_command_on_a_cpu(tmp_path):
    path = lab_support.params(tmp_path / "g.yml", lab_support.GOLDEN, device="cpu")
    text = lab_support.command("bench", path, "--seconds", 0)
    assert "copies at" in text and "arithmetic_limit_4/k1_first: 4 problems of 32 tokens (the most that" in text
    measured = [line.split()[0] for line in text.splitlines() if line.endswith("%")]
    assert measured == ["commit", "full", "prefill", "small"]


def test_forwards_are_counted_by_rows():
    shape = dataclasses.replace(geometry.of(str(lab_support.GOLDEN)), num_hidden_layers=2)
    *_, card = bench.measure(shape, torch.device("cpu"), torch.float32, rows=(1, 3))
    assert sorted({each.rows for each in card.forwards}) == [1, 3]
    counts = {(each.kind, each.rows): each.count for each in card.forwards}
    assert all(counts[kind, 1] == counts[kind, 3] for kind in KINDS), "in step, a forward of three is one"
    assert 32 < counts["full", 1] + counts["small", 1] <= 64, "one token a forward at most"


def test_what_is_timed_was_made_before(monkeypatch):
    """One engine decodes again and again: what is captured once is not captured while the clock runs."""
    made, build = [], measure.build
    monkeypatch.setattr(measure, "build", lambda *given: made.append(build(*given)) or made[-1])
    lm = random_lm(torch.float32, "cpu", dataclasses.replace(small_geometry(), num_hidden_layers=2))
    times = measure.forward_times(lm, 2, 1e9, 1e9, rounds=3)
    [(engine, _)] = made
    alone = sum(engine.finished[0].nfe.values())
    assert engine.executor.graphs.synchronisations == 4 * alone, "a round to warm up, and three for the clock"
    assert {each.kind: each.count for each in times}.items() <= engine.finished[0].nfe.items()
    assert len(times) == 4
    assert all(each.bound_ms == 1e3 * measure.bound(lm, each.kind, 2, 1e9, 1e9) for each in times)


def test_batches_are_held_against_the_forwards_that_they_needed():
    """Each tick one forward of every row, the next row where one has ended; kinds and counts are those of the rows."""
    a, b, c = ([cost_model.Need(width, 1, 0)] * count for width, count in ((8, 3), (32, 1), (16, 2)))
    ticks = [[need.tokens for need in tick] for tick in bench_batches.together([a, b, c], 2)]
    assert ticks == [[8, 32], [8, 16], [8, 16]]
    lm = random_lm(torch.float32, "cpu", dataclasses.replace(small_geometry(), num_hidden_layers=2))
    prompts, limits = random_prompts(3, 33, 100, vocabulary=2000), [24, 40, 33]
    prompts[0] = prompts[0][:64]
    engine = bench_batches.engine_with(None, lm, prompts, 40, 2, limits)
    _, steps = bench_batches.timed(engine, prompts, 1)
    needs = [bench_batches.needs_of(row, prompt, 32) for row, prompt in zip(steps, prompts, strict=True)]
    for row in engine.finished:
        kinds = [kind for kind, _ in steps[row.index]]
        assert len(row.generated) == limits[row.index] and kinds[0] == "prefill"
        assert needs[row.index][0] == cost_model.Need(len(prompts[row.index]) // 32 * 32, int(row.index == 0), 0)
        assert {kind: count for kind, count in row.nfe.items() if count} == collections.Counter(kinds)
    alone = bench_batches.bound_seconds(lm.config, needs, 1, 1e9, 1e15, 4)
    both = bench_batches.bound_seconds(lm.config, needs, 2, 1e9, 1e15, 4)
    assert both < alone, "the weights are read once for two rows"
    assert alone == sum(cost_model.least_seconds(lm.config, [need], 1e9, 1e15, item=4) for row in needs for need in row)
    line = bench_batches.line("packed", 32, 1000, [2.0, 1.0], 0.8)
    assert (line["share"], line["tokens_per_second"], line["met"]) == (0.8, 1000, True)


def test_tilings_are_tried_from_the_one_in_use_on_and_printed_as_they_are_written():
    case, other = tune.Case("float16", 32, "o"), tune.Case("bfloat16", 8, "qkv")
    tried = tune.candidates(case, 20)
    assert tried[0] == case.current == TILINGS["o"][1] and len(set(tried)) == 20
    assert [each for each, _ in tune.in_turns([case, other], 5)[:4]] == [case, other, case, other]
    times = tune.Times(2e-5, {tried[0]: 1.2e-5, tried[1]: 1.1e-5})
    result = {case: times, tune.Case("float16", 8, "o"): tune.Times(1e-5, {tried[0]: 2e-5}),
              tune.Case("bfloat16", 32, "down"): times}
    comment, *written = tune.table("float16", result).splitlines()
    read = eval("".join(written), {"Tiling": Tiling})
    assert comment == "# float16" and read == TILINGS | {"o": (None, tried[1])}, "cuBLAS where nothing is quicker"
    assert tune.text(case, times, 3e12).splitlines()[1].endswith(", in use")


def test_both_sides_of_the_autoregressive_benchmark_decode_the_same_tokens():
    """Our engine and transformers' generate on the same weights: the same greedy tokens, as many as were asked for."""
    lm = random_lm(torch.float32, "cpu", dataclasses.replace(small_geometry(), num_hidden_layers=2))
    prompts = random_prompts(2, 40, 40, vocabulary=2000)
    decoding = Decoding(max_new_tokens=6, stop_ids=())
    rows = sorted(autoregressive.generate_rows(lm, prompts, decoding=decoding), key=lambda row: row.row)
    module = bench_autoregressive.qwen2(lm)
    ids = torch.tensor(prompts)
    made = module.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6)
    assert [row.tokens for row in rows] == made[:, 40:].tolist()
    for run in (bench_autoregressive.ours(lm, prompts),
                bench_autoregressive.theirs(module, prompts, 6, compiled=False)):
        assert [run(count) for count in (3, 6, 3)] == [6, 12, 6]
