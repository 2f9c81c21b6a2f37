"""`fastdllm lm-eval`: lm-evaluation-harness's own command, with our model in its table."""

from __future__ import annotations

import sys

import typer

# All that follows the command's name is the harness's, `--help` included.
CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False,
           "help_option_names": []}


def lm_eval(context: typer.Context) -> None:
    """lm-evaluation-harness's own command, all of its options included, and `--model fastdllm` as one more model."""
    from lm_eval.__main__ import cli_evaluate

    from fastdllm.tasks.registration import register
    register()
    sys.argv = ["lm-eval", *context.args]       # where the harness reads its arguments
    cli_evaluate()
