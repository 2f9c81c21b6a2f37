"""What the phase 6 notebooks compute: slices, cache entries, logits, similarity, records, verdicts."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import fastdllm
from fastdllm import Decoding, Reuse
from fastdllm.investigation.collapse import inspection, phase6, phase6_verdicts, similarity
from fastdllm.lab.config.grid import Grid

ROOT = Path(__file__).parent.parent
DECODING = Decoding(threshold=1.0, max_new_tokens=32, mask_id=511, stop_ids=())
FROZEN = str(ROOT / "notebooks" / "policies" / "frozen_slice.py")
IDS = [list(range(100, 140))]


@pytest.fixture(scope="module")
def lm():
    return fastdllm.load(ROOT / "tests" / "golden", device="cpu")


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
    stale = {revision: phase6.stale_summary(phase6.traced(lm, ids, decoding, Reuse(k=2, layers="last"), revision))
             for revision in ("6c8822f", "26d6179")}
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
    assert "median cosine" in similarity.verdict(table, 0.9)


def test_results_come_from_records_and_are_run_once(tmp_path):
    params, said = str(ROOT / "params" / "phase6.yml"), []
    options = {"limit": 1, "ks": [1, 2], "subsets": ["middle"], "policies": ["output"], "output": str(tmp_path)}
    found = phase6.results(params, ["26d6179"], log=said.append, **options)
    assert sorted(found.frame.k) == [1, 2]
    assert set(found.correct) == set(found.frame.config)
    assert found.pick("26d6179", 2, "middle") != found.pick("26d6179", 1, "last")
    with pytest.raises(ValueError, match="configuration: revision=fixed"):
        found.pick("fixed", 2, "middle")
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("summary.json")}
    again = phase6.results(params, ["26d6179"], log=said.append, **options)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("summary.json")} == stamps
    assert again.frame.accuracy.tolist() == found.frame.accuracy.tolist()
    check = phase6.spot_check(fastdllm.load("tiny", device="cpu"), found, found.pick("26d6179", 2, "middle"), 1)
    assert check["same tokens"].all()


def made_up(right: dict[tuple[str, int, str], list[int]]) -> phase6.Phase6Results:
    rows = [{"config": f"{r}-{k}-{s}", "name": r, "revision": r, "policy": "output", "k": k, "layers": s, "n": len(v),
             "correct": sum(v), "accuracy": np.mean(v), "low": 0.0, "high": 1.0, "tokens": 10, "nfe_full": 5, "nfe": 9}
            for (r, k, s), v in right.items()]
    return phase6.Phase6Results(pd.DataFrame(rows), {row["config"]: np.array(right[key]) for key, row in
                                               zip(right, rows, strict=True)}, {})


def test_paired_tables_and_the_first_n():
    good, bad = [1] * 20, [0] * 15 + [1] * 5
    found = made_up({("8e18baac", 2, s): good for s in ("first", "middle", "last")}
                    | {("6c8822f", 2, s): bad for s in ("first", "middle", "last")}
                    | {("26d6179", 2, s): good for s in ("first", "middle", "last")})
    table = phase6.against(found, "8e18baac", "6c8822f")
    assert table.points.tolist() == [-75.0] * 3
    assert (table.p_holm < 0.05).all()
    assert phase6.across_subsets(found, "6c8822f")["answers that differ"].tolist() == [0]
    few = found.first(10)
    assert few[few.revision == "6c8822f"].accuracy.tolist() == [0.0] * 3
    stale = pd.DataFrame([{"revision": "6c8822f", "from another small block": 0.4, "from another block": 0.1},
                          {"revision": "26d6179", "from another small block": 0.0, "from another block": 0.0}])
    text = phase6_verdicts.phase6(found, stale)
    assert "worse than January's in 3 of 3 configurations" in text
    assert "Run 2's code (`26d6179`) is not found worse than January's in any of 3 configurations" in text
    assert "50% of its reusing forwards" in text
    assert "all 9 accuracies of feb16_run2 equal those of feb15_run1" in text
    assert "power" in phase6_verdicts.old_code(found, 10)


def test_power_table_needs_more_problems_for_less():
    table = phase6.power_table(0.7, [0.1, 0.6], [10, 1000])
    assert table["n for 80 %"].is_monotonic_increasing
    assert table["n=10"].iloc[0] > 0.8 > table["n=10"].iloc[1]


def test_the_grid_covers_every_revision_of_the_log():
    from fastdllm.lab.config import grid_file
    grid = grid_file.load(ROOT / "params" / "phase6.yml")
    assert isinstance(grid, Grid)
    revisions = {configuration.parameters.revision for configuration in grid.configurations()}
    assert {"8e18baac", "6c8822f", "26d6179"} <= revisions
    assert len({configuration.parameters.key() for configuration in grid.configurations()}) == 6 * 6 + len(
        revisions
    )  # k=1: once a revision
