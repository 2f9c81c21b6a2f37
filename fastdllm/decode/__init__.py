"""The denoising loop, sampling, reuse policies and wrappers, revisions and traces."""

from fastdllm.decode.generate import Output, denoise, generate, generate_rows
from fastdllm.decode.revisions import REVISIONS, Revision
from fastdllm.decode.step import RowResult, Step
from fastdllm.decode.trace import Trace

__all__ = ["REVISIONS", "Output", "Revision", "RowResult", "Step", "Trace", "denoise", "generate", "generate_rows"]
