"""Our model in the table of lm-evaluation-harness, so that the harness finds it as `fastdllm`.

The harness (0.4.13) looks for models in its own table only; it has no plug-ins. `fastdllm lm-eval` calls `register`
and then the harness's command; a program of one's own calls it before `lm_eval.simple_evaluate`.
"""

from __future__ import annotations

MODEL = "fastdllm"
TARGET = "fastdllm.tasks.harness:FastDLLM"


def register() -> None:
    """Add one line to the harness's table: a name and where the class is. No model is imported; twice is as once."""
    import lm_eval.models  # noqa: F401  (fills the table: with our line alone it would count as filled)
    from lm_eval.api.registry import model_registry
    if MODEL not in model_registry:
        model_registry.register(MODEL, target=TARGET)
