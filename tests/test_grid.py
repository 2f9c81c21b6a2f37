"""Grid files: what they span, and what they refuse, by file, line, key and value."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastdllm
from fastdllm.lab.config import geometry, grid_file, single
from fastdllm.lab.config.computation import generative, runs_code
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.config.paths import root
from fastdllm.lab.evaluation.evaluate import threads_for
from fastdllm.lab.jobs import notebook_run, notebooks

SHIPPED = sorted(path.stem for path in (root() / "params").glob("*.yml"))


def grid(tmp_path: Path, text: str):
    path = tmp_path / "g.yml"
    path.write_text(text, encoding="utf-8")
    return grid_file.load(path)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_params_load(name):
    assert grid_file.load(name).configurations()


def test_default_is_the_log_s_grid_on_the_embedded_checkpoint():
    configurations = grid_file.load().configurations()
    subsets = ("first", "middle", "last")
    assert [configuration.name for configuration in configurations] == [
        f"k{k}_{layers}" for k in (1, 2, 3) for layers in subsets
    ]
    first = configurations[0].parameters
    assert (first.model, first.task, first.decoding.threshold) == ("tiny", "arithmetic", 0.9)
    assert first.limit is not None and first.limit >= 200 and first.batch_size > 1
    assert (
        len({configuration.parameters.key() for configuration in configurations}) == 7
    )  # k=1 is one computation under three names


def test_generative_grid_and_baseline_name_the_tasks():
    tasks = {configuration.task for configuration in grid_file.load("layer_reuse_7b").configurations()}
    assert tasks == {"gsm8k", "minerva_math", "ifeval", "humaneval", "mbpp"}
    baseline = grid_file.load("baseline").configurations()
    assert {configuration.parameters.reuse.k for configuration in baseline} == {1}
    assert {"mmlu", "gpqa_main_n_shot", *tasks} <= {configuration.task for configuration in baseline}


def test_axes_are_crossed_and_configs_listed(tmp_path):
    crossed = grid(tmp_path, "experiment: e\naxes:\n  k: [1, 2]\n  layers: [first, 8-19]\n  threshold: [0.5, 1.0]\n"
                             "  repeat: [0, 1]\n")
    assert len(crossed.configurations()) == 16
    assert crossed.configurations()[-1].name == "k2_8-19_t1.0_r1"
    listed = grid(tmp_path, "experiment: e\nlimit: 5\naxes: {batch_size: [1, 8]}\nconfigs:\n  - {k: 1}\n"
                            "  - {k: 2, layers: [1, 5], policy: replay}\n")
    assert [configuration.path for configuration in listed.configurations()] == [
        "arithmetic_limit_5/k1_b1", "arithmetic_limit_5/k1_b8",
        "arithmetic_limit_5/k2_1+5_replay_b1", "arithmetic_limit_5/k2_1+5_replay_b8"]


def test_similarity_is_an_axis_of_the_policies_that_may_ask_for_it(tmp_path):
    """A file may derive from `adaptive`; of `output` it is known that it does not ask."""
    (tmp_path / "mine.py").write_text("from fastdllm.decode.policies import AdaptivePolicy as Policy\n")
    for policy, runs in (("adaptive", 2), (tmp_path / "mine.py", 2), ("output", 1)):
        configurations = grid(tmp_path, f"experiment: e\nreuse: {{policy: {policy}}}\n"
                                        "axes: {k: [2], layers: [middle], similarity: [0.9, 0.99]}\n").configurations()
        assert sum(not configuration.not_applicable for configuration in configurations) == runs, policy


def test_repeats_are_runs_of_their_own(tmp_path):
    configurations = grid(tmp_path, "experiment: e\naxes: {k: [1], repeat: [0, 1, 2]}").configurations()
    assert len({configuration.parameters.key() for configuration in configurations}) == 3


@pytest.mark.parametrize(("text", "words"), [
    ("experiment: e\nzork: 3\n", ["g.yml, line 2", "zork", "3", "unknown key", "allowed: model, ", "experiment"]),
    ("experiment: e\naxes:\n  k: [1, 0]\n", ["line 3", "axes.k.1=0; allowed: 1 or more"]),
    ("experiment: e\naxes: {kk: [1]}\n", ["line 2", "kk; did you mean k? allowed: task, k", "threshold"]),
    ("experiment: e\naxes: {k: [1, 1]}\n", ["line 2", "different values"]),
    ("experiment: e\ndecoding:\n  threshold: 4\n", ["line 3, decoding.threshold=4; allowed: at most 1", "0 to 1"]),
    ("experiment: e\ndecoding: {thresh: 1}\n", ["line 2", "decoding.thresh", "allowed: threshold"]),
    ("experiment: e\naxes: {k: [2]}\n", ["line 2", "configuration k2", "layers=None", "first, middle, last"]),
    ("experiment: e\nexperiment: f\n", ["line 2", "duplicate key", "experiment"]),
    ("experiment: e\n  b: 1: 2\n", ["line 2", "not valid YAML"]),
    ("experiment: e\nslurm: {tme: 3}\n", ["line 2", "slurm.tme", "unknown key"]),
    ("experiment: e\nslurm: {time: soon}\n", ["line 2", "slurm.time", "soon"]),
    ("experiment: e\nslurm: {profile: nowhere}\n", ["line 2", "nowhere", "generic", "turing"]),
    ("experiment: e\nrevision: deadbeef\n", ["line 2", "revision", "deadbeef", "26d6179"]),
    ("experiment: e\ntask: sums\n", ["line 2", "task", "sums", "arithmetic"]),
    ("experiment: e\nreuse: {policy: mine.py}\n", ["line 2", "mine.py", "no such file"]),
    ("experiment: e\nmodel: $NOWHERE_SET/x\n", ["$NOWHERE_SET is not set"]),
    ("experiment: ../e\n", ["line 1", "experiment", "../e"]),
    ("axes: {k: [1]}\n", ["experiment", "missing"]),
    ("experiment: e\ncaches: {HF_TOKEN: x}\n", ["line 2", "HF_TOKEN", "HF_HOME"]),
    ("- 1\n", ["list", "a mapping"]),
    ("experiment: e\nk: 2\n", ["line 2, k=2; unknown key", "reuse.k for all configurations, axes.k (a list)"]),
    ("experiment: e\nreuse:\n  k: 2\n  layers: 3-40\n", [
        "line 4, reuse.layers='3-40'; allowed: layer indices from 0 to 27"]),
    ("experiment: e\naxes: {k: [2], layers: [first, [1, 28]]}\n", ["axes.layers.1=(1, 28); allowed", "0 to 27"]),
    ("experiment: e\nconfigs: [{k: 2, layers: 27-28}]\n", ["configs.0.layers='27-28'; allowed", "0 to 27"]),
    ("experiment: e\naxes: {small_block: [8, 5]}\n", ["axes.small_block.1=5; allowed: a divisor of the block size 32"]),
    ("experiment: e\nengine: x\n", ["engine='x'; allowed: diffusion or autoregressive"]),
    ("experiment: e\nlimit: x\n", ["limit='x'; allowed: a whole number"]),
    ("experiment: e\njobs: 0\n", ["jobs=0; allowed: 1 or more (configurations at once"]),
    ("experiment: e\nslurm: {cpus: 0}\n", ["slurm.cpus=0; allowed: 1 or more"]),
    ("experiment: e\nslurm: {setup: a}\n", ["slurm.setup='a'; allowed: a list"]),
    ("experiment: e\nrecord: 3\n", ["record=3; allowed: keys with values"]),
    ("experiment: e\nmultiturn: perhaps\n", ["multiturn='perhaps'; allowed: true or false"]),
    ("experiment: e\ncriteria: {speedup: 0}\n", ["criteria.speedup=0; allowed: more than 0 ("]),
    ("experiment: e\nprompt: x\n", ["prompt='x'; allowed: own: the task"]),
])
def test_errors_name_file_line_key_and_value(tmp_path, text, words):
    with pytest.raises(ValueError) as error:
        grid(tmp_path, text)
    for word in words:
        assert word in str(error.value)
    assert not re.search("Input should|String should|Value error", str(error.value))


def test_set_changes_values_and_says_so_in_errors():
    changed = grid_file.load("demo", ["decoding.threshold=0.5", "axes.k=[1, 2]", "limit=7"])
    assert (changed.decoding["threshold"], changed.axes["k"], changed.limit) == (0.5, [1, 2], 7)
    with pytest.raises(ValueError, match=r"--set decoding.threshold=7; allowed: at most 1 "):
        grid_file.load("demo", ["decoding.threshold=7"])
    with pytest.raises(ValueError, match="key=value"):
        grid_file.load("demo", ["threshold"])
    with pytest.raises(ValueError, match=r"^--set axes.k.0=0; allowed"):       # not the line of the file it replaced
        grid_file.load("demo", ["axes.k=[0]"])


def test_geometry_is_that_of_the_checkpoint_named(tmp_path, monkeypatch):
    """tests/golden has 28 layers too; a copy of its config.json with 14 is enough, no weights are read."""
    config = json.loads((root() / "tests/golden/config.json").read_text()) | {"num_hidden_layers": 14, "bd_size": 16}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"layers\.0='8-19'; allowed: layer indices from 0 to 13"):
        grid_file.load("demo", [f"model={tmp_path}", "axes.layers=[8-19]"])
    with pytest.raises(ValueError, match="small_block=32; allowed: a divisor of the block size 16"):
        geometry.fits(Parameters.of(model=str(tmp_path), small_block=32))
    assert geometry.fits(Parameters.of(model=str(tmp_path), k=2, layers="1-13"))
    # Not on this machine: nobody knows, and nothing is fetched.
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    for name in ("someone/not_here", "/nowhere/checkpoint", "nowhere"):
        assert geometry.fits(Parameters.of(model=name, k=2, layers="3-400"))


@pytest.mark.parametrize(("changes", "says"), [
    (["layers=3-40"], "^--set layers='3-40'; allowed: layer indices from 0 to 27"),
    (["model=tests/golden", "layers=28-29"], "^--set layers='28-29'; allowed: layer indices from 0 to 27")])
def test_notebooks_refuse_layers_before_they_run(changes, says, monkeypatch):
    monkeypatch.chdir(root())
    with pytest.raises(ValueError, match=says):
        notebook_run.read_parameters(notebooks.find("00_tour"), None, changes)
    with pytest.raises(ValueError, match="--set subsets='27-28'; allowed"):
        notebook_run.read_parameters(notebooks.find("05_old_code"), None, ["subsets=[first, 27-28]"])
    assert notebook_run.read_parameters(notebooks.find("00_tour"), None, ["layers=0,27"]) == {"layers": "0,27"}


@pytest.mark.parametrize(("flat", "says"), [
    ({"k": 2, "layers": "3-40"}, "^layers='3-40'; allowed: layer indices from 0 to 27"),
    ({"k": 0}, r"^reuse.k=0; allowed: 1 or more \("), ({"threshold": 2}, r"^decoding.threshold=2; allowed: at most 1"),
    ({"engine": "x"}, "^engine='x'; allowed: diffusion or autoregressive"),
    ({"dtype": "int8"}, "^dtype='int8'; allowed: auto, float32, bfloat16 or float16"),
    ({"small_block": 5}, "^small_block=5; allowed: a divisor of the block size 32")])
def test_one_configuration_is_refused_in_the_same_words(flat, says):
    with pytest.raises(ValueError, match=says):
        single.grid_of(flat, "e")
    with pytest.raises(ValueError, match=r"^experiment='a/b'; allowed: letters, digits"):
        single.grid_of({}, "a/b")


def test_what_differs_lies_in_another_directory():
    flats = [{}, {"model": "tests/golden"}, {"model": "somewhere/else"}, {"shots": 4}, {"shots": 5}, {"k": 2, "layers":
             "first"}, {"top_p": 0.5}, {"stop_strings": ["a b", "c"]}, {"limit": 3}, {"block_size": 16}]
    configurations = [configuration for flat in flats for configuration in single.grid_of(flat, "e").configurations()]
    assert len({configuration.path for configuration in configurations}) == len(flats)
    assert (
        configurations[0].name == "k1"
        and configurations[1].name.startswith("k1_model-golden-")
        and configurations[3].name == "k1_shots-4"
    )
    assert all(re.fullmatch(r"[A-Za-z0-9_.+-]+", configuration.name) for configuration in configurations)


def test_a_policy_file_is_found_before_anything_runs(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("")
    monkeypatch.chdir(tmp_path)
    flat = {"k": 2, "layers": "first", "policy": "mine.py"}
    [configuration] = single.grid_of(flat, "e").configurations()
    assert configuration.parameters.reuse.policy == str(tmp_path / "mine.py")
    assert configuration.name.startswith("k2_first_policy-mine-")
    with pytest.raises(ValueError, match=r"^policy='nowhere.py': no such file; allowed: output, .*Python file"):
        single.grid_of({**flat, "policy": "nowhere.py"}, "e")


@pytest.mark.parametrize(("command", "says"), [
    ("grid run demo --k 2", ["--k 2", "--set axes.k=[2]", "fastdllm run --k 2"]),
    ("grid status --batch-size=4", ["--set axes.batch_size=[4]", "fastdllm run --set batch_size=4"]),
    ("grid submit --mask-id 3", ["--set decoding.mask_id=3"]),
    ("run --small-block 16 --dry-run", ["--small-block 16", "allowed: --set small_block=16"]),
    ("run --k 2 --layers 3-40", ["layers='3-40'", "0 to 27"]),
    ("grid run demo --set axes.layers=[3-40]", ["axes.layers.0='3-40'", "0 to 27"])])
def test_commands_point_to_what_exists(command, says, tmp_path, monkeypatch):
    from fastdllm import cli
    with pytest.raises(ValueError) as error:
        cli.app(command.split(), standalone_mode=False)
    assert all(word in str(error.value) for word in says), str(error.value)


def test_a_dry_submission_says_how_it_would_be_followed(capsys, tmp_path, monkeypatch):
    from fastdllm import cli
    monkeypatch.setenv("FASTDLLM_HOME", str(tmp_path))
    part = ["demo", "--task", "arithmetic", "--limit", "3", "--config", "k2_middle", "--set", "axes.k=[1, 2]"]
    cli.app(["grid", "submit", *part, "--dry-run"], standalone_mode=False)
    last = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(last.partition("follow it with: ")[2]) == ["fastdllm", "grid", "status", *part]
    assert last.startswith("# "), "the whole may be run as a script"


def test_options_of_a_notebook_keep_their_type(capsys):
    from fastdllm import cli
    cli.app(["run", str(notebooks.find("00_tour")), "--layers", "3", "--dry-run"],
            standalone_mode=False)
    assert "with {'layers': '3'}" in capsys.readouterr().out


def test_what_the_hints_name_is_there():
    assert {
        configuration.parameters.reuse.k for configuration in grid_file.load("demo", ["axes.k=[2]"]).configurations()
    } == {2}
    assert {
        configuration.parameters.batch_size
        for configuration in grid_file.load("demo", ["axes.batch_size=[4]"]).configurations()
    } == {4}
    assert single.grid_of({"small_block": 16}, "e").configurations()[0].parameters.decoding.small_block == 16


def test_the_same_layers_run_once_however_they_are_written(tmp_path):
    every = grid(tmp_path, "experiment: e\naxes: {k: [1, 2], layers: [middle, 8-19, '8,9,10-19', "
                           "[19, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18], 8-18]}\n").configurations()
    again = {each.name: each.not_applicable for each in every if each.not_applicable}
    assert list(again) == ["k2_8-19", "k2_8+9+10-19", "k2_19+8+9+10+11+12+13+14+15+16+17+18"]
    assert again["k2_8-19"] == "the same computation as k2_middle: layers 8-19 are layers middle"
    assert len({each.parameters.key() for each in every if each.parameters.reuse.k == 1}) == 1


def test_reuse_that_cannot_act_is_not_applicable(tmp_path):
    configurations = {configuration.path: configuration for configuration in grid(
        tmp_path, "experiment: e\naxes:\n  task: [mmlu, arithmetic]\n  k: [1, 2]\n  layers: [first]\n"
                  "  block_cache: [true, false]\n").configurations()}
    assert configurations["mmlu/k1_first_block_cache"].not_applicable is None
    assert "likelihood" in configurations["mmlu/k2_first_block_cache"].not_applicable
    assert "block cache" in configurations["arithmetic/k2_first_no_block_cache"].not_applicable
    assert configurations["arithmetic/k2_first_block_cache"].not_applicable is None
    with pytest.raises(ValueError, match="nothing could be reused"):
        Parameters.of(k=2, layers="first", block_cache=False)


def test_likelihood_tasks_are_the_ones_that_the_tasks_say():
    from fastdllm import tasks
    for name in tasks.names():
        assert generative(name) == tasks.get(name, allow_code_execution=True).generative, name
        if runs_code(name):
            with pytest.raises(ValueError, match="allow_code_execution"):
                tasks.get(name)
        else:
            tasks.get(name)


def test_code_tasks_need_the_flag(tmp_path):
    text = "experiment: e\ntask: humaneval\naxes: {k: [1]}\n"
    assert "allow_code_execution" in grid(tmp_path, text).configurations()[0].not_applicable
    assert grid(tmp_path, text + "allow_code_execution: true\n").configurations()[0].not_applicable is None


def test_paths_expand(tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCH_FOR_TEST", str(tmp_path))
    made = grid(tmp_path, "experiment: e\noutput: $SCRATCH_FOR_TEST/out\ndata: {arithmetic: ~/x.jsonl}\n"
                          "caches: {HF_HOME: $SCRATCH_FOR_TEST/hf}\n")
    assert made.directory == tmp_path / "out" / "e"
    assert made.configurations()[0].parameters.data == str(Path.home() / "x.jsonl")
    assert made.caches == {"HF_HOME": f"{tmp_path}/hf"}


def test_a_checkpoint_is_looked_for_in_the_grid_s_own_caches(tmp_path):
    """By the process that plans, too, and before the hub's library fixes where it looks: so in one of its own."""
    cached = tmp_path / "hf" / "hub" / "models--who--what"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(Path(__file__).parent / "golden", cached / "snapshots" / ("0" * 40))
    (tmp_path / "g.yml").write_text(f"experiment: g\nmodel: who/what\noutput: {tmp_path}/out\n"
                                    f"caches: {{HF_HOME: {tmp_path}/hf}}\naxes: {{k: [2], layers: [middle]}}\n")

    def ran(*arguments):
        done = subprocess.run([sys.executable, "-m", "fastdllm", "grid", "run", str(tmp_path / "g.yml"), "--dry-run",
                               *arguments], env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
        return done.stdout + done.stderr

    assert "would run" in (text := ran()) and "would be refused" not in text
    assert "'3-40'; allowed: layer indices from 0 to 27" in ran("--set", "axes.layers=[3-40]")


def test_policy_file_beside_the_params_file(tmp_path):
    (tmp_path / "mine.py").write_text("x = 1\n")
    configuration = grid(
        tmp_path, "experiment: e\nconfigs: [{k: 2, layers: first, policy: mine.py}]\n"
    ).configurations()[0]
    assert configuration.parameters.reuse.policy == str(tmp_path / "mine.py")
    assert configuration.name == "k2_first_mine"


def test_profile_lies_under_the_grid_s_own_keys(tmp_path):
    slurm = grid(tmp_path, "experiment: e\nslurm: {profile: turing, memory: 8G}\n").slurm
    assert (slurm.time, slurm.memory, slurm.gres) == ("12:00:00", "8G", "gpu:rtx_6000:1")


def test_new_experiment_is_one_new_file(tmp_path):
    made = grid_file.new(str(tmp_path / "my_grid.yml"), "layer_reuse")
    assert grid_file.load(made).experiment == "my_grid"
    assert grid_file.load(made).axes == grid_file.load("layer_reuse").axes
    with pytest.raises(ValueError, match="exists"):
        grid_file.new(str(made), "layer_reuse")


def test_flat_parameters_and_back():
    parameters = Parameters.of(k=2, layers="1,2,5", threshold=0.5, max_new_tokens=None, limit=None, shots=0)
    assert (parameters.limit, parameters.shots, parameters.given) == (None, 0, [])
    assert Parameters.of(**parameters.flat()) == parameters


def test_a_small_network_decodes_in_one_thread():
    """Its operations are too short to be shared; what was set before comes back."""
    lm = fastdllm.load(Path(__file__).parent / "golden", device="cpu")
    torch.set_num_threads(2)
    with threads_for(lm):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
