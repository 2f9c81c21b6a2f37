"""HumanEval and MBPP: the model's code is run, in a sandbox process and only with `allow_code_execution`.

The prompts are the instruct versions' user messages of lm-evaluation-harness without a prefilled answer, and
nothing is cut at "\\ndef" or the like: a chat model opens a code block, and those stop strings would end most
answers there. (The harness's own tasks fetch their metric from the hub when imported, and run code in a thread
of the caller's process; nothing of them is used.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.tasks import sandbox
from fastdllm.tasks.base import TEXT, TEXTS, Problem, Score, TaskOptions, check_limit, fingerprint, read_rows
from fastdllm.tasks.datafiles import hub_splits
from fastdllm.tasks.fences import NotPython, python_code, with_future_first
from fastdllm.tasks.task_specs import KEY

SECONDS = 10.0       # per program
COLUMNS = {"humaneval": {"task_id": KEY, "prompt": TEXT, "test": TEXT, "entry_point": TEXT},
           "mbpp": {"task_id": KEY, "text": TEXT, "test_list": TEXTS}}
SOURCE = {"humaneval": ("openai/openai_humaneval", None), "mbpp": ("google-research-datasets/mbpp", "full")}


def code_task(name: str, options: TaskOptions) -> CodeTask:
    """The task; ValueError unless code execution is allowed, or for options that it doesn't have."""
    if not options.allow_code_execution:
        raise ValueError(f"task={name} runs what the model wrote; allowed: with 'allow_code_execution: true' in the "
                         "params file (it runs in a process of its own, with limited time and memory)")
    if options.shots:
        raise ValueError(f"task={name} with shots={options.shots}; allowed: 0")
    return CodeTask(name, options, 1024 if name == "humaneval" else 512)


@dataclass(frozen=True)
class CodeTask:
    """Problems whose answers are programs; a rule's answer is right if the tests run through (pass@1)."""

    name: str
    options: TaskOptions
    max_new_tokens: int
    metric: str = "pass@1,fenced"
    generative: bool = True
    stop_strings: tuple[str, ...] = ()

    def problems(self, limit: int | None = None, data: Path | None = None) -> list[Problem]:
        check_limit(limit)
        rows: Sequence[dict[str, Any]]
        if data is not None:
            rows = read_rows(data, COLUMNS[self.name])
        else:
            rows = list(hub_splits(*SOURCE[self.name], task=self.name)["test"])
        return [self._problem(row) for row in rows[:limit]]

    def _problem(self, row: dict[str, Any]) -> Problem:
        if self.name == "humaneval":
            message = ("Write a solution to the following problem and make sure that it passes the tests:\n"
                       f"```python\n{row['prompt']}\n```\n")
            tests = f"{row['test']}\ncheck({row['entry_point']})"
        else:
            tests = "\n".join([row.get("test_setup_code") or "", *row["test_list"]]).strip()
            message = ("You are an expert Python programmer, and here is your task:\n"
                       f"{row['text']}\nYour code should pass these tests:\n" + "\n".join(row["test_list"]))
        return Problem(id=f"{self.name}-{row['task_id']}", prompt=message, target=tests,
                       meta={"prompt": row.get("prompt") or "" if self.name == "humaneval" else ""})

    def score(self, problem: Problem, output: str) -> dict[str, Score]:
        """`fenced`: the first block of Python. `completion`: the output as it stands, behind the function's head.

        Where the only block is in a dialect and no plain Python, nothing runs and `extracted` says so.
        """
        stub = problem.meta["prompt"]
        scores = {}
        try:
            code = python_code(output)
            scores["fenced"] = Score(code, code is not None and passes(f"{imports(stub)}\n{code}", problem))
        except NotPython as error:
            scores["fenced"] = Score(f"no program: {error}", False)
        scores["completion"] = (Score(output, passes(stub + output, problem)) if output.strip() else
                                Score(None, False))
        return {f"pass@1,{rule}": score for rule, score in scores.items()}

    def fingerprint(self, problems: Sequence[Problem]) -> str:
        return fingerprint(problems)


def passes(program: str, problem: Problem) -> bool:
    """Whether the program and the problem's tests behind it run through."""
    return sandbox.run(with_future_first(f"{program}\n\n{problem.target}"), SECONDS).passed


def imports(stub: str) -> str:
    """The import lines of a function's head, which an answer may leave out."""
    return "\n".join(line for line in stub.splitlines() if line.startswith(("import ", "from ")))
