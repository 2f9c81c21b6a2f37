"""Programs that a model wrote: run apart from us, within limits, and only when asked for."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from fastdllm import tasks
from fastdllm.tasks import access, fences, sandbox

DATA = Path(__file__).parent / "data/tasks"


def test_a_program_passes_only_if_its_end_is_reached():
    assert sandbox.run("assert 1 + 1 == 2").passed
    for early in ("assert 1 + 1 == 3", "raise SystemExit(0)", "import os; os._exit(0)", "def f(:"):
        outcome = sandbox.run(early)
        assert (outcome.passed, outcome.reason) == (False, "failed"), early


@pytest.mark.parametrize("program", [
    "import sys\nsys.stdout.close()", "import os\nos.close(1)", "import io, sys\nsys.stdout = io.StringIO()",
    "import os, sys\nsys.stdout = open(os.devnull, 'w')", "import atexit\natexit.register(print, 'bye')",
    "print('no line end', end='')", "import sys\nsys.stderr.close()\nsys.stdin.close()", "print = open = None",
    "import os\nos.chdir('/')", "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()): print(1)",
    "import os\nos.closerange(0, 64)", "import threading, time\nthreading.Thread(target=time.sleep, args=(1,)).start()",
    "import builtins, os\nos.open = os._exit = os.getpid = builtins.print = None", "'\\u2028'.splitlines()"])
def test_what_a_program_does_with_its_output_does_not_decide(program):
    assert sandbox.run(program).passed
    assert not sandbox.run(f"{program}\nraise ValueError").passed


def test_a_fork_that_reaches_the_end_is_not_the_program():
    assert not sandbox.run("import os\nif os.fork():\n    os.wait()\n    os._exit(0)").passed


def test_time_is_limited():
    outcome = sandbox.run("while True: pass", seconds=1)
    assert (outcome.passed, outcome.reason) == (False, "timed out")


# Starts a process that writes its id and stays, from a process in between that ends at once, and waits for the id.
STARTS = """
import os, subprocess, sys, time
last = "import os, time; print(os.getpid(), file=open({note!r}, 'w'), flush=True); time.sleep(60)"
between = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {{last!r}}], start_new_session={session})"
subprocess.Popen([sys.executable, "-c", between], start_new_session={session})
while not os.path.exists({note!r}) or not open({note!r}).read().strip():
    time.sleep(0.01)
