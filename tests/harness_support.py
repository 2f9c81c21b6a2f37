"""lm-evaluation-harness's own command on a task of ours alone."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
import pytest

from fastdllm.cli import main

DATA = Path(__file__).parent / "data/tasks"


def lm_eval_command(folder: Path, limit: int, **model_args: object) -> tuple[dict[str, Any], list[str]]:
    """What `fastdllm lm-eval` writes of the task `sums`, the first problems of a file with four: results and the lines
    of its samples."""
    (folder / "sums.yaml").write_text(f"""
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {DATA / 'gsm8k/test.jsonl'}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["Question:"]}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
""")
    words = ["--model", "fastdllm", "--model_args", ",".join(f"{name}={value}" for name, value in model_args.items()),
             "-t", "sums", "--include_path", str(folder), "--device", "cpu", "--apply_chat_template", "-L", str(limit),
             "-o", str(folder / "results"), "-s"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        # Ours alone: to read the thousands of tasks that the harness ships takes it half a minute.
        patch.setattr(lm_eval.tasks, "TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False))
        patch.setattr(sys, "argv", ["fastdllm", "lm-eval", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    [written], [samples] = ((folder / "results").rglob(name) for name in ("results_*.json", "samples_sums_*.jsonl"))
    return json.loads(written.read_text()), samples.read_text().splitlines()
