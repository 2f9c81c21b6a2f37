"""Greedy decoding one token at a time: our engine and transformers' `generate`, the same random weights of a Qwen2.5.

    python -m benchmarks.bench_autoregressive --out autoregressive.jsonl             # a GPU: 7B shape, bfloat16
    python -m benchmarks.bench_autoregressive --out autoregressive.jsonl --small     # thin layers, on the CPU too

One line of JSON for each measurement, written as soon as it is made: the baseline that a speed-up of block diffusion
over autoregressive decoding needs, at equal batches. `generate` runs with the static cache, uncompiled and compiled.
Seconds are those of a whole run with the prompts' prefill; `ms_per_token` is the time between two tokens, from runs of
two lengths, so that the prefill falls out. What does not fit into --seconds is left out, and a line says so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from transformers import Qwen2Config, Qwen2ForCausalLM, StaticCache

from benchmarks.random_model import geometry, plain, random_lm, small_geometry
from fastdllm import Decoding
from fastdllm.decode import autoregressive
from fastdllm.investigation.speed.measure import copy_bandwidth, synchronise
from fastdllm.investigation.speed.random_weights import random_prompts
from fastdllm.model.lm import LM
from fastdllm.report import cost_model

PREFIX, BATCHES = 256, (1, 4, 32)
IMPLEMENTATIONS = ("ours", "transformers, static cache", "transformers, static cache, compiled")
Run = Callable[[int], int]      # decodes so many tokens a row; how many it made in all rows


def ours(lm: LM, prompts: list[list[int]]) -> Run:
    """Our engine, all prompts in one batch."""
    def run(tokens: int) -> int:
        decoding = Decoding(max_new_tokens=tokens, stop_ids=())
        return sum(len(row.tokens) for row in autoregressive.generate_rows(lm, prompts, decoding=decoding,
                                                                           batch_size=len(prompts)))
    return run


def qwen2(lm: LM) -> Qwen2ForCausalLM:
    """The same weights in transformers' own module: views, no second copy."""
    shape = lm.config
    config = Qwen2Config(
        vocab_size=shape.vocab_size, hidden_size=shape.hidden_size, intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers, num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads, max_position_embeddings=shape.max_position_embeddings,
        rms_norm_eps=shape.rms_norm_eps, rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, pad_token_id=0)
    with torch.device("meta"):
        module = Qwen2ForCausalLM(config).to(dtype=lm.dtype)
    module.load_state_dict(dict(plain(lm).weights), strict=True, assign=True)
    with lm.device:      # what no file holds
        module.model.rotary_emb = type(module.model.rotary_emb)(config=config)
    return module.requires_grad_(False).eval()


def theirs(module: Qwen2ForCausalLM, prompts: list[list[int]], most: int, compiled: bool) -> Run:
    """transformers' `generate`, greedy, with one static cache for `most` new tokens: nothing is compiled twice."""
    ids = torch.tensor(prompts, device=module.device)
    cache = StaticCache(config=module.config, max_cache_len=ids.shape[1] + most)

    def run(tokens: int) -> int:
        cache.reset()
        made = module.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens,
                               min_new_tokens=tokens, past_key_values=cache, disable_compile=not compiled)
        return (made.shape[1] - ids.shape[1]) * made.shape[0]
    return run


def measure(run: Run, device: torch.device, short: int, tokens: int, repeats: int) -> dict[str, Any]:
    """Seconds of a run of `tokens` a row (median), tokens/s, and the milliseconds between two tokens of a row."""
    def seconds(length: int) -> tuple[float, int]:
        synchronise(device)
        began = time.perf_counter()
        made = run(length)
        synchronise(device)
        return time.perf_counter() - began, made

    began = time.perf_counter()
    run(short), run(tokens)
    warm_up = time.perf_counter() - began
    brief = median(seconds(short)[0] for _ in range(repeats))
    whole = [seconds(tokens) for _ in range(repeats)]
    took = median(each for each, _ in whole)
    return {"tokens": whole[0][1], "seconds": took, "all_seconds": [each for each, _ in whole],
            "tokens_per_second": whole[0][1] / took, "ms_per_token": 1e3 * (took - brief) / (tokens - short),
            "warm_up_seconds": warm_up}


def main() -> None:
    """Measure, print, and append a line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="thin layers, to try it out")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--tokens", type=int, default=128, help="new tokens a row")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=220.0, help="nothing is begun after that")
    options = parser.parse_args()
    began, device = time.monotonic(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.small:
        raise SystemExit("the 7B's shape needs a GPU; allowed here: --small")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    lm = random_lm(dtype, device.type, small_geometry() if options.small else geometry())
    module, bandwidth = qwen2(lm), copy_bandwidth(device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    common = {"date": date.today().isoformat(), "device": name, "torch": torch.__version__,
              "transformers": transformers.__version__, "dtype": str(dtype).removeprefix("torch."),
              "shape": "small" if options.small else "7B", "copy_bandwidth": bandwidth, "prompt_tokens": PREFIX,
              "new_tokens": options.tokens}
    options.out.write_text("")
    for implementation, batch in itertools.product(IMPLEMENTATIONS, options.batches):
        prompts = random_prompts(batch, PREFIX, PREFIX, vocabulary=min(100_000, lm.config.vocab_size))
        row: dict[str, Any] = {**common, "implementation": implementation, "batch": batch}
        run = ours(lm, prompts) if implementation == "ours" else theirs(
            module, prompts, options.tokens, compiled=implementation.endswith(", compiled"))
        if time.monotonic() - began > options.seconds:
            row["left_out"] = f"after {options.seconds:.0f} s"
        else:
            try:
                row |= measure(run, device, options.tokens // 4, options.tokens, options.repeats)
                moved = cost_model.forward_bytes(lm.config, lm.config.num_hidden_layers, rows=batch,
                                                 visible=PREFIX + options.tokens // 2, item=dtype.itemsize)
                row["bound_ms"] = 1e3 * moved / bandwidth
                row["share_of_bound"] = row["bound_ms"] / row["ms_per_token"]
            except Exception as error:      # a version of transformers that can't compile here: the others count
                row["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        with options.out.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        print(f"{implementation:38s} batch {batch:2d} " + (
            f"{row['ms_per_token']:7.2f} ms a token, {row['tokens_per_second']:7.1f} tokens/s, "
            f"{row['share_of_bound']:.0%} of the bound (warm-up {row['warm_up_seconds']:.0f} s)" if "seconds" in row
            else row.get("failed") or row["left_out"]), flush=True)


if __name__ == "__main__":
    main()
