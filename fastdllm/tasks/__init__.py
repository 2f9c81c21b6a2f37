"""Problems, prompts, answers and scores. `get(name)` gives a task, `names()` all of them.

- a task: base, access, datafiles
- problems made here: embedded, arithmetic, families, problem_writer, templates, word_problems
- benchmarks: benchmarks, task_specs, task_quirks, arc_easy, likelihood
- answers: answers, numbers, fences, code, sandbox
- lm-evaluation-harness: harness, registration
"""

from __future__ import annotations

from typing import Any

from fastdllm.errors import did_you_mean
from fastdllm.tasks.base import Problem, Prompt, Score, Task, TaskOptions

EMBEDDED = ("arithmetic", "arithmetic_wordings", "arithmetic_compare")
WORD_PROBLEMS = ("two_step", "gsm8k_words", "gsm8k_equations", "multiarith_words", "multiarith_equations")
HARNESS = ("gsm8k", "minerva_math", "mmlu", "mmlu_generative", "gpqa_main_n_shot", "ifeval", "humaneval", "mbpp")

__all__ = ["Problem", "Prompt", "Score", "Task", "TaskOptions", "check_name", "get", "names"]


def names() -> tuple[str, ...]:
    """Every task name, the embedded ones first."""
    return (*EMBEDDED, *WORD_PROBLEMS, "arc_easy", *HARNESS)


def check_name(name: str) -> None:
    """Raise ValueError that lists the known names unless `name` is a task's."""
    if name not in names():
        raise ValueError(f"task={name!r}; {did_you_mean(name, names())}allowed: {', '.join(names())}")


def get(name: str, **options: Any) -> Task:
    """The task of that name, with `TaskOptions` (prompt, shots, multiturn, allow_code_execution).

    Raises ValueError that lists the known names. No data are read: `problems` does that.
    """
    check_name(name)
    chosen = TaskOptions(**options)
    if name in EMBEDDED:
        from fastdllm.tasks.embedded import Arithmetic
        return Arithmetic(name, chosen)
    if name in WORD_PROBLEMS:
        from fastdllm.tasks.word_problems import WordProblems
        return WordProblems(name, chosen)
    if name == "arc_easy":
        from fastdllm.tasks.arc_easy import ArcEasy
        return ArcEasy(name, chosen)
    from fastdllm.tasks.benchmarks import benchmark  # imports the harness: seconds
    return benchmark(name, chosen)
