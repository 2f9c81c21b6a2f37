"""Layer reuse in block-diffusion language models: decode, instrument, investigate.

    import fastdllm
    from fastdllm import Decoding, Execution, Reuse

    lm = fastdllm.load("tiny")                                  # the embedded checkpoint, a directory, or a hub id
    question = "Leo needs 461 cards. Leo finds 29 of them. At 8 per hour, how many hours does Leo need?"
    out = fastdllm.generate(lm, [question],
                            decoding=Decoding(threshold=0.9), reuse=Reuse(k=2, layers="middle"),
                            execution=Execution(seed=1), trace=True)
    print(out.texts[0], out.nfe[0], out.trace)                  # ... #### 54; forwards by kind; one line a layer call

load(name)          a checkpoint as an LM: network, tokenizer, device, dtype
generate(lm, ...)   decode prompts to the end: texts, tokens, NFE, decisions, trace
denoise(lm, ...)    the same as an iterator over Steps, one a forward, to look at or to stop
explore(run)        the debugger: a run, a directory with a record, or a trace, played in a notebook
Decoding, Reuse     how to decode, and what is reused when
Execution           how to run: batch size, threads, executor, seed; the fields of all three are below
Revision            the switches of the historical code; `fastdllm.decode.revisions.get(name)`
Trace               what every wrapped layer did; `Trace(distance=True)` also measures what reuse got wrong
LM, Step            what load returns, and what denoise yields

What is computed, exactly: docs/decoding.md. Every module has its own help: help("fastdllm.decode.policies").
The packages, each importing only from those right of it: cli, investigation, share, report, ui, display, lab, train,
tasks, decode, model, settings.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastdllm.settings import Decoding, Execution, Reuse
from fastdllm.version import __version__ as __version__

if TYPE_CHECKING:
    from fastdllm.decode.generate import denoise, generate
    from fastdllm.decode.revisions import Revision
    from fastdllm.decode.step import Step
    from fastdllm.decode.trace import Trace
    from fastdllm.model.lm import LM, load
    from fastdllm.ui.player import explore

__all__ = ["LM", "Decoding", "Execution", "Reuse", "Revision", "Step", "Trace", "denoise", "explore", "generate",
           "load"]

# What needs torch (2.5 s) is imported when it is first asked for, so that `fastdllm --help` and status are quick.
_LATER = {"LM": "model.lm", "load": "model.lm", "Revision": "decode.revisions", "Step": "decode.step",
          "Trace": "decode.trace", "denoise": "decode.generate", "generate": "decode.generate", "explore": "ui.player"}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'fastdllm' has no attribute {name!r}")
    return import_module(f"fastdllm.{_LATER[name]}").__dict__[name]
