"""Makes `lm_eval --model fastdllm` work in an environment where this package is installed.

lm-evaluation-harness (0.4.13) looks for models in its own table only: it has no plug-ins. What it does do is
import torch, and torch calls every entry point of the group `torch.backends`; pyproject.toml names `register`
there. It adds one line to the harness's table, by name, and imports no model.
"""

from __future__ import annotations

MODEL = "fastdllm"
TARGET = "fastdllm.tasks.harness:FastDLLM"


def register() -> None:
    """Add our model to the harness's table; nothing happens without the harness, or the second time."""
    try:
        import lm_eval.models  # noqa: F401  (fills the table: a table with our line only would count as filled)
        from lm_eval.api.registry import model_registry
    except ImportError:
        return
    if MODEL not in model_registry:
        model_registry.register(MODEL, target=TARGET)
