"""The player: what appears where and when, runs on disk, the widget's payload, the static strip, the panel."""

import json
from pathlib import Path

import lab_support
import numpy as np
import pytest
import yaml

import fastdllm
from fastdllm import Decoding, Reuse
from fastdllm.lab import records
from fastdllm.lab.config import single, yaml_file
from fastdllm.lab.records.steps import Recorder
from fastdllm.tasks import get as task
from fastdllm.ui import comparison, player, problem, recording, strip
from fastdllm.ui import controls as form
from fastdllm.ui.panel import DEAD, OWN, Panel

GOLDEN = "tests/golden"
PROMPT = [5, 6, 7, 8] * 10
DECODING = Decoding(max_new_tokens=48, mask_id=511, threshold=0.9)


@pytest.fixture(scope="module")
def middle(lm):
    return recording.record(lm, PROMPT, decoding=DECODING, reuse=Reuse(k=2, layers="middle"))


@pytest.fixture(scope="module")
def residual(lm):
    return recording.record(lm, PROMPT, decoding=DECODING, reuse=Reuse(k=2, layers="first", policy="residual"))


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
    roles = [recording.ROLES[role] for role in places.role]
    assert roles[:len(PROMPT)] == ["prompt"] * len(PROMPT)
    assert roles.count("carried") == middle.result["nfe"]["commit"]
    assert set(roles[end:]) <= {"cut"}


def test_stop_and_extra_token(lm):
    """A stop token is marked; the token that the published loop returns behind its last block has a place."""
    stop = int(fastdllm.generate(lm, [PROMPT], decoding=DECODING).tokens[0][9])
    run = recording.record(lm, PROMPT, decoding=DECODING.model_copy(update={"stop_ids": (stop,)}))
    assert run.result["finish"] == "stop"
    assert recording.ROLES[run.positions.role[len(PROMPT) + len(run.result["tokens"]) - 1]] == "stop"
    old = recording.record(lm, [5] * 32,
                           decoding=DECODING.model_copy(update={"max_new_tokens": 32}), revision="upstream")
    assert old.positions.token[32:32 + len(old.result["tokens"])].tolist() == old.result["tokens"]


def test_decisions_match_trace(middle):
    for line in middle.trace.sample(40, random_state=0).itertuples():
        assert recording.CODES[middle.decisions[line.forward, line.layer]] == line.decision
    kinds = middle.steps["kind"].to_numpy()
    assert (middle.decisions[kinds == "commit"][:, 8:20] == recording.CODES.index("bypass")).all()
    assert (middle.decisions[:, :8] == 0).all()


def test_replay_is_on_the_map(lm):
    run = recording.record(lm, PROMPT, decoding=DECODING, reuse=Reuse(k=2, layers="middle", policy="replay"))
    replayed = (run.decisions == recording.CODES.index("replay")).all(1)
    assert replayed.sum() == run.result["nfe"]["replay"] > 0


@pytest.fixture(scope="module")
def verified(tiny):
    question = "Leo needs 461 cards. Leo finds 29 of them. At 8 per hour, how many hours does Leo need?"
    return recording.record(tiny, question, decoding=Decoding(max_new_tokens=64),
                            reuse=Reuse(policy="verify", k=3))


def test_rejected_drafts_stand_at_their_positions_in_the_forward_that_rejected_them(verified, tmp_path):
    """What a draft had wrong is no token of the answer: the step itself came to something else there."""
    assert verified.rejected, "nothing was rejected"
    assert verified.title == "k3 verify, fixed"
    for forward, position, token in verified.rejected:
        step = verified.steps.iloc[forward]
        offset = position - step["start"]
        assert [offset, token] in [list(pair) for pair in step["rejected"]]
        assert offset >= len(step["tokens"]) or step["tokens"][offset] != token
    sent = player.payload(verified)
    assert np.frombuffer(sent["rejected"], np.int32).reshape(-1, 3).tolist() == [list(one) for one in verified.rejected]
    assert np.frombuffer(sent["draft"], np.int32).tolist() == verified.steps["draft"].tolist()
    assert sent["mask"] == verified.meta["mask_id"] and {token for *_, token in verified.rejected} <= {
        int(token) for token in sent["pieces"]}, "every rejected token has its text"
    assert player.payload(recording.load(verified.save(tmp_path))) == sent