"""


@pytest.mark.parametrize(("session", "end"), [
    (False, ""), (True, ""), (True, "time.sleep(60)"), (True, "raise ValueError"), (True, "os._exit(0)")])
def test_what_a_program_starts_ends_with_it(tmp_path, session, end):
    note = tmp_path / "pid"
    # A cap for three Pythons in a row on a loaded machine; what sleeps is ended by it, so that it is waited for.
    sandbox.run(STARTS.format(note=str(note), session=session) + end, 8 if "sleep" in end else 60)
    assert not Path(f"/proc/{note.read_text().strip()}").exists()


@pytest.mark.parametrize("program", ["a = ' ' * (3 << 30)", "open('big', 'wb').write(b'1' * (1 << 26))"])
def test_memory_and_files_are_limited(program):
    assert not sandbox.run(program).passed


def test_there_is_no_network_where_the_system_allows():
    if not sandbox.without_network():
        pytest.skip("this system lets nobody make a network name space")
    listed = "import socket\nassert [name for _, name in socket.if_nameindex()] == ['lo']\n"
    assert sandbox.run(listed).passed
    reached = sandbox.run("import socket; socket.create_connection(('192.0.2.1', 80), 2)")
    assert not reached.passed
    assert "unreachable" in reached.detail


def test_no_secret_of_the_environment_is_visible(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    assert sandbox.run("import os; assert 'HF_TOKEN' not in os.environ and not os.listdir('.') == []").passed


def test_it_runs_in_another_process():
    assert not sandbox.run(f"import os; assert os.getpid() == {os.getpid()}").passed
    with pytest.raises(ValueError, match="seconds=0"):
        sandbox.run("", seconds=0)


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_code_tasks_need_the_flag(name):
    for ask in (tasks.get, access.check):
        with pytest.raises(ValueError, match="allow_code_execution"):
            ask(name)
    assert "scored by pass@1,fenced" in access.check(name, DATA / f"{name}.jsonl", allow_code_execution=True)


def test_humaneval_scores():
    task = tasks.get("humaneval", allow_code_execution=True)
    twice, shout = task.problems(None, DATA / "humaneval.jsonl")
    assert len(task.problems(1, DATA / "humaneval.jsonl")) == 1
    right = "def twice(n: int) -> int:\n    return n + n"

    def correct(problem, output):
        return [task.score(problem, output)[f"pass@1,{rule}"].correct for rule in ("fenced", "completion")]
    assert correct(twice, f"Sure:\n```python\n{right}\n```\nThat is all.") == [True, False]
    assert correct(twice, "    return 2 * n\n") == [False, True]
    assert correct(twice, "```python\ndef twice(n):\n    return n\n```") == [False, False]
    assert correct(shout, "") == [False, False]
    assert task.score(shout, "")["pass@1,fenced"].extracted is None


def test_every_row_of_the_table_gives_its_code():
    rows = [json.loads(line) for line in (DATA.parent / "answers.jsonl").read_text().split("\n") if '"code"' in line]
    assert len(rows) >= 85
    assert [(row["output"], code) for row in rows if (code := fences.python_code(row["output"])) != row["code"]] == []


@pytest.mark.parametrize(("language", "code", "why"), [
    ("sage", "R.<x> = QQ[]", "line 1: invalid syntax"), ("cython", "cdef int f(int x):\n    return x", "line 1:"),
    ("jupyter", "x = 1\n!pip install numpy", "line 2: invalid syntax"), ("ipython", "%time f(1)", "line 1:")])
def test_a_block_in_a_dialect_that_is_no_plain_python_is_an_error_that_names_it(language, code, why):
    """And the output is wrong, without an end of the run; what was written is no program."""
    output = f"```{language}\n{code}\n```"
    with pytest.raises(fences.NotPython, match=f"a {language} block that is no plain Python: {why}"):
        fences.python_code(output)
    task = tasks.get("humaneval", allow_code_execution=True)
    score = task.score(task.problems(1, DATA / "humaneval.jsonl")[0], output)["pass@1,fenced"]
    assert not score.correct
    assert str(score.extracted).startswith(f"no program: a {language} block that is no plain Python")


def test_a_fence_in_the_program_s_own_docstring_does_not_end_it():
    task = tasks.get("humaneval", allow_code_execution=True)
    problem = task.problems(1, DATA / "humaneval.jsonl")[0]
    code = 'def twice(n):\n    """Doc.\n\n    ```\n    twice(1)\n    ```\n    """\n    return n + n'
    assert task.score(problem, f"```python\n{code}\n```\nThat is all.")["pass@1,fenced"].correct


@pytest.mark.parametrize("piece", ["```\n", "```md\n", "```python\n", "```python\n'''\n```\n", "> ```\n", "# ```\n"])
def test_an_output_of_nothing_but_fences_is_read(piece):
    assert len(list(fences.code_blocks(piece * 1200))) <= 1200


@pytest.mark.parametrize("future", [
    "from __future__ import annotations\n", "from __future__ import (annotations,\n  division)\n"])
def test_future_imports_come_first(future):
    task = tasks.get("humaneval", allow_code_execution=True)
    problem = task.problems(None, DATA / "humaneval.jsonl")[0]
    problem = dataclasses.replace(problem, meta={"prompt": "import math\n" + problem.meta["prompt"]})
    code = f"\"\"\"A module.\"\"\"\n{future}def twice(n: Undefined) -> int:\n    return n + n"
    assert task.score(problem, f"```python\n{code}\n```")["pass@1,fenced"].correct
    assert task.score(problem, f"```python\n{code}\n```")["pass@1,fenced"].extracted == code


def test_mbpp_scores():
    task = tasks.get("mbpp", allow_code_execution=True)
    problem = task.problems(None, DATA / "mbpp.jsonl")[1]
    assert "assert turn('abc') == 'cba'" in problem.prompt
    good = task.score(problem, "```python\ndef turn(text):\n    return ''.join(reversed(text))\n```")
    assert good["pass@1,fenced"].correct
    assert not task.score(problem, "```python\ndef turn(text):\n    return text\n```")["pass@1,fenced"].correct
