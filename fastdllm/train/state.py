"""Saving a training run and taking it up again: one safetensors file, replaced atomically, nothing pickled."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

CURVE = "curve.csv"      # of a checkpoint: what TrainingProgress.write_curve writes
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps for each parameter


class Saved(Protocol):
    """A recipe of any kind."""

    def to_dict(self) -> dict[str, Any]: ...


class Trained(Protocol):
    """Parameters by name: a network, or an adapter over one."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


@dataclass
class TrainingProgress:
    """How far a run is: `step` steps of phase number `phase` are done. `curve` holds one row per measurement."""

    phase: int = 0
    step: int = 0
    seconds: float = 0.0  # of training, without start-up and compilation of earlier calls' processes
    curve: list[dict[str, Any]] = field(default_factory=list)

    def write_curve(self, path: Path) -> None:
        """The measurements as CSV; no file while there are none."""
        if self.curve:
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=list(self.curve[0]))
                writer.writeheader()
                writer.writerows(self.curve)


def save_state(path: Path, recipe: Saved, progress: TrainingProgress, network: Trained,
               optimizer: torch.optim.Optimizer) -> None:
    """Write weights (float32), optimizer moments, progress and recipe to `path`."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        tensors[f"weights.{name}"] = parameter.detach().cpu().contiguous()
        for moment, value in optimizer.state[parameter].items():
            tensors[f"{moment}.{name}"] = value.detach().cpu().contiguous()
    about = {"recipe": json.dumps(recipe.to_dict()), "progress": json.dumps(vars(progress))}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata=about)
    os.replace(part, path)


def load_state(path: Path, recipe: Saved, network: Trained) -> tuple[TrainingProgress, dict[str, dict[str, Tensor]]]:
    """Fill `network` from `path`; returns the progress and, per parameter name, the optimizer's moments.

    Raises ValueError if the file belongs to another recipe: such runs are not mixed.
    """
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        theirs, ours = json.loads(about["recipe"]), json.loads(json.dumps(recipe.to_dict()))
        different = [key for key in ours if theirs.get(key) != ours[key]]
        if different:
            raise ValueError(f"{path}: saved with another recipe ({', '.join(different)} differ); "
                             "allowed: the same recipe, or another state directory")
        moments: dict[str, dict[str, Tensor]] = {}
        saved = set(file.keys())
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(file.get_tensor(f"weights.{name}"))
                moments[name] = {moment: file.get_tensor(f"{moment}.{name}") for moment in MOMENTS
                                 if f"{moment}.{name}" in saved}
    return TrainingProgress(**json.loads(about["progress"])), moments


def restore_moments(optimizer: torch.optim.Optimizer, network: Trained,
                    moments: dict[str, dict[str, Tensor]]) -> None:
    """Put saved moments back into a fresh optimizer."""
    for name, parameter in network.named_parameters():
        if moments[name]:
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in moments[name].items()}
