"""A policy with a planted fault."""

from fastdllm.decode.policies import OutputPolicy


class Policy(OutputPolicy):
    def plan(self, forward):
        raise RuntimeError("planted fault")
