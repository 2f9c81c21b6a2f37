"""Word problems asked for a worked answer in words, or for equations alone: what the checkpoint "smol" was trained for.

    gsm8k_words, gsm8k_equations              GSM8K's test.jsonl (question, answer with `#### N`)
    multiarith_words, multiarith_equations    MultiArith's test.json (instruction, answer)
    two_step                                  48 problems of this project's own, with equations; no file is needed

The last line of a prompt says which form is wanted; an answer ends in `#### N`, which the headline rule reads.
Nothing here needs lm-evaluation-harness: `gsm8k` is the same test set as the harness asks it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.tasks import answers
from fastdllm.tasks.base import TEXT, Problem, Score, TaskOptions, check_limit, fingerprint, read_rows

WORDS, EQUATIONS = "words", "equations"
INSTRUCTIONS = {WORDS: "Answer in words.", EQUATIONS: "Answer with equations."}
QUESTION = "Question: "
OWN = Path(__file__).with_name("two_step.json")
RULES = ("strict", "flexible", "boxed")


@dataclass(frozen=True)
class Source:
    """Where a task's problems come from: the benchmark, the form of its answers, keys of a row, and what to give."""

    benchmark: str
    form: str
    question: str
    answer: str
    file: str


GSM8K = ("gsm8k", "question", "answer", "GSM8K's test.jsonl")
MULTIARITH = ("multiarith", "instruction", "answer", "MultiArith's test.json")
SOURCES = {f"{benchmark}_{form}": Source(benchmark, form, question, answer, file)
           for benchmark, question, answer, file in (GSM8K, MULTIARITH) for form in (WORDS, EQUATIONS)}
SOURCES["two_step"] = Source("two_step", EQUATIONS, "question", "answer", "a file like the project's own")


def tidy(text: str) -> str:
    """Plain spaces, apostrophes and minus signs."""
    plain = text.replace("\u2019", "'").replace("\u2212", "-").replace("\xa0", " ")
    return re.sub(r" +", " ", plain).strip()


def asked(question: str, form: str) -> str:
    """The user message that asks `question` for an answer of a form."""
    return f"{QUESTION}{question}\n{INSTRUCTIONS[form]}"


@dataclass(frozen=True)
class WordProblems:
    """One of the tasks above. A problem's id is its benchmark and its row in the file, from 0."""

    name: str
    options: TaskOptions
    metric: str = "strict"
    generative: bool = True
    max_new_tokens: int = 256
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.options.shots:
            raise ValueError(f"task={self.name} with shots={self.options.shots}; allowed: 0 (it is asked without)")
        if self.options.prompt != "own":
            raise ValueError(f"task={self.name} with prompt={self.options.prompt!r}; allowed: 'own' (the instruction "
                             "is what the task is)")

    def problems(self, limit: int | None = None, data: Path | None = None) -> list[Problem]:
        check_limit(limit)
        source = SOURCES[self.name]
        if data is None and self.name != "two_step":
            raise ValueError(f"task={self.name}: no data; allowed: {source.file} as 'data:'")
        rows = rows_of(data or OWN, (source.question, source.answer))[:limit]
        return [Problem(id=f"{source.benchmark}-{row}", prompt=asked(tidy(values[source.question]), source.form),
                        target=str(values[source.answer]).rsplit("####", 1)[-1].strip())
                for row, values in enumerate(rows)]

    def score(self, problem: Problem, output: str) -> dict[str, Score]:
        return answers.score_number(output, problem.target, RULES)

    def fingerprint(self, problems: Sequence[Problem]) -> str:
        return fingerprint(problems)


def rows_of(data: Path, required: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a .jsonl file, or of a .json file with a list.

    Raises ValueError that names the file, and the row and keys where a row lacks one of `required`.
    """
    path = Path(data).expanduser()
    if path.suffix != ".json":
        return read_rows(path, dict.fromkeys(required, TEXT))
    if not path.is_file():
        raise ValueError(f"data: {path} does not exist; allowed: a .json or .jsonl file")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"data: {path}: no JSON ({error})") from error
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"data: {path} holds no list of rows; allowed: [{{{', '.join(required)}}}, ...]")
    for number, row in enumerate(rows, start=1):
        missing = [key for key in required if not isinstance(row, dict) or not TEXT.holds(row.get(key))]
        if missing:
            raise ValueError(f"data: {path}, row {number}: {', '.join(missing)} missing; "
                             f"allowed: JSON objects with {', '.join(required)} as {TEXT.allowed}")
    return rows
