"""What a task is: problems with prompts and targets, and rules that score an output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from fastdllm.settings import Settings

Prompt = str | list[dict[str, str]]


@dataclass(frozen=True)
class Problem:
    """One problem. `prompt` is a user message or a conversation; `subtask` is "" in a task without groups."""

    id: str
    prompt: Prompt
    target: str
    subtask: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """What one rule made of one output. `extracted` None: the rule found no answer, or shows none.

    `parts`: the verdicts of a problem's parts where the rule's rate is over parts (IFEval's two
    instruction-level rates); `correct` then says whether all of them hold.
    """

    extracted: str | None
    correct: bool
    parts: tuple[bool, ...] = ()


class TaskOptions(Settings):
    """What changes a task's prompts or its scoring. The prompts enter a run's identity by their content."""

    prompt: str = Field(default="own", pattern="^(own|boxed)$", description="own: the task's instruction; boxed: "
                        "what the published evaluation puts in its place where it does (gsm8k, minerva_math)")
    shots: int | None = Field(default=None, ge=0, description="worked examples; None: as the published evaluation")
    multiturn: bool = Field(default=True, description="worked examples as turns of the conversation")
    allow_code_execution: bool = Field(default=False, description="humaneval and mbpp run what the model wrote")


class Task(Protocol):
    """A task of a grid. `metric` names the headline rule; the rules of `score` are the rows of its table.

    A task that is not `generative` is scored by likelihood: one forward a choice, no denoising, so that
    layer reuse has nothing to act on (`fastdllm.tasks.likelihood.score_rows`).
    """

    @property
    def name(self) -> str: ...

    @property
    def metric(self) -> str: ...

    @property
    def generative(self) -> bool: ...

    @property
    def max_new_tokens(self) -> int: ...

    @property
    def stop_strings(self) -> tuple[str, ...]: ...

    def problems(self, limit: int | None = None, data: Path | None = None) -> list[Problem]:
        """The problems, at most `limit` of every subtask; from `data` where that is given.

        Raises ValueError where the data are missing, before any model is loaded.
        """
        ...

    def score(self, problem: Problem, output: str) -> dict[str, Score]:
        """Every rule that applies, by name."""
        ...

    def fingerprint(self, problems: Sequence[Problem]) -> str:
        """SHA-256 over the content of the problems."""
        ...


def fingerprint(problems: Sequence[Problem], scorer: str = "") -> str:
    """SHA-256 over ids, prompts, targets, subtasks, what scoring reads besides, and who scores if it isn't us."""
    digest = hashlib.sha256(scorer.encode())
    for problem in problems:
        digest.update(json.dumps(asdict(problem), sort_keys=True, ensure_ascii=False, default=str).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def check_limit(limit: int | None) -> None:
    """Raise ValueError unless `limit` is None or at least 1."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit={limit!r}; allowed: a whole number from 1 up, or none")


def read_rows(data: Path, required: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a local .jsonl file (or the one .jsonl file of a directory).

    Raises ValueError that names the file, and the line and keys where a row lacks one of `required`.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
        if len(files) != 1:
            raise ValueError(f"data: {path} holds {len(files)} .jsonl files; allowed: a .jsonl file, or a directory "
                             "with one")
        path = files[0]
    if not path.is_file():
        raise ValueError(f"data: {path} does not exist; allowed: a .jsonl file, or a directory with one")
    rows = []
    # A row ends at \n and nowhere else: U+2028 or U+0085 in a text is text. A BOM is no part of the first row.
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"data: {path}, line {number}: no JSON ({error})") from error
        missing = [key for key in required if not isinstance(row, dict) or key not in row]
        if missing:
            raise ValueError(f"data: {path}, line {number}: {', '.join(missing)} missing; "
                             f"allowed: JSON objects with {', '.join(required)}")
        rows.append(row)
    if not rows:
        raise ValueError(f"data: {path} is empty; allowed: at least one row")
    return rows
