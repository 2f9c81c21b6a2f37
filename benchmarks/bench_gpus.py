"""One configuration on one GPU and on several: `python -m benchmarks.bench_gpus --work /tmp/gpus --out gpus.json`.
On a machine without a GPU `--small` tries it with thin layers, and a process of the CPU stands for each GPU.

A checkpoint of the 7B's shape with random weights is written once; the project's own runner then runs the same grid
with each number of GPUs, as `fastdllm grid run` does: it splits the configuration into as many shards, each a process.
Answers are all as long as they may be. The clock counts from the start of the run to its record (start-up: imports,
loading 15 GB, capture, the notebook), and decoding alone, that of the shard that decoded longest.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.random_model import geometry, random_lm, small_geometry
from fastdllm.lab import records
from fastdllm.lab.config import grid_file
from fastdllm.lab.jobs import machine, runner
from fastdllm.lab.jobs import plan as plans
from fastdllm.lab.records.identity import CurrentFingerprints
from fastdllm.model.checkpoint import save
from fastdllm.model.files import fingerprint
from fastdllm.tasks.arithmetic import generate
from fastdllm.train.tokenizer import SPECIALS, save_tokenizer, train_tokenizer

GOAL = 1.9      # times one GPU's speed, on two
WORDS = 512     # of the tokenizer; the network predicts tokens beyond them, which decode to nothing


def write_checkpoint(directory: Path, small: bool) -> Path:
    """Random weights that never predict a special token, so that no answer ends early, and a tokenizer of our own."""
    if (directory / "tokenizer.json").exists():
        return directory
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lm = random_lm(torch.float32 if device == "cpu" else torch.bfloat16, device,
                   small_geometry() if small else geometry())
    pad, start, stop, _ = specials = range(WORDS - len(SPECIALS), WORDS)
    lm.network.lm_head.weight[list(specials)] = 0
    save(lm.network, directory, lm.dtype)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config |= {"pad_token_id": pad, "bos_token_id": start, "eos_token_id": stop}
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    texts = [f"{problem.question}\n{problem.answer}" for problem in generate("train", 200, 0)]
    save_tokenizer(train_tokenizer(texts, WORDS), directory)
    del lm
    if device == "cuda":
        torch.cuda.empty_cache()
    return directory


def write_grid(home: Path, model: Path, options: argparse.Namespace, shards: int | None) -> Path:
    """A grid of one configuration, one token a forward; `shards` where no GPUs say how often it is split."""
    home.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "experiment": "gpus", "model": str(model), "output": str(home / "executed"), "task": "arithmetic",
        "limit": options.problems, "batch_size": options.batch,
        "decoding": {"threshold": 1.0, "max_new_tokens": options.tokens}, "axes": {}, "configs": [{"k": 1}]}
    if shards is not None:
        values |= {"shards": shards, "jobs": shards}
    path = home / "gpus.yml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def run(path: Path, gpus: Sequence[str]) -> dict[str, Any]:
    """Run a grid's one configuration; seconds by the clock, and those in which each shard decoded."""
    grid = grid_file.load(path)
    [configuration] = grid.configurations()
    current = CurrentFingerprints()
    began = time.perf_counter()
    if not runner.run(plans.plan(grid, force=True, current=current), gpus=gpus):
        raise SystemExit(f"the run failed: {configuration.directory / records.LOG}")
    seconds = time.perf_counter() - began
    record = records.read(configuration.directory)
    samples = [json.loads(line) for line in
               (configuration.directory / records.SAMPLES).read_text(encoding="utf-8").splitlines()]
    decoding = [max(sample["elapsed"] for sample in samples[shard::record.shards]) for shard in range(record.shards)]
    return {"shards": record.shards, "seconds": seconds, "decode_seconds": decoding, "tokens": record.tokens,
            "problems": record.n, "load_seconds": record.load_seconds, "warmup_seconds": record.warmup_seconds,
            "outputs": [sample["output"] for sample in samples]}


def main() -> None:
    """Run with each number of GPUs; print both ratios, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="where the checkpoint and the runs go (16 GB)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--problems", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--small", action="store_true", help="thin layers, to try it out")
    options = parser.parse_args()
    all_gpus = machine.gpus()
    if not all_gpus and not options.small:
        raise SystemExit("the 7B's shape needs a GPU; allowed here: --small")
    if all_gpus and max(options.gpus) > len(all_gpus):
        raise SystemExit(f"--gpus {max(options.gpus)}; allowed: up to {len(all_gpus)}")
    work = options.work.resolve()
    model = write_checkpoint(work / ("small" if options.small else "random-7b"), options.small)
    fingerprint(model)      # 15 GB are read once, before any clock runs
    name = torch.cuda.get_device_name() if all_gpus else "cpu"
    report: dict[str, Any] = {"date": date.today().isoformat(), "device": name, "torch": torch.__version__,
                              "small": options.small, "batch": options.batch, "goal": GOAL, "runs": []}
    outputs: list[list[str]] = []
    few = argparse.Namespace(**vars(options) | {"problems": options.batch})
    run(write_grid(work / "first", model, few, None if all_gpus else 1), all_gpus[:1])      # compiles the kernels
    for count in options.gpus:
        path = write_grid(work / f"on{count}", model, options, None if all_gpus else count)
        one = run(path, all_gpus[:count])
        outputs.append(one.pop("outputs"))
        report["runs"].append({"gpus": count, **one})
        decoding = ", ".join(f"{seconds:.1f}" for seconds in one["decode_seconds"])
        print(f"{count} {'GPUs' if all_gpus else 'processes'}: {one['tokens']} tokens, {one['seconds']:.1f} s by the "
              f"clock; decoding {decoding} s, loading {one['load_seconds']:.1f} s, warming up "
              f"{one['warmup_seconds']:.1f} s", flush=True)
        options.out.write_text(json.dumps(report, indent=1))
    first = report["runs"][0]
    for one, texts in zip(report["runs"][1:], outputs[1:], strict=True):
        one["speedup"] = first["seconds"] / one["seconds"]
        one["decode_speedup"] = max(first["decode_seconds"]) / max(one["decode_seconds"])
        one["same_outputs"] = sum(a == b for a, b in zip(outputs[0], texts, strict=True))
        goal = GOAL * one["gpus"] / 2 / first["gpus"]
        print(f"{one['gpus']} against {first['gpus']}: decoding {one['decode_speedup']:.2f}x (goal {goal:.2f}x: "
              f"{'met' if one['decode_speedup'] >= goal else 'not met'}), with start-up {one['speedup']:.2f}x; "
              f"{one['same_outputs']} of {one['problems']} outputs are the same")
    options.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
