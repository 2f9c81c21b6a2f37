"""The block-diffusion sequence: one clean copy and two complementary noised views of every answer block.

Layout of a row (T = window tokens, B = block, V = T - first_block * B noised positions of a view):

    [ clean copy, T ][ view 0, V ][ view 1, V ]

Attention (arXiv 2509.26328, figure 2; here with both views behind one clean copy): clean to clean is block-causal,
noised to clean is offset block-causal (earlier blocks only), noised to noised is block-diagonal within its view.
The prediction of position p is read at p - 1 (token shift); a block's first token is never masked: decoding takes it
from the last position of the clean block before, and it is trained there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastdllm.train.recipe import Recipe

VIEWS = 2
IGNORED = 0.0


@dataclass(frozen=True)
class Batch:
    """Rows of one training step. Where `weights` is 0, nothing is learned and `targets` means nothing."""

    inputs: NDArray[np.int16]     # [n, S]
    targets: NDArray[np.int16]    # [n, S] the token that the output at this place predicts
    weights: NDArray[np.float32]  # [n, S]


@dataclass(frozen=True)
class Encoded:
    """Problems as tokens: prompt, answer, stop token, padding to the window."""

    tokens: NDArray[np.int16]   # [n, T]
    prompts: NDArray[np.int64]  # [n] tokens of the prompt
    lengths: NDArray[np.int64]  # [n] tokens up to and including the stop token


def layout(recipe: Recipe) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions [S] and copy [S] (0 clean, 1 and 2 the views) of a block-diffusion row."""
    clean = np.arange(recipe.window)
    view = np.arange(recipe.first_block * recipe.block, recipe.window)
    copies = [np.full(len(part), copy) for copy, part in enumerate([clean] + [view] * VIEWS)]
    return np.concatenate([clean] + [view] * VIEWS), np.concatenate(copies)


def attention_mask(recipe: Recipe) -> NDArray[np.bool_]:
    """[S, S], True where a query (row) sees a key (column). The same for every problem: what follows an answer
    lies in later blocks, which nothing before them sees."""
    positions, copy = layout(recipe)
    block = positions // recipe.block
    query_block, key_block = block[:, None], block[None, :]
    query_copy, key_copy = copy[:, None], copy[None, :]
    from_clean = (key_copy == 0) & np.where(query_copy == 0, key_block <= query_block, key_block < query_block)
    return from_clean | ((key_copy > 0) & (key_copy == query_copy) & (key_block == query_block))


def draw_masks(recipe: Recipe, encoded: Encoded, rng: np.random.Generator) -> tuple[
        NDArray[np.bool_], NDArray[np.float32]]:
    """Which tokens each view hides, [n, 2, T], and the loss weight of each, the same shape.

    A part of the rows gets the paper's noise: a ratio per block, view 1 hiding exactly what view 0 shows. The others
    are noised as decoding sees a block: small blocks to the left clean, one partly masked, those to the right masked.
    In half of these blocks the partly masked one is known up to some place and masked from there on, as if it were
    written from left to right: what next-token training has taught applies there as it is, and is not unlearned.
    """
    rows, window = encoded.tokens.shape
    block, small = recipe.block, recipe.small_block
    positions = np.arange(window)
    end = -(-encoded.lengths // block) * block
    answer = (positions >= encoded.prompts[:, None]) & (positions < end[:, None])
    maskable = (answer & (positions % block != 0))[:, None, :]                              # [n, 1, T]

    def per_block(values: NDArray) -> NDArray:
        return np.repeat(values, block, axis=-1)                                            # [..., T/B] -> [..., T]

    blocks, inside = window // block, positions % block // small
    draw = rng.random((rows, VIEWS, window))
    ratio = per_block(rng.random((rows, 1, blocks)))
    first_view = maskable & (draw[:, :1] < ratio)
    paper = np.concatenate([first_view, maskable & ~first_view], axis=1)

    # small block being decoded: from the answer's first to the stop's; one time in five it is still wholly masked
    first, last = (np.clip(edge[:, None] - np.arange(blocks) * block, 0, block - 1)[:, None] // small
                   for edge in (encoded.prompts, encoded.lengths - 1))                      # [n, 1, T/B]
    chosen = first + (rng.random((rows, VIEWS, blocks)) * (last + 1 - first)).astype(int)
    current, ratio = per_block(chosen), per_block(1.25 * rng.random((rows, VIEWS, blocks)))
    known = per_block((rng.random((rows, VIEWS, blocks)) * small).astype(int))
    from_left = per_block(rng.random((rows, VIEWS, blocks)) < 0.5)
    partly = np.where(from_left, positions % small >= known, draw < ratio)
    decoding = maskable & ((inside > current) | ((inside == current) & partly))

    as_paper = rng.random((rows, 1, 1)) < recipe.paper_share
    hidden = np.where(as_paper, paper, decoding)
    weights = np.where(~as_paper & (inside > current), recipe.right_weight, 1.0)
    weights = weights * np.where(positions >= encoded.lengths[:, None, None], recipe.padding_weight, 1.0)
    return hidden, np.where(hidden, weights, IGNORED).astype(np.float32)


def diffusion_batch(recipe: Recipe, encoded: Encoded, rng: np.random.Generator) -> Batch:
    """Clean copy and two noised views of every problem, with shifted targets."""
    tokens, block = encoded.tokens, recipe.block
    mask_id = recipe.geometry["mask_token_id"]
    hidden, hidden_weights = draw_masks(recipe, encoded, rng)
    following = np.concatenate([tokens[:, 1:], tokens[:, :1]], axis=1)                      # [n, T]
    predicted = np.arange(1, recipe.window + 1)                                             # position predicted
    in_answer = (predicted >= encoded.prompts[:, None]) & (predicted < encoded.lengths[:, None])
    opens_block = (predicted % block == 0) & in_answer
    start = recipe.first_block * block
    noised = np.where(hidden, np.int16(mask_id), tokens[:, None])[:, :, start:]             # [n, 2, V]
    shifted = np.concatenate([hidden_weights[:, :, 1:], np.zeros_like(hidden_weights[:, :, :1])], axis=2)[:, :, start:]
    return Batch(
        inputs=np.concatenate([tokens, noised[:, 0], noised[:, 1]], axis=1),
        targets=np.concatenate([following, following[:, start:], following[:, start:]], axis=1),
        weights=np.concatenate([opens_block.astype(np.float32), shifted[:, 0], shifted[:, 1]], axis=1),
    )


def next_token_batch(recipe: Recipe, encoded: Encoded) -> Batch:
    """Plain next-token prediction of prompt (lightly weighted), answer and stop token."""
    tokens = encoded.tokens
    predicted = np.arange(1, recipe.window + 1)
    weights = np.where(predicted < encoded.prompts[:, None], recipe.prompt_weight, 1.0)
    weights = np.where(predicted < encoded.lengths[:, None], weights, IGNORED)
    following = np.concatenate([tokens[:, 1:], tokens[:, :1]], axis=1)
    return Batch(inputs=tokens, targets=following, weights=weights.astype(np.float32))
