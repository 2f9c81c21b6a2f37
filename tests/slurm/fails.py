"""A policy with a planted fault."""

from fastdllm.decode.policies import Output


class Policy(Output):
    def plan(self, forward):
        raise RuntimeError("planted fault")
