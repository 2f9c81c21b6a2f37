"""Looks inside single decodes for phase 6: slices, block-cache entries, logits of reuse steps, where two loops part."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fastdllm.decode.generate import denoise, generate
from fastdllm.decode.revisions import Revision
from fastdllm.decode.trace import Trace
from fastdllm.display.claim import Decision, claim, verdict
from fastdllm.display.progress import progress
from fastdllm.investigation.collapse.bisection import compare, row_decoder
from fastdllm.lab.instrument.generation_file import GenerationFile, decoder
from fastdllm.lab.instrument.probe import ForwardObservation, Observed, Run, observe
from fastdllm.model.lm import LM
from fastdllm.settings import SUBSETS, Decoding, Reuse


def look(lm: LM, ids: Sequence[list[int]], decoding: Decoding, reuse: Reuse, revision: str | Revision) -> Observed:
    """Our loop seen from outside, prompt by prompt."""
    groups = progress([[prompt] for prompt in ids], f"prompts seen, {reuse.layers}, {revision}")
    return observe(row_decoder(lm, revision, reuse, decoding), groups, lm.network)


def slices(run: Observed, small_block: int) -> pd.DataFrame:
    """One row a small forward and reused layer: what replace_position was, what was served, what was written.

    `right` says whether the served values are the ones that the layer once returned for these very positions:
    found by comparing values, not by asking the code. `written` are the block positions whose keys changed.
    """
    rows = []
    for group, seen in enumerate(run.seen):
        for before, s in zip([None, *seen], seen, strict=False):
            if s.kind != "small" or s.replace_position is None:
                continue
            for layer, call in enumerate(s.calls):
                if not call.reused or call.source is None:
                    continue
                origin, offset = seen[call.source[0]], call.source[1]
                wide = origin.replace_position is None
                true = s.replace_position if wide else 0
                same_small_block = wide or origin.replace_position == s.replace_position
                rows.append({"prompt": group, "forward": s.index, "small_block": s.replace_position // small_block,
                             "replace_position": s.replace_position, "layer": layer,
                             "stored by": origin.kind, "slice_start": offset,
                             "right": offset == true and same_small_block and origin.block == s.block,
                             "written": written(before, s)})
    return pd.DataFrame(rows, columns=["prompt", "forward", "small_block", "replace_position", "layer", "stored by",
                                       "slice_start", "right", "written"])


def written(before: ForwardObservation | None, after: ForwardObservation, layer: int = 0) -> str:
    """Block positions, "9" or "8-15", whose entry of a layer changed in a forward; "" if none is known to."""
    if before is None or before.block_cache.shape != after.block_cache.shape or before.block != after.block:
        return ""
    changed = (before.block_cache[layer] != after.block_cache[layer]).any((0, 2)).nonzero()[0]
    return "-".join(dict.fromkeys(str(end) for end in (changed.min(), changed.max()))) if len(changed) else ""


def some_written(positions: Iterable[str], most: int = 4) -> str:
    """The first few of what `written` gives, in the order of the positions."""
    ends = {text: [int(end) for end in text.split("-")] for text in positions if text}
    return ", ".join(sorted(ends, key=lambda text: ends[text])[:most])


def cache_differences(a: Observed, b: Observed, tolerance: float = 1e-4) -> pd.DataFrame:
    """Block-cache entries that differ between two runs, one row a forward and layer: positions, largest difference.

    Forwards are compared in order, as long as both runs do the same kind of forward on the same tokens.
    """
    rows = []
    for group, (ours, theirs) in enumerate(zip(a.seen, b.seen, strict=True)):
        for x, y in zip(ours, theirs, strict=False):
            if (x.kind, x.start, x.tokens) != (y.kind, y.start, y.tokens):
                break
            gap = np.abs(x.block_cache - y.block_cache)
            gap = np.where(np.isnan(gap), np.inf, gap).max((1, 3))           # [layers, B]
            size = np.abs(y.block_cache).max((1, 3))
            differs = gap > tolerance * (1 + size)
            rows += [{"prompt": group, "forward": x.index, "kind": x.kind, "layer": layer,
                      "positions": int(differs[layer].sum()),
                      "reused": x.calls[layer].reused or y.calls[layer].reused} for layer in range(len(differs))]
    return pd.DataFrame(rows)


def reuse_logits(lm: LM, ids: list[int], decoding: Decoding, reuse: Reuse, revision: str = "fixed") -> pd.DataFrame:
    """One row a small forward that reused: how far its logits are from those of the forward it was served from.

    `gap` is the largest difference over all positions but the first and the whole vocabulary, `first` the one at
    the small block's first position (a small forward reads itself there; it is never masked then).
    """
    caught: list[torch.Tensor] = []
    logits: dict[int, torch.Tensor] = {}
    trace, kinds = Trace(), {}
    with lm.network.hooks({"logits": lambda values, _point: caught.append(values[0].clone())}):
        for index, step in enumerate(denoise(lm, [ids], decoding=decoding, reuse=reuse, revision=revision,
                                             trace=trace)):
            kinds[index] = step
            if caught:
                logits[index] = caught.pop()      # [positions read, vocab]
    rows = []
    frame = trace.frame()
    for served in frame[frame.decision == "reuse"].groupby("forward").first().reset_index().itertuples():
        now, then = logits[served.forward], logits[int(served.served_forward)]
        if kinds[served.forward].small_block != kinds[int(served.served_forward)].small_block:
            continue
        gap = (now - then).abs().amax(-1)
        rows.append({"forward": served.forward, "kind": served.kind, "served from": int(served.served_forward),
                     "gap": float(gap[1:].max()), "first": float(gap[0]),
                     "size": float(then.abs().max())})
    return pd.DataFrame(rows, columns=["forward", "kind", "served from", "gap", "first", "size"])


def subset_pairs(lm: LM, ids: Sequence[list[int]], ks: Sequence[int], decoding: Decoding,
                 scattered: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Different configurations compared in pairs, and the logits of their reuse steps.

    pairs: k, kind, a, b, n decodes, `same` of them token for token, forwards that ran and replayed ones of b. Kinds:
    contiguous subsets, scattered layers and replay (policy output against it), residual (its subsets among
    themselves). logits: `reuse_logits` of the first prompt with k, layers, policy, kind.
    """
    rows, logits = [], []
    for k in ks:
        asked = [*itertools.product(("output", "residual"), SUBSETS), ("output", scattered), ("replay", "middle")]
        runs = {(policy, layers): generate(lm, list(ids), decoding=decoding, batch_size=1,
                                           reuse=Reuse(k=k, layers=layers, policy=policy))
                for policy, layers in progress(asked, f"configurations decoded, k={k}")}
        chosen = [(kind, (policy, a), (policy, b)) for kind, policy in (("contiguous subsets", "output"),
                                                                       ("residual", "residual"))
                  for a, b in itertools.combinations(SUBSETS, 2)]
        chosen += [("scattered layers", ("output", "first"), ("output", scattered)),
                   ("replay", ("output", "middle"), ("replay", "middle"))]
        for kind, a, b in chosen:
            counts = pd.DataFrame(runs[b].nfe).sum()
            rows.append({"k": k, "kind": kind, "a": " ".join(a), "b": " ".join(b), "n": len(ids),
                         "same": sum(x == y for x, y in zip(runs[a].tokens, runs[b].tokens, strict=True)),
                         "forwards of b": int(counts.drop("replay").sum()), "replayed": int(counts["replay"])})
        for policy, layers in progress(runs, f"configurations' logits, k={k}"):
            if policy != "replay":
                kind = {"residual": "residual"}.get(policy, "contiguous subsets" if layers in SUBSETS else "scattered")
                logits.append(reuse_logits(lm, ids[0], decoding, Reuse(k=k, layers=layers, policy=policy))
                              .assign(k=k, layers=layers, policy=policy, kind=kind))
    return pd.DataFrame(rows), pd.concat(logits)


