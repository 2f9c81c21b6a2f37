"""A delta: what fine-tuning changed in a checkpoint, small enough to ship beside the name of the base.

One safetensors file. For a matrix of the network, `NAME.a` [rank, in] and `NAME.b` [out, rank], to be added as b @ a;
any other parameter, whole, under its own name; and `mask_row` [hidden], the embedding of the mask token. Names are
those of `Network.named_parameters`. Matrices are stored as int8 with one float16 scale a row (`KEY.scale`), vectors
as float16.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastdllm.model.network import Network

A, B, SCALE, MASK_ROW = ".a", ".b", ".scale", "mask_row"
STEPS = 127


def write(path: Path, delta: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    """Write a delta of float tensors, rounded, atomically; `about` goes into the file's metadata."""
    stored: dict[str, Tensor] = {}
    for name, tensor in delta.items():
        tensor = tensor.detach().to("cpu", torch.float32)
        if tensor.ndim == 2:
            scale = (tensor.abs().amax(1) / STEPS).clamp_min(1e-7).half()
            stored[name + SCALE] = scale
            stored[name] = (tensor / scale.float()[:, None]).round().clamp(-STEPS, STEPS).to(torch.int8)
        else:
            stored[name] = tensor.half()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, part, metadata=dict(about or {}))
    os.replace(part, path)


def read(path: Path) -> dict[str, Tensor]:
    """A delta as float32 tensors. Raises ValueError if the file is no safetensors file."""
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: cannot be read as safetensors ({error}); "
                         f"the file has {path.stat().st_size} bytes, is it truncated?") from error
    return {name: tensor.float() * stored[name + SCALE].float()[:, None] if name + SCALE in stored else tensor.float()
            for name, tensor in stored.items() if not name.endswith(SCALE)}


@torch.no_grad()
def apply(network: Network, delta: Mapping[str, Tensor], source: str = "delta") -> None:
    """Add a delta to a network, in place.

    Raises ValueError that names the tensors of `source` that do not fit, before anything is changed.
    """
    parameters = dict(network.named_parameters())
    mask, row = network.config.mask_token_id, delta.get(MASK_ROW)
    problems, targets = [], {}
    for name, tensor in delta.items():
        if name == MASK_ROW or name.endswith(B):
            continue
        target = name.removesuffix(A)
        shape = (len(delta[target + B]), tensor.shape[1]) if name.endswith(A) and target + B in delta else tensor.shape
        if target in parameters and parameters[target].shape == shape:
            targets[name] = parameters[target]
        else:
            wanted = list(parameters[target].shape) if target in parameters else "no such parameter"
            problems.append(f"{name} {list(shape)} for {target} ({wanted})")
    if row is not None and (mask is None or row.shape != (network.config.hidden_size,)):
        problems.append(f"{MASK_ROW} {list(row.shape)} for mask_token_id {mask}")
    if problems:
        raise ValueError(f"{source}: {len(problems)} tensors do not fit the network, {problems[0]} the first; "
                         "allowed: a delta made for this base")
    for name, parameter in targets.items():
        value = delta[name]
        if name.endswith(A):
            # in float64, so that what is rounded in the end does not depend on a machine's order of summation
            change = delta[name.removesuffix(A) + B].double() @ value.double()
            value = parameter.double() + change.to(parameter.device)
        parameter.copy_(value)
    if row is not None and mask is not None:
        network.model.embed_tokens.weight[mask] = row.to(network.device, network.dtype)
