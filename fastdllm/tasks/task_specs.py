"""What we know about each benchmark beyond the harness's configuration: one table, read without the harness."""

from __future__ import annotations

from dataclasses import dataclass

MATH = {"minerva_math_algebra": "algebra", "minerva_math_counting_and_prob": "counting_and_probability",
        "minerva_math_geometry": "geometry", "minerva_math_intermediate_algebra": "intermediate_algebra",
        "minerva_math_num_theory": "number_theory", "minerva_math_prealgebra": "prealgebra",
        "minerva_math_precalc": "precalculus"}


@dataclass(frozen=True)
class TaskSpec:
    """What we know about a benchmark beyond the harness's configuration."""

    folder: str                          # in the harness's tasks
    metric: str                          # the headline
    required: tuple[str, ...]            # keys of a local row
    shots: int = 0                       # of the published evaluation
    max_new_tokens: int = 2048
    generative: bool = True
    instruction: str | None = None       # what the boxed instruction replaces
    rules: tuple[str, ...] = ()          # ours, besides the harness's metrics
    column: str | None = None            # the local row's key that names the subtask


TASK_SPECS = {
    "gsm8k": TaskSpec("gsm8k", "exact_match,flexible-extract", ("question", "answer"), instruction="Answer:",
                   rules=("strict", "flexible", "boxed")),
    "minerva_math": TaskSpec("minerva_math", "math_verify,none", ("problem", "solution", "type"),
                          instruction="Solution:", rules=("boxed",), column="type"),
    "mmlu": TaskSpec("mmlu/default", "acc,none", ("question", "choices", "answer", "subject"), shots=5,
                  generative=False, column="subject"),
    "mmlu_generative": TaskSpec("mmlu/generative", "exact_match,get_response",
                             ("question", "choices", "answer", "subject"), shots=5, max_new_tokens=64,
                             rules=("choice",), column="subject"),
    "gpqa_main_n_shot": TaskSpec("gpqa/n_shot", "acc,none", ("Question", "Correct Answer", "Incorrect Answer 1",
                                                          "Incorrect Answer 2", "Incorrect Answer 3"),
                              generative=False),
    "ifeval": TaskSpec("ifeval", "prompt_level_strict_acc,none", ("key", "prompt", "instruction_id_list", "kwargs"),
                    max_new_tokens=1280),
}
