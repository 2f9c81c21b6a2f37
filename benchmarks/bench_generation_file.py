"""A generation file's seconds against its revision's: `python -m benchmarks.bench_generation_file [--out FILE.jsonl]`.

The tests' stand-in file, which is the published loop of revision 26d6179, against that revision on the eager executor,
and against itself with a trace (a probe then looks at every forward). All at batch size 1, one thread, in turns, so
that a busy machine slows all of them; outputs are compared token for token. On a machine with other work the
processor's own seconds (`user`) say more than the clock's (`wall`).
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from pathlib import Path

import numpy as np
from scipy import stats

import fastdllm
from fastdllm import Decoding, Reuse, tasks
from fastdllm.decode.generate import generate_rows
from fastdllm.decode.threads import torch_threads
from fastdllm.lab.instrument import generation_file
from fastdllm.model.lm import LM

FILE = Path(__file__).parents[1] / "tests" / "data" / "standin_generation.py"
REVISION = "26d6179"
SIDES = ("file", "eager", "traced")
DECODING = Decoding(threshold=0.9, max_new_tokens=128)


def decode(lm: LM, file: generation_file.GenerationFile, side: str, prompts: list[str],
           reuse: Reuse) -> dict[str, object]:
    """One side's seconds for all prompts, and its tokens."""
    began, user = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_utime
    if side == "eager":
        rows = list(generate_rows(lm, prompts, decoding=DECODING, reuse=reuse, revision=REVISION, batch_size=1,
                                  executor="eager"))
    else:
        rows = list(generation_file.generate_rows(lm, prompts, file=file, decoding=DECODING, reuse=reuse,
                                                  traces=[] if side == "traced" else None))
    return {"wall": time.perf_counter() - began,
            "user": resource.getrusage(resource.RUSAGE_SELF).ru_utime - user, "tokens": [row.tokens for row in rows]}


def ratio(lines: list[dict], k: int, one: str, other: str, what: str) -> str:
    """Geometric mean of the ratios of turns, with a 95 % t interval."""
    seconds = {side: np.array([line[what] for line in lines if line["k"] == k and line["side"] == side])
               for side in (one, other)}
    logs = np.log(seconds[one] / seconds[other])
    half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
    low, middle, high = np.exp(logs.mean() + np.array([-half, 0, half]))
    return f"k={k} {one}/{other} {what}: {middle:.3f} [{low:.3f}, {high:.3f}], {len(logs)} turns"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--problems", type=int, default=6, help="of the task arithmetic, in all")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lm, file = fastdllm.load("tiny"), generation_file.load(FILE, allow_code=True)
    prompts = [str(problem.prompt) for problem in tasks.get("arithmetic").problems(options.problems)][:options.problems]
    lines: list[dict] = []
    with torch_threads(1):
        for k in (1, 3):
            reuse = Reuse(k=k, layers="middle") if k > 1 else Reuse()
            first = [decode(lm, file, side, prompts, reuse)["tokens"] for side in SIDES]      # warms up
            assert all(tokens == first[0] for tokens in first)
            for turn in range(options.turns):
                for side in SIDES if turn % 2 else SIDES[::-1]:
                    took = decode(lm, file, side, prompts, reuse)
                    lines.append({"k": k, "side": side, "turn": turn,
                                  **{what: round(took[what], 4) for what in ("wall", "user")}})
            for one, other in (("file", "eager"), ("traced", "eager")):
                print(*(ratio(lines, k, one, other, what) for what in ("user", "wall")), sep="\n")
    if options.out:
        options.out.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
