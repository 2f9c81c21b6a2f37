"""Find how the products of a 7B layer are best cut on this GPU, in each dtype: `python -m benchmarks.tune`.

Prints, for every product, number of tokens and dtype, the times of cuBLAS, of the tiling that is in use and of the best
ones, as share of the copy bandwidth; then the best as tables like `fastdllm.model.static.TILINGS`. Those that differ
least from the tiling in use are tried first. They are compiled by all cores at once, which is what takes long.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from itertools import chain, product, zip_longest
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.random_model import device_seconds
from fastdllm.investigation.speed.measure import copy_bandwidth
from fastdllm.model.products import Tiling, Workspace, linear
from fastdllm.model.static import TILINGS

SHAPES = {"qkv": (4608, 3584, False), "o": (3584, 3584, False), "gate_up": (18944, 3584, True),
          "down": (3584, 18944, False), "head": (152064, 3584, False)}
SHARED_MEMORY = 220_000
L2 = 200_000_000          # rotate over more weights than the cache holds
FEW = 16                  # rows up to which the first of a product's two tilings serves
COMPILING = 0.5           # share of the time


@dataclass(frozen=True)
class Case:
    """A product over so many rows."""

    dtype: str
    rows: int
    name: str

    @property
    def shape(self) -> tuple[int, int, bool]:
        """Columns, depth, and whether there are two matrices of so many columns, gate and up."""
        return SHAPES[self.name]

    @property
    def bytes(self) -> int:
        columns, depth, gated = self.shape
        return 2 * columns * depth * (1 + gated)

    def bias(self) -> torch.Tensor | None:
        """That of qkv, the one product that has one."""
        if self.name != "qkv":
            return None
        return torch.zeros(self.shape[0], device="cuda", dtype=getattr(torch, self.dtype))

    @property
    def current(self) -> Tiling | None:
        """The tiling in use."""
        return TILINGS[self.name][self.rows > FEW]


@dataclass
class Times:
    """Seconds of cuBLAS and of tilings, for one case."""

    cublas: float = float("inf")
    tilings: dict[Tiling, float] = field(default_factory=dict)

    def best(self, count: int) -> list[tuple[float, Tiling]]:
        """The quickest tilings."""
        return sorted(((seconds, tiling) for tiling, seconds in self.tilings.items()), key=lambda pair: pair[0])[:count]

    def chosen(self) -> Tiling | None:
        """What serves best; None: cuBLAS."""
        best = self.best(1)
        return best[0][1] if best and best[0][0] < self.cublas else None


def candidates(case: Case, most: int) -> list[Tiling]:
    """Tilings that divide the shape, fit the shared memory and give enough programs: the one in use first, then those
    that differ from it in the fewest ways (or from the middle of the range, where cuBLAS is in use)."""
    columns, depth, gated = case.shape
    height, tilings = max(16, case.rows), list[Tiling]()
    near = case.current or Tiling(64, 128, 2, 6, 4, True)
    for bn, bk, splits, warps in product((16, 32, 64, 128), (64, 128, 256), (1, 2, 4, 7), (4, 8)):
        stage = (height + bn * (2 if gated else 1)) * bk * 2
        stages = min(6, SHARED_MEMORY // stage)
        programs = -(-columns // bn) * splits
        if (depth % (bk * splits) or (gated and splits > 1) or stages < 2 or not 100 <= programs <= 2500
                or (warps == 8 and bn < 64) or columns % bn or (programs > 700 and splits > 1)):
            continue
        for depth_, lines in product({stages, 3} if stages >= 5 else {stages}, {0, near.prefetch, 4}):
            tilings += [Tiling(bn, bk, splits, depth_, warps, swap, lines)
                        for swap in (False, True) if bn >= 64 or not swap]
    here = asdict(near)
    tilings.sort(key=lambda tiling: sum(here[name] != value for name, value in asdict(tiling).items()))
    first = [] if case.current is None else [case.current]
    return [*first, *(tiling for tiling in tilings if tiling != case.current)][:most]


def in_turns(cases: Iterable[Case], most: int) -> list[tuple[Case, Tiling]]:
    """The candidates of all cases, a first of each, a second of each ...: where time is up, all have had as many."""
    queues = [[(case, tiling) for tiling in candidates(case, most)] for case in cases]
    return [job for job in chain.from_iterable(zip_longest(*queues)) if job is not None]


def compiled(job: tuple[Case, Tiling]) -> bool:
    """In a process of its own: whether a tiling compiles and runs; what is compiled stays in Triton's cache."""
    import triton
    case, tiling = job
    columns, depth, gated = case.shape
    dtype, device = getattr(torch, case.dtype), torch.device("cuda")
    weight = torch.empty(columns * (1 + gated), depth, device=device, dtype=dtype)
    x = torch.empty(case.rows, depth, device=device, dtype=dtype)
    try:
        linear(x, weight, tiling, Workspace(device, columns), bias=case.bias(), gated=gated)
        torch.cuda.synchronize()
    except (RuntimeError, ValueError, triton.errors.TritonError):      # does not compile or fit
        return False
    return True


def compile_all(jobs: list[tuple[Case, Tiling]], seconds: float) -> list[tuple[Case, Tiling]]:
    """Those of the jobs that compile, as far as the time goes."""
    until, done = time.monotonic() + seconds, list[tuple[Case, Tiling]]()
    workers = max(1, min(12, (os.cpu_count() or 1) - 2))
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        results = pool.imap(compiled, jobs)
        for job in jobs:
            try:
                if results.next(timeout=max(0.1, until - time.monotonic())):
                    done.append(job)
            except multiprocessing.TimeoutError:
                break
        pool.terminate()
    return done


