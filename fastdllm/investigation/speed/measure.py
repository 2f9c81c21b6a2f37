"""What this device does: copy bandwidth, rate of matrix products, and milliseconds of our forwards by kind and rows."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from fastdllm.decode.generate import build
from fastdllm.decode.loop import Engine
from fastdllm.investigation.speed.random_weights import random_prompts
from fastdllm.model.lm import LM
from fastdllm.report import cost_model
from fastdllm.settings import Decoding, Execution, Reuse

PREFIX, TOKENS = 256, 64      # of each row that is timed: two blocks of new tokens
ROUNDS = 4                    # that are timed, after one that compiles and captures
SUSTAINED = 2.0               # seconds


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what was asked of it; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_seconds(call: Callable[[], object], device: torch.device, repeats: int = 8) -> float:
    """The shortest time of a call, after one to warm up: what the device can do, whoever else uses the machine."""
    return min(seconds_of(call, device, repeats))


def seconds_of(call: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """The time of each of some calls, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        synchronise(device)
        began = time.perf_counter()
        call()
        synchronise(device)
        times.append(time.perf_counter() - began)
    return times


def copy_bandwidth(device: torch.device, gigabytes: float | None = None) -> float:
    """Bytes per second of a large copy, counting those read and those written."""
    size = (4.0 if device.type == "cuda" else 0.25) if gigabytes is None else gigabytes
    a = torch.randn(int(size * 1e9 / 4), device=device)
    b = torch.empty_like(a)
    return 2 * a.numel() * 4 / best_seconds(lambda: b.copy_(a), device)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large square product, a multiply-add counted as two.

    On a GPU over SUSTAINED seconds: a card that multiplies for as long as a batch takes runs slower than in a burst.
    """
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    once = best_seconds(lambda: a @ b, device)
    if device.type == "cpu":
        return 2 * n ** 3 / once
    many = max(1, round(SUSTAINED / once))
    synchronise(device)
    began = time.perf_counter()
    for _ in range(many):
        torch.mm(a, b)
    synchronise(device)
    return 2 * n ** 3 * many / (time.perf_counter() - began)


@dataclass(frozen=True)
class ForwardTime:
    """Forwards of one kind over `rows` rows: median milliseconds with the host's work, how many a row has of its
    TOKENS tokens, and the milliseconds that bytes or arithmetic alone would take."""

    kind: str
    rows: int
    ms: float
    count: int
    bound_ms: float

    @property
    def share(self) -> float:
        """Of the bound: 1 is as fast as the device can be."""
        return self.bound_ms / self.ms


def forward_times(lm: LM, rows: int, bandwidth: float, flops: float, rounds: int = ROUNDS) -> list[ForwardTime]:
    """Decode one random prompt in `rows` rows together, one token a forward, and time each kind of forward.

    One engine does it again and again: what is compiled and captured in the first round is there in those that are
    timed, `rounds` of them. Equal rows are in step: a forward of each is one forward of all. Where rounding takes them
    apart, only forwards of one kind in all rows count.
    """
    config = lm.config
    prompts = random_prompts(1, PREFIX, PREFIX, vocabulary=min(100_000, config.vocab_size - 1)) * rows
    decoding = Decoding(threshold=1.0, max_new_tokens=TOKENS, stop_ids=(), mask_id=lm.mask_id)
    engine, ids = build(lm, prompts, decoding, Reuse(), "fixed", Execution(batch_size=rows), None)
    one_round(engine, ids)
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for kind, each in one_round(engine, ids).items():
            seconds[kind] += each
    return [ForwardTime(kind, rows, 1e3 * median(each), -(-len(each) // rounds),
                        1e3 * bound(lm, kind, rows, bandwidth, flops)) for kind, each in sorted(seconds.items())]


def one_round(engine: Engine, prompts: list[list[int]]) -> dict[str, list[float]]:
    """Decode equal prompts once, all of them in slots; the seconds of each forward, by kind."""
    seconds: dict[str, list[float]] = defaultdict(list)
    kinds: set[str] = set()
    engine.finished.clear()
    synchronise(engine.lm.device)
    last = time.perf_counter()
    for number, step in enumerate(engine.steps(iter(enumerate(prompts))), start=1):
        kinds.add(step.kind)
        if number % len(prompts) == 0:
            now = time.perf_counter()
            if len(kinds) == 1:
                seconds[step.kind].append(now - last)
            kinds, last = set(), now
    return seconds


def bound(lm: LM, kind: str, rows: int, bandwidth: float, flops: float) -> float:
    """Seconds that a forward over `rows` rows takes at least, behind a prompt of PREFIX tokens."""
    need = cost_model.Need.of(kind, PREFIX, tokens=PREFIX, carried=True, block=lm.config.bd_size)
    return cost_model.least_seconds(lm.config, [need] * rows, bandwidth, flops, item=lm.dtype.itemsize)
