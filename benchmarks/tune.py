"""Find how the products of a 7B layer are best cut on this GPU: `python -m benchmarks.tune`.

Prints, for every product and number of tokens, the time of cuBLAS and of the best tilings, as share of
the copy bandwidth. The best go into `fastdllm.model.static.TILINGS`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import torch
import torch.nn.functional as F
import triton

from benchmarks.random_model import device_seconds
from fastdllm.investigation.speed.measure import copy_bandwidth
from fastdllm.model.products import Tiling, Workspace, linear

SHAPES = {"qkv": (4608, 3584, False), "o": (3584, 3584, False), "gate_up": (18944, 3584, True),
          "down": (3584, 18944, False), "head": (152064, 3584, False)}
SHARED_MEMORY = 220_000
L2 = 200_000_000          # rotate over more weights than the cache holds


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


def candidates(columns: int, depth: int, gated: bool, block_rows: int) -> list[Tiling]:
    """Tilings that divide the shape, fit the shared memory and give enough programs."""
    tilings = []
    for bn, bk, splits, warps in product((16, 32, 64, 128), (64, 128, 256), (1, 2, 4, 7), (4, 8)):
        stage = (block_rows + bn * (2 if gated else 1)) * bk * 2
        stages = min(6, SHARED_MEMORY // stage)
        programs = -(-columns // bn) * splits
        if (depth % (bk * splits) or (gated and splits > 1) or stages < 2 or not 100 <= programs <= 2500
                or (warps == 8 and bn < 64) or columns % bn or (programs > 700 and splits > 1)):
            continue
        for depth_ in {stages, 3} if stages >= 5 else {stages}:
            tilings += [Tiling(bn, bk, splits, depth_, warps, swap) for swap in (False, True) if bn >= 64 or not swap]
    return tilings


def main(rows_list: tuple[int, ...] = (8, 32), seconds: float = 400) -> None:
    """Time all tilings; stops early when `seconds` are over."""
    bandwidth, began = copy_bandwidth(torch.device("cuda")), time.time()
    print(f"copy bandwidth {bandwidth / 1e12:.2f} TB/s")
    for rows, (name, (columns, depth, gated)) in product(rows_list, SHAPES.items()):
        factor = 2 if gated else 1
        size = factor * columns * depth * 2
        weights = [torch.randn(factor * columns, depth, device="cuda", dtype=torch.bfloat16) / 60
                   for _ in range(max(1, L2 // size + 1))]
        x = torch.randn(rows, depth, device="cuda", dtype=torch.bfloat16)
        work = Workspace(torch.device("cuda"), columns)
        loops = max(2, 16 // len(weights)) if size < 5e8 else 2
        base = graph_time([lambda w=w, x=x: F.linear(x, w) for w in weights] * loops)
        if gated:
            gate, up = F.linear(x.float(), weights[0].float()).chunk(2, -1)
            want = F.silu(gate) * up
        else:
            want = F.linear(x.float(), weights[0].float())
        results: list[tuple[float, Tiling]] = []
        queue = candidates(columns, depth, gated, max(16, rows))
        while queue and time.time() - began < seconds:
            tiling = queue.pop(0)
            try:
                got = linear(x, weights[0], tiling, work, gated=gated).float()
                error = ((got - want).norm() / want.norm()).item()
                if not error < 1e-2:
                    print("WRONG", name, rows, tiling, error)
                    continue
                results.append((graph_time([lambda w=w, t=tiling, x=x, s=work, g=gated: linear(x, w, t, s, gated=g)
                                            for w in weights] * loops), tiling))
            except (RuntimeError, ValueError, triton.errors.TritonError) as error:      # does not compile or fit
                print("failed", name, rows, tiling, str(error)[:80])
            if not queue and not any(tiling.prefetch for _, tiling in results):
                best = sorted(results, key=lambda pair: pair[0])[:3]
                queue = [replace(tiling, prefetch=lines) for _, tiling in best for lines in (4, 8, 16)]
        results.sort(key=lambda pair: pair[0])
        share = size / bandwidth
        print(f"{name} rows {rows}: floor {share * 1e6:.1f} us, cuBLAS {base * 1e6:.1f} us ({share / base:.0%})")
        for seconds_, tiling in results[:4]:
            print(f"    {seconds_ * 1e6:7.1f} us {share / seconds_:.0%} {tiling}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
