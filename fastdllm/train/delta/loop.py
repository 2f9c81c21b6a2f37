"""The training loop of a delta: phases over packed rows, resumable at any step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, Dataset

from fastdllm.model import delta
from fastdllm.model.config import token_ids
from fastdllm.tasks.word_problems import EQUATIONS, WORDS, asked
from fastdllm.train.delta.adapter import Adapter
from fastdllm.train.delta.gsm8k import WordProblem
from fastdllm.train.delta.mixture import Mixture, encode
from fastdllm.train.delta.packed import PackedForward
from fastdllm.train.delta.packing import (
    Document,
    Example,
    Noise,
    PackedBatch,
    diffusion_document,
    next_token_document,
    pack,
)
from fastdllm.train.delta.recipe import DeltaRecipe, PackedPhase
from fastdllm.train.loop import CURVE, STATE, TrainingCall, make_optimizer
from fastdllm.train.state import TrainingProgress, load_state, restore_moments, save_state

DELTA = "delta.safetensors"
HELD_OUT_SEED = 1_000_000_000
HELD_OUT_ROWS = 4      # packed rows of dev problems in each form that the curve is measured on


class PackedSteps(Dataset[PackedBatch]):
    """The batches of a phase, indexed by step."""

    def __init__(self, recipe: DeltaRecipe, phase: PackedPhase, mixture: Mixture, noise: Noise) -> None:
        self.recipe, self.phase, self.mixture, self.noise = recipe, phase, mixture, noise
        self.number = recipe.phases.index(phase)

    def documents(self, examples: Iterator[Example], rng: np.random.Generator) -> Iterator[Document]:
        """The examples laid out for the phase's objective."""
        for example in examples:
            if self.phase.objective == "next_token":
                yield next_token_document(example, self.recipe.prompt_weight)
            else:
                yield diffusion_document(example, self.noise, rng)

    def __getitem__(self, step: int) -> PackedBatch:
        rng = np.random.default_rng([self.recipe.seed, self.number, step])
        examples = self.mixture.examples(self.phase.shares, rng)
        return pack(self.documents(examples, rng), self.phase.batch_size, self.recipe.length)

    def held_out(self, problems: Sequence[WordProblem], form: str) -> PackedBatch:
        """A fixed batch of dev problems answered in one form."""
        rng = np.random.default_rng([HELD_OUT_SEED, self.number])
        examples = (encode(self.mixture.tokenizer, asked(problem.question, form), problem.written(form))
                    for problem in problems if problem.steps)
        short = (example for example in examples
                 if len(example.prompt) + len(example.answer) <= self.recipe.window)
        return pack(self.documents(short, rng), min(HELD_OUT_ROWS, self.phase.batch_size), self.recipe.length)

    def batches(self, first: int, workers: int) -> Iterator[PackedBatch]:
        """The batches of all steps from `first` on, in order, made by worker processes (0: in this one)."""
        loader = DataLoader(self, sampler=range(first, self.phase.steps), batch_size=None, num_workers=workers,
                            prefetch_factor=4 if workers else None, collate_fn=_same)  # pyright: ignore
        return iter(loader)


def _same(batch: PackedBatch) -> PackedBatch:
    return batch


