"""What policy `verify` saves, in passes and by the clock: `python -m benchmarks.bench_verify PART ...`.

    run --model DIR [--data FILE.jsonl --field question] [--limit 24] [--thresholds 0.9 1.0] [--most 256]
        k=1 against verify at k=2, 3, 4, one prompt at a time, every run four times and the best of the last three
        timed (graphs are captured in the first): passes, acceptance, tokens/s, texts equal to those of k=1. Any device.
    rows [--rows-of NAME ...]
        milliseconds of a pass by its width, captured, beside the forwards of k=1; of random weights of the 7B's shape,
        or of checkpoints (tiny, on any device). With the widths of `run` they predict a speed-up, see `predicted`: of
        a 7B, and of the checkpoint itself, of which the clock of `run` shows a share.
    batches [--sizes 1 2 4 8 16 32] [--depth 2]
        k=1 against verify at equal batch size, in turns, three times each behind a first that captures.

Prints one JSON object a line as it goes, and appends it to --out. Without --data the embedded task's problems are used.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

import fastdllm
from fastdllm import Decoding, Execution, Reuse
from fastdllm.decode.drafts import Memory, OldLogits, tree
from fastdllm.decode.fast import Fast
from fastdllm.decode.generate import build
from fastdllm.decode.loop import Engine
from fastdllm.decode.pack_executor import OneByOne, Together
from fastdllm.decode.packs import Layout, Pack, State
from fastdllm.decode.policies import PLAIN
from fastdllm.decode.step import Forward
from fastdllm.investigation.speed.measure import seconds_of, synchronise
from fastdllm.lab import atomic
from fastdllm.model.lm import LM

PREFIX = 256


def device_name(lm: LM) -> str:
    return torch.cuda.get_device_name() if lm.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def prompts(lm: LM, data: Path | None, field: str, limit: int) -> list[list[int]]:
    """Token ids of the first questions of a JSON or JSON-lines file, or of the embedded task."""
    if data is None:
        from fastdllm import tasks
        return [lm.encode(problem.prompt) for problem in tasks.get("arithmetic").problems(limit)]
    rows = json.loads(data.read_text(encoding="utf-8")) if data.suffix == ".json" else atomic.json_lines(data)
    return [lm.encode(row[field]) for row in rows[:limit]]


def widths_of(engine: Engine) -> Counter[int]:
    """Counts the tokens of every pass from here on, prefills apart (width 0)."""
    widths = Counter[int]()
    executor: Any = engine.executor
    if isinstance(executor, (Together, OneByOne)):
        run = executor.run

        def of_packs(packs: Any) -> Any:
            widths.update(0 if pack.states[0].forward.kind == "prefill" else sum(s.forward.width for s in pack.states)
                          for pack in packs)
            return run(packs)

        executor.run = of_packs          # type: ignore[method-assign]
    else:
        launch = executor.launch

        def of_forwards(forwards: Any, plans: Any) -> Any:
            widths.update(0 if forward.kind == "prefill" else forward.width for forward in forwards)
            return launch(forwards, plans)

        executor.launch = of_forwards
    return widths


def seconds_to_decode(lm: LM, engine: Engine, ids: list[list[int]]) -> float:
    """What an engine takes for all prompts; what it did before is forgotten."""
    engine.finished.clear()
    synchronise(lm.device)
    began = time.perf_counter()
    for _ in engine.steps(iter(enumerate(ids))):
        pass
    synchronise(lm.device)
    return time.perf_counter() - began


def decode(lm: LM, ids: list[list[int]], decoding: Decoding, reuse: Reuse) -> dict[str, Any]:
    """All prompts one after another, four times; what the quickest of the last three took."""
    engine, _ = build(lm, ids, decoding, reuse, "fixed", Execution(batch_size=1), None)
    seconds_to_decode(lm, engine, ids)
    seconds = min(seconds_to_decode(lm, engine, ids) for _ in range(2))
    widths = widths_of(engine)
    seconds = min(seconds, seconds_to_decode(lm, engine, ids))
    rows = [row.result("") for row in sorted(engine.finished, key=lambda row: row.index)]
    kinds: dict[str, list[int]] = {}
    for draft in (draft for row in rows for draft in row.drafts):
        counts = kinds.setdefault(f"depth {draft.depth} {draft.kind}", [0, 0])
        counts[0] += draft.offered
        counts[1] += draft.accepted
    return {"outputs": [row.tokens for row in rows], "tokens": sum(len(row.tokens) for row in rows),
            "seconds": seconds, "nfe": sum(sum(row.nfe.values()) for row in rows),
            "forwards_run": sum(row.forwards_run for row in rows), "widths": dict(sorted(widths.items())),
            "drafts": {kind: {"offered": offered, "accepted": accepted}
                       for kind, (offered, accepted) in sorted(kinds.items())}}


def runs(lm: LM, data: str, ids: list[list[int]], thresholds: list[float], most: int) -> Iterator[dict[str, Any]]:
    """k=1 and verify at every threshold."""
    for threshold in thresholds:
        decoding = Decoding(threshold=threshold, max_new_tokens=most)
        base = decode(lm, ids, decoding, Reuse())
        for k in (1, 2, 3, 4):
            run = base if k == 1 else decode(lm, ids, decoding, Reuse(k=k, policy="verify"))
            same = sum(a == b for a, b in zip(run["outputs"], base["outputs"], strict=True))
            yield {"part": "run", "model": lm.name, "data": data, "device": device_name(lm),
                   "dtype": str(lm.dtype), "n": len(ids), "threshold": threshold, "k": k,
                   **{name: run[name] for name in run if name != "outputs"},
                   "tokens_per_second": run["tokens"] / run["seconds"], "equal_to_k1": same,
                   "forwards_saved": run["nfe"] / run["forwards_run"],
                   "speedup": base["seconds"] / base["tokens"] * run["tokens"] / run["seconds"]}


def batches(lm: LM, ids: list[list[int]], thresholds: list[float], most: int, sizes: list[int],
            depth: int) -> Iterator[dict[str, Any]]:
    """k=1 and verify in turns at each batch size: tokens/s of the best of three, and their ratio."""
    for threshold, size in ((threshold, size) for threshold in thresholds for size in sizes):
        decoding = Decoding(threshold=threshold, max_new_tokens=most)
        engines = {k: build(lm, ids, decoding, reuse, "fixed", Execution(batch_size=size), None)[0]
                   for k, reuse in ((1, Reuse()), (depth + 1, Reuse(k=depth + 1, policy="verify")))}
        times: dict[int, list[float]] = {k: [] for k in engines}
        for k, engine in [*engines.items()] * 4:
            times[k].append(seconds_to_decode(lm, engine, ids))
        speeds = {k: sum(len(row.result("").tokens) for row in engine.finished) / min(times[k][1:])
                  for k, engine in engines.items()}
        yield {"part": "batches", "model": lm.name, "device": device_name(lm), "dtype": str(lm.dtype), "n": len(ids),
               "threshold": threshold, "batch": size, "k": depth + 1, "tokens_per_second_k1": speeds[1],
               "tokens_per_second": speeds[depth + 1], "speedup": speeds[depth + 1] / speeds[1],
               "noise": max(max(each[1:]) / min(each[1:]) for each in times.values())}


def forward(kind: str, start: int, width: int, slot: int = 0) -> Forward:
    """A forward of a small block or a block behind a prefix."""
    block = start // 32 * 32
    return Forward(row=0, slot=slot, index=0, kind=kind, block=block // 32, small_block=(start - block) // 8, step=0,
                   start=start, tokens=tuple(range(200, 200 + width)), end=block + 32,
                   read=tuple(range(8)), masked=(True,) * 8,
                   replace_position=start - block if kind == "small" else None, offset=start - block)


def timed(lm: LM, call: Any, repeats: int) -> float:
    """Median milliseconds of a call."""
    return median(seconds_of(call, lm.device, repeats)) * 1e3


def rows(lm: LM, repeats: int = 40) -> Iterator[dict[str, Any]]:
    """Milliseconds of packs by what is in them, and of the plain forwards of k=1."""
    about = {"part": "rows", "model": lm.name, "device": device_name(lm), "dtype": str(lm.dtype), "prefix": PREFIX}
    small, full = forward("small", PREFIX + 8, 8), forward("full", PREFIX, 32)
    decoding = Decoding(mask_id=lm.mask_id, stop_ids=())
    with torch.inference_mode():
        plain = Fast(lm.network, 1, 512, decoding, None)
        for each in (small, full):
            yield {**about, "executor": "k=1", "states": each.kind, "width": each.width,
                   "ms": timed(lm, partial(plain.run, [each], [PLAIN]), repeats)}
        layout = Layout(32, 4, 32)
        packed = Together(lm.network, 1, 512, layout)
        for states in ([small], [small] * 2, [small] * 3, [small] * 4, [full], [full, small], [full, small, small],
                       [full, small, small, small], [full, full], [small, full], [small, full, small]):
            pack = Pack(0, tuple(State(each, area, 0, tuple(range(each.width))) for area, each in enumerate(states)))
            yield {**about, "executor": "verify", "states": "+".join(each.kind for each in states),
                   "width": sum(each.width for each in states),
                   "ms": timed(lm, partial(packed.run, [pack]), repeats)}


def predicted(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Speed-up in tokens/s at the forward times of `rows`, from the widths of every `run` in their dtype (prefills left
    out; of passes of one width the slowest): a bound, since the host's drafting is not in it. For the model that ran,
    the share of it that the clock showed.
    """
    timed_rows = [line for line in lines if line["part"] == "rows"]
    for model in dict.fromkeys(line["model"] for line in timed_rows):
        mine = [line for line in timed_rows if line["model"] == model]
        plain = {line["width"]: line["ms"] for line in mine if line["executor"] == "k=1"}
        packed = dict[int, float]()
        for line in mine:
            if line["executor"] == "verify":
                packed[line["width"]] = max(line["ms"], packed.get(line["width"], 0.0))

        def cost(widths: dict[Any, int], table: dict[int, float]) -> float:
            return sum(count * table[min((w for w in table if w >= int(width)), default=max(table))]
                       for width, count in widths.items() if int(width))

        done = [line for line in lines if line["part"] == "run" and line["dtype"] == mine[0]["dtype"]]
        for base in (line for line in done if line["k"] == 1):
            for run in (line for line in done if line["k"] > 1):
                if all(run[name] == base[name] for name in ("model", "data", "threshold", "n", "device")):
                    speedup = (cost(base["widths"], plain) / base["tokens"]
                               / (cost(run["widths"], packed) / run["tokens"]))
                    yield {"part": "predicted", "of": run["model"], "data": run["data"], "at_forward_times_of": model,
                           "threshold": run["threshold"], "k": run["k"], "speedup": speedup,
                           **({"share_by_the_clock": run["speedup"] / speedup} if model == run["model"] else {})}


