"""Property tests: stored outputs and their slices, and the cache of keys and values, against plain models of both."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdllm.decode.step import Forward
from fastdllm.decode.store import Store, changed, serves, slice_start
from fastdllm.model.cache import MissingBlockCache
from fastdllm.model.config import ModelConfig
from fastdllm.model.network import Network

BLOCK, SMALL, WIDTH = 32, 8, 3


def forward(kind, tokens, small_block, slot=0, block=0, step=0):
    offset = small_block * SMALL
    return Forward(row=slot, slot=slot, index=step, kind=kind, block=block, small_block=small_block, step=step,
                   start=block * BLOCK + (offset if kind == "small" else 0), tokens=tuple(tokens), end=BLOCK,
                   read=(0,), masked=(True,), replace_position=offset if kind == "small" else None, offset=offset)


writes = st.lists(st.tuples(st.sampled_from(["full", "small"]), st.integers(0, 3), st.integers(0, 2)),
                  min_size=1, max_size=8)
reads = st.tuples(st.sampled_from(["full", "small"]), st.integers(0, 3))


@settings(max_examples=150, deadline=None)
@given(writes, reads, st.integers(0, 2), st.integers(0, 2**31))
def test_store_serves_what_was_put(puts, read, slot, seed):
    """The last entry of the slot decides: same width whole, wider sliced at replace_position, else nothing."""
    generator = torch.Generator().manual_seed(seed)
    store, last = Store(3, BLOCK), {}
    for step, (kind, small_block, where) in enumerate(puts):
        tokens = torch.randint(0, 9, (BLOCK if kind == "full" else SMALL,), generator=generator).tolist()
        values = torch.randn(1, len(tokens), WIDTH, generator=generator)
        store.put(5, [forward(kind, tokens, small_block, where, step=step)], values)
        last[where] = (values[0], tokens, step)
    kind, small_block = read
    want = forward(kind, torch.randint(0, 9, (BLOCK if kind == "full" else SMALL,), generator=generator).tolist(),
                   small_block, slot)
    source = store.source(5, slot)
    assert (source is None) == (slot not in last)
    if source is None:
        assert not serves(source, want)
        return
    values, tokens, step = last[slot]
    assert source.forward == step
    fits = len(tokens) >= want.width
    assert serves(source, want) == fits
    if fits:
        start = small_block * SMALL if len(tokens) > want.width else 0
        assert slice_start(source, want) == start
        assert torch.equal(store.get(5, [want], [start])[0], values[start:start + want.width])
        assert changed(source, want, start) == tuple(i for i in range(want.width)
                                                     if tokens[start + i] != want.tokens[i])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=6), st.integers(0, 2**31))
def test_in_place_store_keeps_the_newest_value_of_every_position(small_blocks, seed):
    generator = torch.Generator().manual_seed(seed)
    store, model = Store(1, BLOCK, in_place=True), torch.randn(BLOCK, WIDTH, generator=generator)
    tokens = list(range(BLOCK))
    store.put(0, [forward("full", tokens, 0)], model[None])
    for step, small_block in enumerate(small_blocks, start=1):
        part = torch.randn(SMALL, WIDTH, generator=generator)
        fresh = [100 * step + i for i in range(SMALL)]
        store.put(0, [forward("small", fresh, small_block, step=step)], part[None])
        model[small_block * SMALL:(small_block + 1) * SMALL] = part
        tokens[small_block * SMALL:(small_block + 1) * SMALL] = fresh
    assert torch.equal(store.get(0, [forward("full", tokens, 0)], [0])[0], model)
    assert store.source(0, 0).tokens == tuple(tokens)


def test_forgotten_slots_serve_nothing():
    store = Store(2, BLOCK)
    both = [forward("full", range(BLOCK), 0, slot) for slot in (0, 1)]
    store.put(3, both, torch.ones(2, BLOCK, WIDTH))
    store.forget(0)
    assert store.source(3, 0) is None and store.source(3, 1) is not None


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    config = ModelConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=40, max_position_embeddings=160)
    return Network(config).eval()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["full", "small"]), st.integers(0, 3)),
                min_size=1, max_size=4), st.integers(0, 2**31))
def test_rows_of_any_length_together_equal_each_alone(network, rows, seed):
    """Prefix of 32..96 tokens, then a full and a small forward: batched or alone, the same hidden states."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(0, 40, (1, blocks * BLOCK), generator=generator) for blocks, _, _ in rows]
    opened = torch.randint(0, 40, (len(rows), BLOCK), generator=generator)
    with torch.inference_mode():
        def prefixed(slots):
            cache = network.new_cache(len(slots), 128)
            for slot, row in enumerate(slots):
                length = prompts[row].shape[1]
                network(prompts[row], network.context(cache, "prefill", (slot,), [0], length, [length]), cache)
            return cache

        def step(cache, slots, kind, offsets, width):
            starts = [prompts[row].shape[1] for row in slots]
            tokens = torch.stack([opened[row, o:o + width] for row, o in zip(slots, offsets, strict=True)])
            context = network.context(cache, kind, tuple(range(len(slots))),
                                      [s + o for s, o in zip(starts, offsets, strict=True)], width,
                                      [s + BLOCK for s in starts])
            return network(tokens, context, cache)

        everyone = list(range(len(rows)))
        offsets = [small_block * SMALL for _, _, small_block in rows]
        cache = prefixed(everyone)
        full = step(cache, everyone, "full", [0] * len(rows), BLOCK)
        small = step(cache, everyone, "small", offsets, SMALL)
        for row in everyone:
            cache = prefixed([row])
            torch.testing.assert_close(step(cache, [row], "full", [0], BLOCK)[0], full[row], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(step(cache, [row], "small", offsets[row:row + 1], SMALL)[0], small[row],
                                       rtol=1e-4, atol=1e-5)


def test_small_forward_with_unchanged_tokens_repeats_the_full_forward(network):
    """The block cache holds what the full forward wrote, so the same tokens give the same hidden states."""
    tokens = torch.randint(0, 40, (1, BLOCK), generator=torch.Generator().manual_seed(1))
    cache = network.new_cache(1, 64)
    with torch.inference_mode():
        full = network(tokens, network.context(cache, "full", (0,), [0], BLOCK, [BLOCK]), cache)
        for offset in (0, 8, 16, 24):
            context = network.context(cache, "small", (0,), [offset], SMALL, [BLOCK], (offset,))
            torch.testing.assert_close(network(tokens[:, offset:offset + SMALL], context, cache),
                                       full[:, offset:offset + SMALL], rtol=1e-4, atol=1e-5)


def test_missing_block_entry_is_an_error_and_preserved_undoes_writes(network):
    cache = network.new_cache(1, 64)
    tokens = torch.zeros(1, SMALL, dtype=torch.long)
    cache.begin_block_cache((0,))
    context = network.context(cache, "small", (0,), [8], SMALL, [BLOCK], (8,))
    with torch.inference_mode(), pytest.raises(MissingBlockCache, match="layer 0"):
        network(tokens, context, cache)
    full = network.context(cache, "full", (0,), [0], BLOCK, [BLOCK])
    before = cache.keys[0].clone()
    with torch.inference_mode(), cache.preserved(0, full):
        network.model.layers[0](torch.randn(1, BLOCK, 16), full, cache)
        assert not torch.equal(cache.keys[0], before)
    assert torch.equal(cache.keys[0], before) and cache.missing[0] == {0}
