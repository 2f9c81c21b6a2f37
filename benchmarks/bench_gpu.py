"""Speed on a GPU with random weights of the 7B shape: `python -m benchmarks.bench_gpu --out results.json`.
On a CPU with `--small`: thin layers in float32, to try it out.

One run measures the copy bandwidth, our fast and eager executors and the plain reference loop, so that
every ratio is within one run. Random weights make thresholds meaningless: threshold 1.0 forces one token
per forward, as at the published settings most steps do.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_runs import PREFIX, graph_milliseconds, ours, reference
from benchmarks.modules_network import ModulesNetwork
from benchmarks.random_model import plain, random_lm, small_geometry
from fastdllm import Reuse
from fastdllm.investigation.speed.measure import copy_bandwidth
from fastdllm.investigation.speed.random_weights import random_prompts
from fastdllm.report import cost_model


def measure(dtype: torch.dtype, quick: bool, prompts: int, measured: dict[str, Any],
            device: torch.device, small: bool = False) -> Iterator[dict[str, Any]]:
    """Fill `measured` for one dtype, yielding each new row as it is measured."""
    bandwidth = max(copy_bandwidth(device) for _ in range(3))
    lm = random_lm(dtype, device.type, small_geometry() if small else None)
    network, words = plain(lm), min(100_000, lm.config.vocab_size - 2)
    modules = ModulesNetwork(network.config, network.weights)
    one = random_prompts(1, PREFIX + 5, PREFIX + 5, vocabulary=words)
    measured |= {"dtype": str(dtype), "copy_bandwidth": bandwidth, "forwards": [], "runs": []}
    for row in graph_milliseconds(lm, bandwidth, 1):
        measured["forwards"].append(row)
        yield row
    forget_memory(device)

    def kept(run: dict[str, Any]) -> dict[str, Any]:
        measured["runs"].append(run)
        forget_memory(device, peak=False)
        return run

    reuses = [Reuse()] + [Reuse(k=k, layers="middle", policy=policy) for k in (2, 3) for policy in ("output", "replay")]
    if not quick:
        reuses += [Reuse(k=k, layers="middle", policy=policy, full_forwards=True)
                   for k in (2, 3) for policy in ("output", "residual", "replay")]
    for reuse in reuses:
        run = ours(lm, one, 123, reuse, "fast")
        if reuse.k == 1:
            measured["peak_memory"] = peak_memory(device)
            measured["predicted_memory"] = cost_model.memory_bytes(lm.config, 2, 384, graphs=run["graphs"],
                                                                   item=dtype.itemsize)
        yield kept(run)
    for plain_one in (network, modules):
        yield kept(reference(plain_one, one, 128, repeats=3))
        yield kept(reference(plain_one, one, 128, by_kind=True))
    if quick:
        return
    yield kept(ours(lm, one, 123, Reuse(), "eager"))
    for k in (2, 3):
        yield kept(reference(network, one, 128, variant="run2", k=k, subset="middle"))
    yield kept(reference(network, one, 128, variant="old", k=2, subset="middle"))
    for row in graph_milliseconds(lm, bandwidth, 32):
        measured["forwards"].append(row)
        yield row
    draw = random.Random(1)
    many, limits = random_prompts(prompts, 33, 200, 2, words), [draw.randint(24, 160) for _ in range(prompts)]
    forget_memory(device)
    run = ours(lm, many, 160, Reuse(), "fast", 32, limits)
    run |= {"peak_memory": peak_memory(device),
            "predicted_memory": cost_model.memory_bytes(lm.config, 33, 384, graphs=run["graphs"])}
    yield kept(run)
    yield kept(reference(network, many, 160, limits=limits, batch=32))
    order = sorted(range(prompts), key=lambda i: (len(many[i]) // 32, limits[i]))      # its best: equal rows together
    yield kept(reference(network, [many[i] for i in order], 160, limits=[limits[i] for i in order], batch=32)
               | {"note": "prompts sorted by prompt and answer length"})
    yield kept(ours(lm, many, 160, Reuse(k=2, layers="middle", policy="replay"), "fast", 32, limits))


def main() -> None:
    """Measure float16 in short and bfloat16 in full; print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--prompts", type=int, default=256, help="for the batches of 32")
    parser.add_argument("--small", action="store_true", help="thin layers, to try it out")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.small:
        raise SystemExit("the 7B's shape needs a GPU; allowed here: --small")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    report: dict[str, Any] = {"date": date.today().isoformat(), "device": name,
                              "torch": torch.__version__, "cuda": torch.version.cuda,
                              "python": platform.python_version(), "dtypes": []}
    every = (torch.float32,) if device.type == "cpu" else (torch.float16, torch.bfloat16)
    for dtype in every[-1:] if options.quick else every:
        measured: dict[str, Any] = {}
        report["dtypes"].append(measured)
        for row in measure(dtype, options.quick or dtype is torch.float16, options.prompts, measured, device,
                           options.small):
            show(row)
            options.out.write_text(json.dumps(report, indent=1))
        print(f"{dtype}: copy {measured['copy_bandwidth'] / 1e12:.2f} TB/s, peak memory "
              f"{measured['peak_memory'] / 1e9:.2f} GB, formula {measured['predicted_memory'] / 1e9:.2f} GB")
        forget_memory(device)


def peak_memory(device: torch.device) -> int:
    """Bytes that torch has held at most on a GPU; 0 on a CPU, where nobody counts them."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def forget_memory(device: torch.device, peak: bool = True) -> None:
    """Give unused memory back, and with `peak` count anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        if peak:
            torch.cuda.reset_peak_memory_stats()


def show(row: dict[str, Any]) -> None:
    """One line for the terminal."""
    if "ms" in row:
        print(f"  {row['kind']:7s} batch {row['batch']:2d} {row['layers']} layers {row['ms']:7.3f} ms "
              f"{row['gb_per_second']:6.0f} GB/s {row['share_of_copy']:.1%} predicted {row['predicted_ms']:.3f}")
    else:
        print(f"  {row['executor']:9s} b{row['batch']} k={row['k']} {row.get('policy') or row.get('variant')} "
              f"full_forwards={row.get('full_forwards')} {row['tokens']} tokens {row['seconds']:.3f} s "
              f"{row['tokens_per_second']:.1f} tok/s {row['nfe']} "
              f"{ {kind: round(ms, 3) for kind, ms in row.get('ms_by_kind', {}).items()} } "
              f"{row.get('network', '')} {row.get('note', '')}", flush=True)


if __name__ == "__main__":
    main()
