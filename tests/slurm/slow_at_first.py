"""A policy that takes its time until its job has been started again."""

import os
import time

from fastdllm.decode.policies import OutputPolicy


class Policy(OutputPolicy):
    def plan(self, forward):
        if "SLURM_RESTART_COUNT" not in os.environ:
            time.sleep(0.1)
        return super().plan(forward)