def test_the_strip_marks_accepted_drafts_and_outlines_rejected_ones(verified, middle):
    figure, plain = strip.figure(verified), strip.figure(middle)
    above, below = figure.axes[:2]
    shown = strip.last_positions(verified, 0, len(verified.steps))
    outlined = {(patch.get_x() + 0.5, patch.get_y() + 0.5 + shown[0]) for patch in above.patches}
    assert outlined == {(forward, position) for forward, position, _ in verified.rejected if position in shown}
    marked = [label.get_text().split("\n")[1] == "+" for label in below.get_xticklabels()]
    assert marked == (verified.steps["draft"] > 0).tolist() and any(marked) and not all(marked)
    legend, without = ([text.get_text() for text in one.axes[0].get_legend().get_texts()] for one in (figure, plain))
    assert [name for name in legend if name not in without] == ["rejected draft (−)"]
    assert "from accepted drafts" in strip.described(verified) and "draft" not in strip.described(middle)


def test_a_run_without_drafts_or_their_columns_has_none(middle):
    """Steps files of older versions lack the columns."""
    old = recording.Recording("old", middle.steps.drop(columns=["draft", "rejected"]), middle.trace, middle.meta)
    for run in (middle, old):
        assert run.rejected == [] and run.drafts.tolist() == [0] * len(run.steps)


def test_saved_run_is_the_same(middle, tmp_path):
    again = recording.load(middle.save(tmp_path / "run"))
    assert player.payload(again) == player.payload(middle)
    with pytest.raises(ValueError, match=r"row=3: not in .* allowed: 0"):
        recording.load(tmp_path / "run", row=3)
    with pytest.raises(FileNotFoundError, match=r"steps\.parquet: no steps are kept"):
        recording.load(tmp_path)


def test_first_difference(lm, middle, residual):
    assert recording.first_difference(middle, middle) is None
    at = recording.first_difference(middle, residual)
    assert at is not None
    for forward in range(1, at + 1):          # by the definition: the first step after which the blocks differ
        same = list(middle.steps["tokens"][forward]) == list(residual.steps["tokens"][forward])
        assert same == (forward < at)
    short = recording.record(lm, PROMPT, decoding=DECODING.model_copy(update={"max_new_tokens": 20}),
                          reuse=Reuse(k=2, layers="middle"))
    assert recording.first_difference(middle, short) == len(short.steps)


def test_cancel_keeps_what_was_denoised(lm):
    seen = []
    run = recording.record(lm, PROMPT, decoding=DECODING, on_step=lambda step: seen.append(step) or len(seen) < 5)
    assert len(run.steps) == 5
    assert run.result == {}
    assert lm.network.model.layers[8].__dict__.get("forward") is None


def test_details_name_what_was_served(middle):
    rows, index, distance = player.details(middle)
    served = middle.trace.query("decision == 'reuse'").iloc[-1]
    row = dict(zip(player.DETAILS, rows[index[served["forward"], served["layer"]]], strict=True))
    assert {name: row[name] for name in ("served_kind", "cache_shape", "slice_start", "changed")} == \
        {name: served[name] for name in ("served_kind", "cache_shape", "slice_start", "changed")}
    assert distance[served["forward"], served["layer"]] == pytest.approx(served["distance"], rel=1e-6)


def test_explore_takes_runs_directories_outputs_and_traces(lm, middle, tmp_path):
    middle.save(tmp_path)
    assert fastdllm.explore(tmp_path, middle).runs[0] == player.payload(middle)
    out = fastdllm.generate(lm, [PROMPT], decoding=DECODING, reuse=Reuse(k=2, layers="middle"), trace=True)
    alone = fastdllm.explore(out).shown[0]
    last = middle.trace["forward"].max()
    assert alone.decisions[last, 8:20].tolist() == middle.decisions[last, 8:20].tolist()
    with pytest.raises(ValueError, match="run=int; allowed: a Run"):
        fastdllm.explore(3)
    with pytest.raises(ValueError, match="run: a frame of 0 rows"):
        fastdllm.explore(out.trace.iloc[:0])


