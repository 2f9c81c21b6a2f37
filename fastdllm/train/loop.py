"""The training loop: phases one after the other, resumable at any step."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from fastdllm.model.checkpoint import load_network, save
from fastdllm.model.config import ModelConfig
from fastdllm.model.network import Network
from fastdllm.train.data import StepBatches, batches, task_tokenizer
from fastdllm.train.forward import decayed, initialise, layer_forward, sequence_logits, weighted_loss
from fastdllm.train.noise import Batch, attention_mask, layout
from fastdllm.train.recipe import Phase, Recipe
from fastdllm.train.state import CURVE, TrainingProgress, load_state, restore_moments, save_state
from fastdllm.train.tokenizer import load_tokenizer, save_tokenizer

STATE = "state.safetensors"


@dataclass(frozen=True)
class TrainingCall:
    """One call of the loop: where it works, with what, and when it pauses."""

    out: Path                            # checkpoint directory: config, weights, tokenizer, curve.csv
    state: Path                          # directory of what resuming needs
    device: torch.device
    workers: int = 0
    compile_layers: bool = False
    max_seconds: float = float("inf")    # pause (save and return) after so long
    max_steps: int | None = None         # pause after so many steps of this call
    measure_every: int = 100
    save_every: int = 1000
    log: Callable[[str], None] = print


class Objective:
    """Forward and loss of one phase on one device."""

    def __init__(self, recipe: Recipe, phase: Phase, network: Network, call: TrainingCall) -> None:
        self.network, self.device = network, call.device
        if phase.objective == "next_token":
            self.positions, self.mask = torch.arange(recipe.window, device=call.device), None
        else:
            self.positions = torch.from_numpy(layout(recipe)[0]).to(call.device)
            self.mask = torch.from_numpy(attention_mask(recipe)).to(call.device)
        self.run_layer = (torch.compile(layer_forward, fullgraph=True, dynamic=False) if call.compile_layers
                          else layer_forward)
        self.autocast = functools.partial(torch.autocast, call.device.type, torch.bfloat16,
                                          enabled=call.device.type == "cuda")

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss and share of full-weight targets hit (see `weighted_loss`)."""
        parts = [torch.from_numpy(part) for part in (batch.inputs, batch.targets, batch.weights)]
        if self.device.type == "cuda":
            parts = [part.pin_memory().to(self.device, non_blocking=True) for part in parts]
        inputs, targets, weights = parts
        with self.autocast():
            logits = sequence_logits(self.network, inputs.long(), self.positions, self.mask, self.run_layer)
        return weighted_loss(logits, targets.long(), weights)


def make_optimizer(matrices: list[nn.Parameter], others: list[nn.Parameter], weight_decay: float,
                   betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW with decay on the matrices only; the learning rate is set at every step."""
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=matrices[0].device.type == "cuda")


def train(recipe: Recipe, call: TrainingCall) -> TrainingProgress:
    """Run or resume `recipe` until it is done or the call's limits pause it; always leaves a checkpoint in `out`."""
    began = time.monotonic()
    path = call.state / STATE
    network = Network(ModelConfig.from_dict(recipe.geometry)).to(call.device)
    if path.exists():
        progress, moments = load_state(path, recipe, network)
        tokenizer = load_tokenizer(call.state)
        call.log(f"resumed: {recipe.phases[progress.phase].name} after {progress.step} steps")
    else:
        progress, moments = TrainingProgress(), {}
        if recipe.start:
            network.load_state_dict(load_network(recipe.start, call.device, torch.float32).state_dict())
            tokenizer = load_tokenizer(Path(recipe.start))
        else:
            initialise(network, recipe.seed)
            tokenizer = task_tokenizer(recipe)
        call.state.mkdir(parents=True, exist_ok=True)
        save_tokenizer(tokenizer, call.state)
    network.train()
    steps_left = float("inf") if call.max_steps is None else call.max_steps
    earlier_seconds = progress.seconds

    for number, phase in list(enumerate(recipe.phases))[progress.phase:]:
        if number > progress.phase:
            progress.phase, progress.step, moments = number, 0, {}
        optimizer = make_optimizer(*decayed(network), recipe.weight_decay, recipe.betas)
        if moments:
            restore_moments(optimizer, network, moments)
        for _ in run_phase(recipe, phase, network, optimizer, progress, call, tokenizer):
            progress.seconds = earlier_seconds + time.monotonic() - began
            steps_left -= 1
            finished = progress.step == phase.steps and phase is recipe.phases[-1]
            paused = not finished and (steps_left <= 0 or time.monotonic() - began > call.max_seconds)
            if paused or progress.step == phase.steps or progress.step % call.save_every == 0:
                save_state(path, recipe, progress, network, optimizer)
                write_checkpoint(call.out, network, tokenizer, progress)
            if paused:
                call.log(f"paused: {phase.name} after {progress.step} of {phase.steps} steps")
                return progress
    call.log("done")
    return progress


def run_phase(
    recipe: Recipe,
    phase: Phase,
    network: Network,
    optimizer: torch.optim.Optimizer,
    progress: TrainingProgress,
    call: TrainingCall,
    tokenizer: Tokenizer,
) -> Iterator[int]:
    """The steps of one phase from where `progress` stands; yields after each."""
    data = StepBatches(recipe, phase, tokenizer)
    objective = Objective(recipe, phase, network, call)
    held_out = data.held_out()
    measured_at, measured_step = time.monotonic(), progress.step
    for batch in batches(data, progress.step, call.workers):
        for group in optimizer.param_groups:
            group["lr"] = phase.rate(progress.step)
        loss, _ = objective(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        optimizer.step()
        progress.step += 1
        if progress.step % call.measure_every == 0 or progress.step == phase.steps:
            held_out_loss, hits = objective(held_out)  # with gradients on: the same compiled layers serve
            if not torch.isfinite(loss):
                raise FloatingPointError(f"{phase.name} step {progress.step}: the loss is {loss.item()}")
            row = {"phase": phase.name, "step": progress.step, "loss": round(loss.item(), 4),
                   "held_out_loss": round(held_out_loss.item(), 4), "held_out_hits": round(hits.item(), 4),
                   "gradient_norm": round(norm.item(), 3)}
            progress.curve.append(row)
            now = time.monotonic()
            speed = (progress.step - measured_step) / (now - measured_at)
            measured_at, measured_step = now, progress.step
            call.log("  ".join(f"{key} {value}" for key, value in row.items()) + f"  {speed:.2f} steps/s")
        yield progress.step


def write_checkpoint(out: Path, network: Network, tokenizer: Tokenizer, progress: TrainingProgress) -> None:
    """Write the checkpoint (bf16), its tokenizer and the training curve."""
    save(network, out)
    save_tokenizer(tokenizer, out)
    progress.write_curve(out / CURVE)
