"""`fastdllm bench`: what this device does, measured in minutes, and what a grid would take on it.

Random weights of the shape, so nothing is fetched. Speed depends on the shape, the batch and the number of forwards;
how many forwards an answer needs depends on the weights, so the times are told for one token a forward, the most that
it can be, and for two.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from fastdllm import prior_results
from fastdllm.investigation.speed.measure import (
    PREFIX,
    ROUNDS,
    TOKENS,
    ForwardTime,
    copy_bandwidth,
    forward_times,
    matrix_rate,
)
from fastdllm.investigation.speed.random_weights import MASK, random_lm
from fastdllm.lab.config import geometry
from fastdllm.lab.config.grid import Configuration
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.jobs.plan import computations
from fastdllm.lab.records.identity import CurrentFingerprints
from fastdllm.model.config import ModelConfig
from fastdllm.model.files import brief
from fastdllm.report import cost_model
from fastdllm.settings import Reuse
from fastdllm.stats import number_of

ROWS = (1, 4, 16, 32, 64, 128)
SECONDS = 150.0      # larger batches are left out that would end later
PUBLISHED = {"Efficient-Large-Model/Fast_dLLM_v2_7B": cost_model.SHAPE_7B}      # shapes known without the download


@dataclass(frozen=True)
class Device:
    """What was measured: rates per second, and forwards by kind and rows."""

    name: str
    dtype: torch.dtype
    bandwidth: float
    flops: float
    forwards: list[ForwardTime]

    def ms(self, kind: str, rows: int) -> float:
        """Milliseconds of a forward over `rows` rows: between those that were measured, or in proportion above."""
        points = sorted((each.rows, each.ms) for each in self.forwards if each.kind == kind)
        below = max((point for point in points if point[0] <= rows), default=points[0])
        above = min((point for point in points if point[0] >= rows), default=None)
        if above is None:
            return below[1] * rows / below[0]
        span = max(above[0] - below[0], 1)
        return below[1] + (above[1] - below[1]) * max(rows - below[0], 0) / span

    def count(self, kind: str) -> int:
        """How many forwards of a kind a row had, of TOKENS tokens."""
        return next(each.count for each in self.forwards if each.kind == kind)


def shape_of(model: str, revision: str | None = None) -> ModelConfig:
    """A checkpoint's geometry. Raises ValueError if it is neither here nor a published one."""
    shape = geometry.of(model, revision) or PUBLISHED.get(model)
    if shape is None:
        raise ValueError(f"model={brief(model)}: its config.json is not on this machine; allowed: one that is, or "
                         f"{', '.join(PUBLISHED)}")
    return shape


def measure(shape: ModelConfig, device: torch.device, dtype: torch.dtype, rows: tuple[int, ...] = ROWS,
            seconds: float = SECONDS) -> Iterator[Device]:
    """The device as far as it is measured, again after each batch size; larger ones are left out that would take too
    long (in proportion to their rows) or don't fit. Raises ValueError if the shape's weights don't.
    """
    began = time.monotonic()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    needed, free = cost_model.memory_bytes(shape, 2, PREFIX + TOKENS, item=dtype.itemsize), free_bytes(device)
    if needed > free:
        raise ValueError(f"a network of this shape needs {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')}, "
                         f"{name} has {free / 1e9:.1f} GB free; allowed: a smaller model, or another device")
    bandwidth, flops = copy_bandwidth(device), matrix_rate(device, dtype)
    forwards, last = list[ForwardTime](), list[ForwardTime]()
    lm = random_lm(dtype, device.type, shape, min(MASK, shape.vocab_size - 1))
    for count in rows:
        fits = cost_model.memory_bytes(shape, count + 1, PREFIX + TOKENS + 32, item=dtype.itemsize) < 0.9 * free
        coming = (1 + ROUNDS) * sum(each.count * each.ms * count / each.rows / 1e3 for each in last)
        if not last or (time.monotonic() - began + coming < seconds and fits):
            last = forward_times(lm, count, bandwidth, flops)
            forwards += last
            yield Device(name, dtype, bandwidth, flops, list(forwards))


