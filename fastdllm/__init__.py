"""Decode a block-diffusion language model, reuse layers while it does, and look at what that changed.

    import fastdllm
    from fastdllm import Decoding, Reuse

    lm = fastdllm.load("tiny")                                  # the embedded checkpoint, a directory, or a hub id
    question = "Leo needs 461 cards. Leo finds 29 of them. At 8 per hour, how many hours does Leo need?"
    out = fastdllm.generate(lm, [question], trace=True,
                            decoding=Decoding(threshold=0.9),   # unmask what the model is at least so sure of
                            reuse=Reuse(k=2, layers="middle"))  # run the middle layers at every second step only
    print(out.texts[0], out.nfe[0])                             # ... #### 54; how many forwards of each kind
    fastdllm.explore(out)                                       # in a notebook: what ran, layer by step

load(name)          a checkpoint as an LM: network, tokenizer, device, dtype
generate(lm, ...)   decode prompts to the end: texts, tokens, NFE, decisions, trace
explore(run)        the debugger: a run, a directory with a record, or a trace, played in a notebook
Decoding            how to decode: threshold, small blocks, length, stops, sampling
Reuse               what is reused when: k (1: nothing), layers, policy; policy="verify" changes no token

denoise(lm, ...)    generate as an iterator over Steps, one a forward, to look at or to stop
Execution           how to run: batch size, threads, executor, seed
Trace               what every wrapped layer did; `Trace(distance=True)` also measures what reuse got wrong
Revision            the switches of the historical code; `fastdllm.decode.revisions.get(name)`
LM, Step            what load returns, and what denoise yields

The fields of Decoding, Reuse and Execution, with what is allowed, stand below. What is computed, exactly:
docs/decoding.md. Every module has its own help: help("fastdllm.decode.policies"). The packages, each importing only
from those right of it: cli, investigation, share, report, ui, display, lab, train, tasks, decode, model, settings.
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
