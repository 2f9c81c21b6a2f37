"""A policy that takes its time over a problem or two and then waits until a file is there; nothing else changes."""

import os
import time
from itertools import count
from pathlib import Path

from fastdllm.decode.policies import OutputPolicy

PLANS = count()


class Policy(OutputPolicy):
    def plan(self, forward):
        told = Path(os.environ["FASTDLLM_TEST_TOLD"])
        while not told.exists():
            time.sleep(0.1)
            if next(PLANS) < 80:
                break
        return super().plan(forward)
