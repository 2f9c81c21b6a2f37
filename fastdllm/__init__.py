"""Layer reuse in block-diffusion language models: decode, instrument, investigate.

The rooms, each importing only from those below it: cli, report, lab, train, tasks, decode, model, settings.
"""

from fastdllm.decode import Revision, Step, Trace, denoise, generate
from fastdllm.model.lm import LM, load
from fastdllm.settings import Decoding, Reuse

__version__ = "0.1.0"
__all__ = ["LM", "Decoding", "Reuse", "Revision", "Step", "Trace", "denoise", "generate", "load"]
