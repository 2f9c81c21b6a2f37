"""How similar a layer's output is to itself some steps before, on an unmodified run: what reuse could live on."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from fastdllm.decode.generate import denoise
from fastdllm.display import claim as claims
from fastdllm.display.claim import Decision, claim
from fastdllm.display.progress import progress
from fastdllm.model.lm import LM
from fastdllm.settings import Decoding


def similarity(lm: LM, ids: Sequence[list[int]], decoding: Decoding, lags: Sequence[int] = (1, 2, 3)) -> pd.DataFrame:
    """Cosine of each layer's output, and of its residual (output - input), to the same position's `lag` steps before.

    One row per prompt, forward, lag, layer and position of the small block that is being denoised; both
    steps are of the same small block. `step` counts denoising forwards since the block began; `changed` says
    whether the token at the position is another one now, `masked` whether it is still masked. The baseline is
    `output_beside` and `residual_beside`: the cosine to the position at the left in the same forward.
    """
    rows = []
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    with lm.network.hooks({"layers.*.input": lambda hidden, _point: inputs.append(hidden),
                           "layers.*.output": lambda hidden, _point: outputs.append(hidden)}):
        for prompt, one in enumerate(progress(ids, "prompts compared")):
            history: list[tuple[Tensor, Tensor, tuple[int, ...], tuple[int, int]]] = []
            before: tuple[int, ...] = ()      # the block as it goes into the forward
            for step in denoise(lm, [one], decoding=decoding, executor="eager"):
                if step.small_block is None:
                    history, before = [], ()
                else:
                    offset = step.small_block * decoding.small_block
                    came = before or masked_before(step.tokens, step.unmasked, lm)
                    part = slice(offset, offset + decoding.small_block) if step.kind == "full" else slice(None)
                    out = torch.stack([o[0, part] for o in outputs]).float()             # [layers, b, hidden]
                    residual = out - torch.stack([i[0, part] for i in inputs]).float()
                    tokens = came[offset:offset + decoding.small_block]
                    small_block = (step.block, step.small_block)
                    history.append((out, residual, tokens, small_block))
                    for lag in lags:
                        if len(history) > lag and history[-1 - lag][3] == small_block:
                            then = history[-1 - lag]
                            rows.append(_rows(prompt, step, lag, history[-1], then, lm))
                    before = step.tokens
                inputs.clear()
                outputs.clear()
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def masked_before(tokens: tuple[int, ...], unmasked: tuple[bool, ...], lm: LM) -> tuple[int, ...]:
    """The block before a step: what the step unmasked was the mask id."""
    mask = -1 if lm.mask_id is None else lm.mask_id
    return tuple(mask if shown else token for token, shown in zip(tokens, unmasked, strict=True))


def _rows(prompt: int, step, lag: int, now, then, lm: LM) -> pd.DataFrame:
    output = F.cosine_similarity(now[0], then[0], dim=-1)            # [layers, b]
    residual = F.cosine_similarity(now[1], then[1], dim=-1)
    beside = [F.cosine_similarity(each, each.roll(1, dims=1), dim=-1).flatten().cpu().numpy() for each in now[:2]]
    count, width = output.shape
    layer, position = (index.flatten().numpy() for index in
                       torch.meshgrid(torch.arange(count), torch.arange(width), indexing="ij"))
    changed = [a != b for a, b in zip(now[2], then[2], strict=True)]
    masked = [token == lm.mask_id for token in now[2]]
    return pd.DataFrame({"prompt": prompt, "block": step.block, "small_block": step.small_block, "step": step.step,
                         "kind": step.kind, "lag": lag, "layer": layer, "position": position,
                         "output": output.flatten().cpu().numpy(), "residual": residual.flatten().cpu().numpy(),
                         "output_beside": beside[0], "residual_beside": beside[1],
                         "changed": [changed[p] for p in position], "masked": [masked[p] for p in position]})


@claim(holds="**Most outputs are nearly what they were one step before: {share:.0%} reach a cosine of {bound} (median "
             "{output:.3f}).**",
       fails="**Most outputs are not what they were one step before: {share:.0%} reach a cosine of {bound} (median "
             "{output:.3f}).**",
       unknown="**Not measured: no small block took more than one step on these prompts.**")
def outputs_stay_alike(table: pd.DataFrame, bound: float) -> Decision:
    """table: `similarity`; the smallest lag."""
    if table.empty:
        return None, {}
    one = table[table.lag == table.lag.min()]
    share = (one.output >= bound).mean()
    return share > 0.5, {"share": share, "bound": bound, "output": one.output.median()}


@claim(holds="What changes is concentrated where a token changed: {moved:.0%} of the outputs reach {bound} there, "
             "{still:.0%} elsewhere. A policy that recomputes those positions (`token`) has more to keep.",
       fails="What changes is not concentrated where a token changed: {moved:.0%} of the outputs reach {bound} there, "
             "{still:.0%} elsewhere.",
       unknown="Whether it is the changed tokens can't be told: none changed, or all did.")
def changes_are_where_tokens_changed(table: pd.DataFrame, bound: float) -> Decision:
    """As above; concentrated is ten points of outputs or more."""
    one = table[table.lag == table.lag.min()] if len(table) else table
    if one.empty or one.changed.all() or not one.changed.any():
        return None, {}
    moved, still = ((one.output[mask] >= bound).mean() for mask in (one.changed, ~one.changed))
    return still - moved > 0.1, {"moved": moved, "still": still, "bound": bound}


def verdict(table: pd.DataFrame, bound: float) -> str:
    """What the map says about reuse."""
    details = []
    if len(table):
        one = table[table.lag == table.lag.min()]
        layers = one.groupby("layer").output.median()
        steps = one.groupby(["prompt", "block", "step"]).ngroups
        details = [
            f"{len(one)} values of {steps} steps, {one.prompt.nunique()} prompts; median cosine of the residual "
            f"{one.residual.median():.3f}. The layers lie between {layers.min():.3f} (layer {layers.idxmin()}) and "
            f"{layers.max():.3f} (layer {layers.idxmax()}).",
            "\n".join(f"- Lag {lag}: {(rows.output >= bound).mean():.0%} of outputs and "
                      f"{(rows.residual >= bound).mean():.0%} of residuals reach {bound}"
                      for lag, rows in table.groupby("lag")),
            "A cosine is no accuracy: notebook 09 measures what reuse costs. A lower threshold (fewer steps, more "
            "changes in each) changes these numbers."]
    return claims.verdict([outputs_stay_alike(table, bound), changes_are_where_tokens_changed(table, bound)], details)
