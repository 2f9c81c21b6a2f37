"""Half precision on a GPU: the embedded checkpoint's accuracy, and token totals by layer subset, in each dtype.

    python -m benchmarks.half_precision FOLDER [problems for the totals] [problems for the accuracy]

January's totals differ over the subsets although output reuse can't depend on them; this measures how much other GEMM
shapes in half precision do. Copy both tables to fastdllm/report/data: 08_open_points and 13_throughput show them.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch

import fastdllm
from fastdllm import tasks
from fastdllm.investigation.collapse.open_questions import totals_by_subset
from fastdllm.model.lm import LM
from fastdllm.settings import Decoding
from fastdllm.tasks import Task


def accuracy(lm: LM, task: Task, n: int) -> pd.DataFrame:
    """Problems solved out of n at thresholds 0.9 and 1.0, without reuse."""
    problems, rows = task.problems(n, None), []
    for threshold in (0.9, 1.0):
        out = fastdllm.generate(lm, [problem.prompt for problem in problems], batch_size=50,
                                decoding=Decoding(threshold=threshold, max_new_tokens=task.max_new_tokens))
        right = sum(task.score(problem, text)[task.metric].correct
                    for problem, text in zip(problems, out.texts, strict=True))
        rows.append({"dtype": str(lm.dtype).removeprefix("torch."), "threshold": threshold, "n": n, "correct": right,
                     "tokens": sum(map(len, out.tokens))})
    return pd.DataFrame(rows)


def main(folder: Path, n: int = 100, most: int = 500) -> None:
    """Write half_precision.csv (one row per dtype, revision and k) and dtype_accuracy.csv."""
    if not torch.cuda.is_available():
        raise SystemExit("a GPU is needed: half precision on a CPU takes other kernels")
    task = tasks.get("arithmetic")
    tables: dict[str, list[pd.DataFrame]] = {"dtype_accuracy": [], "half_precision": []}
    folder.mkdir(parents=True, exist_ok=True)
    for dtype in ("float32", "float16", "bfloat16"):
        lm = fastdllm.load("tiny", device="cuda", dtype=dtype)
        prompts = [lm.encode(problem.prompt) for problem in task.problems(n, None)]
        decoding = Decoding(threshold=0.9, max_new_tokens=task.max_new_tokens)
        tables["dtype_accuracy"].append(accuracy(lm, task, most))
        tables["half_precision"].append(totals_by_subset(lm, prompts, (2, 3), decoding, batch_size=50)
                                        .assign(threshold=0.9))
        for name, parts in tables.items():
            print(parts[-1].to_string(), flush=True)
            pd.concat(parts).assign(
                gpu=torch.cuda.get_device_name(), torch=torch.__version__, date=datetime.now(UTC).date().isoformat(),
                checkpoint=f"{lm.name} {lm.fingerprint[:16]}").to_csv(folder / f"{name}.csv", index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(value) for value in sys.argv[2:]))
