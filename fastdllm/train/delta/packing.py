"""Documents of any length packed into rows of one length, with what attention and loss need to tell them apart.

A document is a prompt with its answer: plain for next-token training; for block diffusion a clean copy, padded to
whole blocks, and two noised views of those of its blocks that hold answer, as in `fastdllm.train.noise`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from fastdllm.train.noise import IGNORED, VIEWS

LIST_BLOCK = 128   # queries and keys of one entry of FlexAttention's lists
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Example:
    """A prompt and its answer, stop token included, as token ids."""

    prompt: Ints
    answer: Ints


@dataclass(frozen=True)
class Noise:
    """How block diffusion hides tokens. Shares and weights as in `Recipe`."""

    block: int
    small_block: int
    mask_id: int
    pad_id: int
    paper_share: float
    right_weight: float
    padding_weight: float


@dataclass(frozen=True)
class Document:
    """One document, laid out. All arrays are [S]."""

    tokens: Ints
    positions: Ints             # from 0 in every copy
    copies: Ints                # 0 clean, 1 and 2 the views
    blocks: Ints                # of the block diffusion; in next-token training every token is its own
    targets: Ints               # the token that the output at this place predicts
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class PackedBatch:
    """Rows of one step, [n, S] each; where `weights` is 0, nothing is learned. `documents` count from 1, 0 is empty.

    `list_sizes` [n, S/128] and `lists` [n, S/128, S/128] say which blocks of keys the queries of a block may see.
    """

    tokens: Ints
    positions: Ints
    copies: Ints
    blocks: Ints
    targets: Ints
    weights: NDArray[np.float32]
    documents: Ints
    list_sizes: Ints
    lists: Ints
    examples: int


def next_token_document(example: Example, prompt_weight: float) -> Document:
    """Plain next-token prediction: the prompt weighs `prompt_weight`, the answer 1."""
    tokens = np.concatenate([example.prompt, example.answer])
    positions = np.arange(len(tokens), dtype=np.int32)
    weights = np.where(positions + 1 < len(example.prompt), prompt_weight, 1.0)
    weights[-1] = IGNORED
    return Document(tokens, positions, np.zeros_like(positions), positions, np.append(tokens[1:], tokens[:1]),
                    weights.astype(np.float32))


def diffusion_document(example: Example, noise: Noise, rng: np.random.Generator) -> Document:
    """A clean copy and two noised views; a prediction is read one position to the left of its token."""
    block, begin, end = noise.block, len(example.prompt), len(example.prompt) + len(example.answer)
    length = -(-end // block) * block
    tokens = np.full(length, noise.pad_id, np.int32)
    tokens[:begin], tokens[begin:end] = example.prompt, example.answer
    positions = np.arange(length, dtype=np.int32)
    hidden, weights = hide(positions, begin, end, noise, rng)
    following = np.append(tokens[1:], np.int32(noise.pad_id))
    # the clean copy predicts the first token of every block: decoding takes it from there
    opens = ((positions + 1) % block == 0) & (positions + 1 >= begin) & (positions + 1 < end)
    answered = slice(begin // block * block, length)   # blocks of nothing but prompt have no view
    blocks = positions // block
    parts: list[tuple[NDArray, ...]] = [(tokens, positions, np.zeros_like(positions), blocks, following, opens)]
    for view in range(VIEWS):
        weight = np.append(np.where(hidden[view], weights[view], IGNORED)[1:], IGNORED)
        noised = np.where(hidden[view], np.int32(noise.mask_id), tokens)
        parts.append(tuple(part[answered] for part in (
            noised, positions, np.full_like(positions, view + 1), blocks, following, weight)))
    *whole, weight = (np.concatenate(part) for part in zip(*parts, strict=True))
    tokens, positions, copies, blocks, targets = (part.astype(np.int32) for part in whole)
    return Document(tokens, positions, copies, blocks, targets, weight.astype(np.float32))


def hide(positions: Ints, begin: int, end: int, noise: Noise, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Which tokens each view hides [2, S], and the weight of each; see `noise.draw_masks`, here for one document."""
    block, small, size = noise.block, noise.small_block, len(positions)
    count, inside = size // block, positions % block // small
    maskable = (positions >= begin) & (positions % block != 0)
    after = np.where(positions >= end, noise.padding_weight, 1.0)
    draw = rng.random((VIEWS, size))
    if rng.random() < noise.paper_share:
        first = maskable & (draw[0] < np.repeat(rng.random(count), block))
        return np.stack([first, maskable & ~first]), np.broadcast_to(after, (VIEWS, size))
    lowest, highest = (np.clip(edge - np.arange(count) * block, 0, block - 1) // small for edge in (begin, end - 1))
    chosen = lowest + (rng.random((VIEWS, count)) * (highest + 1 - lowest)).astype(int)
    known = (rng.random((VIEWS, count)) * small).astype(int)
    current, ratio, known, from_left = (np.repeat(part, block, axis=1) for part in (
        chosen, 1.25 * rng.random((VIEWS, count)), known, rng.random((VIEWS, count)) < 0.5))
    partly = np.where(from_left, positions % small >= known, draw < ratio)
    hidden = maskable & ((inside > current) | ((inside == current) & partly))
    return hidden, np.where(inside > current, noise.right_weight, 1.0) * after


def pack(documents: Iterator[Document], rows: int, length: int) -> PackedBatch:
    """Fill `rows` rows of `length` places with documents, each in the first row with room, until one fits nowhere.

    Raises ValueError for a document longer than a row; `length` is a multiple of 128.
    """
    placed: list[list[Document]] = [[] for _ in range(rows)]
    room = [length] * rows
    for document in documents:
        if len(document) > length:
            raise ValueError(f"document: {len(document)} places; allowed: at most length={length}")
        row = next((row for row in range(rows) if room[row] >= len(document)), None)
        if row is None:
            break
        placed[row].append(document)
        room[row] -= len(document)
    columns: dict[str, NDArray] = {}
    for field in fields(Document):
        kind = np.float32 if field.name == "weights" else np.int32
        columns[field.name] = np.zeros((rows, length), kind)
        for row, those in enumerate(placed):
            if those:
                values = np.concatenate([getattr(document, field.name) for document in those])
                columns[field.name][row, :len(values)] = values
    numbers = np.zeros((rows, length), np.int32)
    for row, those in enumerate(placed):
        used = length - room[row]
        numbers[row, :used] = np.repeat(np.arange(1, len(those) + 1), [len(document) for document in those])
    sizes, lists = key_lists(numbers)
    return PackedBatch(**columns, documents=numbers, list_sizes=sizes, lists=lists, examples=sum(map(len, placed)))


def key_lists(documents: Ints) -> tuple[Ints, Ints]:
    """For every block of 128 queries, the blocks of keys that hold one of its documents: how many, and which first.

    A document's places stand together, so these are neighbours; empty places need only themselves.
    """
    rows, length = documents.shape
    count = length // LIST_BLOCK
    sizes, lists = np.zeros((rows, count), np.int32), np.zeros((rows, count, count), np.int32)
    every = np.arange(count)
    for row, numbers in enumerate(documents):
        edges = np.flatnonzero(np.diff(numbers, prepend=-1))
        starts = dict(zip(numbers[edges], edges, strict=True))
        ends = dict(zip(numbers[edges], np.append(edges[1:], length), strict=True))
        for query in range(count):
            first, last = numbers[query * LIST_BLOCK], numbers[(query + 1) * LIST_BLOCK - 1]
            low = starts[first] // LIST_BLOCK if first else query
            high = -(-ends[last] // LIST_BLOCK) if last else query + 1
            seen = (every >= low) & (every < high)
            sizes[row, query] = high - low
            lists[row, query] = np.concatenate([every[seen], every[~seen]])
    return sizes, lists
