"""`fastdllm compare`: records held against each other, problem by problem."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastdllm.cli.options import save_table

EXAMPLES = ("Examples: [bold]fastdllm compare gsm8k_smol_run1/gsm8k_words/k1_first_6f96d95-dirty_t0.9 "
            "gsm8k_smol_run1/gsm8k_words/k2_first_6f96d95-dirty_t0.9[/bold] (shipped with their texts) · "
            "[bold]fastdllm compare demo/k1_first demo/k2_middle[/bold] (with texts once the grid ran here) · "
            "[bold]fastdllm compare single/k1_t0.7 single/k3_16-27_residual --html compared.html[/bold] · "
            "[bold]fastdllm compare results/my_model/results_2026-11-25.json demo/k1_first[/bold] · "
            "[bold]fastdllm compare feb15_run1/k1_first feb15_run1/k2_middle[/bold] (figures of the log)")


def compare(names: Annotated[list[str], typer.Argument(metavar="A B [C ...]", help=(
        "Records: directories, results_*.json of lm-evaluation-harness, or EXPERIMENT/TASK/CONFIGURATION (the task may "
        "be left out) below executed/, executed/published/ or in the log. The first is what the others are held "
        "against."))],
        rule: Annotated[str | None, typer.Option(help="Score by this rule (default: the first record's own).")] = None,
        show: Annotated[int, typer.Option(min=0, help="So many problems won and lost with their texts.")] = 3,
        csv: Annotated[Path | None, typer.Option(help="Also write one row for each record to this file.")] = None,
        problems: Annotated[Path | None, typer.Option(help="Also write one row for each problem (CSV).")] = None,
        html: Annotated[Path | None, typer.Option(help="Also write it as a page, with all texts.")] = None) -> None:
    """Compare records: settings, accuracy on the same problems with its interval, problems won and lost, cost."""
    from fastdllm.report.comparison import page, sides, text
    from fastdllm.report.comparison.pairs import Comparison
    comparison = Comparison(tuple(map(sides.find, names)), rule)
    typer.echo(text.of(comparison, show))
    for path, table in ((csv, comparison.numbers), (problems, comparison.problems)):
        if path is not None:
            save_table(table(), path)
    if problems is not None and (lost := comparison.without_answers):
        typer.echo(f"{problems}: nothing of {', '.join(lost)}: no single answers are kept there")
    if html is not None:
        typer.echo(f"open {page.write(comparison, html)}")
