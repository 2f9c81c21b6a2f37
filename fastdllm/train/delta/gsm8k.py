"""GSM8K's training split: read, split, and written as the two kinds of answers that the small real model gives.

Its answers carry calculator annotations, `48/2 = <<48/2=24>>24 clips`. In words they are left out; with equations
they are all that is left:

    words                                       equations
    Natalia sold 48/2 = 24 clips in May.        48/2=24
    In all 48+24 = 72 clips.                    48+24=72
    #### 72                                     #### 72
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fastdllm.tasks.base import TEXT, read_rows
from fastdllm.tasks.word_problems import WORDS, tidy

FILE = "train.jsonl"
HELD_OUT = 400           # the first problems of the file: the dev split, never trained on
ANNOTATION = re.compile(r"<<([^<>=]*)=([^<>]*)>>")


@dataclass(frozen=True)
class WordProblem:
    """A question and its worked answer, annotations and `#### result` included."""

    question: str
    answer: str

    @property
    def steps(self) -> list[tuple[str, str]]:
        """Expression and result of every annotation."""
        return ANNOTATION.findall(self.answer)

    @property
    def result(self) -> str:
        """What stands behind `####`."""
        return self.answer.rsplit("#### ", 1)[1].strip()

    def written(self, form: str) -> str:
        """The answer in one of the two forms, "words" or "equations"."""
        if form == WORDS:
            return tidy(ANNOTATION.sub("", self.answer))
        lines = [f"{expression.replace(' ', '')}={result}" for expression, result in self.steps]
        return "\n".join([*lines, f"#### {self.result}"])


def read(folder: Path) -> tuple[list[WordProblem], list[WordProblem]]:
    """The problems to train on, and the dev split, from `train.jsonl` in `folder`.

    Raises ValueError that names the file where it is missing, too short, or a row lacks question or `####`.
    """
    path = Path(folder) / FILE
    rows = read_rows(path, {"question": TEXT, "answer": TEXT})
    problems = [WordProblem(tidy(row["question"]), row["answer"]) for row in rows]
    for number, problem in enumerate(problems, start=1):
        if "#### " not in problem.answer:
            raise ValueError(f"data: {path}, row {number}: answer without '#### '; allowed: GSM8K's rows")
    if len(problems) <= HELD_OUT:
        raise ValueError(f"data: {path} has {len(problems)} rows; allowed: more than the {HELD_OUT} of the dev split")
    return problems[HELD_OUT:], problems[:HELD_OUT]
