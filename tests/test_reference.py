"""The plain reference loop, which benchmarks measure against, reproduces the published loops, every event.

Of the golden cases so many that any two values of code, k, subset, small block and number of rows meet in one.
"""

import golden_support
import pytest
import torch
from golden_support import DATA, GOLDEN

from benchmarks.modules_network import ModulesNetwork
from benchmarks.plain_network import Caches, PlainNetwork
from benchmarks.reference import Event, Loop

CASES = golden_support.covering(DATA["cases"], "variant", "k", "subset", "small_block_size")
LOGITS = {entry["name"]: entry for entry in DATA["logits"]}


@pytest.fixture(scope="module")
def network() -> PlainNetwork:
    return PlainNetwork.load(GOLDEN)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_golden(network: PlainNetwork, case: dict):
    result = Loop(network, DATA["prompts"][case["prompt"]]["rows"], variant=case["variant"], k=case["k"],
                  subset=case["subset"], threshold=case["threshold"], max_new_tokens=case["max_new_tokens"],
                  stop_token=case["stop_token"], use_block_cache=case["use_block_cache"],
                  small_block=case["small_block_size"]).run()
    assert result.generated == case["generated"]
    assert result.nfe == case["nfe"]
    assert result.events == [Event(*event) for event in case["events"]]


def test_golden_on_transformers_modules():
    """The same loop on the modules that the published modelling code is made from: a few cases are enough."""
    network = ModulesNetwork.load(GOLDEN)
    for case in [case for case in DATA["cases"] if case["prompt"] == "p70"][:3]:
        result = Loop(network, DATA["prompts"]["p70"]["rows"], variant=case["variant"], k=case["k"],
                      subset=case["subset"], threshold=case["threshold"], max_new_tokens=case["max_new_tokens"],
                      stop_token=case["stop_token"], use_block_cache=case["use_block_cache"],
                      small_block=case["small_block_size"]).run()
        assert (result.generated, result.nfe) == (case["generated"], case["nfe"])


def check(logits: torch.Tensor, name: str) -> None:
    """Compare logits [1, w, vocab] with the stored first 16, logsumexp and argmax."""
    entry = LOGITS[name]
    chosen = logits[0, entry["positions"]]
    torch.testing.assert_close(chosen[:, :16], torch.tensor(entry["first16"]), atol=2e-3, rtol=0)
    torch.testing.assert_close(chosen.logsumexp(-1), torch.tensor(entry["logsumexp"]), atol=2e-3, rtol=0)
    assert logits[0].argmax(-1).tolist() == entry["argmax_all"]


def tokens(name: str, key: str = "input") -> torch.Tensor:
    return torch.tensor([LOGITS[name][key]])


@pytest.mark.parametrize("name", ["full_sequence_64_no_cache", "full_sequence_72_partial_last_block"])
def test_logits_of_whole_sequences(network: PlainNetwork, name: str):
    check(network.forward(tokens(name), Caches()), name)


def test_logits_through_the_caches(network: PlainNetwork):
    """Prefill, full forward, small forward and commit, in the order in which a block uses them."""
    caches = Caches()
    check(network.forward(tokens("prefill_64_update_past"), caches, store="prefix"), "prefill_64_update_past")
    check(network.forward(tokens("block_on_prefix_no_update"), caches), "block_on_prefix_no_update")
    check(network.forward(tokens("block_full_build_block_cache"), caches, store="block"),
          "block_full_build_block_cache")
    before = caches.block[27][0].clone()
    small = LOGITS["small_step_replace8"]
    check(network.forward(tokens("small_step_replace8"), caches, replace_position=8), "small_step_replace8")
    changed = (caches.block[27][0] != before).any(-1).any(1)[0].nonzero().flatten()
    assert changed.tolist() == small["layer27_block_key_positions_changed"]
    torch.testing.assert_close(caches.block[5][0][0, 0, 9, :8],
                               torch.tensor(small["layer5_block_key_head0_pos9_first8"]), atol=1e-3, rtol=0)
    check(network.forward(tokens("commit_block"), caches, store="prefix"), "commit_block")
    assert caches.length == LOGITS["commit_block"]["past_len_after"]


def test_logits_of_a_small_step_without_prefix(network: PlainNetwork):
    caches, name = Caches(), "small_step_no_prefix_replace8"
    network.forward(tokens(name, "block"), caches, store="block")
    check(network.forward(tokens(name), caches, replace_position=8), name)
