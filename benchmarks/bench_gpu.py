"""Speed on a GPU with random weights of the 7B shape: `python -m benchmarks.bench_gpu --out results.json`.

One run measures the copy bandwidth, our fast and eager executors and the plain reference loop, so that
every ratio is within one run. Random weights make thresholds meaningless: threshold 1.0 forces one token
per forward, as at the published settings most steps do.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.random_model import MASK, PAD, plain, random_lm
from benchmarks.reference import Loop
from benchmarks.tune import copy_bandwidth
from fastdllm import Decoding, Reuse
from fastdllm.decode.fast import Fast
from fastdllm.decode.generate import build
from fastdllm.decode.loop import Engine
from fastdllm.model.graphs import Shape
from fastdllm.model.lm import LM
from fastdllm.report import costs

PREFIX = 256


def ids(count: int, low: int, high: int, seed: int = 0) -> list[list[int]]:
    """Random prompts of `low` to `high` tokens."""
    draw = random.Random(seed)
    return [[draw.randrange(1000, 100_000) for _ in range(draw.randint(low, high))] for _ in range(count)]


class Limited(Engine):
    """An engine in which row r ends after limits[r] tokens: random weights never stop by themselves."""

    limits: list[int] | None = None

    def _admit(self, prompts: Iterator[tuple[int, list[int]]]) -> None:
        super()._admit(prompts)
        for row in self.slots:
            if row is not None and self.limits is not None:
                row.rules = replace(row.rules, max_new_tokens=self.limits[row.index])


def ours(lm: LM, prompts: list[list[int]], tokens: int, reuse: Reuse, executor: str, batch: int = 1,
         limits: list[int] | None = None) -> dict[str, Any]:
    """Decode once to warm up (compile, capture), then again for the clock. Times in seconds."""
    decoding = Decoding(threshold=1.0, max_new_tokens=tokens, stop_ids=(), mask_id=MASK)
    plan, _ = build(lm, prompts, decoding, reuse, "26d6179+termination=exact", 0, batch, None)
    positions = -(-(max(map(len, prompts)) + tokens) // 32) * 32
    engine = Limited(lm, plan.rules, decoding, reuse, len(plan.slots), positions, executor=executor)
    del plan
    engine.limits = limits
    for _ in range(2):
        engine.finished.clear()
        before = engine.executor.graphs.synchronisations if isinstance(engine.executor, Fast) else 0
        torch.cuda.synchronize()
        began = time.perf_counter()
        ticks = sum(1 for _ in engine.steps(iter(enumerate(prompts))))
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    nfe: dict[str, int] = defaultdict(int)
    for row in engine.finished:
        for kind, count in row.nfe.items():
            nfe[kind] += count
    made = sum(len(row.generated) for row in engine.finished)
    result = {"executor": executor, "k": reuse.k, "layers": reuse.layers, "policy": reuse.policy, "batch": batch,
              "full_forwards": reuse.full_forwards, "prompts": len(prompts), "tokens": made, "seconds": seconds,
              "tokens_per_second": made / seconds, "nfe": dict(nfe), "row_forwards": ticks}
    if isinstance(engine.executor, Fast):
        done = engine.executor.graphs.synchronisations - before
        result |= {"synchronisations": done, "device_forwards_per_second": done / seconds,
                   "graphs": len(engine.executor.graphs.captured)}
    return result


def graph_milliseconds(lm: LM, bandwidth: float, batch: int) -> list[dict[str, Any]]:
    """Device time of each captured forward at a prefix of 256, beside what its bytes alone would take."""
    config, rows = lm.config, []
    cases = [("full", 32, 8, 256, 28), ("small", 8, 8, 264, 28), ("commit", 32, 1, 256, 28), ("full", 32, 8, 256, 16),
             ("small", 8, 8, 264, 16)]
    executor = Fast(lm.network, batch, 512, Decoding(threshold=1.0, mask_id=MASK, stop_ids=()), None)
    executor.graphs.block = 32
    card = costs.Card("this run", bandwidth, costs.H200.flops, costs.H200.kernel_seconds, 0.0)
    for kind, width, read, start, layers in cases:
        shape = Shape(batch, width, read, skipped=((8, 19),) if layers < 28 else ())
        executor.graphs.run(shape, [[*range(1000, 1000 + width), *range(read), *([1] * read), slot, start, PREFIX + 32,
                                     0] for slot in range(batch)])
        graph, times = executor.graphs.captured[shape].graph, []
        for _ in range(30):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
        ms = sorted(times)[len(times) // 2]
        moved = costs.forward_bytes(config, layers, rows=batch, visible=PREFIX + 32)
        predicted = costs.forward_seconds(card, config, layers=layers, rows=batch, width=width, read=read,
                                          visible=PREFIX + 32) * 1e3
        rows.append({"kind": kind, "layers": layers, "batch": batch, "ms": ms, "bytes": moved,
                     "gb_per_second": moved / ms / 1e6, "share_of_copy": moved / ms * 1e3 / bandwidth,
                     "predicted_ms": predicted})
    return rows


def reference(lm: LM, prompts: list[list[int]], tokens: int, *, variant: str = "upstream", k: int = 1,
              subset: str | None = None, limits: list[int] | None = None, batch: int = 1,
              by_kind: bool = False) -> dict[str, Any]:
    """The plain loop, lockstep batches in the order of the prompts; `by_kind` times each forward (slower)."""
    network = plain(lm)
    times: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def watch(kind: str) -> Iterator[None]:
        torch.cuda.synchronize()
        began = time.perf_counter()
        yield
        torch.cuda.synchronize()
        times[kind].append((time.perf_counter() - began) * 1e3)

    settings: dict[str, Any] = {"variant": variant, "k": k, "subset": subset, "threshold": 1.0, "mask_id": MASK,
                                "pad_id": PAD, "watch": watch if by_kind else None}
    Loop(network, prompts[:batch], max_new_tokens=64, **settings).run()                       # warm-up
    times.clear()
    torch.cuda.synchronize()
    began, made, nfe = time.perf_counter(), 0, defaultdict(int)
    for first in range(0, len(prompts), batch):
        part = prompts[first:first + batch]
        some = None if limits is None else limits[first:first + batch]
        result = Loop(network, part, max_new_tokens=tokens, limits=some, **settings).run()
        made += sum(some) if some else sum(len(row) - 1 for row in result.generated)
        for kind, count in result.nfe.items():
            nfe[kind] += count
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    middle = {kind: sorted(values)[len(values) // 2] for kind, values in times.items()}
    return {"executor": "reference", "variant": variant, "k": k, "layers": subset, "batch": batch, "tokens": made,
            "prompts": len(prompts), "seconds": seconds, "tokens_per_second": made / seconds, "nfe": dict(nfe),
            "ms_by_kind": middle}


def measure(dtype: torch.dtype, quick: bool, prompts: int, found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Fill `found` for one dtype, yielding each new row as it is measured."""
    bandwidth = copy_bandwidth()
    lm = random_lm(dtype)
    one = ids(1, PREFIX + 5, PREFIX + 5)
    found |= {"dtype": str(dtype), "copy_bandwidth": bandwidth, "forwards": [], "runs": []}
    for row in graph_milliseconds(lm, bandwidth, 1):
        found["forwards"].append(row)
        yield row
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()

    def kept(run: dict[str, Any]) -> dict[str, Any]:
        found["runs"].append(run)
        torch.cuda.empty_cache()
        return run

    reuses = [Reuse()] + [Reuse(k=k, layers="middle", policy=policy) for k in (2, 3) for policy in ("output", "replay")]
    if not quick:
        reuses += [Reuse(k=k, layers="middle", policy=policy, full_forwards=True)
                   for k in (2, 3) for policy in ("output", "residual", "replay")]
    for reuse in reuses:
        run = ours(lm, one, 123, reuse, "fast")
        if reuse.k == 1:
            found["peak_memory"] = torch.cuda.max_memory_allocated()
            found["predicted_memory"] = costs.memory_bytes(lm.config, 2, 384, graphs=run["graphs"])
        yield kept(run)
    yield kept(reference(lm, one, 128))
    if quick:
        return
    yield kept(ours(lm, one, 123, Reuse(), "eager"))
    yield kept(reference(lm, one, 128, by_kind=True))
    for k in (2, 3):
        yield kept(reference(lm, one, 128, variant="run2", k=k, subset="middle"))
    yield kept(reference(lm, one, 128, variant="old", k=2, subset="middle"))
    for row in graph_milliseconds(lm, bandwidth, 32):
        found["forwards"].append(row)
        yield row
    torch.cuda.empty_cache()
    draw = random.Random(1)
    many, limits = ids(prompts, 33, 200, 2), [draw.randint(24, 160) for _ in range(prompts)]
    yield kept(ours(lm, many, 160, Reuse(), "fast", 32, limits))
    yield kept(reference(lm, many, 160, limits=limits, batch=32))
    order = sorted(range(prompts), key=lambda i: (len(many[i]) // 32, limits[i]))      # its best: equal rows together
    yield kept(reference(lm, [many[i] for i in order], 160, limits=[limits[i] for i in order], batch=32)
               | {"note": "prompts sorted by prompt and answer length"})
    yield kept(ours(lm, many, 160, Reuse(k=2, layers="middle", policy="replay"), "fast", 32, limits))


def main() -> None:
    """Measure float16 in short and bfloat16 in full; print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--prompts", type=int, default=256, help="for the batches of 32")
    options = parser.parse_args()
    report: dict[str, Any] = {"date": date.today().isoformat(), "device": torch.cuda.get_device_name(),
                              "torch": torch.__version__, "cuda": torch.version.cuda,
                              "python": platform.python_version(), "dtypes": []}
    for dtype in (torch.bfloat16,) if options.quick else (torch.float16, torch.bfloat16):
        found: dict[str, Any] = {}
        report["dtypes"].append(found)
        for row in measure(dtype, options.quick or dtype is torch.float16, options.prompts, found):
            show(row)
            options.out.write_text(json.dumps(report, indent=1))
        print(f"{dtype}: copy {found['copy_bandwidth'] / 1e12:.2f} TB/s, peak memory "
              f"{found['peak_memory'] / 1e9:.2f} GB, formula {found['predicted_memory'] / 1e9:.2f} GB")
        torch.cuda.empty_cache()


def show(row: dict[str, Any]) -> None:
    """One line for the terminal."""
    if "ms" in row:
        print(f"  {row['kind']:7s} batch {row['batch']:2d} {row['layers']} layers {row['ms']:7.3f} ms "
              f"{row['gb_per_second']:6.0f} GB/s {row['share_of_copy']:.1%} predicted {row['predicted_ms']:.3f}")
    else:
        print(f"  {row['executor']:9s} b{row['batch']} k={row['k']} {row.get('policy') or row.get('variant')} "
              f"full_forwards={row.get('full_forwards')} {row['tokens']} tokens {row['seconds']:.3f} s "
              f"{row['tokens_per_second']:.1f} tok/s {row['nfe']} {row.get('ms_by_kind') or ''} "
              f"{row.get('note', '')}", flush=True)


if __name__ == "__main__":
    main()
