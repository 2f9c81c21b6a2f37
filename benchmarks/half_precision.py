"""Token totals by layer subset in float32, float16 and bfloat16 on a GPU: does half precision tell the subsets apart?

    python -m benchmarks.half_precision OUT.csv [problems]

January's totals differ over the subsets although output reuse can't depend on them; this measures how much other GEMM
shapes in half precision do. Copy the result to fastdllm/report/data/half_precision.csv; 08_open_points shows it.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch

import fastdllm
from fastdllm import tasks
from fastdllm.report.openpoints import totals_by_subset
from fastdllm.settings import Decoding


def main(target: Path, n: int = 100) -> None:
    """Write one row per dtype, revision and k."""
    if not torch.cuda.is_available():
        raise SystemExit("a GPU is needed: half precision on a CPU takes other kernels")
    task = tasks.get("arithmetic")
    parts = []
    for dtype in ("float32", "float16", "bfloat16"):
        lm = fastdllm.load("tiny", device="cuda", dtype=dtype)
        prompts = [lm.encode(problem.prompt) for problem in task.problems(n, None)]
        decoding = Decoding(threshold=0.9, max_new_tokens=task.max_new_tokens)
        parts.append(totals_by_subset(lm, prompts, (2, 3), decoding, batch_size=50))
        print(parts[-1].to_string(), flush=True)
        table = pd.concat(parts).assign(gpu=torch.cuda.get_device_name(), torch=torch.__version__, threshold=0.9,
                                        checkpoint=f"{lm.name} {lm.fingerprint[:16]}",
                                        date=datetime.now(UTC).date().isoformat())
        target.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(target, index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(value) for value in sys.argv[2:]))
