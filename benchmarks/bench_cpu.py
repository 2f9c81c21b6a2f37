"""Speed on two CPU cores with the embedded checkpoint: `python -m benchmarks.bench_cpu [--out results.json]`.

Our loop against the plain loop of `reference.py`, in one run and alternating, so that a busy machine slows
both. Every pair of outputs is compared token for token.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections import defaultdict
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import fastdllm
from benchmarks.plain_network import PlainNetwork
from benchmarks.reference import Loop
from fastdllm import Decoding
from fastdllm.decode.generate import build
from fastdllm.decode.threads import torch_threads
from fastdllm.model.lm import LM
from fastdllm.tasks import get


def prompts(lm: LM, count: int) -> list[list[int]]:
    """Held-out problems of the embedded task, in the chat template."""
    return [lm.encode(problem.prompt) for problem in get("arithmetic").problems(count)]


def plain_run(network: PlainNetwork, lm: LM, ids: list[list[int]], threshold: float, most: int,
              threads: int) -> dict[str, Any]:
    """The plain loop, one prompt after another; each operation may use so many threads."""
    began, made, nfe, outputs = time.perf_counter(), 0, defaultdict(int), []
    with torch_threads(threads):
        for prompt in ids:
            result = Loop(network, [prompt], threshold=threshold, max_new_tokens=most, stop_token=lm.stop_ids[0],
                          mask_id=lm.mask_id or 0, pad_id=lm.config.pad_token_id or 0).run()
            tokens = result.generated[0]
            if lm.stop_ids[0] in tokens:
                tokens = tokens[:tokens.index(lm.stop_ids[0]) + 1]
            outputs.append(tokens[:most])
            made += len(outputs[-1])
            for kind, number in result.nfe.items():
                nfe[kind] += number
    seconds = time.perf_counter() - began
    return {"tokens": made, "seconds": seconds, "tokens_per_second": made / seconds, "nfe": dict(nfe),
            "outputs": outputs}


def our_run(lm: LM, ids: list[list[int]], threshold: float, most: int, batch: int) -> dict[str, Any]:
    """Our loop with continuous batching, `batch` rows at a time, batches dealt to a thread for each core.

    Operations use one thread: those of this network are too short for more.
    """
    began = time.perf_counter()
    with torch_threads(1):
        out = fastdllm.generate(lm, ids, decoding=Decoding(threshold=threshold, max_new_tokens=most), batch_size=batch,
                                threads=1 if batch == 1 else os.cpu_count() or 1)
    seconds, made = time.perf_counter() - began, sum(map(len, out.tokens))
    nfe = {kind: sum(row[kind] for row in out.nfe) for kind in out.nfe[0]}
    return {"tokens": made, "seconds": seconds, "tokens_per_second": made / seconds, "nfe": nfe, "outputs": out.tokens}


def reuse_run(lm: LM, ids: list[list[int]], threshold: float, most: int, batch: int, k: int) -> dict[str, Any]:
    """Policy `output` on the middle layers, `batch` rows at a time in one thread: seconds of the processor, so that a
    busy machine slows no side more than the other, network calls, layer calls (layers that ran, for each row), and the
    tokens that went through them: a call of a full forward has the block's, one of a small forward a quarter."""
    reuse = fastdllm.Reuse(k=k, layers="middle")
    engine, _ = build(lm, ids, Decoding(threshold=threshold, max_new_tokens=most), reuse, "fixed",
                      fastdllm.Execution(batch_size=batch, executor="fast"), None)
    with torch_threads(1):
        began = time.process_time()
        for _ in engine.steps(iter(enumerate(ids))):
            pass
        seconds = time.process_time() - began
    layers, block, small = lm.config.num_hidden_layers, engine.rules.block, engine.rules.small
    width = {"prefill": 0, "full": block, "small": small, "commit": block}
    tokens = sum(row.length // block * block + sum(width[kind] * row.nfe[kind] for kind in width)
                 for row in engine.finished)
    reused = sum(row.decisions["reuse"] for row in engine.finished)      # of small forwards, which alone reuse here
    return {"cpu_seconds": seconds, "network_calls": engine.executor.graphs.synchronisations,
            "layer_calls": layers * sum(sum(row.nfe.values()) for row in engine.finished) - reused,
            "layer_tokens": layers * tokens - small * reused}


def reuse_ratios(lm: LM, ids: list[list[int]], threshold: float, most: int, repeats: int) -> dict[str, Any]:
    """k=1 over k=2 and k=3: medians of seconds, each repeat against the k=1 beside it, and the ratios of layer calls
    and of their tokens.

    Where the ratio of seconds is smaller than that of tokens, something besides the layers costs what they save.
    """
    runs = [{k: reuse_run(lm, ids, threshold, most, 32, k) for k in (1, 2, 3)} for _ in range(repeats)]
    return {f"k={k}": {"network_calls": runs[0][k]["network_calls"],
                       **{name: runs[0][1][name] / runs[0][k][name] for name in ("layer_calls", "layer_tokens")},
                       "cpu_seconds": median(run[1]["cpu_seconds"] / run[k]["cpu_seconds"] for run in runs)}
            for k in (1, 2, 3)}


