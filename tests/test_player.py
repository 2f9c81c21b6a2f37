"""The player: what appears where and when, runs on disk, the widget's payload, the static strip, the panel."""

import json
import time

import numpy as np
import pytest
import yaml

import fastdllm
from fastdllm import Decoding, Reuse
from fastdllm.lab import single, yamlfile
from fastdllm.lab.steps import Recorder
from fastdllm.report import debug, player, strip, widgets
from fastdllm.report.panel import Panel
from fastdllm.tasks import get as task

GOLDEN = "tests/golden"
PROMPT = [5, 6, 7, 8] * 10
DECODING = Decoding(max_new_tokens=48, mask_id=511, threshold=0.9)


@pytest.fixture(scope="module")
def lm():
    return fastdllm.load(GOLDEN, device="cpu")


@pytest.fixture(scope="module")
def middle(lm):
    return player.record(lm, PROMPT, decoding=DECODING, reuse=Reuse(k=2, layers="middle"))


@pytest.fixture(scope="module")
def residual(lm):
    return player.record(lm, PROMPT, decoding=DECODING, reuse=Reuse(k=2, layers="first", policy="residual"))


def test_record_tells_what_generate_returns(lm, middle):
    out = fastdllm.generate(lm, [PROMPT], decoding=DECODING, reuse=Reuse(k=2, layers="middle"), trace=True)
    assert middle.result["tokens"] == out.tokens[0]
    assert middle.result["nfe"] == out.nfe[0]
    assert len(middle.trace) == len(out.trace)
    assert int((middle.trace["decision"] == "reuse").sum()) == out.rows[0].decisions["reuse"] > 0


def test_positions_follow_every_step(middle):
    """Replaying `when` forward by forward gives the tokens that each step reported."""
    places, mask = middle.positions, middle.meta["mask_id"]
    for step in middle.steps.query("kind != 'prefill'").itertuples():
        now = slice(step.start, step.start + 32)
        shown = np.where(places.when[now] <= step.forward, places.token[now], mask)
        assert shown.tolist() == list(step.tokens), step.forward
        fresh = np.flatnonzero(places.when[now] == step.forward)
        unmasked = np.flatnonzero(step.unmasked)
        assert set(unmasked) <= set(fresh)
        assert np.allclose(places.confidence[now][unmasked], np.asarray(step.confidence)[unmasked])
    end = len(PROMPT) + len(middle.result["tokens"])
    assert places.token[len(PROMPT):end].tolist() == middle.result["tokens"]
    roles = [player.ROLES[role] for role in places.role]
    assert roles[:len(PROMPT)] == ["prompt"] * len(PROMPT)
    assert roles.count("carried") == middle.result["nfe"]["commit"]
    assert set(roles[end:]) <= {"cut"}


def test_stop_and_extra_token(lm):
    """A stop token is marked; the token that the published loop returns behind its last block has a place."""
    stop = int(fastdllm.generate(lm, [PROMPT], decoding=DECODING).tokens[0][9])
    run = player.record(lm, PROMPT, decoding=DECODING.model_copy(update={"stop_ids": (stop,)}))
    assert run.result["finish"] == "stop"
    assert player.ROLES[run.positions.role[len(PROMPT) + len(run.result["tokens"]) - 1]] == "stop"
    old = player.record(lm, [5] * 32, decoding=DECODING.model_copy(update={"max_new_tokens": 32}), revision="upstream")
    assert old.positions.token[32:32 + len(old.result["tokens"])].tolist() == old.result["tokens"]


def test_decisions_match_trace(middle):
    for line in middle.trace.sample(40, random_state=0).itertuples():
        assert player.CODES[middle.decisions[line.forward, line.layer]] == line.decision
    kinds = middle.steps["kind"].to_numpy()
    assert (middle.decisions[kinds == "commit"][:, 8:20] == player.CODES.index("bypass")).all()
    assert (middle.decisions[:, :8] == 0).all()


