"""The single measurements of `bench_gpu.py`: our loop, its captured forwards, the plain loop."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Any

from benchmarks.plain_network import PlainNetwork
from benchmarks.random_model import MASK, PAD, device_seconds
from benchmarks.reference import Loop
from fastdllm import Decoding, Execution, Reuse
from fastdllm.decode.fast import Fast
from fastdllm.decode.generate import build
from fastdllm.decode.loop import Engine
from fastdllm.investigation.speed.measure import best_seconds, synchronise
from fastdllm.model.graphs import Shape
from fastdllm.model.lm import LM
from fastdllm.report import cost_model

PREFIX = 256


class Limited(Engine):
    """An engine in which row r ends after limits[r] tokens: random weights never stop by themselves."""

    limits: list[int] | None = None

    def _admit(self, prompts: Iterator[tuple[int, list[int]]]) -> None:
        super()._admit(prompts)
        for row in self.slots:
            if row is not None and self.limits and row.rules.max_new_tokens != (most := self.limits[row.index]):
                row.rules = replace(row.rules, max_new_tokens=most)


def engine_of(lm: LM, prompts: list[list[int]], tokens: int, reuse: Reuse = Reuse(), executor: str = "fast",
              batch: int = 1, limits: list[int] | None = None) -> Limited:
    """An engine that unmasks one token a forward, with room for the longest prompt and so many tokens."""
    decoding = Decoding(threshold=1.0, max_new_tokens=tokens, stop_ids=(), mask_id=lm.mask_id)
    plan, _ = build(lm, prompts, decoding, reuse, "26d6179+termination=exact", Execution(batch_size=batch), None)
    positions = -(-(max(map(len, prompts)) + tokens) // 32) * 32
    engine = Limited(lm, plan.rules, decoding, reuse, len(plan.slots), positions, executor=executor)
    engine.limits = limits
    return engine


def ours(lm: LM, prompts: list[list[int]], tokens: int, reuse: Reuse, executor: str, batch: int = 1,
         limits: list[int] | None = None) -> dict[str, Any]:
    """Decode once to warm up (compile, capture), then again for the clock. Times in seconds."""
    engine = engine_of(lm, prompts, tokens, reuse, executor, batch, limits)
    for _ in range(2):
        engine.finished.clear()
        before = engine.executor.graphs.synchronisations if isinstance(engine.executor, Fast) else 0
        synchronise(lm.device)
        times: dict[str, list[float]] = defaultdict(list)
        reused: dict[str, int] = defaultdict(int)
        calls = 0
        began = last = time.perf_counter()
        for step in engine.steps(iter(enumerate(prompts))):
            now = time.perf_counter()
            times[step.kind].append((now - last) * 1e3)
            last = now
            if batch == 1 and (row := next((row for row in engine.slots if row is not None), None)) is not None:
                reused[step.kind] += row.decisions["reuse"] > calls
                calls = row.decisions["reuse"]
        synchronise(lm.device)
        seconds = time.perf_counter() - began
    nfe: dict[str, int] = defaultdict(int)
    for row in engine.finished:
        for kind, count in row.nfe.items():
            nfe[kind] += count
    made = sum(len(row.generated) for row in engine.finished)
    result = {"executor": executor, "k": reuse.k, "layers": reuse.layers, "policy": reuse.policy, "batch": batch,
              "full_forwards": reuse.full_forwards, "prompts": len(prompts), "tokens": made, "seconds": seconds,
              "tokens_per_second": made / seconds, "nfe": dict(nfe)}
    if batch == 1:      # each step ends with a synchronisation, so this is the whole time of one
        result["ms_by_kind"] = {kind: median(values) for kind, values in times.items()}
        result["reused"] = dict(reused)
    if isinstance(engine.executor, Fast):
        done = engine.executor.graphs.synchronisations - before
        result |= {"synchronisations": done, "device_forwards_per_second": done / seconds,
                   "graphs": sum(map(len, engine.executor.graphs.captured.values()))}
    return result


def graph_milliseconds(lm: LM, bandwidth: float, batch: int) -> list[dict[str, Any]]:
    """Device time of each captured forward at a prefix of 256, beside what its bytes alone would take."""
    config, rows = lm.config, []
    cases = [("full", 32, 8, 256, 28), ("small", 8, 8, 264, 28), ("commit", 32, 1, 256, 28), ("full", 32, 8, 256, 16),
             ("small", 8, 8, 264, 16)]
    executor = Fast(lm.network, batch, 512, Decoding(threshold=1.0, mask_id=lm.mask_id, stop_ids=()), None)
    executor.graphs.block = 32
    card = cost_model.Card("this run", bandwidth, cost_model.H200.flops, cost_model.H200.kernel_seconds, 0.0)
    for kind, width, read, start, layers in cases:
        shape = Shape(batch, width, read, skipped=((8, 19),) if layers < 28 else ())
        data = [[*range(1000, 1000 + width), *range(read), *([1] * read), slot, start, PREFIX + 32, slot * 32]
                for slot in range(batch)]
        executor.graphs.run(shape, data)
        captured = executor.graphs.captured.get(shape)
        ms = 1e3 * (device_seconds(captured[0].graph.replay, 30) if captured
                    else best_seconds(lambda shape=shape, data=data: executor.graphs.run(shape, data), lm.device, 3))
        moved = cost_model.forward_bytes(config, layers, rows=batch, visible=PREFIX + 32, item=lm.dtype.itemsize)
        predicted = cost_model.forward_seconds(card, config, layers=layers, rows=batch, width=width, read=read,
                                               visible=PREFIX + 32, item=lm.dtype.itemsize) * 1e3
        rows.append({"kind": kind, "layers": layers, "batch": batch, "ms": ms, "bytes": moved,
                     "gb_per_second": moved / ms / 1e6, "share_of_copy": moved / ms * 1e3 / bandwidth,
                     "predicted_ms": predicted})
    return rows


def reference(network: PlainNetwork, prompts: list[list[int]], tokens: int, *, variant: str = "upstream", k: int = 1,
              subset: str | None = None, limits: list[int] | None = None, batch: int = 1, repeats: int = 1,
              by_kind: bool = False) -> dict[str, Any]:
    """The plain loop, lockstep batches in the order of the prompts, the median of `repeats` runs.

    `by_kind` times each forward, between two synchronisations.
    """
    times: dict[str, list[float]] = defaultdict(list)

    device, words = network.head.device, network.config.vocab_size

    @contextmanager
    def watch(kind: str) -> Iterator[None]:
        synchronise(device)
        began = time.perf_counter()
        yield
        synchronise(device)
        times[kind].append((time.perf_counter() - began) * 1e3)

    settings: dict[str, Any] = {"variant": variant, "k": k, "subset": subset, "threshold": 1.0,
                                "mask_id": min(MASK, words - 1), "pad_id": min(PAD, words - 2),
                                "watch": watch if by_kind else None}
    Loop(network, prompts[:batch], max_new_tokens=64, **settings).run()                       # warm-up
    times.clear()
    runs = []
    for _ in range(repeats):
        synchronise(device)
        began, made, nfe = time.perf_counter(), 0, defaultdict(int)
        for first in range(0, len(prompts), batch):
            part = prompts[first:first + batch]
            some = None if limits is None else limits[first:first + batch]
            result = Loop(network, part, max_new_tokens=tokens, limits=some, **settings).run()
            made += sum(some) if some else sum(len(row) - 1 for row in result.generated)
            for kind, count in result.nfe.items():
                nfe[kind] += count
        synchronise(device)
        runs.append(time.perf_counter() - began)
    seconds = median(runs)
    return {"executor": "reference", "network": type(network).__name__, "variant": variant, "k": k, "layers": subset,
            "batch": batch, "tokens": made, "prompts": len(prompts), "seconds": seconds, "all_seconds": runs,
            "tokens_per_second": made / seconds, "nfe": dict(nfe),
            "ms_by_kind": {kind: median(values) for kind, values in times.items()}}