def anatomy(lm: LM, ids: list[list[int]], threshold: float, most: int, batch: int) -> dict[str, Any]:
    """Where our time goes: milliseconds by forward kind, and share by operation."""
    engine, _ = build(lm, ids, Decoding(threshold=threshold, max_new_tokens=most), fastdllm.Reuse(), "fixed",
                      fastdllm.Execution(batch_size=batch), None)
    spent: dict[str, list[float]] = defaultdict(list)
    launch = engine.executor.launch

    def timed(forwards: Any, plans: Any) -> Any:      # on a CPU nothing is left to wait for
        began = time.perf_counter()
        landing = launch(forwards, plans)
        spent["+".join(sorted({forward.kind for forward in forwards}))].append((time.perf_counter() - began) * 1e3)
        return landing

    engine.executor.launch = timed          # type: ignore[method-assign]
    with torch_threads(1), profile(activities=[ProfilerActivity.CPU]) as recorded:
        began = time.perf_counter()
        for _ in engine.steps(iter(enumerate(ids))):
            pass
        total = (time.perf_counter() - began) * 1e3
    rows = sorted(recorded.key_averages(), key=lambda event: -event.self_cpu_time_total)
    whole = sum(event.self_cpu_time_total for event in rows)
    return {"ms_by_kind": {kind: sorted(values)[len(values) // 2] for kind, values in spent.items()},
            "forwards": {kind: len(values) for kind, values in spent.items()},
            "loop_share": 1 - sum(map(sum, spent.values())) / total,
            "operations": {event.key: event.self_cpu_time_total / whole for event in rows[:12]}}


def main() -> None:
    """Compare, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--prompts", type=int, default=24, help="one at a time")
    parser.add_argument("--in-batches", type=int, default=256, help="prompts in batches of 16 and 32")
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    lm = fastdllm.load("tiny", device="cpu")
    network = PlainNetwork.load(lm.path)
    few, many = prompts(lm, options.prompts), prompts(lm, options.in_batches)
    settings = (options.threshold, options.max_new_tokens)
    best: dict[str, dict[str, Any]] = {}
    for _ in range(options.repeats):
        for name, run in (("plain 1", lambda: plain_run(network, lm, few, *settings, 1)),
                          ("plain 1, all cores", lambda: plain_run(network, lm, few, *settings, os.cpu_count() or 1)),
                          ("ours 1", lambda: our_run(lm, few, *settings, 1)),
                          ("ours 16", lambda: our_run(lm, many, *settings, 16)),
                          ("ours 32", lambda: our_run(lm, many, *settings, 32))):
            result = run()
            if name not in best or result["seconds"] < best[name]["seconds"]:
                best[name] = result
    base = min(best["plain 1"], best["plain 1, all cores"], key=lambda result: result["seconds"])     # the better one
    same = sum(a == b for a, b in zip(base["outputs"], best["ours 1"]["outputs"], strict=True))
    in_batch = {n: sum(a == b for a, b in zip(base["outputs"], best[f"ours {n}"]["outputs"], strict=False))
                for n in (16, 32)}
    for name, result in best.items():
        print(f"{name:18s} {result['tokens_per_second']:8.1f} tokens/s  "
              f"{result['tokens_per_second'] / base['tokens_per_second']:5.2f}x  {result['nfe']}")
    print(f"same tokens as the plain loop: {same}/{len(few)} at batch 1, {in_batch} in batches")
    report = {"date": date.today().isoformat(), "torch": torch.__version__, "python": platform.python_version(),
              "cores": os.cpu_count(), "threads": torch.get_num_threads(), "machine": platform.machine(),
              "load": os.getloadavg()[0], "settings": vars(options) | {"out": None},
              "same_tokens": same, "same_tokens_in_batches": in_batch, "prompts": len(few),
              "runs": {name: {key: value for key, value in result.items() if key != "outputs"}
                       for name, result in best.items()},
              "reuse": reuse_ratios(lm, many, *settings, options.repeats),
              "anatomy": {str(n): anatomy(lm, few[:4], *settings, n) for n in (1, 4)}}
    for name, ratio in report["reuse"].items():
        print(f"{name}, batch 32, one thread: {ratio['network_calls']} network calls; faster than k=1 by "
              f"{ratio['cpu_seconds']:.3f} in seconds of the processor, {ratio['layer_calls']:.3f} in layer calls, "
              f"{ratio['layer_tokens']:.3f} in their tokens")
    for batch, spent in report["anatomy"].items():
        print(f"batch {batch}: ms by kind {spent['ms_by_kind']}, loop itself {spent['loop_share']:.1%}; " + ", ".join(
            f"{name.removeprefix('aten::')} {share:.0%}" for name, share in spent["operations"].items()))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
