"""How long a report takes on a grid of 1 000 configurations with synthetic records (goal: under 10 s on two cores).

    python -m benchmarks.bench_report [configurations]
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from report_support import fill

from fastdllm.lab.config.grid import Grid
from fastdllm.report import content, results_page
from fastdllm.report.results import Results


def main(configurations: int = 1000) -> None:
    """Print the seconds of the notebook's parts, by themselves, and of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        values = {"experiment": "bench", "output": folder, "limit": 50, "axes": {
            "k": [1, 2, 3, 4, 5], "layers": ["first", "middle", "last", "0-11"],
            "threshold": [round(0.3 + 0.7 * i / (configurations // 20), 4) for i in range(configurations // 20)]}}
        grid = Grid(**values)
        began = time.perf_counter()
        fill(grid, filler=" text" * 60)
        print(
            f"records written     {time.perf_counter() - began:6.2f} s   {len(grid.configurations())} records of 50"
        )
        began = time.perf_counter()
        results = Results.of(grid)
        print(f"states              {time.perf_counter() - began:6.2f} s")
        then = time.perf_counter()
        report = content.Report.of(results)
        print(f"tables and audit    {time.perf_counter() - then:6.2f} s")
        then = time.perf_counter()
        results_page.write(report)
        print(f"page and entry      {time.perf_counter() - then:6.2f} s")
        params = Path(folder) / "bench.yml"
        params.write_text(yaml.safe_dump(values), encoding="utf-8")
        then, before = time.perf_counter(), _cpu()
        subprocess.run([sys.executable, "-m", "fastdllm", "grid", "report", params], check=True)
        whole = time.perf_counter() - then
        print(f"grid report, whole  {whole:6.2f} s   (CPU of its processes {_cpu() - before:.2f} s)")


def _cpu() -> float:
    """CPU seconds of the processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:]))