def free_bytes(device: torch.device) -> int:
    """Memory that is to be had on a device."""
    from fastdllm.lab.jobs.machine import free_memory
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()


@dataclass(frozen=True)
class Prediction:
    """What a configuration would take: seconds at one and at two tokens a forward, bytes of memory, and of what."""

    configuration: Configuration
    problems: int
    tokens: float
    source: str
    seconds: tuple[float, float]
    memory: int

    def line(self) -> str:
        """One line for people."""
        slow, fast = (f"{each / 60:.1f}" for each in self.seconds)
        return (f"{self.configuration.path}: {number_of(self.problems, 'problem')} of {self.tokens:.0f} tokens "
                f"({self.source}), batch {self.configuration.parameters.batch_size}: {slow} minutes at one token a "
                f"forward, {fast} at two; {self.memory / 1e9:.1f} GB")


def predictions(device: Device, shape: ModelConfig, configurations: list[Configuration]) -> list[Prediction]:
    """One for each computation of a grid. Raises ValueError for a task whose number of problems can't be had here."""
    current = CurrentFingerprints()
    return [predicted(device, shape, own[0], current) for own in computations(configurations)]


def predicted(device: Device, shape: ModelConfig, configuration: Configuration, current: CurrentFingerprints
              ) -> Prediction:
    """Time and memory of one configuration: prompts of 256 tokens, batches always full, nothing but forwards."""
    parameters = configuration.parameters
    problems = prior_results.problems(parameters.task, parameters.limit or 0) or current.problems(parameters)[1].n
    most = parameters.decoding.max_new_tokens if "max_new_tokens" in parameters.given else current.task(
        parameters).max_new_tokens
    tokens, source = answer_tokens(parameters.task, most)
    rows = min(parameters.batch_size, problems)
    seconds = [problems / rows * answer_seconds(device, shape, parameters, rows, tokens, each) for each in (1.0, 2.0)]
    memory = cost_model.memory_bytes(shape, rows + 1, -(-(PREFIX + most) // 32) * 32, item=device.dtype.itemsize)
    return Prediction(configuration, problems, tokens, source, (seconds[0], seconds[1]), memory)


def answer_tokens(task: str, most: int) -> tuple[float, str]:
    """Tokens of an answer: those of the published full runs without reuse, else the most that it may have."""
    table = prior_results.results()
    rows = table[(table["task"] == task) & (table["k"] == 1) & (table["limit"] == 0)]
    if rows.empty:
        return float(most), "the most that are allowed"
    tokens = sum(map(float, rows["tokens"])) / sum(map(float, rows["n"]))
    return min(float(most), tokens), "as in the published runs"


def answer_seconds(device: Device, shape: ModelConfig, parameters: Parameters, rows: int, tokens: float,
                   per_forward: float) -> float:
    """Seconds in which `rows` answers are made together: their prefill, their steps, and a commit for each block."""
    full, small = device.count("full"), device.count("small")
    steps, share = tokens / per_forward, full / (full + small)
    reuse = parameters.reuse
    saved = (reuse.k - 1) / reuse.k * saving(reuse, shape) if reuse.active else 0.0
    ms = device.ms("prefill", rows) + tokens / shape.bd_size * device.ms("commit", rows) + steps * (
        share * device.ms("full", rows) * (1 - (saved if reuse.full_forwards else 0.0))
        + (1 - share) * device.ms("small", rows) * (1 - saved))
    return ms / 1e3


def saving(reuse: Reuse, shape: ModelConfig) -> float:
    """The share of a forward that a step which reuses leaves out: its skipped layers' bytes, or all under replay. What
    `verify` saves depends on how many of its drafts are right, which only a run tells: nothing is counted.
    """
    if reuse.policy == "replay":
        return 1.0
    if reuse.drafts:
        return 0.0
    count = shape.num_hidden_layers
    skipped = len(reuse.layer_indices(count))
    return 1 - cost_model.forward_bytes(shape, count - skipped) / cost_model.forward_bytes(shape, count)
