"""What a checkpoint's config.json can refuse before a weight is read: layers and small blocks that don't fit."""

from __future__ import annotations

from typing import Any

from fastdllm.errors import did_you_mean
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.config.paths import expand
from fastdllm.model import files
from fastdllm.model.config import ModelConfig
from fastdllm.settings import Reuse, fit


def of(model: str, revision: str | None = None) -> ModelConfig | None:
    """A checkpoint's geometry; None if it is not on this machine. Nothing is fetched.

    Raises ValueError for a config.json that is none.
    """
    if (directory := files.local(expand(model))) is None:
        if not files.HUB_ID.fullmatch(model):
            return None
        from huggingface_hub import try_to_load_from_cache
        cached = try_to_load_from_cache(model, "config.json", revision=revision)
        return ModelConfig.from_file(cached) if isinstance(cached, str) else None
    config = directory / "config.json"
    return ModelConfig.from_file(config) if config.is_file() else None


def check_model(model: str) -> None:
    """Raises ValueError for a bare name that is nearly an embedded checkpoint's, and no directory."""
    near = "" if "/" in model else did_you_mean(model, files.embedded())
    if near and files.local(expand(model)) is None:
        raise ValueError(f"model={model!r}; {near}allowed: {Parameters.model_fields['model'].description}")


def check(shape: ModelConfig | None, name: str, value: Any, block_size: int | None = None) -> None:
    """One value against the geometry. Raises ValueError: `field=value; allowed: ...`."""
    if shape is None or value is None:
        return
    if name == "layers":
        try:
            Reuse(layers=value).layer_indices(shape.num_hidden_layers)
        except ValueError as error:
            raise ValueError(str(error).removeprefix("Reuse.")) from error
    if name == "small_block":
        fit(value, block_size or shape.bd_size)


def fits(parameters: Parameters) -> Parameters:
    """The parameters, if their checkpoint has the layers and the blocks. Raises ValueError."""
    shape = of(parameters.model, parameters.model_revision)
    check(shape, "layers", parameters.reuse.layers)
    if parameters.engine == "diffusion":
        check(shape, "small_block", parameters.decoding.small_block, parameters.decoding.block_size)
    return parameters