def test_static_strip(middle, residual):
    figure = strip.figure(middle)
    assert len(figure.axes) == 3                       # strip, map, colour bar
    assert figure.axes[1].get_ylabel() == "layer"
    assert "<img" in player.image(middle, residual)
    alt = player.image(middle).partition('alt="')[2].partition('"')[0]
    reused = (middle.trace["decision"] == "reuse").sum()
    assert alt.startswith(f"Denoising and decision map of {middle.title}: {len(middle.steps)} forwards")
    assert f"reuse {reused}" in alt
    part = strip.figure(middle, first=2, window=5)
    assert part.get_suptitle().endswith(f"(forwards 3 to 7 of {len(middle.steps)})")
    with pytest.raises(ValueError, match="first=999"):
        strip.figure(middle, first=999)


def test_strip_names_its_forwards_and_the_first_difference(middle, residual):
    one, other = strip.figures(middle, residual)
    at = recording.first_difference(middle, residual)
    for figure in (one, other):
        figure.draw_without_rendering()
        above, below = figure.axes[:2]
        labels = below.get_xticklabels()
        letters = [strip.KINDS[kind] for kind in middle.steps["kind"]]
        if figure is one:
            assert [label.get_text()[0] for label in labels] == letters
        assert labels[4].get_text().endswith("\n5") and "\n" not in labels[5].get_text()
        assert min(label.get_fontsize() for label in (*labels, *above.get_yticklabels())) >= 7
        texts = [text.get_text() for text in above.get_legend().get_texts()]
        assert f"first difference: forward {at + 1}" in texts
        for axes in (above, below):
            assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [at - 0.5]
    alone, = strip.figures(middle)
    assert not [line for line in alone.axes[1].lines if line.get_linestyle() == "--"]


@pytest.mark.parametrize("carried", [False, True])
def test_strip_colours_the_stop_by_its_role(lm, carried):
    """With a confidence, and carried over without one."""
    stop = int(fastdllm.generate(lm, [PROMPT], decoding=DECODING).tokens[0][9])
    run = recording.record(lm, PROMPT, decoding=DECODING.model_copy(update={"stop_ids": (stop,)}))
    places, last = run.positions, len(run.steps)
    if carried:
        places.confidence[places.role == recording.ROLES.index("stop")] = np.nan
    rows = strip.last_positions(run, 0, last)
    roles = np.array([recording.ROLES[role] for role in places.role])[rows]
    by_role, by_confidence = (image.get_array().filled(-1) for image in strip.figure(run).axes[0].images)
    assert by_role[roles == "stop", -1].tolist() == [recording.ROLES.index("stop")]
    assert by_confidence[roles == "stop", -1].tolist() == [-1]
    seen = (roles == "unmasked") & (places.when[rows] < last)
    assert seen.any() and (by_confidence[seen, -1] >= 0).all()


