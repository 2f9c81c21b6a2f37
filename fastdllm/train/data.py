"""Training batches, made on the fly: the batch of a step depends on (recipe, phase, step) and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, Dataset

from fastdllm.tasks.arithmetic import WordProblem, generate
from fastdllm.train.noise import Batch, Encoded, diffusion_batch, next_token_batch
from fastdllm.train.recipe import Phase, Recipe
from fastdllm.train.tokenizer import PAD, STOP, chat_prompt, train_tokenizer

HELD_OUT_SEED = 1_000_000_000  # of the problems that the curve's held-out loss is measured on
SPARE = 8  # problems drawn for a batch beyond those that it needs: some may not fit


def task_tokenizer(recipe: Recipe) -> Tokenizer:
    """A tokenizer learned from the task's training split."""
    problems = generate("train", recipe.tokenizer_problems, recipe.seed)
    texts = (f"user\n{problem.question}\nassistant\n{problem.answer}" for problem in problems)
    return train_tokenizer(texts, recipe.geometry["vocab_size"])


def encode(recipe: Recipe, tokenizer: Tokenizer, problems: Sequence[WordProblem], rows: int) -> Encoded:
    """The first `rows` of `problems` that fit, as rows of `window` tokens.

    A problem fits if it ends within the window and its prompt fills all blocks before `first_block`; the task's
    bounds on length leave out one in a hundred thousand. Raises ValueError if too few are left.
    """
    prompts = [each.ids for each in tokenizer.encode_batch([chat_prompt(p.question) for p in problems])]
    answers = [each.ids for each in tokenizer.encode_batch([p.answer + STOP for p in problems])]
    shortest = recipe.first_block * recipe.block
    pairs = [(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)
             if len(prompt) >= shortest and len(prompt) + len(answer) <= recipe.window][:rows]
    if len(pairs) < rows:
        raise ValueError(f"problems: {len(pairs)} of {len(problems)} have a prompt of at least {shortest} tokens and "
                         f"fit a window of {recipe.window}; allowed: at least {rows} that do")
    tokens = np.full((rows, recipe.window), tokenizer.token_to_id(PAD), dtype=np.int16)
    for row, (prompt, answer) in enumerate(pairs):
        tokens[row, :len(prompt) + len(answer)] = prompt + answer
    return Encoded(tokens, np.array([len(prompt) for prompt, _ in pairs]),
                   np.array([len(prompt) + len(answer) for prompt, answer in pairs]))


def make_batch(recipe: Recipe, phase: Phase, tokenizer: Tokenizer, split: str, seed: int) -> Batch:
    """One batch of `phase` from problems and noise that `seed` determines."""
    problems = generate(split, phase.batch_size + SPARE, seed)
    encoded = encode(recipe, tokenizer, problems, phase.batch_size)
    if phase.objective == "next_token":
        return next_token_batch(recipe, encoded)
    return diffusion_batch(recipe, encoded, np.random.default_rng([recipe.seed, seed]))


class StepBatches(Dataset[Batch]):
    """The batches of a phase, indexed by step."""

    def __init__(self, recipe: Recipe, phase: Phase, tokenizer: Tokenizer) -> None:
        self.recipe, self.phase, self.tokenizer = recipe, phase, tokenizer
        # phases and recipe seeds draw from stretches of seeds that cannot overlap
        self.first_seed = 1 + 10_000_000 * recipe.seed + 1_000_000 * recipe.phases.index(phase)

    def __getitem__(self, step: int) -> Batch:
        return make_batch(self.recipe, self.phase, self.tokenizer, "train", self.first_seed + step)

    def held_out(self) -> Batch:
        """A fixed batch of test problems."""
        return make_batch(self.recipe, self.phase, self.tokenizer, "test", HELD_OUT_SEED)


def batches(data: StepBatches, first_step: int, workers: int) -> Iterator[Batch]:
    """The batches of all steps from `first_step` on, in order, made by worker processes (0: in this one)."""
    steps = range(first_step, data.phase.steps)
    loader = DataLoader(data, sampler=steps, batch_size=None, num_workers=workers,
                        prefetch_factor=4 if workers else None)
    return iter(loader)
