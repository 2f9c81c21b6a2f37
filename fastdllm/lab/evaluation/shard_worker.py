"""One shard of a configuration in a process of its own: `python -m fastdllm.lab.evaluation.shard_worker`.

Its problems are solved here, without a notebook; the shard that ends last writes the record and executes the
configuration's notebook, which then finds it. The job comes as JSON on standard input, as for lab/jobs/worker.py.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from fastdllm.lab.config.shard import WHOLE, Shard
from fastdllm.lab.evaluation.evaluate import evaluate_shard
from fastdllm.lab.evaluation.prepare import prepare
from fastdllm.lab.jobs import worker
from fastdllm.lab.jobs.worker import DONE, LOCKED, OTHERS_GO_ON, Work, guarded

LOG = logging.getLogger("shard")


def work(job: Work) -> int:
    """Solve what is missing of the shard; the exit status says whether the run is complete with it."""
    shard, directory = Shard.parse(job.shard), Path(job.output).parent
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")

    def solve() -> int:
        LOG.info("shard %s begins%s", shard, f" on GPU {gpu}" if gpu else "")
        record = evaluate_shard(prepare(job.parameters), shard,
                                lambda text: LOG.info("shard %s: %s", shard, text))
        LOG.info("shard %s is done%s", shard, "" if record else "; others go on")
        return DONE if record else OTHERS_GO_ON
    result = guarded(directory, shard, solve)
    if result != DONE:
        return result
    shown = replace(job, parameters={**job.parameters, "force": False}, shard=str(WHOLE))
    done = guarded(directory, WHOLE, lambda: worker.execute_job(shown))
    return DONE if done == LOCKED else done      # another shard found the record too, and shows it


if __name__ == "__main__":
    worker.main(work)
