"""Params files at the edges of YAML: an error with file and line, and no value that is not what stands there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastdllm.lab.config import grid_file, single, yaml_file
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.jobs import script

CASES = Path(os.environ.get("FASTDLLM_SHARED", Path(__file__).parents[2] / "shared")) / "cases" / "17_yaml"
HEAD = "experiment: e\nlimit: 1\n"


def load(tmp_path: Path, text: str | bytes):
    path = tmp_path / "g.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return grid_file.load(path)


@pytest.mark.parametrize(("text", "line", "words"), [
    ("", 1, "empty"), ("# a comment\n", 1, "empty"), ("null\n", 1, "empty"), ("- 1\n", 1, "a list"),
    ("a\n", 1, "a str"),
    (HEAD + "? [a, b]\n: 1\n", 3, "the key is a sequence"), (HEAD + "? {a: b}\n: 1\n", 3, "the key is a mapping"),
    (HEAD + "1: 2\n", 3, "the key is 1"), (HEAD + "axes: {true: [1]}\n", 3, "the key is true"),
    (HEAD + "author: a\x07b\n", 3, "U\\+0007"), (HEAD + "configs: &a\n  - *a\n", 3, "holds itself"),
    (HEAD + "axes: &a {k: *a}\n", 3, "axes.k: an anchor that holds itself"), (HEAD + "author: *gone\n", 3, "alias"),
    (HEAD + "limit: 2\n", 3, "duplicate key"), (HEAD + "reuse:\n  k: 1\n  k: 2\n", 5, "duplicate key"),
    (HEAD + "author: !!python/object:os.system x\n", 3, "tag"), (HEAD + "axes: " + "[" * 5000, 1, "nested too deeply"),
    (HEAD + "---\nexperiment: f\n", 3, "another document"), (HEAD + "author: 'a\n", 4, "not valid YAML"),
    (HEAD.encode() + b"author: Andr\xe9\n", 3, "byte 0xe9 is not UTF-8"), (HEAD.encode("utf-16"), 1, "not UTF-8"),
    (HEAD.encode("utf-16-be"), 1, "U\\+0000"), ("\ufeff" + HEAD + "axes: [1\n", 4, "not valid YAML"),
    (HEAD + "seed: 010\n", 3, "seed=010; allowed: a number without a leading zero"),
    (HEAD + "axes:\n  k: [1, 02]\n", 4, "axes.k.1=02"), (HEAD + "seed: 1:30\n", 3, "seed='1:30'; allowed: a whole"),
    (HEAD + "seed: '3'\n", 3, "seed='3'; allowed: a whole number"), (HEAD + "seed: true\n", 3, "seed=True; allowed"),
    (HEAD + "axes: {k: [true]}\n", 3, "axes.k.0=True; allowed"), (HEAD + "jobs: yes\n", 3, "jobs='yes'; allowed"),
    (HEAD + "decoding: {threshold: false}\n", 3, "decoding.threshold=False; allowed: a number"),
    (HEAD + "decoding:\n  stop_ids: [1, true]\n", 4, r"stop_ids=\[1, True\]; allowed: a whole number"),
    (HEAD + "decoding: {max_new_tokens: 0}\n", 3, "max_new_tokens=0; allowed: 1 or more"),
    (HEAD + "decoding: {block_cache: 0}\n", 3, "block_cache=0; allowed: true or false"),
    (HEAD + "axes:\n  full_forwards: [1]\n", 4, "full_forwards.0=1; allowed: true or false"),
    (HEAD + "seed: 1" + "0" * 5000 + "\n", 3, "not valid YAML"),
    (HEAD + "slurm: {cpus: true}\n", 3, "slurm.cpus=True; allowed: a whole number"),
    (HEAD + "multiturn: !!bool maybe\n", 3, "multiturn='maybe' is no !!bool"),
    (HEAD + "seed: !!int x\n", 3, "seed='x'"),
    (HEAD + "axes: {k: [!!float x]}\n", 3, "axes.k.0='x' is no !!float"), (HEAD + "model: !!null x\n", 3, "no !!null"),
    (HEAD + "model: !!binary aGk=\n", 3, "model='aGk=' is no !!binary"), (HEAD + "model: !own x\n", 3, "is no !own"),
    (HEAD + "a: &a [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1 or ''}, *a{n - 1 or ''}]\n" for n in range(1, 40)), 1,
     "values, aliases written out; allowed: 100000"),
    ("limit: 0\nexperiment: e\n", 1, "limit=0; allowed: 1 or more")])
def test_errors_have_file_and_line(tmp_path, text, line, words):
    with pytest.raises(ValueError, match=rf"g\.yml, line {line}\b.*{words}"):
        load(tmp_path, text)


@pytest.mark.parametrize(("text", "field", "value"), [
    ("time: 12:00:00", "time", 12 * 3600), ("time: 90:00", "time", 90 * 60), ("time: 90", "time", 90 * 60),
    ("time: 1-06", "time", 30 * 3600)])
def test_a_time_limit_is_what_slurm_reads(tmp_path, text, field, value):
    assert script.seconds(load(tmp_path, HEAD + f"slurm: {{{text}}}\n").slurm.time) == value


def test_what_yaml_1_1_took_for_something_else_is_text(tmp_path):
    grid = load(tmp_path, "\ufeffexperiment: 2026-01-02\nauthor: no\nhypothesis: 1:30\nlimit: 1_000\n")
    assert (grid.experiment, grid.author, grid.hypothesis, grid.limit) == ("2026-01-02", "no", "1:30", 1000)


def test_what_is_written_reads_back_as_it_was(tmp_path):
    values = {"experiment": "1e3", "author": "010", "hypothesis": "on", "slurm": {"time": "12:00:00"}, "jobs": None,
              "axes": {"k": [1, 2], "layers": ["8-19", "first"]}, "decoding": {"stop_strings": [], "threshold": 1.0}}
    (tmp_path / "w.yml").write_text(yaml_file.dump(values))
    assert yaml_file.read(tmp_path / "w.yml").values == values


def test_anchors_and_merges_are_read(tmp_path):
    grid = load(tmp_path, HEAD + "decoding: &d {threshold: 0.8}\nconfigs:\n  - {k: 1}\nslurm: &s {cpus: 3}\n"
                                 "criteria: {<<: {speedup: 2}}\n")
    assert (grid.decoding, grid.slurm.cpus, grid.criteria.speedup) == ({"threshold": 0.8}, 3, 2)


@pytest.mark.parametrize(("name", "given", "held"), [
    ("stop_strings", [], ()), ("stop_ids", [], ()), ("stop_strings", ["a"], ("a",)), ("stop_ids", None, None)])
def test_an_empty_list_is_none_of_it_wherever_it_is_given(tmp_path, name, given, held):
    """In YAML, by --set, as a notebook's flat parameters (there and back), and by Python."""
    text = {"stop_strings": "[]", "stop_ids": "[]"}[name] if given == [] else "null" if given is None else "[a]"
    said = [load(tmp_path, HEAD + f"decoding: {{{name}: {text}}}\n"),
            grid_file.load(tmp_path / "g.yml", [f"decoding.{name}={text}"]), single.grid_of({name: given}, "e")]
    runs = [grid.configurations()[0].parameters for grid in said]
    for run in (*runs, Parameters.of(**{name: given}), Parameters.of(**runs[0].flat())):
        assert run.decoding.__dict__[name] == held
        assert (name in run.given) == (name == "stop_strings")


