"""What the phase 6 notebooks compute: slices, cache entries, logits, similarity, records, verdicts."""

import itertools
from pathlib import Path

import pytest
from report_support import phase6_results

import fastdllm
from fastdllm import Decoding, Reuse
from fastdllm.investigation.collapse import inspection, phase6, similarity
from fastdllm.lab.config.grid import Grid
from fastdllm.settings import SUBSETS

ROOT = Path(__file__).parent.parent
DECODING = Decoding(threshold=1.0, max_new_tokens=32, mask_id=511, stop_ids=())
FROZEN = str(ROOT / "notebooks" / "policies" / "frozen_slice.py")
IDS = [list(range(100, 140))]


def test_slices_are_right_and_a_frozen_slice_is_not(lm):
    right = inspection.slices(inspection.look(lm, IDS, DECODING, Reuse(k=3, layers="middle"), "26d6179"), 8)
    assert right.right.all()
    sliced = right[(right["stored by"] == "full")]
    assert (sliced.slice_start == sliced.replace_position).all()
    assert sliced.replace_position.max() > 0
    frozen = inspection.slices(
        inspection.look(lm, IDS, DECODING, Reuse(k=3, layers="middle", policy=FROZEN), "26d6179"), 8)
    wrong = frozen[(frozen["stored by"] == "full") & (frozen.replace_position > 0)]
    assert len(wrong)
    assert not wrong.right.any()


def test_golden_cases_tell_the_slices_apart(lm):
    assert inspection.golden_cases(lm, ROOT / "tests" / "golden", "output", 1).reproduced.all()
    assert not inspection.golden_cases(lm, ROOT / "tests" / "golden", FROZEN, 1).reproduced.any()


def test_running_skipped_layers_touches_the_first_reused_layer_only(lm):
    off, on = (inspection.look(lm, IDS, DECODING, Reuse(k=2, layers="middle"), revision)
               for revision in ("26d6179", "26d6179+run_skipped=true"))
    table = inspection.cache_differences(off, on)
    assert off.tokens == on.tokens
    assert set(table[table.positions > 0].layer) == {8}
    assert set(table[table.reused].layer) == set(range(8, 20))


def test_logits_of_a_reuse_step_are_old_ones(lm):
    for layers in ("first", "last", "2-5,20-23"):
        table = inspection.reuse_logits(lm, IDS[0], DECODING, Reuse(k=2, layers=layers))
        assert len(table)
        assert table.gap.max() == 0.0
    residual = inspection.reuse_logits(lm, IDS[0], DECODING, Reuse(k=2, layers="last", policy="residual"))
    assert residual.gap.max() > 0.0


def test_staleness_under_bypass_and_refresh(lm):
    ids = [list(range(100, 103))]
    decoding = DECODING.model_copy(update={"max_new_tokens": 64})
    traces = {revision: phase6.traced(lm, ids, decoding, Reuse(k=2, layers="last"), revision)
              for revision in ("6c8822f", "26d6179")}
    stale = {revision: phase6.stale_summary(trace) for revision, trace in traces.items()}
    for revision, trace in traces.items():
        foreign, summed = phase6.foreign_share(trace), stale[revision]
        assert foreign["share"] == summed["from another small block"] + summed["from another block"]
        assert foreign["low"] <= foreign["share"] <= foreign["high"] and foreign["prompts"] == 1
    assert phase6.foreign_share(traces["26d6179"].query("decision != 'reuse'")) == {}
    assert stale["26d6179"]["from another small block"] == stale["26d6179"]["from another block"] == 0.0
    assert stale["6c8822f"]["from another small block"] + stale["6c8822f"]["from another block"] > 0.0