def side_by_side(lm: LM, file: GenerationFile, ids: Sequence[list[int]], decoding: Decoding, reuse: Reuse,
                 revision: str) -> pd.DataFrame:
    """A user's generation file and an emulated revision, prompt by prompt: what agrees, and where they part."""
    groups = [[prompt] for prompt in ids]
    theirs, ours = (observe(decode, progress(groups, f"prompts seen, {reuse.layers}, {whose}"), lm.network)
                    for decode, whose in ((decoder(file, lm, decoding, reuse), "the file"),
                                          (row_decoder(lm, revision, reuse, decoding), revision)))
    rows = []
    for index in range(len(ids)):
        one = [Observed([run.seen[index]], [run.tokens[index]], [run.outcome[index]]) for run in (theirs, ours)]
        parting, counts = compare(*one)
        rows.append({"prompt": index, "tokens of the file": sum(map(len, theirs.tokens[index])),
                     f"tokens of {revision}": sum(map(len, ours.tokens[index])),
                     "same tokens": theirs.tokens[index] == ours.tokens[index],
                     "forwards of the file": len(theirs.seen[index]), f"forwards of {revision}": len(ours.seen[index]),
                     "how the file ended": theirs.outcome[index],
                     "first parting": "" if parting is None else str(parting.bad or parting.good or "the end"),
                     "differs in": ", ".join(name for name, count in counts.items() if count)})
    return pd.DataFrame(rows)


