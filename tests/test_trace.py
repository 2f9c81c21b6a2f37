"""Revisions as data, and what the trace writes down about them."""

import pytest

import fastdllm
from fastdllm import Decoding, Reuse, Trace
from fastdllm.decode.revisions import CHOICES, REVISIONS, get
from fastdllm.decode.trace import COLUMNS

DECODING = Decoding(mask_id=511, max_new_tokens=64, stop_ids=(), threshold=0.9)


def traced(lm, prompt, revision, k=2, layers="middle", distance=False):
    return fastdllm.generate(lm, [prompt], decoding=DECODING, reuse=Reuse(k=k, layers=layers), revision=revision,
                             trace=Trace(distance=distance))


def test_revisions_follow_the_table():
    on = {name: {switch for switch, value in revision.switches().items() if value != CHOICES[switch][0]}
          for name, revision in REVISIONS.items()}
    assert on["fixed"] == set()
    assert on["26d6179"] == on["upstream"] == {"termination"}
    assert on["6c8822f"] == on["6d2a9a8"] == {"termination", "on_full_block"}
    assert on["8e18baac"] == on["6f96d95"] == {"run_skipped", "full_block_every_k", "first_subset", "trim_caches",
                                               "on_full_block", "termination"}
    assert (REVISIONS["6c8822f"].on_full_block, REVISIONS["6d2a9a8"].on_full_block) == ("bypass", "by_step")


def test_switches_compose_by_name():
    revision = get("26d6179+on_full_block=bypass+termination=exact")
    assert revision.on_full_block == "bypass" and revision.termination == "exact" and not revision.run_skipped
    with pytest.raises(ValueError, match=r"revision.*'fixt'.*fixed"):
        get("fixt")


def test_trace_says_what_was_served_from_where(golden, golden_prompts):
    trace = traced(golden, golden_prompts["p40"], "26d6179", distance=True).trace
    assert tuple(trace.columns) == COLUMNS and set(trace.layer) == set(range(8, 20))
    reused = trace[trace.decision == "reuse"]
    assert len(reused) and set(reused.kind) == {"small"}
    assert (reused.served_block == reused.block).all() and (reused.served_small_block == reused.small_block).all()
    assert (reused.served_forward < reused.forward).all() and (reused.step % 2 == 1).all()
    wide = reused[reused.served_kind == "full"]
    assert (wide.slice_start == wide.replace_position).all() and (wide.cache_shape == "1x32x64").all()
    assert (reused.slice_stop - reused.slice_start == 8).all() and (reused.input_shape == "1x8x64").all()
    assert reused.changed.between(1, 8).all()          # the step before unmasked something
    # Given the stale input that reached it, only the first reused layer would have said something new.
    assert (reused[reused.layer == 8].distance > 0.01).all()
    assert (reused[reused.layer > 8].distance < 1e-5).all()
    assert trace[trace.decision != "reuse"][["served_kind", "slice_start", "changed", "distance"]].isna().all(None)
    full = trace[trace.kind == "full"]
    assert set(full.decision) == {"recompute"} and full.replace_position.isna().all()


def test_bypass_serves_other_small_blocks_and_blocks(golden, golden_prompts):
    trace = traced(golden, golden_prompts["p40"], "6c8822f").trace
    assert set(trace[trace.kind == "full"].decision) == {"bypass"}
    reused = trace[trace.decision == "reuse"]
    elsewhere = (reused.served_small_block != reused.small_block) | (reused.served_block != reused.block)
    assert elsewhere.mean() > 0.1
    assert (reused.slice_start == 0).all() and (reused.cache_shape == "1x8x64").all()


def test_looking_at_distances_changes_nothing(golden, golden_prompts):
    for revision in ("26d6179", "8e18baac"):
        plain = traced(golden, golden_prompts["p33"], revision)
        looked = traced(golden, golden_prompts["p33"], revision, distance=True)
        assert plain.tokens == looked.tokens and plain.nfe == looked.nfe


def test_bug_3_leaves_one_layer_out(golden, golden_prompts):
    layers = {revision: set(traced(golden, golden_prompts["p5"], revision, layers="first").trace.layer)
              for revision in ("8e18baac", "26d6179")}
    assert layers["8e18baac"] == set(range(1, 12)) and layers["26d6179"] == set(range(1, 13))


def test_trace_survives_parquet(golden, golden_prompts, tmp_path):
    import pandas as pd
    trace = Trace()
    frame = fastdllm.generate(golden, [golden_prompts["p5"]], decoding=DECODING, reuse=Reuse(k=2, layers="last"),
                              trace=trace).trace
    trace.write(tmp_path / "trace.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "trace.parquet"), frame)