def graph_time(calls: list[Callable[[], object]], repeats: int = 10) -> float:
    """Median seconds of one call, all captured behind one another in a graph."""
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return device_seconds(graph.replay, repeats) / len(calls)


class Bench:
    """Times the products on the device; the weights of one case at a time are in memory."""

    def __init__(self, case: Case):
        columns, depth, self.gated = case.shape
        device, dtype = torch.device("cuda"), getattr(torch, case.dtype)
        self.weights = [torch.randn(columns * (1 + self.gated), depth, device=device, dtype=dtype) / 60
                        for _ in range(max(1, L2 // case.bytes + 1))]
        self.bias = case.bias()
        self.x = torch.randn(case.rows, depth, device=device, dtype=dtype)
        self.work, self.loops = Workspace(device, columns), max(2, 16 // len(self.weights)) if case.bytes < 5e8 else 2
        plain = F.linear(self.x, self.weights[0]).float()
        self.want = F.silu(plain[:, :columns]) * plain[:, columns:] if self.gated else plain

    def cublas(self) -> float:
        """Seconds of PyTorch's product."""
        return graph_time([lambda w=w: F.linear(self.x, w, self.bias) for w in self.weights] * self.loops)

    def tiling(self, tiling: Tiling) -> float:
        """Seconds of ours. Raises RuntimeError where the result is wrong."""
        got = self.product(self.weights[0], tiling).float()
        if not (error := ((got - self.want).norm() / self.want.norm()).item()) < 1e-2:
            raise RuntimeError(f"wrong by {error:.3f}")
        return graph_time([lambda w=w: self.product(w, tiling) for w in self.weights] * self.loops)

    def product(self, weight: torch.Tensor, tiling: Tiling) -> torch.Tensor:
        """Ours, once."""
        return linear(self.x, weight, tiling, self.work, bias=self.bias, gated=self.gated)


def tune(cases: list[Case], jobs: list[tuple[Case, Tiling]], seconds: float) -> dict[Case, Times]:
    """Time cuBLAS and the tilings of every case, each for its share of the time."""
    began, result = time.monotonic(), dict[Case, Times]()
    for number, case in enumerate(cases, start=1):
        bench, times = Bench(case), Times()
        times.cublas = bench.cublas()
        for tiling in [tiling for other, tiling in jobs if other == case]:
            if time.monotonic() - began > seconds * number / len(cases):
                break
            try:
                times.tilings[tiling] = bench.tiling(tiling)
            except (RuntimeError, ValueError) as error:
                print("failed", case, tiling, str(error)[:80])
        result[case] = times
        del bench
        torch.cuda.empty_cache()
    return result


def text(case: Case, times: Times, bandwidth: float) -> str:
    """Times of one case, for people."""
    floor = case.bytes / bandwidth
    used = "" if case.current else ", in use"
    lines = [f"{case.name} {case.dtype} rows {case.rows}: floor {floor * 1e6:.1f} us, cuBLAS "
             f"{times.cublas * 1e6:.1f} us ({floor / times.cublas:.0%}){used}; {len(times.tilings)} tilings"]
    if case.current in times.tilings:
        mine = times.tilings[case.current]
        lines.append(f"    {mine * 1e6:7.1f} us {floor / mine:.0%} {short(case.current)}, in use")
    lines += [f"    {seconds * 1e6:7.1f} us {floor / seconds:.0%} {short(tiling)}" for seconds, tiling in times.best(3)]
    return "\n".join(lines)


def short(tiling: Tiling | None) -> str:
    """As `TILINGS` has it."""
    if tiling is None:
        return "None"
    values = [str(value) for value in asdict(tiling).values()]
    while len(values) > 5 and values[-1] in ("0", "False"):
        values.pop()
    return f"Tiling({', '.join(values)})"


def table(dtype: str, result: dict[Case, Times]) -> str:
    """The best of each product for up to 16 and up to 64 rows, in the form of `TILINGS`; what was not timed stays."""
    lines = [f"# {dtype}", "{"]
    for name, pair in TILINGS.items():
        best = list(pair)
        for case, times in result.items():
            if (case.dtype, case.name) == (dtype, name):
                best[case.rows > FEW] = times.chosen()
        lines.append(f'    "{name}": ({short(best[0])}, {short(best[1])}),')
    return "\n".join([*lines, "}"])


def main() -> None:
    """Compile, time, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[32])
    parser.add_argument("--dtypes", nargs="+", choices=["bfloat16", "float16"], default=["bfloat16", "float16"])
    parser.add_argument("--products", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--most", type=int, default=40, help="tilings of each case")
    parser.add_argument("--seconds", type=float, default=80)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began = time.monotonic()
    bandwidth = copy_bandwidth(torch.device("cuda"))
    cases = [Case(*each) for each in product(options.dtypes, options.rows, options.products)]
    jobs = compile_all(in_turns(cases, options.most), COMPILING * options.seconds)
    print(f"copies at {bandwidth / 1e12:.2f} TB/s; {len(jobs)} tilings in {time.monotonic() - began:.0f} s", flush=True)
    result = tune(cases, jobs, options.seconds - (time.monotonic() - began))
    for case in sorted(cases, key=lambda case: (list(SHAPES).index(case.name), case.rows)):
        print(text(case, result[case], bandwidth))
    for dtype in options.dtypes:
        print(table(dtype, result))
    if options.out:
        options.out.write_text(json.dumps({
            "device": torch.cuda.get_device_name(), "torch": torch.__version__, "copy_bandwidth": bandwidth,
            "cases": [asdict(case) | {"cublas": times.cublas, "tilings": [
                asdict(tiling) | {"seconds": seconds} for seconds, tiling in times.best(1000)]}
                for case, times in result.items()]}, indent=1))


if __name__ == "__main__":
    main()
