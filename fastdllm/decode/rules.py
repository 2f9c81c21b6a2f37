"""What a request comes to on a checkpoint: sizes, ids and switches resolved, everything checked before any work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastdllm.decode.revisions import Revision
from fastdllm.decode.revisions import get as get_revision
from fastdllm.model.lm import LM
from fastdllm.settings import Decoding, Reuse, fit


@dataclass(frozen=True)
class Rules:
    """Decoding with everything resolved: sizes, ids and switches as the loop needs them."""

    block: int
    small: int
    mask_id: int
    stop_ids: frozenset[int]
    threshold: float
    max_new_tokens: int
    block_cache: bool
    k: int                                # policy verify decodes as k=1 does
    revision: Revision
    find_stop: Callable[[list[int]], int | None] | None = None   # stop strings: tokens up to and with the match


def resolve(lm: LM, decoding: Decoding, reuse: Reuse, revision: str | Revision = "fixed") -> Rules:
    """Check a request against a checkpoint and fill in what it leaves open.

    Raises ValueError naming field, value and what is allowed, before any work starts.
    """
    chosen = get_revision(revision)
    vocabulary = lm.config.vocab_size
    block = lm.config.bd_size if decoding.block_size is None else decoding.block_size
    fit(decoding.small_block, block)
    mask = lm.mask_id if decoding.mask_id is None else decoding.mask_id
    if mask is None:
        raise ValueError(f"Decoding.mask_id=None: {lm.name} names no mask token; allowed: an id below {vocabulary}")
    stop_ids, find_stop = stops(lm, decoding)
    for field, token in [("mask_id", mask), *(("stop_ids", stop) for stop in stop_ids)]:
        if not 0 <= token < vocabulary:
            raise ValueError(f"Decoding.{field}={token}; allowed: an id from 0 to {vocabulary - 1}")
    reuse.layer_indices(lm.config.num_hidden_layers, chosen.first_subset)
    reuse.check(decoding)
    if chosen.termination == "upstream" and decoding.max_new_tokens < block:
        raise ValueError(f"Decoding.max_new_tokens={decoding.max_new_tokens} with upstream termination; allowed: "
                         f"{block} (one block) or more")
    return Rules(block=block, small=decoding.small_block, mask_id=mask, stop_ids=stop_ids,
                 threshold=decoding.threshold, max_new_tokens=decoding.max_new_tokens,
                 block_cache=decoding.block_cache, k=1 if reuse.drafts else reuse.k, revision=chosen,
                 find_stop=find_stop)


def stops(lm: LM, decoding: Decoding) -> tuple[frozenset[int], StopStrings | None]:
    """The token ids that end an answer, and the finder of the texts that do.

    A stop string that is a special token never stands in decoded text: its id stops instead. Raises ValueError for one
    that holds a special token and more, or the mask token.
    """
    ids = set(lm.stop_ids if decoding.stop_ids is None else decoding.stop_ids)
    strings = []
    special = special_tokens(lm)
    for string in decoding.stop_strings:
        inside = next((token for token in special if token in string), None)
        if inside is None:
            strings.append(string)
        elif string != inside or special[inside] == lm.mask_id:
            raise ValueError(f"Decoding.stop_strings: {string!r} holds the special token {inside!r}, which no decoded "
                             "text shows; allowed: text without it, or another special token alone")
        else:
            ids.add(special[inside])
    return frozenset(ids), StopStrings(lm, tuple(strings)) if strings else None


def special_tokens(lm: LM) -> dict[str, int]:
    """The tokens that decoding leaves out, with their ids; the longer ones first."""
    added = {} if lm.tokenizer is None else lm.tokenizer.added_tokens_decoder
    texts = {token.content: index for index, token in added.items() if token.special}
    return dict(sorted(texts.items(), key=lambda item: -len(item[0])))


class StopStrings:
    """Finds the text that ends an answer in the tokens that are final so far."""

    def __init__(self, lm: LM, strings: tuple[str, ...]):
        if lm.tokenizer is None:
            raise ValueError(f"Decoding.stop_strings={strings}: {lm.name} has no tokenizer; allowed: ()")
        self.lm, self.strings = lm, strings

    def __call__(self, tokens: list[int]) -> int | None:
        """How many tokens it takes for a stop string to appear in the text, or None."""
        text = self.lm.decode(tokens)
        if not any(string in text for string in self.strings):
            return None
        low, high = 1, len(tokens)      # the text grows with the tokens: the first hit by bisection
        while low < high:
            middle = (low + high) // 2
            if any(string in self.lm.decode(tokens[:middle]) for string in self.strings):
                high = middle
            else:
                low = middle + 1
        return low

    def cut(self, text: str) -> str:
        """The text before the first stop string."""
        return text[:min((text.index(string) for string in self.strings if string in text), default=len(text))]


def positions_needed(length: int, rules: Rules) -> int:
    """Cache positions that a prompt of `length` tokens can come to use: whole blocks."""
    return -(-(length + rules.max_new_tokens) // rules.block) * rules.block


def check_prompt(lm: LM, index: int, prompt: Sequence[int], rules: Rules) -> None:
    """ValueError for an empty or too long prompt, or an id outside the vocabulary."""
    if not prompt:
        raise ValueError(f"prompts[{index}]=[]; allowed: at least one token")
    if min(prompt) < 0 or max(prompt) >= lm.config.vocab_size:
        bad = next(token for token in prompt if not 0 <= token < lm.config.vocab_size)
        raise ValueError(f"prompts[{index}]: token id {bad}; allowed: 0 to {lm.config.vocab_size - 1}")
    if rules.mask_id in prompt:
        raise ValueError(f"prompts[{index}][{prompt.index(rules.mask_id)}]={rules.mask_id}, the mask token; "
                         "allowed: prompts without it, only what is to be generated is masked")
    if (need := positions_needed(len(prompt), rules)) > lm.config.max_position_embeddings:
        raise ValueError(f"prompts[{index}]: {len(prompt)} tokens + max_new_tokens={rules.max_new_tokens} need {need} "
                         f"positions; allowed: max_position_embeddings={lm.config.max_position_embeddings}")