def merged_prompts(table: pd.DataFrame) -> pd.DataFrame:
    """`side_by_side` with its subsets in `layers`, one row for all decodes that agree, or part, in the same way."""
    alike = ["same tokens", "how the file ended", "first parting", "differs in"]
    lines = []
    for kind, rows in table.groupby(alike, sort=False):
        counts = {column: int(rows[column].sum()) for column in table
                  if column.startswith(("tokens of", "forwards of"))}
        lines.append({"layers": ", ".join(dict.fromkeys(rows["layers"])), "decodes": len(rows), **counts,
                      **dict(zip(alike, kind, strict=True)), "same tokens": "yes" if kind[0] else "no",
                      "first parting": kind[2] or "none", "differs in": kind[3] or "nothing"})
    return pd.DataFrame(lines)


@claim(holds="**{name} and `{revision}` give the same tokens in all {n} decodes.**",
       fails="**{name} and `{revision}` part in {apart} of {n} decodes**, first at {where}, in {what}.",
       unknown="**Nothing was decoded with both.**")
def file_agrees(name: str, revision: str, table: pd.DataFrame) -> Decision:
    """table: `side_by_side`."""
    values = {"name": name, "revision": revision, "n": len(table)}
    apart = table[~table["same tokens"].astype(bool)]
    if len(apart):
        values |= {"apart": len(apart), "where": apart["first parting"].iloc[0], "what": apart["differs in"].iloc[0]}
    return (None if table.empty else apart.empty), values


@claim(holds="Both also do the same work: no observable differs in any decode.",
       fails="Their work differs in {apart} of {n} decodes, in {what}.",
       unknown="Their work was not compared.")
def file_does_the_same_work(table: pd.DataFrame) -> Decision:
    """table: `side_by_side`: forwards, layer calls, what was served, block cache."""
    apart = table[table["differs in"] != ""]
    return (None if table.empty else apart.empty), {
        "apart": len(apart), "n": len(table), "what": "; ".join(dict.fromkeys(apart["differs in"]))}


def generation_file(file: GenerationFile, revision: str, table: pd.DataFrame, right: Sequence[bool]) -> str:
    """15. A user's file beside a revision, and what it scores."""
    return verdict([file_agrees(file.path.name, revision, table), file_does_the_same_work(table)],
                   [f"With the file {sum(right)} of {len(right)} problems are solved. Its SHA-256 begins "
                    f"{file.sha256[:12]}. Another file, revision or prompt can change this; more decodes make it "
                    "surer."])


def golden_cases(lm: LM, directory: Path, policy: str, most: int = 0) -> pd.DataFrame:
    """Replay the golden cases of the published reuse (k >= 2, one row) with a policy in our loop.

    They were recorded from the published code on the checkpoint's own modelling code, so whether a policy
    reproduces them says how that code behaves. `most` > 0 takes only so many.
    """
    data = json.loads((directory / "golden.json").read_text())
    cases = [c for c in data["cases"] if c["variant"] == "run2" and c["k"] > 1 and c["subset"] in SUBSETS
             and len(data["prompts"][c["prompt"]]["rows"]) == 1]
    rows, mask = [], lm.config.vocab_size - 1      # its README: mask 511 of 512
    for case in progress(cases[:most or None], f"recorded cases replayed, {Path(policy).stem}"):
        stop = case["stop_token"]
        decoding = Decoding(threshold=case["threshold"], max_new_tokens=case["max_new_tokens"], mask_id=mask,
                            small_block=case["small_block_size"], stop_ids=() if stop == 9999 else (stop,))
        decode = row_decoder(lm, "26d6179", Reuse(k=case["k"], layers=case["subset"], policy=policy), decoding)
        run = Run(decode, data["prompts"][case["prompt"]]["rows"]).finish()
        got, want = run.tokens[0], case["generated"][0]
        same = next((i for i, (a, b) in enumerate(zip(got, want, strict=False)) if a != b), min(len(got), len(want)))
        rows.append({"case": case["id"], "k": case["k"], "layers": case["subset"], "tokens": len(got),
                     "reproduced": got == want[:len(got)], "same up to token": same})
    return pd.DataFrame(rows)