def test_replay_is_on_the_map(lm):
    run = player.record(lm, PROMPT, decoding=DECODING, reuse=Reuse(k=2, layers="middle", policy="replay"))
    replayed = (run.decisions == player.CODES.index("replay")).all(1)
    assert replayed.sum() == run.result["nfe"]["replay"] > 0


def test_saved_run_is_the_same(middle, tmp_path):
    again = player.load(middle.save(tmp_path / "run"))
    assert widgets.payload(again) == widgets.payload(middle)
    with pytest.raises(ValueError, match=r"row=3: not in .* allowed: 0"):
        player.load(tmp_path / "run", row=3)
    with pytest.raises(FileNotFoundError, match=r"steps\.parquet: no steps are kept"):
        player.load(tmp_path)


def test_first_difference(lm, middle, residual):
    assert player.first_difference(middle, middle) is None
    at = player.first_difference(middle, residual)
    assert at is not None
    for forward in range(1, at + 1):          # by the definition: the first step after which the blocks differ
        same = list(middle.steps["tokens"][forward]) == list(residual.steps["tokens"][forward])
        assert same == (forward < at)
    short = player.record(lm, PROMPT, decoding=DECODING.model_copy(update={"max_new_tokens": 20}),
                          reuse=Reuse(k=2, layers="middle"))
    assert player.first_difference(middle, short) == len(short.steps)


def test_cancel_keeps_what_was_denoised(lm):
    seen = []
    run = player.record(lm, PROMPT, decoding=DECODING, on_step=lambda step: seen.append(step) or len(seen) < 5)
    assert len(run.steps) == 5
    assert run.result == {}
    assert lm.network.model.layers[8].__dict__.get("forward") is None


def test_details_name_what_was_served(middle):
    rows, index, distance = widgets.details(middle)
    served = middle.trace.query("decision == 'reuse'").iloc[-1]
    row = dict(zip(widgets.DETAILS, rows[index[served["forward"], served["layer"]]], strict=True))
    assert {name: row[name] for name in ("served_kind", "cache_shape", "slice_start", "changed")} == \
        {name: served[name] for name in ("served_kind", "cache_shape", "slice_start", "changed")}
    assert distance[served["forward"], served["layer"]] == pytest.approx(served["distance"], rel=1e-6)


def test_explore_takes_runs_directories_outputs_and_traces(lm, middle, tmp_path):
    middle.save(tmp_path)
    assert fastdllm.explore(tmp_path, middle).runs[0] == widgets.payload(middle)
    out = fastdllm.generate(lm, [PROMPT], decoding=DECODING, reuse=Reuse(k=2, layers="middle"), trace=True)
    alone = fastdllm.explore(out).shown[0]
    last = middle.trace["forward"].max()
    assert alone.decisions[last, 8:20].tolist() == middle.decisions[last, 8:20].tolist()
    with pytest.raises(ValueError, match="run=int; allowed: a Run"):
        fastdllm.explore(3)
    with pytest.raises(ValueError, match="trace: empty"):
        fastdllm.explore(out.trace.iloc[:0])


def test_static_strip(middle, residual):
    figure = strip.figure(middle)
    assert len(figure.axes) == 3                       # strip, map, colour bar
    assert figure.axes[1].get_ylabel() == "layer"
    assert "<img" in widgets.image(middle, residual)
    alt = widgets.image(middle).partition('alt="')[2].partition('"')[0]
    reused = (middle.trace["decision"] == "reuse").sum()
    assert alt.startswith(f"Denoising and decision map of {middle.title}: {len(middle.steps)} forwards")
    assert f"reuse {reused}" in alt
    part = strip.figure(middle, first=2, window=5)
    assert part.get_suptitle().endswith(f"(forwards 3 to 7 of {len(middle.steps)})")
    with pytest.raises(ValueError, match="first=999"):
        strip.figure(middle, first=999)


