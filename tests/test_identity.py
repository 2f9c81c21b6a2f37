"""Identity: everything that can change a result, and nothing else."""

import shutil

import lab_support
import pytest

from fastdllm.lab.config.grid import Configuration
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.config.paths import PACKAGE
from fastdllm.lab.jobs import status
from fastdllm.lab.records import external_code
from fastdllm.lab.records.identity import (
    CurrentFingerprints,
    changes,
    code_hash,
    identity,
    payload_of,
)
from fastdllm.lab.records.source_hash import tree_hash

BASE = {"model": "tests/golden", "k": 2, "layers": "middle", "limit": 3}
CHANGED = {
    "engine": "autoregressive", "device": "cuda", "dtype": "float16", "batch_size": 3, "task": "arithmetic_wordings",
    "limit": 4, "prompt": "boxed", "shots": 0, "multiturn": False, "allow_code_execution": True,
    "revision": "26d6179", "seed": 1, "repeat": 1, "threshold": 0.5, "max_new_tokens": 64, "block_size": 16,
    "small_block": 4, "block_cache": False, "temperature": 0.5, "top_p": 0.5, "mask_id": 7, "stop_ids": [5],
    "executor": "eager", "stop_strings": ["x"], "k": 3, "layers": "first", "policy": "replay",
    "full_forwards": True, "similarity": 0.5}
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
    parts = [line.split()[0] for line in changes(then, now)]
    assert name in " ".join(parts) or (name in ("task", "limit", "prompt") and "data" in parts)


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


@pytest.fixture
def package(tmp_path):
    """A copy of the package's code that a test may change."""
    copy = tmp_path / "fastdllm"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("checkpoints", "__pycache__", "*.json"))
    return copy


def edit(path, before, after):
    text = path.read_text()
    assert before in text, f"{before!r} is not in {path.name}"
    path.write_text(text.replace(before, after, 1))


def test_every_room_that_decides_results_counts(package):
    before = code_hash(package)
    for room in ("decode/loop.py", "model/network.py", "tasks/answers.py", "settings.py", "report/figures.py"):
        path = package / room
        text = path.read_text()
        path.write_text(text + "\nADDED = 1\n")
        assert (code_hash(package) != before) == (room != "report/figures.py"), room
        path.write_text(text)
    assert code_hash(package) == before


TEXTS = [
    ("decode/loop.py", '"""The denoising loop', '"""Another docstring'),
    ("decode/loop.py", "from __future__", "# a comment\nfrom __future__"),
    ("decode/executor.py", "replay before any forward", "there was no forward yet"),
    ("decode/row.py", "is not finished", "goes on"),
    ("decode/rules.py", "vocabulary - 1}", "vocabulary - 1} (the vocabulary)"),
    ("model/checkpoint.py", "config.json is missing", "there is no config.json"),
    ("settings.py", "allowed: a divisor of the block size", "allowed: what divides the block size"),
    ("tasks/harness.py", "has no tokenizer files", "lacks tokenizer files"),
    ("tasks/base.py", "allowed: a whole number from 1 up, or none", "allowed: 1, 2, 3 ...")]


@pytest.mark.parametrize(("file", "was", "becomes"), TEXTS)
def test_texts_for_people_make_nothing_stale(package, file, was, becomes):
    room = [file.partition("/")[0]]
    before, with_texts = code_hash(package, room), code_hash(package, room, texts=True)
    edit(package / file, was, becomes)
    assert code_hash(package, room) == before
    assert (code_hash(package, room, texts=True) == with_texts) == (file == "decode/loop.py")    # where they do count


def test_all_these_texts_together_make_nothing_stale(package):
    for edited in TEXTS:
        edit(package / edited[0], *edited[1:])
    assert code_hash(package) == code_hash(PACKAGE)


