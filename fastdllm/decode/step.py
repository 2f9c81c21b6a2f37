"""What the loop passes around: a forward to run, the step it became, and a row's result.

The first are named tuples: one of each is made for every row in every tick, while a device may wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

KINDS: tuple[str, ...] = ("prefill", "full", "small", "commit")
DENOISING = ("full", "small")
DECISIONS: tuple[str, ...] = ("recompute", "reuse", "fallback", "bypass")


class Forward(NamedTuple):
    """One row's next forward: `width` tokens from absolute position `start` on, keys below `end` visible."""

    row: int
    slot: int
    index: int                       # the row's n-th forward
    kind: str                        # one of KINDS
    block: int                       # absolute: position // block size (of the first token)
    small_block: int | None          # None for prefill and commit
    step: int | None                 # denoising forwards since the block began; None for prefill and commit
    start: int
    tokens: tuple[int, ...]          # [width] as they go in
    end: int
    read: tuple[int, ...]            # offsets whose logits are wanted: position p is predicted at p - 1
    masked: tuple[bool, ...]         # of the small block's positions; () for prefill and commit
    replace_position: int | None     # offset of a small forward in its block; None otherwise
    offset: int = 0                  # offset of the small block in its block
    block_cache: bool = False        # whether this block's cache exists already

    @property
    def width(self) -> int:
        return len(self.tokens)


class Prediction(NamedTuple):
    """What a forward says: a token and its confidence for each position of `Forward.read`, and what to unmask."""

    tokens: tuple[int, ...] = ()
    confidence: tuple[float, ...] = ()
    unmask: tuple[bool, ...] = ()
    decisions: tuple[str, ...] = ()  # one of DECISIONS for each layer that the policy names, where it acts


class Step(NamedTuple):
    """One forward of one row, done. B is the block size; positions are offsets in the block."""

    row: int
    block: int
    small_block: int | None
    step: int | None
    kind: str                        # one of KINDS, or "replay": no forward ran, old logits were sampled again
    start: int                       # absolute position of the block
    tokens: tuple[int, ...]          # [B] after the step, the mask id where still masked
    unmasked: tuple[bool, ...]       # [B] by this step
    confidence: tuple[float, ...]    # [B] nan where the step did not look
    nfe: dict[str, int]              # so far, by kind
    draft: int = 0                   # policy verify: drafted so many steps ahead, and right; 0: the row's own state
    rejected: tuple[tuple[int, int], ...] = ()      # policy verify: offsets (from B on: of the next block) and tokens
                                                    # that the next draft had wrong


@dataclass(frozen=True, slots=True)
class DraftCount:
    """Drafts of one depth and kind (`verify.draft_kind`) that were run, and those that were right."""

    depth: int
    kind: str
    offered: int
    accepted: int


@dataclass(frozen=True, slots=True)
class RowResult:
    """A finished row."""

    row: int                         # index into the prompts
    tokens: list[int]                # generated part, up to and including the stop token
    text: str
    nfe: dict[str, int]              # prefill, full, small, commit, replay
    decisions: dict[str, int]        # calls of the policy's layers: recompute, reuse, fallback, bypass
    finish: str                      # stop, length or stop_string
    reused_nothing: bool             # k > 1, and yet nothing was reused
    seconds: float                   # from the row's first forward to its last
    steps: int = field(default=0)
    forwards_run: int = 0            # passes that carried the row; policy verify: fewer than its NFE
    drafts: tuple[DraftCount, ...] = ()
    executor: str = "eager"          # what computed the row's forwards, see `Executor`