def train_delta(recipe: DeltaRecipe, call: TrainingCall, adapter: Adapter, tokenizer: Tokenizer,
                problems: tuple[Sequence[WordProblem], Sequence[WordProblem]]) -> TrainingProgress:
    """Run or resume `recipe` on an adapter, with problems to train on and held-out ones, until it is done or the
    call's limits pause it. Always leaves `delta.safetensors` and `curve.csv` in `out`, and at the end of a phase its
    delta under the phase's name.

    Raises ValueError if the saved state belongs to another recipe, FloatingPointError if the loss is not finite.
    """
    began = time.monotonic()
    path = call.state / STATE
    progress, moments = TrainingProgress(), {}
    if path.exists():
        progress, moments = load_state(path, recipe, adapter)
        call.log(f"resumed: {recipe.phases[progress.phase].name} after {progress.step} steps")
    config = adapter.network.config
    padding, *_ = *token_ids("pad_token_id", config.pad_token_id), 0
    noise = Noise(config.bd_size, recipe.small_block, adapter.mask, padding, recipe.paper_share,
                  recipe.right_weight, recipe.padding_weight)
    mixture = Mixture(problems[0], tokenizer, recipe.window)
    forward = PackedForward(adapter, call.compile_layers)
    matrices, vectors = ([p for p in adapter.parameters.values() if p.ndim == rank] for rank in (2, 1))
    steps_left = float("inf") if call.max_steps is None else call.max_steps
    earlier = progress.seconds
    for number, phase in list(enumerate(recipe.phases))[progress.phase:]:
        if number > progress.phase:
            progress.phase, progress.step, moments = number, 0, {}
        optimizer = make_optimizer(matrices, vectors, recipe.weight_decay, recipe.betas)
        if moments:
            restore_moments(optimizer, adapter, moments)
        steps = PackedSteps(recipe, phase, mixture, noise)
        for _ in run_phase(recipe, steps, forward, optimizer, progress, call, problems[1]):
            progress.seconds = earlier + time.monotonic() - began
            steps_left -= 1
            ended = progress.step == phase.steps
            paused = not (ended and phase is recipe.phases[-1]) and (
                steps_left <= 0 or time.monotonic() - began > call.max_seconds)
            if ended:
                write(call.out, f"{phase.name.replace(' ', '_')}.{DELTA}", recipe, adapter, progress)
            if ended or paused or progress.step % call.save_every == 0:
                write(call.out, DELTA, recipe, adapter, progress)
                save_state(path, recipe, progress, adapter, optimizer)
            if paused:
                call.log(f"paused: {phase.name} after {progress.step} of {phase.steps} steps")
                return progress
    call.log("done")
    return progress


def run_phase(recipe: DeltaRecipe, steps: PackedSteps, forward: PackedForward, optimizer: torch.optim.Optimizer,
              progress: TrainingProgress, call: TrainingCall, held_out: Sequence[WordProblem]) -> Iterator[int]:
    """The steps of one phase from where `progress` stands; yields after each."""
    phase, parameters = steps.phase, list(forward.adapter.parameters.values())
    dev = {form: steps.held_out(held_out, form) for form in (WORDS, EQUATIONS)}
    measured_at, measured_step, examples = time.monotonic(), progress.step, 0
    for batch in steps.batches(progress.step, call.workers):
        for group in optimizer.param_groups:
            group["lr"] = phase.rate(progress.step)
        loss, _ = forward(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        optimizer.step()
        progress.step += 1
        examples += batch.examples
        if progress.step % call.measure_every == 0 or progress.step == phase.steps:
            if not torch.isfinite(loss):
                raise FloatingPointError(f"{phase.name} step {progress.step}: the loss is {loss.item()}")
            row: dict[str, object] = {"phase": phase.name, "step": progress.step, "loss": round(loss.item(), 4),
                                      "gradient_norm": round(norm.item(), 3)}
            for form, fixed in dev.items():
                dev_loss, hits = (value.item() for value in forward(fixed))   # with gradients: the same compiled layer
                row |= {f"dev_loss_{form}": round(dev_loss, 4), f"dev_hits_{form}": round(hits, 4)}
            progress.curve.append(row)
            now = time.monotonic()
            took = (now - measured_at) / (progress.step - measured_step)
            call.log("  ".join(f"{key} {value}" for key, value in row.items())
                     + f"  {1e3 * took:.0f} ms/step  {examples / (progress.step - measured_step):.0f} examples/step")
            measured_at, measured_step, examples = now, progress.step, 0
        yield progress.step


def write(out: Path, name: str, recipe: DeltaRecipe, adapter: Adapter, progress: TrainingProgress) -> None:
    """Write the delta, and the curve beside it."""
    delta.write(out / name, adapter.delta(), {"start": recipe.start, "seed": str(recipe.seed),
                                              "phase": recipe.phases[progress.phase].name, "step": str(progress.step)})
    progress.write_curve(out / CURVE)
