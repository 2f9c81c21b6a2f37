"""Grid files: what they span, and what they refuse, by file, line, key and value."""

from pathlib import Path

import pytest

from fastdllm.lab import gridfile
from fastdllm.lab.grid import generative, runs_code
from fastdllm.lab.parameters import Parameters, root

SHIPPED = sorted(path.stem for path in (root() / "params").glob("*.yml"))


def grid(tmp_path: Path, text: str):
    path = tmp_path / "g.yml"
    path.write_text(text, encoding="utf-8")
    return gridfile.load(path)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_params_load(name):
    assert gridfile.load(name).cells()


def test_default_is_the_log_s_grid_on_the_embedded_checkpoint():
    cells = gridfile.load().cells()
    subsets = ("first", "middle", "last")
    assert [cell.name for cell in cells] == [f"k{k}_{layers}" for k in (1, 2, 3) for layers in subsets]
    first = cells[0].parameters
    assert (first.model, first.task, first.decoding.threshold) == ("tiny", "arithmetic", 0.9)
    assert first.limit is not None and first.limit >= 200 and first.batch_size > 1
    assert len({cell.parameters.key() for cell in cells}) == 7      # k=1 is one computation under three names


def test_generative_grid_and_baseline_name_the_tasks():
    tasks = {cell.task for cell in gridfile.load("layer_reuse_7b").cells()}
    assert tasks == {"gsm8k", "minerva_math", "ifeval", "humaneval", "mbpp"}
    baseline = gridfile.load("baseline").cells()
    assert {cell.parameters.reuse.k for cell in baseline} == {1}
    assert {"mmlu", "gpqa_main_n_shot", *tasks} <= {cell.task for cell in baseline}


def test_axes_are_crossed_and_configs_listed(tmp_path):
    crossed = grid(tmp_path, "experiment: e\naxes:\n  k: [1, 2]\n  layers: [first, 8-19]\n  threshold: [0.5, 1.0]\n"
                             "  repeat: [0, 1]\n")
    assert len(crossed.cells()) == 16
    assert crossed.cells()[-1].name == "k2_8-19_t1.0_r1"
    listed = grid(tmp_path, "experiment: e\nlimit: 5\naxes: {batch_size: [1, 8]}\nconfigs:\n  - {k: 1}\n"
                            "  - {k: 2, layers: [1, 5], policy: replay}\n")
    assert [cell.path for cell in listed.cells()] == [
        "arithmetic_limit_5/k1_b1", "arithmetic_limit_5/k1_b8",
        "arithmetic_limit_5/k2_1+5_replay_b1", "arithmetic_limit_5/k2_1+5_replay_b8"]


def test_repeats_are_runs_of_their_own(tmp_path):
    cells = grid(tmp_path, "experiment: e\naxes: {k: [1], repeat: [0, 1, 2]}").cells()
    assert len({cell.parameters.key() for cell in cells}) == 3


@pytest.mark.parametrize(("text", "words"), [
    ("experiment: e\nzork: 3\n", ["g.yml, line 2", "zork", "3", "unknown key", "allowed keys"]),
    ("experiment: e\naxes:\n  k: [1, 0]\n", ["line 3", "axes.k.1", "0", "greater than or equal to 1"]),
    ("experiment: e\naxes: {kk: [1]}\n", ["line 2", "kk", "allowed axes", "threshold"]),
    ("experiment: e\naxes: {k: [1, 1]}\n", ["line 2", "different values"]),
    ("experiment: e\ndecoding:\n  threshold: 4\n", ["line 3", "decoding.threshold", "4", "0 to 1"]),
    ("experiment: e\ndecoding: {thresh: 1}\n", ["line 2", "decoding.thresh", "allowed: threshold"]),
    ("experiment: e\naxes: {k: [2]}\n", ["line 2", "cell k2", "layers=None", "first, middle, last"]),
    ("experiment: e\nexperiment: f\n", ["line 2", "given twice", "line 1"]),
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
])
def test_errors_name_file_line_key_and_value(tmp_path, text, words):
    with pytest.raises(ValueError) as error:
        grid(tmp_path, text)
    for word in words:
        assert word in str(error.value)


