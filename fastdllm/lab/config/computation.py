"""Which configurations run, and which are the same computation: what has no effect on a run, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastdllm.lab.config import geometry
from fastdllm.lab.config.parameters import SECTION, Parameters
from fastdllm.settings import POLICIES, SUBSETS, Reuse, parse_layers
from fastdllm.tasks.task_specs import TASK_SPECS

SAMPLING = ("seed", "top_p")
DENOISING = ("threshold", "block_size", "small_block", "block_cache", "mask_id", "revision")
ANSWERS = ("max_new_tokens", "stop_ids", "stop_strings", "temperature")


def generative(task: str) -> bool:
    """Whether a task generates text, or is scored by likelihood. Asking loads no harness."""
    return TASK_SPECS[task].generative if task in TASK_SPECS else task != "arc_easy"


def runs_code(task: str) -> bool:
    """Whether scoring a task runs the model's code."""
    return task in ("humaneval", "mbpp")


def not_applicable(values: dict[str, Any]) -> str | None:
    """Why a configuration doesn't run: reuse can't act (docs/decoding.md), or it lacks a permission; else None."""
    if runs_code(values["task"]) and not values["allow_code_execution"]:
        return f"{values['task']} runs what the model wrote: set allow_code_execution: true"
    if values["reuse"].get("k", 1) == 1:
        return None
    if not values["decoding"].get("block_cache", True):
        return "k > 1 reuses nothing without the block cache"
    if values["engine"] == "autoregressive":
        return "k > 1 reuses nothing in autoregressive decoding"
    if not generative(values["task"]):
        return f"{values['task']} is scored by likelihood, one forward a choice: nothing to reuse"
    return None


def without_effect(parameters: Parameters) -> Iterator[tuple[tuple[str, ...], str]]:
    """Names of parameters that do nothing in this run, and the reason."""
    if not generative(parameters.task):
        yield ((*DENOISING, *ANSWERS, *SAMPLING, "executor"),
               f"{parameters.task} is scored by likelihood, nothing is generated")
    if parameters.engine == "autoregressive":
        yield DENOISING, "autoregressive decoding has no blocks and no threshold"
        yield ("executor",), "autoregressive decoding has one, eager"
    if parameters.decoding.temperature == 0:
        yield SAMPLING, "nothing is sampled at temperature 0"
    if parameters.reuse.active and not asks_for_similarity(parameters.reuse):
        yield ("similarity",), f"policy {parameters.reuse.policy} does not ask for it"
    if parameters.reuse.drafts:
        yield ("layers",), "policy verify skips no layer"


def asks_for_similarity(reuse: Reuse) -> bool:
    """Whether the policy may read `similarity`: of ours `adaptive` does, and a file of the user's own can."""
    return reuse.policy == "adaptive" or reuse.policy not in POLICIES


def repeated(runs: Mapping[str, Parameters]) -> dict[str, str]:
    """Which of these runs repeat an earlier one's computation under other parameters: path -> the reason.

    Without reuse (k=1) what would be reused is no matter; those runs share a record instead (Parameters.key).
    """
    first: dict[str, tuple[str, Parameters]] = {}
    reasons: dict[str, str] = {}
    for path, parameters in runs.items():
        before, earlier = first.setdefault(_computation(parameters), (path, parameters))
        if before != path and earlier.key() != parameters.key():
            reasons[path] = f"the same computation as {before.partition('/')[2]}: {_why(earlier, parameters)}"
    return reasons


def _computation(parameters: Parameters) -> str:
    """Equal for runs that compute the same: what has no effect is left out, layers are a sorted list."""
    idle = {name for names, _ in without_effect(parameters) for name in names}
    values = {name: value for name, value in parameters.flat().items() if name not in idle}
    given = [name for name in parameters.given if name not in idle]
    if parameters.reuse.active and not parameters.reuse.drafts:
        values["layers"] = _layers(parameters)
    elif not parameters.reuse.active:
        values |= dict.fromkeys((name for name in SECTION if SECTION[name] == "reuse"), None)
    return f"{given} {values}"


def _layers(parameters: Parameters) -> tuple[int, ...] | str:
    """The layers of a run in order; a named subset stays a name where the checkpoint is not on this machine."""
    layers = parameters.reuse.layers
    if isinstance(layers, str) and layers in SUBSETS:
        from fastdllm.decode.revisions import get
        shape = geometry.of(parameters.model, parameters.model_revision)
        if shape is None:
            return layers
        return parameters.reuse.layer_indices(shape.num_hidden_layers, get(parameters.revision).first_subset)
    return tuple(sorted((parse_layers(layers) or ()) if isinstance(layers, str) else layers or ()))


def _why(earlier: Parameters, later: Parameters) -> str:
    """What two runs differ in, and why that is nothing."""
    before, after = earlier.flat(), later.flat()
    reasons = [f"{name} {after[name]} has no effect ({why})" for names, why in without_effect(later)
               for name in names if before[name] != after[name]]
    if before["layers"] != after["layers"] and later.reuse.active and not later.reuse.drafts:
        reasons.append(f"layers {after['layers']} are layers {before['layers']}")
    return "; ".join(dict.fromkeys(reasons)) or "nothing differs but the name"
