"""`fastdllm audit`: what can't be in a folder of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastdllm.cli.options import save_table

EXAMPLES = ("Examples: [bold]fastdllm audit executed/demo[/bold] · [bold]fastdllm audit results/[/bold] (old or "
            "lm-evaluation-harness) · [bold]fastdllm audit published[/bold] (the figures of the log)")

MANY = 5        # findings before which their number is said as well as behind them


def audit(directory: Annotated[str, typer.Argument(help="A folder of results, or `published`.")],
          rule: Annotated[list[str] | None, typer.Option(help="Only this rule (may be given again).")] = None,
          csv: Annotated[Path | None, typer.Option(help="Also write the findings to this file.")] = None) -> None:
    """Check results by rule: findings with rows, rule and how sure. Status 1: something can't be."""
    from fastdllm.report.audit import rules, sources
    from fastdllm.stats import number_of
    is_name = directory == "published" and not Path(directory).exists()
    evidence = sources.published() if is_name else sources.read(directory)
    findings = rules.audit(evidence, only=rule or None)
    line = f"{number_of(len(evidence.rows), 'configuration')}; {rules.summary(findings)}"
    if len(findings) > MANY:
        typer.echo(line)
    for finding in findings:
        typer.echo(f"{finding.level}: {finding.rule}: {finding.statement}\n    how sure: {finding.sure}\n"
                   f"    rows: {rules.compact(finding.rows)}")
    typer.echo(
        line if findings else f"{line} (rules compare configurations with each other and with a grid: few can on few)"
    )
    if csv is not None:
        save_table(rules.frame(findings), csv)
    if rules.failing(findings):
        raise typer.Exit(1)