@pytest.mark.parametrize(("file", "was", "becomes"), [
    ("decode/sampling.py", "open_ > threshold", "open_ >= threshold"),
    ("decode/row.py", "len(final) == self.rules.max_new_tokens", "len(final) >= self.rules.max_new_tokens"),
    ("model/network.py", "F.silu(gate) * up", "F.silu(gate) + up"),
    ("decode/rules.py", "if not 0 <= token < vocabulary:\n", "if not 0 < token < vocabulary:\n"),
    ("settings.py", "SUBSET_SIZE = 12", "SUBSET_SIZE = 11")])
def test_an_operator_or_a_number_makes_everything_stale(package, file, was, becomes):
    room = [file.partition("/")[0]]      # each counts: test_every_room_that_decides_results_counts
    before = code_hash(package, room)
    edit(package / file, was, becomes)
    assert code_hash(package, room) != before


def test_a_module_may_move(package):
    """To another name and another folder of the rooms; and a definition to another file: it is the same code."""
    before = code_hash(package)
    (package / "decode" / "sampling.py").rename(package / "model" / "choosing.py")
    for path in package.rglob("*.py"):
        path.write_text(path.read_text().replace("fastdllm.decode.sampling", "fastdllm.model.choosing"))
    assert code_hash(package) == before
    rules, row = package / "decode" / "rules.py", package / "decode" / "row.py"
    text = rules.read_text()
    definition = text[text.index("@dataclass(frozen=True)\nclass Rules"):text.index("def resolve(")]
    rules.write_text(text.replace(definition, "from fastdllm.decode.row import Rules\n"))
    row.write_text(row.read_text().replace(
        "from fastdllm.decode.rules import Rules\n", "from collections.abc import Callable\nfrom dataclasses import "
        "dataclass\nfrom fastdllm.decode.revisions import Revision\n") + "\n\n" + definition)
    assert code_hash(package) == before


@pytest.mark.parametrize(("was", "becomes"), [
    ("from pack.one import f", "from pack.two import f"), ("from .one import h", "from .two import h"),
    ("from math import floor as g", "from math import ceil as g"), ("X = 1\nX = 2", "X = 2\nX = 1"),
    ("register(f)\nregister(g)", "register(g)\nregister(f)"), ("if g:\n    def inner(): return 1", "if g:\n    pass")])
def test_the_same_name_for_something_else_counts(tmp_path, was, becomes):
    """Moves are free; another function under the same name, or another order of what runs, is not."""
    package = tmp_path / "pack"
    package.mkdir()
    (package / "one.py").write_text("def f(x): return x + 1\nh = f\n")
    (package / "two.py").write_text("def f(x): return x - 1\nh = 7\n")
    user = package / "user.py"
    user.write_text("from pack.one import f\nfrom .one import h\nfrom math import floor as g\nX = 1\nX = 2\n"
                    "register(f)\nregister(g)\nif g:\n    def inner(): return 1\ndef use(x): return f(g(h(x)))\n")
    before = code_hash(package, rooms=("",))
    edit(user, was, becomes)
    assert code_hash(package, rooms=("",)) != before


def test_tree_hash():
    assert tree_hash("def f(x):\n    '''doc'''\n    return x  # why") == tree_hash("def f(x):\n\n    return x")
    assert tree_hash("def f(x): return x") != tree_hash("def f(x): return x + 1")
    assert tree_hash("x = 'text'") != tree_hash("x = 'other'")
    for one, other in (("raise ValueError('a')", "raise ValueError(f'b {x}') from e"),
                       ("assert x, 'a'", "assert x, 'b'"),
                       ("if x:\n    log.warning('a')", "if x:\n    log.warning('b %s', x)")):
        assert tree_hash(one) == tree_hash(other)
        assert tree_hash(one, texts=True) != tree_hash(other, texts=True)
    assert tree_hash("raise ValueError('a')") != tree_hash("raise TypeError('a')")
    assert tree_hash("x = log('a')") != tree_hash("x = log('b')")


SAMPLE = '''import os as system
CONSTANTS = None, 1.5, "text", b"bytes", ...
class Sample(Base):
    field: int = 3
    async def method(self, *args, key=None, **rest):
        with open(self.name) as file, lock():
            return f"{file!r} {key:.2f}" if args else [x async for x in rest]
def matched(value):
    match value:
        case {"a": None, **rest} | [1, *_]:
            yield from rest
        case Sample(field=2) as found:
            del found
    return lambda: call()
'''