def test_absent_null_and_empty_stop_strings_are_told_apart(tmp_path):
    """Absent and null: the task's own. Empty: none."""
    absent, null, empty = (load(tmp_path, HEAD + text).configurations()[0].parameters
                           for text in ("", "decoding: {stop_strings: null}\n", "decoding: {stop_strings: []}\n"))
    assert absent.given == null.given == [] and empty.given == ["stop_strings"]
    assert absent.key() == null.key() != empty.key()
    configurations = [single.grid_of(flat, "e").configurations()[0] for flat in ({}, {"stop_strings": []})]
    assert [each.name for each in configurations] == ["k1", "k1_stop_strings-none"]


@pytest.mark.parametrize("flat", [{"limit": 0}, {"max_new_tokens": 0}, {"limit": True}, {"k": True}, {"seed": "3"},
                                  {"threshold": True}, {"stop_ids": [True]}, {"batch_size": 2.5}])
def test_flat_parameters_are_no_numbers_in_disguise(flat):
    [(name, value)] = flat.items()
    for ask in (lambda: single.grid_of(flat, "e"), lambda: Parameters.of(**flat)):
        with pytest.raises(ValueError, match=rf"{name}={str(value)[0]}|{name}={value!r}"):
            ask()


@pytest.mark.parametrize(("axes", "same", "reason"), [
    ("k: [2], layers: [middle, 8-19]", "k2_8-19", "as k2_middle: layers 8-19 are layers middle"),
    ("k: [2], layers: [[8, 9], [9, 8]]", "k2_9+8", "as k2_8+9: layers 9,8 are layers 8,9"),
    ("k: [2], layers: ['8-10', '10,8,9']", "k2_10+8+9", "as k2_8-10"),
    ("seed: [0, 1]", "k1_seed1", "as k1_seed0: seed 1 has no effect (nothing is sampled at temperature 0)"),
    ("engine: [autoregressive], threshold: [0.5, 0.9]", "k1_t0.9", "as k1_t0.5: threshold 0.9 has no effect"),
    ("task: [mmlu], threshold: [0.5, 0.9]", "k1_t0.9", "mmlu is scored by likelihood"),
    ("task: [mmlu], executor: [auto, eager]", "k1_eager", "executor eager has no effect (mmlu is scored"),
    ("engine: [autoregressive], executor: [auto, eager]", "k1_eager", "autoregressive decoding has one, eager"),
    ("k: [2], layers: [first], similarity: [0.5, 0.9]", "k2_first_sim0.9", "policy output does not ask for it")])