def test_long_trace_is_quick(middle, capsys):
    """5 000 forwards: what Python does before the first paint takes well under a second."""
    import pandas as pd
    copies = -(-5000 // len(middle.steps))
    steps = pd.concat([middle.steps.assign(start=middle.steps["start"] + 64 * i) for i in range(copies)],
                      ignore_index=True).iloc[:5000]
    steps["forward"] = range(5000)
    trace = pd.concat([middle.trace.assign(forward=middle.trace["forward"] + i * len(middle.steps))
                       for i in range(copies)], ignore_index=True).query("forward < 5000")
    run = player.Run("long", steps, trace, {**middle.meta, "results": {}})
    began = time.perf_counter()
    made = fastdllm.explore(run)
    seconds = time.perf_counter() - began
    assert len(made.runs[0]["kinds"]) == 5000
    with capsys.disabled():
        print(f"\n5000 forwards: payload in {seconds:.2f} s", end=" ")
    assert seconds < 3          # 0.5 s on an idle core; the tests share theirs


def test_panel_runs_cancels_compares_and_saves(lm, tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "params").mkdir()
    monkeypatch.chdir(tmp_path)
    made = Panel("tiny", prompt="Tom has 3 apples. He buys 4 more. How many apples does Tom have?", k=2,
                 layers="middle", max_new_tokens=32)
    made.start()
    made.wait(120)
    assert made.run.result["text"] and "tokens in" in made.status.node.value
    assert made.player.runs[0]["title"] == "k2 middle output, fixed"
    made.keep_run()
    made.controls.policy.value = "residual"
    made.start()
    made.cancel()
    made.wait(120)
    assert "cancelled" in made.status.node.value
    assert [run["title"] for run in made.player.runs] == ["k2 middle output, fixed", "k2 middle residual, fixed"]
    path = made.save()
    flat = yaml.safe_load(path.read_text())
    assert (flat["k"], flat["policy"], flat["threshold"]) == (2, "residual", 0.9)
    cell = single.grid_of(yamlfile.read(path).values, "single", 0).cells()[0]        # what `fastdllm run` does
    assert cell.parameters.reuse == Reuse(k=2, layers="middle", policy="residual")
    assert made.save() is None and "exists" in made.status.node.value
    made.controls.layers.value = "outer"
    made.start()
    assert "layers=" in made.status.node.value and "Error" in made.status.node.value


def test_partings_and_verdict():
    lm, problems = fastdllm.load("tiny"), task("arithmetic").problems(limit=2)
    short = Decoding(max_new_tokens=32)
    base = debug.record_all(lm, problems, short, Reuse(layers="middle"))
    stale = debug.record_all(lm, problems, short, Reuse(k=2, layers="middle"), "6c8822f", distance=False)
    same = debug.partings(problems, base, base)
    assert same["same answer"].all() and same["first differing forward"].isna().all()
    assert "leaves k1, fixed on 0 of 2 problems" in debug.verdict(same, base[0].title, base[0].title)
    table = debug.partings(problems, base, stale)
    assert table["layer calls reused"].sum() > 0
    at = player.first_difference(base[0], stale[0])
    assert table["first differing forward"].iloc[0] == at + 1, "counted from 1, as in the player"
    assert table["kind there"].iloc[0] == stale[0].steps["kind"].iloc[at]


def test_steps_file_of_several_rows(lm, tmp_path):
    recorder = Recorder(lm, [PROMPT, PROMPT[:20]], DECODING, Reuse(k=2, layers="middle"))
    assert sum(1 for _ in recorder) == len(recorder.steps)
    recorder.write(tmp_path / "steps.parquet")
    recorder.trace.write(tmp_path / "trace.parquet")
    second = player.load(tmp_path, row=1)
    assert second.prompt == PROMPT[:20] and second.result["tokens"] == recorder.results[1].tokens
    assert set(second.trace["row"]) == {1}
    assert json.dumps(second.meta)
