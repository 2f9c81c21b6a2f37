"""What we know about each benchmark beyond the harness's configuration: one table, read without the harness."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastdllm.tasks import answers, numbers
from fastdllm.tasks.base import TEXT, TEXTS, Column

MATH = {"minerva_math_algebra": "algebra", "minerva_math_counting_and_prob": "counting_and_probability",
        "minerva_math_geometry": "geometry", "minerva_math_intermediate_algebra": "intermediate_algebra",
        "minerva_math_num_theory": "number_theory", "minerva_math_prealgebra": "prealgebra",
        "minerva_math_precalc": "precalculus"}


# What a local row holds. A target that no answer could equal is refused here, not scored as 0 %.
_COMPARED = re.compile(r"-?\$?[0-9][0-9.,]*")          # what the harness compares, character by character


def _gsm8k_answer(value: Any) -> bool:
    """Whether the text behind the last `#### ` is a number and nothing else: the harness keeps a unit or a word."""
    target = value.split("#### ")[-1].strip() if isinstance(value, str) else ""
    return _COMPARED.fullmatch(target) is not None and numbers.value(target) is not None


GSM8K_ANSWER = Column("text that ends in `#### N`, N a number in digits without unit or word", _gsm8k_answer)
SOLUTION = Column("text with its answer in \\boxed{}", lambda value: TEXT.holds(value) and bool(answers.boxed(value)))
CHOICES = Column("a list of four texts", lambda value: TEXTS.holds(value) and len(value) == 4)
CHOICE = Column("0, 1, 2 or 3, the right choice's place", lambda value: type(value) is int and 0 <= value <= 3)
KEY = Column("a number or text", lambda value: type(value) is int or TEXT.holds(value))
LIST = Column("a list of objects", lambda value: isinstance(value, list) and all(isinstance(v, dict) for v in value))
EXAM = {"question": TEXT, "choices": CHOICES, "answer": CHOICE, "subject": TEXT}


@dataclass(frozen=True)
class TaskSpec:
    """What we know about a benchmark beyond the harness's configuration."""

    folder: str                          # in the harness's tasks
    metric: str                          # the headline
    columns: Mapping[str, Column]        # of a local row
    shots: int = 0                       # of the published evaluation
    max_new_tokens: int = 2048
    generative: bool = True
    instruction: str | None = None       # what the boxed instruction replaces
    rules: tuple[str, ...] = ()          # ours, besides the harness's metrics
    column: str | None = None            # the local row's key that names the subtask


TASK_SPECS = {
    "gsm8k": TaskSpec("gsm8k", "exact_match,flexible-extract", {"question": TEXT, "answer": GSM8K_ANSWER},
                      instruction="Answer:", rules=("strict", "flexible", "boxed")),
    "minerva_math": TaskSpec("minerva_math", "math_verify,none", {"problem": TEXT, "solution": SOLUTION, "type": TEXT},
                             instruction="Solution:", rules=("boxed",), column="type"),
    "mmlu": TaskSpec("mmlu/default", "acc,none", EXAM, shots=5, generative=False, column="subject"),
    "mmlu_generative": TaskSpec("mmlu/generative", "exact_match,get_response", EXAM, shots=5, max_new_tokens=64,
                                rules=("choice",), column="subject"),
    "gpqa_main_n_shot": TaskSpec("gpqa/n_shot", "acc,none", dict.fromkeys(
        ("Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"), TEXT),
        generative=False),
    "ifeval": TaskSpec("ifeval", "prompt_level_strict_acc,none",
                       {"key": KEY, "prompt": TEXT, "instruction_id_list": TEXTS, "kwargs": LIST}, max_new_tokens=1280),
}