def test_a_recording_of_5000_forwards_is_shown_whole(middle):
    """What reaches the browser grows with the forwards, not with their square (benchmarks time it)."""
    import pandas as pd
    copies = -(-5000 // len(middle.steps))
    steps = pd.concat([middle.steps.assign(start=middle.steps["start"] + 64 * i) for i in range(copies)],
                      ignore_index=True).iloc[:5000]
    steps["forward"] = range(5000)
    trace = pd.concat([middle.trace.assign(forward=middle.trace["forward"] + i * len(middle.steps))
                       for i in range(copies)], ignore_index=True).query("forward < 5000")
    run = recording.Recording("long", steps, trace, {**middle.meta, "results": {}})
    long, short = fastdllm.explore(run), fastdllm.explore(middle)
    assert len(long.runs[0]["kinds"]) == 5000
    size, base = (len(json.dumps(made.runs[0], default=len)) for made in (long, short))
    assert size < 2 * base * copies


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of its own for what the panel saves."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "params").mkdir()
    lab_support.computing_notebook(tmp_path / "notebooks" / "10_cell.ipynb")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said_by(panel):
    """What the panel's status line says, as text."""
    return panel.status.node.value.replace("&#x27;", "'")


def test_panel_runs_cancels_compares_and_saves(project):
    made = Panel("tiny", prompt="Tom has 3 apples. He buys 4 more. How many apples does Tom have?", k=2,
                 layers="middle", max_new_tokens=32)
    made.start()
    made.wait(120)
    assert made.run.result["text"] and "tokens in" in made.status.node.value
    assert made.player.runs[0]["title"] == "k2 middle output, fixed"
    assert made.player.step == len(made.run.steps) - 1
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
    cell = single.grid_of(yaml_file.read(path).values, "single", 0).configurations()[0]  # what `fastdllm run` does
    assert cell.parameters.reuse == Reuse(k=2, layers="middle", policy="residual")
    assert made.save() is None and "exists" in made.status.node.value
    made.controls.layers.value = "outer"
    made.start()
    assert "layers=" in made.status.node.value and "Error" in made.status.node.value


def test_what_is_set_after_the_start_is_for_the_next_run(project):
    made = Panel("tiny", k=2, layers="middle", max_new_tokens=8)       # the checkpoint is loaded by the run
    asked = made.prompt.value
    made.start()
    made.controls.k.value, made.controls.layers.value, made.prompt.value = 3, "outer", "another"
    made.wait(300)
    assert made.player.runs[0]["title"] == "k2 middle output, fixed"
    assert made.run.prompt == recording.record(made.models["tiny"], asked, decoding=Decoding(max_new_tokens=8)).prompt


@pytest.mark.parametrize("own", [True, False])
def test_panel_saves_what_it_ran(project, programs, warm_workers, own):
    """An edited prompt is an own one; `fastdllm run` of the saved file gives the same tokens as the panel."""
    made = Panel("tiny", k=2, layers="middle", max_new_tokens=48)
    made.index.value = 7
    assert made.task.value == "arithmetic" and made.problem.id.endswith("7")
    if own:
        made.prompt.value = made.prompt.value.replace("8", "9")
        assert made.task.value == OWN and made.index.disabled
    made.start()
    made.wait(120)
    made.name.value = "mine"
    path = made.save()
    assert ("means nothing" in said_by(made)) == ("means nothing" in path.read_text()) == own
    row = json.loads((project / "params" / "mine.jsonl").read_text())
    assert row["question"] == made.prompt.value and bool(row["target"]) == (not own)
    done = programs.fastdllm("run", "params/mine.yml", cwd=project)
    assert done.returncode == 0, done.stderr + done.stdout
    samples = records.samples(Path(next(iter(project.glob("executed/**/summary.json")))).parent)
    assert [list(tokens) for tokens in samples["token_ids"]] == [made.run.result["tokens"]]
    assert samples["output"].tolist() == [made.run.result["text"]]


def test_panel_overwrites_nothing_and_refuses_what_it_cannot_save(lm, project):
    made = Panel("tiny")
    made.name.value = "mine"
    (project / "params" / "mine.jsonl").write_text("other")
    assert made.save() is None and "params/mine.jsonl exists" in said_by(made)
    made.name.value = "../mine"
    assert made.save() is None and "save as: '../mine'; allowed: letters" in said_by(made)
    ids = Panel(lm, prompt="5 6 7", max_new_tokens=8)
    assert ids.save() is None and "has no tokenizer" in said_by(ids)
    assert sorted(path.name for path in (project / "params").iterdir()) == ["mine.jsonl"]


def test_panel_asks_for_benchmarks_in_the_background(project, monkeypatch):
    """Without network: said at once, and no text of another task is left."""
    monkeypatch.setattr(problem, "reachable", lambda: False)
    monkeypatch.setenv("HF_HOME", str(project / "empty"))
    made = Panel("tiny")
    assert made.prompt.value
    made.task.value = "gsm8k"
    assert made.prompt.value == ""
    assert made.halt.disabled is False and made.task.disabled
    made.wait(300)
    assert "Error" in said_by(made) and "gsm8k" in said_by(made) and "machine with network" in said_by(made)
    assert made.task.value == "gsm8k" and made.prompt.value == "" and not made.task.disabled
    made.start()
    assert "prompt: empty; allowed: some text" in said_by(made)
    made.prompt.value = "What is 2 + 2?"
    assert made.task.value == OWN
    with pytest.raises(ValueError, match="problem: 1000 of arithmetic; allowed: 0 to 999"):
        problem.pick("arithmetic", 1000)


def test_panel_refuses_a_benchmarks_problem_by_name(project, monkeypatch):
    made = Panel("tiny")
    monkeypatch.setattr(
        "fastdllm.ui.panel.fetch", lambda *_: problem.DisplayedProblem("gsm8k-0", "What is 2 + 2?", "4")
    )
    made.task.value = "gsm8k"
    made.wait(10)
    assert made.prompt.value == "What is 2 + 2?"
    assert made.save() is None and "task: gsm8k: " in said_by(made) and f"allowed: {OWN!r}" in said_by(made)
    assert not list((project / "params").iterdir())


def test_panel_leaves_the_reader_where_they_are(monkeypatch, project):
    """While a run grows and when it ends; a reader at the end stays at the end, a new run opens at its end."""
    made = Panel("tiny", k=1, max_new_tokens=96)
    monkeypatch.setattr("fastdllm.ui.panel.REFRESH", 0.0)
    assert [child.value for child in made.stage.children] == ["<em>Press run.</em>"]
    steps = []

    def read(change):
        """Between two pictures: after the sixth forward the reader steps back to the third."""
        steps.append(made.player.step)
        if change["new"].endswith(" in 6 forwards"):
            made.player.step = 2
    made.status.node.observe(read, "value")
    made.start()
    made.wait(120)
    assert made.stage.children == (made.player,)
    assert len(made.run.steps) > 6 and made.player.step == 2
    assert 3 in steps, "the reader was at the end before"
    made.status.node.unobserve(read, "value")
    made.start()
    made.wait(120)
    assert made.player.step == len(made.run.steps) - 1


@pytest.mark.parametrize(("field", "value", "message"), [
    ("max_new_tokens", 0, "new tokens: 0; allowed: a whole number from 1 to 100000"),
    ("max_new_tokens", -5, "new tokens: -5; allowed: "),
    ("max_new_tokens", 3.7, "new tokens: 3.7; allowed: a whole number"),
    ("max_new_tokens", 1e8, "new tokens: 100000000; allowed: "),
    ("index", 3.7, "problem: 3.7; allowed: a whole number from 0 to 999"),
    ("index", 99999999, "problem: 99999999; allowed: a whole number from 0 to 999"),
    ("layers", "foo", "</b> <b>layers='foo'; allowed: first, middle, last"),
    ("policy_file", "nowhere.py", "</b> <b>policy='nowhere.py': no such file; allowed: output"),
    ("policy_file", "foo", "</b> <b>policy='foo'; allowed: output"),
    ("block", 8, "</b> <b>small block=16; allowed: a divisor of the block size 8")])
def test_panel_names_fields_as_they_are_labelled(field, value, message):
    made = Panel("tiny")
    controls = made.controls.__dict__
    controls["small_block"].value = 16
    if field == "policy_file":
        controls["policy"].value = form.OWN_POLICY
    {**controls, "index": made.index}[field].value = value
    made.start()
    assert message in said_by(made) and made.run is None and not made.job.running
    assert {**controls, "index": made.index}[field].value == value, "nothing is changed in silence"


def test_panel_names_fields_of_errors_within_a_run():
    made = Panel("tiny", layers="20-40")
    made.start()
    made.wait(60)
    assert "</b> <b>layers='20-40'; allowed: layer indices from 0 to 27" in said_by(made)
    assert form.labelled(ValueError("prompts[0]: 9 tokens + max_new_tokens=8 need 17")) == \
        "prompt: 9 tokens + new tokens=8 need 17"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_panel_takes_block_sizes_and_policy_files(project):
    (project / "mine.py").write_text("from fastdllm.decode.policies import ResidualPolicy\n\n"
                                     "class Policy(ResidualPolicy):\n    pass\n")
    (project / "broken.py").write_text("nothing_of_that_name\n")
    made = Panel("tiny", max_new_tokens=32)
    made.controls.policy.value, made.controls.block.value = form.OWN_POLICY, 16
    made.controls.policy_file.value = "mine.py"
    made.start()
    made.wait(60)
    assert made.run.meta["block"] == 16 and made.run.title == "k2 middle mine, fixed"
    flat = yaml.safe_load(made.save().read_text())
    assert (flat["block_size"], flat["policy"], flat["limit"], "data" in flat) == (16, "mine.py", 1, False)
    made.controls.policy_file.value = "broken.py"
    made.start()
    made.wait(60)
    assert "NameError: name 'nothing_of_that_name' is not defined" in said_by(made) and not made.go.disabled


def test_policies_and_revisions_are_lists_and_a_file_is_asked_for():
    controls = form.Controls(policy="mine.py", revision="fixed+run_skipped=true")
    assert {"output", "residual", "replay", form.OWN_POLICY} <= set(controls.policy.options)
    assert {"26d6179", "fixed", "fixed+run_skipped=true"} <= set(controls.revision.options)
    assert (controls.policy.value, controls.policy_file.value) == (form.OWN_POLICY, "mine.py")
    controls.policy.value = "replay"
    assert controls.policy_file.disabled and controls.reuse().policy == "replay"
    controls.policy.value, controls.policy_file.value = form.OWN_POLICY, " "
    with pytest.raises(ValueError, match="its file: empty"):
        controls.reuse()


def test_the_player_says_what_was_asked_for_and_whether_it_came(tiny):
    arithmetic, decoding = task("arithmetic"), Decoding(max_new_tokens=96)
    problems = arithmetic.problems(limit=2)
    runs = comparison.record_all(tiny, problems, decoding, Reuse(), task=arithmetic)
    for run, problem_ in zip(runs, problems, strict=True):
        shown = player.payload(run)
        assert shown["target"] == problem_.target
        assert shown["right"] is (f"#### {problem_.target}" in run.result["text"])
    assert player.payload(comparison.record_all(tiny, problems[:1], decoding, Reuse())[0])["right"] is None


def test_panel_leaves_a_sentence_where_widgets_are_dead(monkeypatch):
    shown = []
    monkeypatch.setattr(form, "display", lambda thing, **_: shown.append(thing))
    made = Panel("tiny")
    made._ipython_display_()
    sentence, widget = shown
    assert DEAD in sentence.data and f'id="{made.anchor}"' in sentence.data
    assert "application/vnd.jupyter.widget-view+json" in widget


def test_partings_and_verdict(tiny):
    problems, short = task("arithmetic").problems(limit=2), Decoding(max_new_tokens=32)
    base = comparison.record_all(tiny, problems, short, Reuse(layers="middle"))
    stale = comparison.record_all(tiny, problems, short, Reuse(k=2, layers="middle"), "6c8822f", distance=False)
    same = comparison.partings(problems, base, base)
    assert same["same text"].all() and same["first differing forward"].isna().all()
    assert "leaves k1, fixed on 0 of 2 problems" in comparison.verdict(same, base[0].title, base[0].title)
    table = comparison.partings(problems, base, stale)
    assert table["layer calls reused"].sum() > 0
    at = recording.first_difference(base[0], stale[0])
    assert table["first differing forward"].iloc[0] == at + 1, "counted from 1, as in the player"
    assert table["kind there"].iloc[0] == stale[0].steps["kind"].iloc[at]


def test_steps_file_of_several_rows(lm, tmp_path):
    recorder = Recorder(lm, [PROMPT, PROMPT[:20]], DECODING, Reuse(k=2, layers="middle"))
    assert sum(1 for _ in recorder) == len(recorder.steps)
    recorder.write(tmp_path / "steps.parquet")
    recorder.trace.write(tmp_path / "trace.parquet")
    second = recording.load(tmp_path, row=1)
    assert second.prompt == PROMPT[:20] and second.result["tokens"] == recorder.results[1].tokens
    assert set(second.trace["row"]) == {1}
    rows = recording.Rows(tmp_path)
    assert list(rows) == [0, 1] and 1 in rows and 2 not in rows
    assert [player.payload(run) for run in rows.values()] == [player.payload(recording.load(tmp_path, row))
                                                              for row in rows]
    assert json.dumps(second.meta)
