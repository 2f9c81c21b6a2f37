"""ARC-Easy, scored by likelihood as MMLU is: the letters of the choices, one forward each."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastdllm.tasks.base import Problem, Score, TaskOptions, check_limit, fingerprint
from fastdllm.tasks.word_problems import rows_of, tidy

LETTERS = "ABCDE"
_HEAD = "Please choose the correct answer to the question:"
_CHOICE = re.compile(r"Answer(\d): ")


@dataclass(frozen=True)
class ArcEasy:
    """Multiple-choice questions on science; local rows (instruction, answer) as LLM-Adapters collected them."""

    name: str
    options: TaskOptions
    metric: str = "acc"
    generative: bool = False
    max_new_tokens: int = 1
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.options.shots or self.options.prompt != "own":
            raise ValueError(f"task={self.name} with shots={self.options.shots}, prompt={self.options.prompt!r}; "
                             "allowed: 0 shots, prompt 'own'")

    def problems(self, limit: int | None = None, data: Path | None = None) -> list[Problem]:
        check_limit(limit)
        if data is None:
            raise ValueError(f"task={self.name}: no data; "
                             "allowed: ARC-Easy's test.json (instruction, answer) as 'data:'")
        rows = rows_of(data, ("instruction", "answer"))[:limit]
        return [_problem(data, number, row["instruction"], row["answer"]) for number, row in enumerate(rows)]

    def score(self, problem: Problem, output: str) -> dict[str, Score]:
        values = json.loads(output)["loglikelihood"]
        best = LETTERS[max(range(len(values)), key=values.__getitem__)]
        return {self.metric: Score(best, best == problem.target)}

    def fingerprint(self, problems: Sequence[Problem]) -> str:
        return fingerprint(problems)


def _problem(data: Path, number: int, instruction: str, answer: str) -> Problem:
    """A row as a lettered question. Raises ValueError naming the row that is none."""
    question, *parts = _CHOICE.split(instruction.partition("Answer format:")[0])
    texts = [tidy(text) for text in parts[1::2]]
    right = re.fullmatch(r"answer(\d)", answer)
    if not 2 <= len(texts) <= len(LETTERS) or right is None or not 1 <= int(right[1]) <= len(texts):
        raise ValueError(f"data: {data}, row {number + 1}: {len(texts)} choices, answer={answer!r}; allowed: "
                         "2 to 5 choices 'AnswerN: ...' and one of them as 'answerN'")
    letters = LETTERS[:len(texts)]
    choices = "\n".join(f"{letter}. {text}" for letter, text in zip(letters, texts, strict=True))
    return Problem(id=f"arc_easy-{number}", prompt=f"{tidy(question.removeprefix(_HEAD))}\n{choices}\nAnswer:",
                   target=letters[int(right[1]) - 1], meta={"choices": list(letters)})
