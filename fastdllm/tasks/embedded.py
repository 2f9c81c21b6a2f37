"""The embedded checkpoint's own tasks: generated arithmetic problems, known and unseen wordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.tasks import answers
from fastdllm.tasks.arithmetic import generate
from fastdllm.tasks.base import TEXT, Column, Problem, Score, TaskOptions, check_limit, fingerprint, read_rows
from fastdllm.tasks.families import SOLVED


def is_target(value: Any) -> bool:
    """Whether a target of a local row names one number, or is empty: an answer that nobody knows, so none is right."""
    if value == "":
        return True
    try:
        answers.target_value(str(value))
    except ValueError:
        return False
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


FULL = 1000                    # problems of the whole task: a 95 % interval of +-1 point at 97 %
# name -> (split, families); see the checkpoint's model card for why comparisons stand apart
SOURCES = {"arithmetic": ("test", SOLVED), "arithmetic_wordings": ("wordings", SOLVED),
           "arithmetic_compare": ("test", ("compare",))}
TARGET = Column("a number, text with one number in digits (and its unit), or \"\" for one not known", is_target)
SEED = 0                       # of the held-out problems; training draws from another split


@dataclass(frozen=True)
class Arithmetic:
    """Multi-step word problems whose worked answer ends in `#### N`, from splits that training never sees."""

    name: str
    options: TaskOptions
    metric: str = "strict"
    generative: bool = True
    max_new_tokens: int = 192
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.options.shots:
            raise ValueError(f"task={self.name} with shots={self.options.shots}; allowed: 0 (it was trained without)")

    def problems(self, limit: int | None = None, data: Path | None = None) -> list[Problem]:
        check_limit(limit)
        if data is not None:
            rows = read_rows(data, {"question": TEXT, "target": TARGET})[:limit]
            return [self._problem(str(row.get("id", i)), row["question"], str(row["target"]))
                    for i, row in enumerate(rows)]
        split, families = SOURCES[self.name]
        return [self._problem(p.id, p.question, p.target)
                for p in generate(split, min(limit or FULL, FULL), SEED, families)]

    def _problem(self, id: str, question: str, target: str) -> Problem:
        # The checkpoint knows the bare question only, so "own" appends nothing.
        instruction = f"\n{answers.BOXED_INSTRUCTION}" if self.options.prompt == "boxed" else ""
        return Problem(id=id, prompt=question + instruction, target=target)

    def score(self, problem: Problem, output: str) -> dict[str, Score]:
        return answers.score_number(output, problem.target, ("strict", "flexible", "boxed"))

    def fingerprint(self, problems: Sequence[Problem]) -> str:
        return fingerprint(problems)
