"""The model `fastdllm` of lm-evaluation-harness: our checkpoints, loop, reuse and revisions under its own command.

    fastdllm lm-eval --model fastdllm --model_args pretrained=tiny,k=2,layers=middle --tasks gsm8k --apply_chat_template

From Python: `registration.register()`, then `lm_eval.simple_evaluate(model="fastdllm", ...)`. A grid configuration
runs the same prompts and scores without the harness's driver (`fastdllm.tasks.benchmarks`) and writes a run record.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM as HarnessLM
from tqdm import tqdm

from fastdllm.decode import autoregressive
from fastdllm.decode.generate import generate_rows
from fastdllm.decode.step import RowResult
from fastdllm.model.lm import LM, load
from fastdllm.settings import Decoding, Reuse
from fastdllm.tasks import answers, likelihood
from fastdllm.tasks.base import TaskOptions
from fastdllm.tasks.benchmarks import Benchmark
from fastdllm.tasks.task_specs import TASK_SPECS

log = logging.getLogger(__name__)
GENERATION = ("until", "max_gen_toks", "do_sample", "temperature", "top_p")     # generation_kwargs that we know
DECODING = ("threshold", "max_new_tokens", "block_size", "small_block", "block_cache")
REUSE = ("k", "layers", "policy", "full_forwards", "similarity")
ENGINES = ("diffusion", "autoregressive")
MAX_GEN_TOKS = 256             # where neither the task nor the caller says (the harness's default)


class FastDLLM(HarnessLM):
    """A checkpoint behind the harness's interface. `results` keeps every finished row, with its forwards."""

    def __init__(self, pretrained: str | LM = "tiny", *, model_revision: str | None = None, device: str = "auto",
                 dtype: str = "auto", batch_size: int | str = 1, max_batch_size: int | None = None,
                 engine: str = "diffusion", revision: str = "fixed", seed: int = 0, prompt: str = "own",
                 **settings: Any):
        """`settings`: any of threshold, max_new_tokens, block_size, small_block, block_cache (Decoding) and k,
        layers, policy, full_forwards, similarity (Reuse). Raises ValueError for anything else.
        """
        super().__init__()
        unknown = sorted(set(settings) - {*DECODING, *REUSE})
        if unknown:
            raise ValueError(f"model_args: {', '.join(unknown)} unknown; allowed: pretrained, model_revision, device, "
                             f"dtype, batch_size, engine, revision, seed, prompt, {', '.join(DECODING + REUSE)}")
        if engine not in ENGINES:
            raise ValueError(f"model_args: engine={engine!r}; allowed: {', '.join(ENGINES)}")
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ValueError(f"batch_size={batch_size!r}; allowed: a whole number from 1 up")
        self.decoding = Decoding(**{name: value for name, value in settings.items() if name in DECODING})
        self.reuse = Reuse(**{name: value for name, value in settings.items() if name in REUSE})
        if engine == "autoregressive" and self.reuse.active:
            raise ValueError(f"model_args: k={self.reuse.k} with engine=autoregressive reuses nothing; allowed: k=1")
        self.batch_size, self.engine, self.revision, self.seed = int(batch_size), engine, revision, seed
        self.prompt = TaskOptions(prompt=prompt).prompt
        if device.startswith("cuda") and not torch.cuda.is_available():
            log.warning("device=%s, which is also lm-eval's default, is not there; running on the CPU", device)
            device = "cpu"
        self.lm = pretrained if isinstance(pretrained, LM) else load(
            pretrained, revision=model_revision, device=device, dtype=dtype)
        self._device = self.lm.device
        self.results: list[RowResult] = []

    # -- prompts

    @property
    def tokenizer_name(self) -> str:
        """Tells caches of prompts apart."""
        return f"{self.lm.name}@{self.lm.fingerprint[:12]}".replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The checkpoint's template, for the harness's own record."""
        return str(self.lm.tokenizer.chat_template) if self.lm.tokenizer is not None and chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text; without generation prompt, the last turn stays open."""
        if self.lm.tokenizer is None:
            raise ValueError(f"model: {self.lm.name} has no tokenizer files; allowed: a checkpoint with a tokenizer")
        return str(self.lm.tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt))

    def encode(self, request: Instance) -> list[int]:
        """Token ids of a request's context, the boxed instruction in the place of the task's where it is wanted."""
        if self.lm.tokenizer is None:
            raise ValueError(f"model: {self.lm.name} has no tokenizer files; allowed: a checkpoint with a tokenizer")
        text = str(request.arguments[0])
        if self.prompt == "boxed":
            for name, spec in TASK_SPECS.items():
                if spec.instruction and str(request.task_name).startswith(name):
                    text = text.replace(spec.instruction, answers.BOXED_INSTRUCTION)
        return list(self.lm.tokenizer.encode(text, add_special_tokens=False))

    # -- what the harness asks for

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One text per request. Stop strings end a row as soon as they stand in its final tokens."""
        groups: dict[Decoding, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(self._decoding(request.arguments[1]), []).append(index)
        prompts = [self.encode(request) for request in requests]
        rows: dict[int, RowResult] = {}
        bar = tqdm(total=len(requests), desc="fastdllm", unit="answer", disable=disable_tqdm)
        for decoding, members in groups.items():
            # Longest first: rows of like length share a batch, and too little memory shows at once. Sampling is
            # seeded by a row's number, which therefore stays.
            order = members if decoding.temperature > 0 else sorted(members, key=lambda i: -len(prompts[i]))
            for row in self._rows([prompts[i] for i in order], decoding):
                index = order[row.row]
                rows[index] = row
                bar.update()
                self.cache_hook.add_partial("generate_until", requests[index].arguments, row.text)
        bar.close()
        self.results += [rows[index] for index in range(len(requests))]
        return [rows[index].text for index in range(len(requests))]

    def _rows(self, prompts: Sequence[list[int]], decoding: Decoding):
        if self.engine == "autoregressive":
            return autoregressive.generate_rows(self.lm, prompts, decoding=decoding, batch_size=self.batch_size)
        return generate_rows(self.lm, prompts, decoding=decoding, reuse=self.reuse, revision=self.revision,
                             seed=self.seed, batch_size=self.batch_size)

    def _decoding(self, wanted: dict[str, Any]) -> Decoding:
        """Our settings with a request's generation_kwargs; max_new_tokens of model_args wins over the task's."""
        unknown = sorted(set(wanted) - set(GENERATION))
        if unknown:
            raise ValueError(f"generation_kwargs: {', '.join(unknown)} unknown; allowed: {', '.join(GENERATION)}")
        until = wanted.get("until") or ()
        stops = (until,) if isinstance(until, str) else tuple(stop for stop in until if stop)
        given = self.decoding.model_fields_set
        most = self.decoding.max_new_tokens if "max_new_tokens" in given else wanted.get("max_gen_toks", MAX_GEN_TOKS)
        sampled = wanted.get("do_sample", False)
        return Decoding(**{**self.decoding.model_dump(), "stop_strings": stops, "max_new_tokens": int(most),
                           "temperature": float(wanted.get("temperature", 1.0)) if sampled else 0.0,
                           "top_p": float(wanted.get("top_p", self.decoding.top_p))})

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """One forward per request, as `fastdllm.tasks.likelihood` says; the second value is False throughout for
        diffusion, as in the published evaluation. Raises ValueError for k > 1: layer reuse has nothing to act on here.
        """
        if self.reuse.active:
            raise ValueError(f"model_args: k={self.reuse.k} for a task scored by likelihood reuses nothing (one "
                             "forward a choice, no denoising); allowed: k=1, or a generative task (mmlu_generative)")
        pairs = [likelihood.ChoiceForward(i, 0, *likelihood.encode_pair(self.lm, *request.arguments))
                 for i, request in enumerate(requests)]
        scores: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
        for index, score, _ in likelihood.score_pairs(self.lm, pairs, self.batch_size, self.engine):
            scores[index] = (score.value, score.greedy and self.engine == "autoregressive")
            self.cache_hook.add_partial("loglikelihood", requests[index].arguments, scores[index])
        return scores

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Not offered."""
        raise NotImplementedError(
            "loglikelihood_rolling is not offered: within a block, block diffusion predicts each token from those that "
            "happen to be unmasked, so a text has no one probability; the published evaluation has none either. Use a "
            "task with choices or a generative one")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside its results."""
        nfe: dict[str, int] = {}
        for row in self.results:
            for kind, count in row.nfe.items():
                nfe[kind] = nfe.get(kind, 0) + count
        return {"checkpoint": self.lm.fingerprint, "engine": self.engine, "revision": self.revision,
                "decoding": self.decoding.model_dump(mode="json"), "reuse": self.reuse.model_dump(mode="json"),
                "prompt": self.prompt, "generated_tokens": sum(len(row.tokens) for row in self.results), "nfe": nfe}


def evaluate(model: FastDLLM, name: str, *, data: str | Path | None = None, limit: int | None = None,
             shots: int | None = None, multiturn: bool = True) -> dict[str, Any]:
    """Run one benchmark through the harness's own driver; its results, samples included, as an object.

    Raises ValueError where the data are missing or hold too few worked examples, before anything is generated.
    """
    if name not in TASK_SPECS:
        raise ValueError(f"task={name!r}; allowed: {', '.join(TASK_SPECS)}")
    benchmark = Benchmark(name, TaskOptions(shots=shots, multiturn=multiturn))
    tasks = benchmark.load(Path(data) if data else None)
    driver: Any = lm_eval.evaluate
    results = driver(lm=model, task_dict={"tasks": tasks}, limit=limit, apply_chat_template=True,
                     fewshot_as_multiturn=multiturn, bootstrap_iters=0)
    if results is None:
        raise RuntimeError("the harness gave no results: this is not the first process of a group")
    return {**results, "model": model.get_model_info()}