def test_set_changes_values_and_says_so_in_errors():
    changed = gridfile.load("demo", ["decoding.threshold=0.5", "axes.k=[1, 2]", "limit=7"])
    assert (changed.decoding["threshold"], changed.axes["k"], changed.limit) == (0.5, [1, 2], 7)
    with pytest.raises(ValueError, match=r"--set decoding.threshold: 7; allowed"):
        gridfile.load("demo", ["decoding.threshold=7"])
    with pytest.raises(ValueError, match="key=value"):
        gridfile.load("demo", ["threshold"])


def test_reuse_that_cannot_act_is_not_applicable(tmp_path):
    cells = {cell.path: cell for cell in grid(
        tmp_path, "experiment: e\naxes:\n  task: [mmlu, arithmetic]\n  k: [1, 2]\n  layers: [first]\n"
                  "  block_cache: [true, false]\n").cells()}
    assert cells["mmlu/k1_first_block_cache"].not_applicable is None
    assert "likelihood" in cells["mmlu/k2_first_block_cache"].not_applicable
    assert "block cache" in cells["arithmetic/k2_first_no_block_cache"].not_applicable
    assert cells["arithmetic/k2_first_block_cache"].not_applicable is None
    with pytest.raises(ValueError, match="reuses nothing"):
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
    assert "allow_code_execution" in grid(tmp_path, text).cells()[0].not_applicable
    assert grid(tmp_path, text + "allow_code_execution: true\n").cells()[0].not_applicable is None


def test_paths_expand(tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCH_FOR_TEST", str(tmp_path))
    made = grid(tmp_path, "experiment: e\noutput: $SCRATCH_FOR_TEST/out\ndata: {arithmetic: ~/x.jsonl}\n"
                          "caches: {HF_HOME: $SCRATCH_FOR_TEST/hf}\n")
    assert made.directory == tmp_path / "out" / "e"
    assert made.cells()[0].parameters.data == str(Path.home() / "x.jsonl")
    assert made.caches == {"HF_HOME": f"{tmp_path}/hf"}


def test_policy_file_beside_the_params_file(tmp_path):
    (tmp_path / "mine.py").write_text("x = 1\n")
    cell = grid(tmp_path, "experiment: e\nconfigs: [{k: 2, layers: first, policy: mine.py}]\n").cells()[0]
    assert cell.parameters.reuse.policy == str(tmp_path / "mine.py")
    assert cell.name == "k2_first_mine"


def test_profile_lies_under_the_grid_s_own_keys(tmp_path):
    slurm = grid(tmp_path, "experiment: e\nslurm: {profile: turing, memory: 8G}\n").slurm
    assert (slurm.time, slurm.memory, slurm.gres) == ("12:00:00", "8G", "gpu:rtx_6000:1")


def test_new_experiment_is_one_new_file(tmp_path):
    made = gridfile.new(str(tmp_path / "my_grid.yml"), "layer_reuse")
    assert gridfile.load(made).experiment == "my_grid"
    assert gridfile.load(made).axes == gridfile.load("layer_reuse").axes
    with pytest.raises(ValueError, match="exists"):
        gridfile.new(str(made), "layer_reuse")


def test_flat_parameters_and_back():
    parameters = Parameters.of(k=2, layers="1,2,5", threshold=0.5, max_new_tokens=0, limit=0, data="", shots=-1)
    assert (parameters.limit, parameters.data, parameters.shots) == (None, None, None)
    assert "max_new_tokens" not in parameters.decoding.model_fields_set
    assert Parameters.of(**parameters.flat()) == parameters
    assert None not in parameters.flat().values()