def test_tree_hash_is_the_same_in_every_python():
    """A record of a GPU machine with another Python has the same code; its syntax trees have other empty fields."""
    assert tree_hash(SAMPLE) == "9a262ba6dc6ebfd86637515e6a33d6e24666f8762effcd4b3dfc52c056f536b6"
    assert tree_hash("x = None") != tree_hash("x = ...") and tree_hash("f([])") != tree_hash("f()")


def test_a_policy_file_counts_with_the_modules_beside_it(tmp_path, current):
    """Those that it imports, directly or through one another, and no others."""
    path = tmp_path / "mine.py"
    path.write_text("import torch\nfrom helper import VALUE\nclass Policy: x = VALUE\n")
    states = [of(current, policy=str(path))]
    for name, text in (("helper.py", "import other\nVALUE = 1\n"), ("other.py", "import helper\n"),
                       ("helper.py", "import other\nVALUE = 2\n"), ("other.py", "import helper\nY = 1\n")):
        (tmp_path / name).write_text(text)
        states.append(of(current, policy=str(path)))
    assert len(set(states)) == 5
    for name, text in (("unrelated.py", "x = 1\n"), ("helper.py", "import other\nVALUE = 2  # two\n")):
        (tmp_path / name).write_text(text)
        assert of(current, policy=str(path)) == states[-1]


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


def test_changes_give_old_and_new_value():
    """Hashes by their beginning, settings in full, what was not there as None; external code by its parts."""
    one, two, three = ("9cbe88df" + "0" * 56, "1a2b3c4d" + "0" * 56, "77777777" + "0" * 56)
    then = {"parameters": {"seed": 0, "decoding": {"threshold": 0.9, "top_p": 0.95}}, "checkpoint": one, "data": one,
            "code": one, "policy file": f"generation file {one}, instrument {one}", "torch": "2.12.0+cpu"}
    now = {"parameters": {"seed": 3, "decoding": {"threshold": 0.5, "top_p": 0.95}, "later": 1}, "checkpoint": two,
           "data": two, "code": two, "torch": "2.13.0+cpu",
           "policy file": f"generation file {one}, instrument {two}, modelling code {three}"}
    assert set(changes(then, now)) == {
        "decoding.threshold 0.9 -> 0.5", "seed 0 -> 3", "later None -> 1", "checkpoint 9cbe88df -> 1a2b3c4d",
        "data 9cbe88df -> 1a2b3c4d", "code 9cbe88df -> 1a2b3c4d", "torch 2.12.0+cpu -> 2.13.0+cpu",
        "instrument 9cbe88df -> 1a2b3c4d", "modelling code None -> 77777777"}
    assert changes(now, now) == []
    without = {**then, "policy file": None}
    assert changes(without, {**then, "policy file": two}) == ["policy file None -> 1a2b3c4d"]


def test_what_looks_at_a_generation_file_counts_for_its_runs_only(package, tmp_path):
    (tmp_path / "old.py").write_text("import beside\n")
    (tmp_path / "beside.py").write_text("x = 1\n")
    ran = external_code.ExternalCode(file=str(tmp_path / "old.py"), own_code=False, parameters=Parameters.of(**BASE))
    assert code_hash(rooms=external_code.INSTRUMENT) in ran.policy()
    ours, theirs = code_hash(package), code_hash(package, rooms=external_code.INSTRUMENT)
    edit(package / "lab" / "instrument" / "published_model.py", "before + (offset or 0)", "before - (offset or 0)")
    assert code_hash(package) == ours and code_hash(package, rooms=external_code.INSTRUMENT) != theirs
    first = ran.policy()
    ran.keep(tmp_path / "record")
    (tmp_path / "beside.py").write_text("x = 2\n")
    assert ran.policy() != first
    (tmp_path / "old.py").unlink()
    assert ran.policy(tmp_path / "record") == first      # the copies stand in, the helper's among them


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
