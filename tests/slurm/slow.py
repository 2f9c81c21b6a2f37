"""A policy that takes its time: every plan waits, and nothing else changes."""

import time

from fastdllm.decode.policies import OutputPolicy


class Policy(OutputPolicy):
    def plan(self, forward):
        time.sleep(0.1)
        return super().plan(forward)
