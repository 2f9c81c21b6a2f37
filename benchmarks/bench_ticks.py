"""How long a packed tick of so many rows takes on a GPU: `python -m benchmarks.bench_ticks --out ticks.json`.

Random weights of the 7B's shape in half precision; rows of eight tokens, behind 224 to 248 others, 32 of them read,
on the device alone. More rows should take longer. Where they do not, the products' library cuts the fewer badly:
`fastdllm.model.graphs.SLOW` names those sizes, so that a tick is rather filled up with idle rows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import torch

from benchmarks.random_model import device_seconds, random_lm
from fastdllm.decode.fast import Fast
from fastdllm.model.graphs import Shape, step_of
from fastdllm.settings import Decoding

LEAST, MOST, READERS, WIDTH = 33, 256, 32, 8
WORTH = 1.04        # times as long as a larger size: what counts as slow; one size differs by 1 or 2 % between runs
REACH = 1 / 16      # how many more rows the larger size may have


def sizes() -> list[int]:
    """All sizes that graphs may be captured for."""
    return [rows for rows in range(LEAST, MOST + 1) if rows % step_of(rows) == 0]


def slow(milliseconds: Mapping[int, float]) -> list[int]:
    """Sizes that take longer than one of those behind them, within reach."""
    return [size for size, took in milliseconds.items()
            if any(size < other <= size * (1 + REACH) and took > WORTH * less for other, less in milliseconds.items())]


def tick_milliseconds(executor: Fast, rows: int) -> float:
    """Device time of one captured tick."""
    shape = Shape(rows, WIDTH, WIDTH, readers=READERS, shared=True)
    data = [[*range(1000, 1000 + WIDTH), *range(WIDTH * row, WIDTH * (row + 1)), *[1] * WIDTH, row % READERS,
             224 + WIDTH * (row // READERS % 4), 256, 0] for row in range(rows)]
    executor.graphs.run(shape, data)
    return 1e3 * device_seconds(executor.graphs.captured[shape][0].graph.replay, 10)


def main() -> None:
    """Measure, print the slow ones, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("a packed tick is captured on a GPU; none is here")
    lm = random_lm(torch.bfloat16, "cuda")
    executor = Fast(lm.network, READERS, 512, Decoding(threshold=1.0, mask_id=lm.mask_id, stop_ids=()), None)
    times = {rows: tick_milliseconds(executor, rows) for rows in sizes()}
    report = {"date": date.today().isoformat(), "device": torch.cuda.get_device_name(), "torch": torch.__version__,
              "dtype": "bfloat16", "milliseconds": times}
    avoided = slow(times)
    for rows, took in times.items():
        print(f"{rows:4d} rows {took:7.2f} ms, {1e3 * took / rows / WIDTH:6.2f} us a token"
              + (" slow" if rows in avoided else ""), flush=True)
    options.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
