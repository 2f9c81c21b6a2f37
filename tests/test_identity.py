"""Identity: everything that can change a result, and nothing else."""

import shutil

import lab_support
import pytest

from fastdllm.lab.config.grid import Configuration
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.jobs import status
from fastdllm.lab.records.identity import (
    PACKAGE,
    CurrentFingerprints,
    changes,
    code_hash,
    identity,
    payload_of,
    tree_hash,
)

BASE = {"model": "tests/golden", "k": 2, "layers": "middle", "limit": 3}
CHANGED = {
    "engine": "autoregressive", "device": "cuda", "dtype": "float16", "batch_size": 3, "task": "arithmetic_wordings",
    "limit": 4, "prompt": "boxed", "shots": 0, "multiturn": False, "allow_code_execution": True,
    "revision": "26d6179", "seed": 1, "repeat": 1, "threshold": 0.5, "max_new_tokens": 64, "block_size": 16,
    "small_block": 4, "block_cache": False, "temperature": 0.5, "top_p": 0.5, "mask_id": 7, "stop_ids": [5],
    "stop_strings": ["x"], "k": 3, "layers": "first", "policy": "replay", "full_forwards": True, "similarity": 0.5}
BY_CONTENT = {"model", "model_revision", "data"}


@pytest.fixture(scope="module")
def current():
    return CurrentFingerprints()


def of(current, **flat):
    return identity(current.payload(Parameters.of(**BASE | {"dtype": "float32"} | flat)))


@pytest.mark.parametrize("decoding", [{}, {"max_new_tokens": 64}, {"stop_strings": ("x",)}, {"stop_strings": ()}],
                         ids=["none", "length", "stops", "empty"])
@pytest.mark.parametrize("task", ["arithmetic", "gsm8k", "minerva_math"])
def test_a_cell_is_the_same_run_in_its_notebook(current, task, decoding):
    """What a grid says and what the flat parameters of its notebook say resolve to the same; a task that ends
    its answers at some text ends them there in a grid too."""
    said = Parameters(task=task, limit=2, dtype="float32", decoding=decoding)
    there = current.resolve(Parameters.of(**said.flat()))
    assert there == current.resolve(said)
    assert there.decoding.stop_strings == (decoding.get("stop_strings", current.task(said).stop_strings))
    assert task == "arithmetic" or there.decoding.stop_strings or decoding == {"stop_strings": ()}


def test_every_parameter_is_covered_here():
    assert set(Parameters().flat()) == set(CHANGED) | BY_CONTENT


@pytest.mark.parametrize("name", CHANGED)
def test_any_one_parameter_changes_it(current, name):
    base = {"k": 1, "layers": None} if name in ("engine", "block_cache") else {}
    before, after = of(current, **base), of(current, **base | {name: CHANGED[name]})
    assert before != after
    then, now = (current.payload(Parameters.of(**BASE | {"dtype": "float32"} | base | each))
                 for each in ({}, {name: CHANGED[name]}))
    said = changes(then, now)
    assert name in " ".join(said) or (name in ("task", "limit", "prompt") and "data" in said)


def test_without_reuse_the_layers_are_no_matter(current):
    assert (
        of(current, k=1, layers="first")
        == of(current, k=1, layers="last", policy="replay")
        == of(current, k=1, layers=None)
    )


def test_checkpoint_and_data_count_by_content(tmp_path, current):
    copy = tmp_path / "copy"
    shutil.copytree(PACKAGE.parent / "tests" / "golden", copy)
    assert of(current, model=str(copy)) == of(current)
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text + " ")
    assert of(CurrentFingerprints(), model=str(copy)) != of(current)
    rows = '{"question": "1+1?", "target": "2"}\n{"question": "1+2?", "target": "3"}\n'
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(rows)
    same = [of(current, data=str(tmp_path / name)) for name in ("a.jsonl", "b.jsonl")]
    assert same[0] == same[1]
    (tmp_path / "b.jsonl").write_text(rows.replace('"3"', '"4"'))
    assert of(CurrentFingerprints(), data=str(tmp_path / "b.jsonl")) != same[0]


def test_torch_version_counts(current):
    other = CurrentFingerprints()
    other.torch = "1.0+cpu"
    assert of(other) != of(current)


def test_code_counts_without_comments_and_docstrings(tmp_path):
    package = tmp_path / "fastdllm"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("checkpoints", "__pycache__", "*.json"))
    before = code_hash(package)
    loop, plots = package / "decode" / "loop.py", package / "report" / "figures.py"
    text = loop.read_text()
    plots.write_text(plots.read_text() + "\nx = 1\n")
    loop.write_text("# a comment\n" + text.replace('"""The denoising loop', '"""Another docstring'))
    assert code_hash(package) == before
    for room in ("decode/loop.py", "model/network.py", "tasks/answers.py", "settings.py"):
        path = package / room
        text = path.read_text()
        path.write_text(text + "\nADDED = 1\n")
        assert code_hash(package) != before, room
        path.write_text(text)
    assert code_hash(package) == before


def test_tree_hash():
    assert tree_hash("def f(x):\n    '''doc'''\n    return x  # why") == tree_hash("def f(x):\n\n    return x")
    assert tree_hash("def f(x): return x") != tree_hash("def f(x): return x + 1")
    assert tree_hash("x = 'text'") != tree_hash("x = 'other'")


def test_policy_file_counts_by_content(tmp_path, current):
    path = tmp_path / "mine.py"
    path.write_text("class Policy: pass\n")
    before = of(current, policy=str(path))
    path.write_text("class Policy: pass  # the same\n")
    assert of(current, policy=str(path)) == before
    path.write_text("class Policy: x = 1\n")
    assert of(current, policy=str(path)) != before
    moved = tmp_path / "elsewhere" / "mine.py"
    moved.parent.mkdir()
    shutil.copy(path, moved)
    assert of(current, policy=str(moved)) == of(current, policy=str(path))


def test_record_and_run_have_the_same_identity(tmp_path, current):
    configuration = Configuration("e", "k2_middle", Parameters.of(**BASE), tmp_path / "k2_middle")
    record = lab_support.synthetic(configuration, current)
    assert identity(payload_of(record)) == record.identity == of(current)
    assert status.state_of(configuration, current).state == "complete"


def test_auto_dtype_on_a_login_node_follows_the_record(current):
    parameters = Parameters.of(**BASE | {"device": "cuda"})
    seen = current.resolve(Parameters.of(**BASE | {"device": "cuda", "dtype": "bfloat16"}))
    import torch
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert current.resolve(parameters, seen).dtype == "bfloat16"
    with pytest.raises(ValueError, match="without GPU"):
        current.resolve(parameters)
