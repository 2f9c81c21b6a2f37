"""A policy with a fault, on purpose: `output`, with the slice of a wide entry frozen at position 0.

So reuse would behave if `replace_position` did not reach the layers (A of the log's checklist).
"""

from fastdllm.decode.policies import OutputPolicy
from fastdllm.decode.step import Forward
from fastdllm.decode.store import Source


class Policy(OutputPolicy):
    def start(self, source: Source, forward: Forward) -> int:
        return 0