def test_similarity_of_unchanged_and_changed_positions(lm):
    table = similarity.similarity(lm, IDS, DECODING.model_copy(update={"max_new_tokens": 24}), lags=(1, 2))
    assert set(table.lag) == {1, 2}
    assert set(table.layer) == set(range(28))
    assert table.output.between(-1.0001, 1.0001).all()
    assert table[~table.changed].output.median() > table[table.changed].output.median()
    first = table[table.lag == 1].groupby(["block", "step", "layer"]).changed.sum()
    assert (first == 1).all()      # at threshold 1.0 one token is unmasked a step
    changed = similarity.changes_are_where_tokens_changed(table, 0.9)
    assert changed.state is not None and similarity.verdict(table, 0.9).index(str(changed)) > 0


def test_results_come_from_records_and_are_run_once(tmp_path):
    params, lines = str(ROOT / "params" / "phase6.yml"), []
    options = {"limit": 1, "ks": [1, 2], "subsets": ["middle"], "policies": ["output"], "output": str(tmp_path)}
    results = phase6.results(params, ["26d6179"], log=lines.append, **options)
    assert sorted(results.frame.k) == [1, 2]
    assert set(results.correct) == set(results.frame.config)
    assert results.pick("26d6179", 2, "middle") != results.pick("26d6179", 1, "last")
    with pytest.raises(ValueError, match="configuration: revision=fixed"):
        results.pick("fixed", 2, "middle")
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("summary.json")}
    again = phase6.results(params, ["26d6179"], log=lines.append, **options)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("summary.json")} == stamps
    assert again.frame.accuracy.tolist() == results.frame.accuracy.tolist()
    check = phase6.spot_check(fastdllm.load("tiny", device="cpu"), results, results.pick("26d6179", 2, "middle"), 1)
    assert check["same tokens"].all()


def test_paired_tables_and_the_first_n():
    good, bad = [1] * 20, [0] * 15 + [1] * 5
    results = phase6_results({(revision, 2, s): answers for revision, answers in (
        ("8e18baac", good), ("6c8822f", bad), ("26d6179", good)) for s in SUBSETS})
    table = phase6.against(results, "8e18baac", "6c8822f")
    assert table[["layers", "points", "relative"]].values.tolist() == [["first = middle = last", -75.0, -0.75]]
    assert (table.p_holm < 0.05).all()
    assert phase6.losses(results, "6c8822f").empty      # no k=1 ran
    across = phase6.across_subsets(results, "6c8822f")
    assert across[["computations", "answers that differ"]].values.tolist() == [[1, 0]]
    few = results.first(10)
    assert few[few.revision == "6c8822f"].accuracy.tolist() == [0.0] * 3
    assert phase6.accuracy_table(few).loc["6c8822f", "k2 last"].startswith("0% (0% to ")


def test_subsets_are_compared_with_each_other_and_not_with_themselves(lm):
    pairs, logits = inspection.subset_pairs(lm, IDS, [2], DECODING, "2-5,9-12,20-23")
    assert (pairs.a != pairs.b).all()
    contiguous = pairs[pairs.kind == "contiguous subsets"]
    assert set(zip(contiguous.a, contiguous.b, strict=True)) == {
        (f"output {a}", f"output {b}") for a, b in itertools.combinations(SUBSETS, 2)}
    assert (contiguous.same == contiguous.n).all()      # the theorem
    assert pairs.set_index("kind").loc["replay", "replayed"] > 0
    assert logits[logits.kind == "contiguous subsets"].gap.max() == 0.0 < logits[logits.kind == "residual"].gap.max()


def test_the_grid_covers_every_revision_of_the_log():
    from fastdllm.lab.config import grid_file
    grid = grid_file.load(ROOT / "params" / "phase6.yml")
    assert isinstance(grid, Grid)
    revisions = {configuration.parameters.revision for configuration in grid.configurations()}
    assert {"8e18baac", "6c8822f", "26d6179"} <= revisions
    assert len({configuration.parameters.key() for configuration in grid.configurations()}) == 6 * 6 + len(
        revisions
    )  # k=1: once a revision
