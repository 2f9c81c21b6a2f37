"""How near batches come to what a GPU can do: `python -m benchmarks.bench_batches --out batches.json`.
On a CPU with `--small`: thin layers in float32, to try it out.

Random weights of the 7B's shape, 256 prompts of unequal length, answers of unequal length, one token a forward. In one
run on one card: our engine with and without packed ticks, and the plain loop (whose batches begin and end together,
and whose prompts are sorted, its best), beside the least time that the same forwards need.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_gpu import forget_memory
from benchmarks.gpu_runs import Limited, engine_of, reference
from benchmarks.random_model import plain, random_lm, small_geometry
from fastdllm.decode.fast import Fast
from fastdllm.investigation.speed.measure import copy_bandwidth, matrix_rate, synchronise
from fastdllm.investigation.speed.random_weights import random_prompts
from fastdllm.model.config import ModelConfig
from fastdllm.model.lm import LM
from fastdllm.report.cost_model import Need, least_seconds

TARGETS = {1: 0.85, 32: 0.75, 128: 0.78}      # share of the bound, by batch
TOKENS = 160                                  # of the longest answer
ALONE = 8                                     # prompts at batch 1
ROUNDS_ALONE = 3                              # so many times the rounds: a run takes a third of the others' time
ENGINES: dict[str, bool | None] = {"packed": True, "unpacked": False, "default": None}


def engine_with(packed: bool | None, lm: LM, prompts: list[list[int]], tokens: int, batch: int,
                limits: list[int]) -> Limited:
    """An engine that packs its ticks, or does not; None: as executor='fast' is."""
    engine = engine_of(lm, prompts, tokens, batch=batch, limits=limits)
    if packed is not None and isinstance(engine.executor, Fast):
        engine.executor.packed = packed
    return engine


def needs_of(steps: Sequence[tuple[str, int]], prompt: Sequence[int], block: int, small: int = 8) -> list[Need]:
    """What the forwards of a row, each a kind and a block, can't do without, in order."""
    return [Need.of(kind, number * block, len(prompt) // block * block, len(prompt) % block == 0, block, small)
            for kind, number in steps]


def together(rows: Sequence[Sequence[Need]], slots: int) -> Iterator[list[Need]]:
    """The rows' forwards, in so many slots: each tick one of every row, and the next row where one has ended.

    What an engine does that loses nothing, whatever the one that was timed did.
    """
    waiting, live = list(reversed(rows)), list[list[Need]]()
    while waiting or live:
        while waiting and len(live) < slots:
            live.append(list(reversed(waiting.pop())))
        yield [row.pop() for row in live]
        live = [row for row in live if row]


def bound_seconds(config: ModelConfig, rows: Sequence[Sequence[Need]], slots: int, bandwidth: float, flops: float,
                  item: int) -> float:
    """Seconds that the rows' forwards take at least where as many run together as there are slots."""
    return sum(least_seconds(config, tick, bandwidth, flops, item=item) for tick in together(rows, slots))


def timed(engine: Limited, prompts: list[list[int]], rounds: int) -> tuple[list[float], list[list[tuple[str, int]]]]:
    """Decode once to compile and capture, then `rounds` times for the clock: seconds, and each row's kinds and blocks.
    """
    seconds = []
    for _ in range(1 + rounds):
        engine.finished.clear()
        steps: list[list[tuple[str, int]]] = [[] for _ in prompts]
        synchronise(engine.lm.device)
        began = time.perf_counter()
        for step in engine.steps(iter(enumerate(prompts))):
            steps[step.row].append((step.kind, step.block))
        synchronise(engine.lm.device)
        seconds.append(time.perf_counter() - began)
    return seconds[1:], steps


def measure(lm: LM, options: argparse.Namespace, bandwidth: float, flops: float) -> Iterator[dict[str, Any]]:
    """One line for each batch and engine."""
    words = min(100_000, lm.config.vocab_size - 2)
    draw = random.Random(1)
    prompts, limits = random_prompts(options.prompts, 33, 200, 2, words), [
        draw.randint(24, TOKENS) for _ in range(options.prompts)]
    network = plain(lm)
    for batch in options.batches:
        count = min(ALONE if batch == 1 else options.prompts, options.prompts)
        bound, some, most = 0.0, prompts[:count], limits[:count]
        for name in options.engines:
            engine = engine_with(ENGINES[name], lm, some, TOKENS, batch, most)
            runs, steps = timed(engine, some, options.rounds * (ROUNDS_ALONE if batch == 1 else 1))
            needs = [needs_of(row, prompt, lm.config.bd_size) for row, prompt in zip(steps, some, strict=True)]
            bound = bound_seconds(lm.config, needs, batch, bandwidth, flops, lm.dtype.itemsize)
            made = sum(len(row.generated) for row in engine.finished)
            del engine
            forget_memory(lm.device, peak=False)
            yield line(name, batch, made, runs, bound)
        if batch in options.plain:
            order = sorted(range(count), key=lambda row: (len(some[row]) // 32, most[row]))
            run = reference(network, [some[row] for row in order], TOKENS, limits=[most[row] for row in order],
                            batch=batch)
            yield line("plain loop", batch, run["tokens"], run["all_seconds"], bound)
            forget_memory(lm.device, peak=False)


def line(engine: str, batch: int, tokens: int, runs: list[float], bound: float) -> dict[str, Any]:
    """What was measured: the shortest of the runs, and its share of the bound beside the target."""
    best, target = min(runs), None if engine == "plain loop" else TARGETS.get(batch)
    share = bound / best
    return {"engine": engine, "batch": batch, "tokens": tokens, "seconds": runs, "tokens_per_second": tokens / best,
            "bound_seconds": bound, "bound_tokens_per_second": tokens / bound if bound else None, "share": share,
            "target": target, "met": None if target is None else share >= target}


def show(row: dict[str, Any]) -> None:
    """One line for the terminal."""
    verdict = "" if row["target"] is None else f"  target {row['target']:.0%}: {'met' if row['met'] else 'not met'}"
    print(f"{row['batch']:5d}  {row['engine']:10s} {row['tokens']:6d} {min(row['seconds']):8.2f} "
          f"{row['tokens_per_second']:9.1f} {row['bound_tokens_per_second'] or 0:9.1f} {row['share']:7.1%}{verdict}",
          flush=True)


def main() -> None:
    """Measure; print a table, write JSON after each line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 64, 128])
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=["packed", "unpacked"],
                        help="default: what executor='fast' is")
    parser.add_argument("--plain", type=int, nargs="*", default=[1, 32, 128], help="batches of the plain loop, too")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=1,
                        help="runs for the clock, behind one to warm up; three times as many at batch 1")
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--small", action="store_true", help="thin layers, to try it out")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.small:
        raise SystemExit("the 7B's shape needs a GPU; allowed here: --small")
    dtype = torch.float32 if device.type == "cpu" else getattr(torch, options.dtype)
    bandwidth, flops = max(copy_bandwidth(device) for _ in range(3)), matrix_rate(device, dtype)
    lm = random_lm(dtype, device.type, small_geometry() if options.small else None)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    report: dict[str, Any] = {"date": date.today().isoformat(), "device": name, "torch": torch.__version__,
                              "dtype": str(dtype), "small": options.small, "prompts": options.prompts,
                              "copy_bandwidth": bandwidth, "matrix_flops": flops, "runs": []}
    print(f"{name}, {dtype}: copies at {bandwidth / 1e12:.3f} TB/s, multiplies at {flops / 1e12:.1f} TFLOP/s\n"
          "batch  engine     tokens  seconds  tokens/s  at bound   share")
    for row in measure(lm, options, bandwidth, flops):
        report["runs"].append(row)
        show(row)
        options.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
