"""The benchmarks of lm-evaluation-harness as tasks: its prompts, its filters, its scores, our rules beside them.

The harness's own configuration makes every prompt and computes every metric whose name has a comma
("exact_match,flexible-extract": metric and filter, as in its tables). What we set: the number of worked
examples is that of the published evaluation of Fast-dLLM v2 unless `shots` says otherwise; prompts are
conversations for the chat template; GPQA's choices are shuffled anew from the same seed on every load
(the harness's generator runs on, so that its order depends on how often the file was read).
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from fastdllm.tasks import answers
from fastdllm.tasks.base import Problem, Score, Task, TaskOptions, check_limit, fingerprint
from fastdllm.tasks.datafiles import Rows, hub_splits, local_splits
from fastdllm.tasks.task_quirks import check_sentences, math_score, shuffled_choices
from fastdllm.tasks.task_specs import MATH, TASK_SPECS

EXAMPLES_SEED = 1234       # the harness's default seed for drawing worked examples


def benchmark(name: str, options: TaskOptions) -> Task:
    """The task of that name. Raises ValueError for options that it doesn't have."""
    if name in ("humaneval", "mbpp"):
        from fastdllm.tasks.code import code_task
        return code_task(name, options)
    return Benchmark(name, options)


@dataclass
class Benchmark:
    """One benchmark; its harness tasks are loaded by `problems`."""

    name: str
    options: TaskOptions
    loaded: dict[str, ConfigurableTask] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.spec = TASK_SPECS[self.name]
        self.metric = self.spec.metric
        self.generative = self.spec.generative
        self.max_new_tokens = self.spec.max_new_tokens
        self.shots = self.spec.shots if self.options.shots is None else self.options.shots
        folder = Path(lm_eval.__file__).parent / "tasks" / self.spec.folder
        self.manager = TaskManager(include_path=str(folder), include_defaults=False)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The strings that end an answer, as the harness's configuration has them."""
        if not self.generative:
            return ()
        config = self._configuration(self.subtasks()[0])
        return tuple(stop for stop in (config.get("generation_kwargs") or {}).get("until", ()) if stop)

    def _configuration(self, subtask: str) -> dict[str, Any]:
        """A task's YAML, its includes merged in and no function of it imported."""
        from lm_eval.tasks._yaml_loader import load_yaml
        path = self.manager.task_index[subtask].yaml_path
        if path is None:
            raise RuntimeError(f"{subtask} has no configuration file")
        return load_yaml(path, resolve_func=False)

    def subtasks(self) -> list[str]:
        """Names of the harness tasks that make up the benchmark."""
        if self.spec.column is None:
            return [self.name]
        if self.name == "minerva_math":
            return list(MATH)
        return [name for name in self.manager.all_subtasks if name.startswith(self.name.removesuffix("_generative"))]

    def subject(self, subtask: str) -> str:
        """How local rows name a subtask: mmlu_anatomy is anatomy, minerva_math_precalc is precalculus."""
        if self.name == "minerva_math":
            return MATH[subtask]
        return subtask.removeprefix("mmlu_").removesuffix("_generative")

    def load(self, data: Path | None = None) -> dict[str, ConfigurableTask]:
        """The harness's task objects, with their data.

        Raises ValueError where the data are missing or hold fewer worked examples than `shots`.
        """
        config = self._configuration(self.subtasks()[0])
        evaluated = config.get("test_split") or config["validation_split"]
        examples = config.get("fewshot_split") or config.get("training_split")
        splits: dict[str, dict[str, Any]] = {}
        if data is None:
            for subtask in self.subtasks():
                own = self._configuration(subtask)
                splits[subtask] = hub_splits(own["dataset_path"], own.get("dataset_name"), self.name)
        else:
            shots = self.shots if self.name != "minerva_math" else 0       # its examples come with the harness
            splits = self._by_subtask(local_splits(data, evaluated, examples, shots, self.spec.columns))
        tasks = self._build(splits)
        for name, task in tasks.items() if self.shots else ():
            # A problem is no worked example of itself, where both come from one split.
            most = len(task.sampler.fewshot_docs()) - (task.fewshot_cfg.split == task.config.test_split)
            if self.shots > most:
                raise ValueError(f"shots={self.shots}: {name} has {most} worked examples; allowed: 0 to {most}")
        return tasks

    def _by_subtask(self, splits: dict[str, Rows]) -> dict[str, dict[str, Rows]]:
        column = self.spec.column
        if column is None:
            return {self.name: splits}
        names = {self.subject(subtask): subtask for subtask in self.subtasks()}
        grouped: dict[str, dict[str, Rows]] = {}
        for split, rows in splits.items():
            for row in rows:
                subject = str(row[column]).lower().replace(" & ", " and ").replace(" ", "_")
                if subject not in names:
                    raise ValueError(f"data: {column}={row[column]!r}; allowed: {', '.join(sorted(names))}")
                grouped.setdefault(names[subject], {name: [] for name in splits})[split].append(row)
        return {name: rows for name, rows in grouped.items() if rows[next(iter(splits))]}

    def _build(self, splits: dict[str, dict[str, Any]]) -> dict[str, ConfigurableTask]:
        """Harness tasks over rows in memory: nothing is written to a cache."""
        def source(rows: dict[str, Any]) -> Any:
            splits = {split: datasets.Dataset.from_list(part) if isinstance(part, list) else part
                      for split, part in rows.items()}
            return lambda **_: splits
        overrides: dict[str, Any] = {"process_docs": shuffled_choices} if self.name.startswith("gpqa") else {}
        members = [{"task": name, "custom_dataset": source(rows), **overrides} for name, rows in splits.items()]
        with quiet():
            tasks = self.manager.load([{"group": f"fastdllm_{self.name}", "task": members}])["tasks"]
        for task in tasks.values():
            if not isinstance(task, ConfigurableTask):
                raise RuntimeError(f"{task} is no configurable task of the harness")
            task.set_config(key="num_fewshot", value=self.shots)
            task.set_fewshot_seed(EXAMPLES_SEED)
        return tasks     # pyright: ignore[reportReturnType]

    def problems(self, limit: int | None = None, data: Path | None = None) -> list[Problem]:
        check_limit(limit)
        self.loaded = self.load(data)
        problems = []
        for name, task in self.loaded.items():
            with quiet():
                task.build_all_requests(limit=limit, apply_chat_template=True,
                                        fewshot_as_multiturn=self.options.multiturn, chat_template=as_json)
            by_document: dict[int, list[Instance]] = {}
            for instance in task.instances:
                by_document.setdefault(instance.doc_id or 0, []).append(instance)
            problems += [self._problem(name, task, index, parts) for index, parts in by_document.items()]
        if self.name == "ifeval":
            check_sentences(problem.meta["doc"] for problem in problems)
        return problems

    def _problem(self, name: str, task: ConfigurableTask, index: int, instances: list[Instance]) -> Problem:
        messages = self.instructed(json.loads(instances[0].arguments[0]))
        meta: dict[str, Any] = {"doc": instances[0].doc}
        if not self.generative:
            meta["choices"] = [instance.arguments[1] for instance in instances]
        return Problem(id=f"{name}-{index}", prompt=messages, target=self._target(task, instances[0].doc),
                       subtask=name if self.spec.column else "", meta=meta)

    def instructed(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        """The boxed instruction in the place of the task's own, in every message, as the published code has it."""
        if self.options.prompt != "boxed" or self.spec.instruction is None:
            return messages
        return [{**message, "content": message["content"].replace(self.spec.instruction, answers.BOXED_INSTRUCTION)}
                for message in messages]

    def _target(self, task: ConfigurableTask, doc: dict[str, Any]) -> str:
        if self.name == "gsm8k":
            return doc["answer"].split("#### ")[-1].strip()
        if self.name == "minerva_math":
            return doc["answer"]
        if self.name == "ifeval":
            return ""
        target = task.doc_to_target(doc)
        return "ABCD"[target] if isinstance(target, int) else str(target)

    def score(self, problem: Problem, output: str) -> dict[str, Score]:
        doc, name = problem.meta["doc"], problem.subtask or self.name
        if name not in self.loaded:
            split = self._configuration(name)
            names = {split.get(key) for key in ("test_split", "validation_split", "training_split", "fewshot_split")}
            self.loaded |= self._build({name: {split: [doc] for split in names if split}})
        task = self.loaded[name]
        scores = self._likelihoods(task, doc, output) if not self.generative else self._harness(task, doc, output)
        if self.name == "minerva_math":
            return scores | {"boxed": math_score(output, problem.target)}
        if self.name == "mmlu_generative":
            letter = answers.choice(output)
            return scores | {"choice": Score(letter, letter == problem.target)}
        return scores | answers.score_number(output, problem.target, self.spec.rules)

    def _harness(self, task: ConfigurableTask, doc: dict[str, Any], output: str) -> dict[str, Score]:
        """Every metric under every filter of the task."""
        instance = Instance("generate_until", doc, ("", {}), 0, metadata=(task.task_name, 0, 1))
        instance.resps = [output]
        for ensemble in task._filters:       # what Task.apply_filters runs over all instances of the task
            ensemble.apply([instance])
        scores = {}
        for rule, filtered in instance.filtered_resps.items():
            for metric, value in task.process_results(doc, [filtered]).items():
                parts = tuple(bool(v) for v in value) if isinstance(value, list) else ()
                shown = None if rule == "none" or filtered == "[invalid]" else str(filtered)
                scores[f"{metric},{rule}"] = Score(shown, all(parts) if parts else bool(value), parts)
        return scores

    def _likelihoods(self, task: ConfigurableTask, doc: dict[str, Any], output: str) -> dict[str, Score]:
        """The metrics of the choices' log-likelihoods, which `likelihood.score_rows` writes as JSON."""
        values = json.loads(output)["loglikelihood"]
        best = "ABCD"[max(range(len(values)), key=values.__getitem__)]
        metrics = task.process_results(doc, [(value, False) for value in values])
        return {f"{metric},none": Score(best if metric == "acc" else None, bool(value))
                for metric, value in metrics.items()}

    def fingerprint(self, problems: Sequence[Problem]) -> str:
        """Over the problems and the harness's version, whose filters and metrics score them."""
        return fingerprint(problems, f"lm_eval {lm_eval.__version__}")


def as_json(messages: list[dict[str, str]], **_: Any) -> str:
    """Stands in for a chat template, so that the harness hands over the conversation itself."""
    return json.dumps(messages, ensure_ascii=False)


@contextlib.contextmanager
def quiet() -> Any:
    """Without the harness's progress bars (one per subtask: 57 for MMLU) and greetings."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
