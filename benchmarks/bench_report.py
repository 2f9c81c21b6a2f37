"""How long a report takes on a grid of 1 000 cells with synthetic records (goal: under 10 s on two cores).

    python -m benchmarks.bench_report [cells]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from report_support import synthetic

from fastdllm.lab.grid import Grid
from fastdllm.report import log, page
from fastdllm.report.results import Results


def main(cells: int = 1000) -> None:
    """Print the seconds of each part, and of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        grid = Grid(experiment="bench", output=folder, limit=50, axes={
            "k": [1, 2, 3, 4, 5], "layers": ["first", "middle", "last", "0-11"],
            "threshold": [round(0.3 + 0.7 * i / (cells // 20), 4) for i in range(cells // 20)]})
        began = time.perf_counter()
        synthetic(grid, filler=" text" * 60)
        print(f"records written     {time.perf_counter() - began:6.2f} s   {len(grid.cells())} cells, 50 problems each")
        began = time.perf_counter()
        results = Results.of(grid)
        print(f"states              {time.perf_counter() - began:6.2f} s")
        then = time.perf_counter()
        report = log.Report.of(results)
        print(f"tables and audit    {time.perf_counter() - then:6.2f} s")
        then = time.perf_counter()
        log.write(report)
        print(f"page and entry      {time.perf_counter() - then:6.2f} s")
        then, cpu = time.perf_counter(), time.process_time()
        page.write(grid)
        print(f"grid report, whole  {time.perf_counter() - then:6.2f} s   (CPU outside the notebook "
              f"{time.process_time() - cpu:.2f} s)")


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:]))