def host_microseconds(lm: LM, ids: list[int]) -> dict[str, Any]:
    """What drafting costs on the host: microseconds for each tree of three drafts (the device is idle meanwhile)."""
    engine, _ = build(lm, [ids], Decoding(threshold=1.0, max_new_tokens=64), Reuse(), "fixed", Execution(), None)
    steps = engine.steps(iter([(0, ids)]))
    while next(steps).kind != "small":
        pass
    row, memory = engine.slots[0], Memory()
    if row is None:
        raise RuntimeError("the row ended before its first small forward")
    memory.predicted.update(dict.fromkeys(range(row.start, row.start + 40), (5, 0.5)))
    drafter = OldLogits(1.0)
    began = time.perf_counter()
    for _ in range(500):
        tree(row, drafter, memory, 3, 64)
    return {"part": "host", "model": lm.name, "microseconds_a_tree": (time.perf_counter() - began) / 500 * 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=["run", "rows", "batches"])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--field", default="question")
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--most", type=int, default=256)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.9, 1.0])
    parser.add_argument("--rows-of", nargs="+", default=["random-7b"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines: list[dict[str, Any]] = []

    def say(line: dict[str, Any]) -> None:
        lines.append(line)
        text = json.dumps({name: round(value, 4) if isinstance(value, float) else value
                           for name, value in line.items()})
        print(text, flush=True)
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(text + "\n")

    say({"part": "versions", "python": platform.python_version(), "torch": torch.__version__})
    if {"run", "batches"} & set(options.parts):
        lm = fastdllm.load(options.model, dtype=options.dtype)
        if lm.device.type == "cpu":
            torch.set_num_threads(1)
        ids = prompts(lm, options.data, options.field, options.limit)
        if "run" in options.parts:
            data = options.data.stem if options.data else "arithmetic"
            for line in runs(lm, data, ids, options.thresholds, options.most):
                say(line)
            say(host_microseconds(lm, ids[0]))
        if "batches" in options.parts:
            for line in batches(lm, ids, options.thresholds, options.most, options.sizes, options.depth):
                say(line)
        del lm
    for name in options.rows_of if "rows" in options.parts else []:
        if name == "random-7b":
            from benchmarks.random_model import random_lm
            lm = random_lm(torch.bfloat16)
        else:
            lm = fastdllm.load(name, dtype=options.dtype)
        for line in rows(lm):
            say(line)
        del lm
    for line in predicted(lines):
        say(line)


if __name__ == "__main__":
    main()
