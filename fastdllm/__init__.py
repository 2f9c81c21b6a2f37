"""Layer reuse in block-diffusion language models: decode, instrument, investigate.

The rooms, each importing only from those below it: cli, report, lab, train, tasks, decode, model, settings.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastdllm.settings import Decoding, Reuse

if TYPE_CHECKING:
    from fastdllm.decode import Revision, Step, Trace, denoise, generate
    from fastdllm.model.lm import LM, load
    from fastdllm.report.widgets import explore

__version__ = "0.1.0"
__all__ = ["LM", "Decoding", "Reuse", "Revision", "Step", "Trace", "denoise", "explore", "generate", "load"]

# What needs torch (2.5 s) is imported when it is first asked for, so that `fastdllm --help` and status are quick.
_LATER = {"LM": "model.lm", "load": "model.lm", "Revision": "decode", "Step": "decode", "Trace": "decode",
          "denoise": "decode", "generate": "decode", "explore": "report.widgets"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'fastdllm' has no attribute {name!r}")
    return import_module(f"fastdllm.{_LATER[name]}").__dict__[name]