def test_one_computation_under_two_names_runs_once(tmp_path, axes, same, reason):
    first, second = load(tmp_path, HEAD + f"axes: {{{axes}}}\n").configurations()
    assert first.not_applicable is None
    assert second.name == same and reason in str(second.not_applicable)


@pytest.mark.parametrize("axes", [
    "k: [2], layers: [middle, 8-18]", "temperature: [1.0], seed: [0, 1]", "threshold: [0.5, 0.9]", "repeat: [0, 1]",
    "k: [2], layers: [first], policy: [adaptive], similarity: [0.5, 0.9]", "task: [mmlu], batch_size: [1, 2]",
    "k: [2], layers: [first], revision: [fixed, 26d6179]", "executor: [eager, fast]"])
def test_what_differs_runs_twice(tmp_path, axes):
    configurations = load(tmp_path, HEAD + f"axes: {{{axes}}}\n").configurations()
    assert [each.not_applicable for each in configurations] == [None, None]


def test_paths_that_end_alike_have_directories_of_their_own(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder / "model").mkdir(parents=True)
        (tmp_path / folder / "mine.py").write_text("")
        (tmp_path / folder / "rows.jsonl").write_text("{}")
    flats = [{"model": str(tmp_path / folder / "model")} for folder in "ab"]
    flats += [{"model": f"{owner}/model"} for owner in ("someone", "else")]
    flats += [{"data": str(tmp_path / folder / "rows.jsonl")} for folder in "ab"]
    flats += [{"k": 2, "layers": "first", "policy": str(tmp_path / folder / "mine.py")} for folder in "ab"]
    directories = {single.grid_of(flat, "e").configurations()[0].directory for flat in flats}
    assert len(directories) == len(flats)
    grid = load(tmp_path, HEAD + "axes: {k: [2], layers: [first], policy: [a/mine.py, b/mine.py, output]}\n")
    assert len({each.path for each in grid.configurations()}) == 3


CASE = {"complexkey.yml": "line 5: the key is a sequence", "ctrl.yml": "line 1: .*U\\+0007", "dup.yml": "line 4: .*l",
        "empty.yml": "line 1: empty", "latin1.yml": "line 3: byte 0xe9", "octal.yml": "line 3, limit=010",
        "recursive.yml": "line 3, configs", "sexagesimal.yml": "line 3, limit='1:30'"}


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
def test_files_that_were_handled_wrongly():
    for name, words in CASE.items():
        with pytest.raises(ValueError, match=rf"{name}, {words}"):
            grid_file.load(CASES / name)
    assert grid_file.load(CASES / "anchor.yml").decoding == {"threshold": 0.8}
    assert script.seconds(grid_file.load(CASES / "slurmtime.yml").slurm.time) == 90 * 60
    assert [each.not_applicable is None for each in grid_file.load(CASES / "samelayers.yml").configurations()] == [True,
                                                                                                             False]
