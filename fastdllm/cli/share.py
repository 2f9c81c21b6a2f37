"""`fastdllm publish`, `gallery` and `import`: what leaves this machine, and what comes from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastdllm.cli import options

PUBLISH = ("Examples: [bold]fastdllm publish demo --dry-run[/bold] (says how much git would take) · "
           "[bold]fastdllm publish demo notebooks[/bold] · [bold]fastdllm publish demo --anyway[/bold]")
GALLERY = ("Examples: [bold]fastdllm gallery[/bold], then open executed/gallery/index.html · "
           "[bold]fastdllm gallery demo --zip[/bold] (one file for a collaborator)")
IMPORT = "Example: [bold]fastdllm import old/results --experiment january[/bold]"


def publish(
    names: Annotated[list[str], typer.Argument(metavar="EXPERIMENT...", help="Directories below executed/.")],
    anyway: Annotated[
        bool, options.flag("--anyway", help="Also incomplete, stale or audit-failing configurations; each is named.")
    ] = False,
    compact: Annotated[
        bool, options.flag("--compact", help="A line for each problem (right, tokens, forwards) instead of notebooks.")
    ] = False,
    texts: Annotated[
        list[str] | None, typer.Option("--texts", metavar="PATTERN", help="With --compact: also the answers' texts of "
                                       "configurations whose TASK/NAME matches.")
    ] = None,
    dry_run: Annotated[bool, options.flag("--dry-run", help="Say what would be copied.")] = False,
) -> None:
    """Copy summaries and executed notebooks, redacted, without samples and traces, to executed/published/."""
    from fastdllm.share import publish as report
    if texts and not compact:
        raise ValueError(f"--texts {texts[0]!r} without --compact; allowed: with it, whose records hold no samples")
    failed = []
    for name in names:
        try:
            typer.echo(report.run(name, anyway, dry_run, compact=compact, texts=texts or ()))
        except ValueError as error:
            failed.append(str(error))
    if failed:
        raise ValueError("\n".join(failed))


def gallery(names: Annotated[list[str] | None, typer.Argument(metavar="[EXPERIMENT...]",
                                                              help="Default: all of executed/.")] = None,
            zipped: Annotated[bool, options.flag("--zip", help="Pack the site into one file as well.")] = False,
            output: Annotated[Path | None, typer.Option(help="Default: executed/gallery.")] = None,
            names_too: Annotated[bool, options.flag("--no-redaction", help="Keep host, user and path names.")] = False
            ) -> None:
    """Render executed/ into one static site that opens from the file system, without a network."""
    from fastdllm.share import gallery as report
    from fastdllm.stats import number_of
    site = report.build(names or None, output, redact=not names_too, log=typer.echo)
    typer.echo(f"open {site.index} ({site.size / 1e6:.1f} MB, {number_of(site.pages, 'page')})")
    for line in site.notes:
        typer.echo(f"note: {line}")
    if zipped:
        path = report.pack(site)
        typer.echo(f"zip: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def import_results(folder: Annotated[Path, typer.Argument(help="An old results/ or artifacts/ folder, or one that "
                                                           "lm-evaluation-harness wrote.")],
                   experiment: Annotated[str | None, typer.Option(help="Their place below executed/; default: what the "
                                                                  "folders say.")] = None) -> None:
    """Take over old results (summary.json, or the files of lm-evaluation-harness): imported, and never complete."""
    from fastdllm.lab.records import importer
    for line in importer.take(folder, experiment):
        typer.echo(line)
