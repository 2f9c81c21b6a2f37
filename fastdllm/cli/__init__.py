"""The commands. One module each; they import at their top nothing but typer, the standard library and
what `import fastdllm` loads anyway, so that `--help` is quick, and everything else inside the command.

- one run: run, run_configuration, run_notebook, run_generation_file
- many runs: grid, suite
- what came out: report, compare, explore, audit, predictions
- in and out: share, fetch, new, lm_eval
- this machine: doctor, bench, train
- a conversation: chat, webapp
- what commands share: options, interrupted
"""

from __future__ import annotations

import errno
import signal
import sys
from typing import Annotated

import typer

from fastdllm.cli import (
    audit,
    bench,
    chat,
    compare,
    doctor,
    explore,
    fetch,
    grid,
    lm_eval,
    new,
    options,
    predictions,
    report,
    run,
    share,
    suite,
    train,
    webapp,
)
from fastdllm.cli.interrupted import Interrupted
from fastdllm.model.errors import DecodingError
from fastdllm.version import __version__

app = typer.Typer(
    no_args_is_help=True, cls=options.Group, rich_markup_mode="rich", pretty_exceptions_enable=False,
    add_completion=False,
    help="Layer reuse in block-diffusion language models: decode, instrument, investigate.",
    epilog="First steps: [bold]fastdllm grid run demo[/bold], then [bold]fastdllm grid report demo[/bold].")
app.add_typer(grid.app, name="grid")
app.command("run", cls=options.RunCommand, epilog=run.EXAMPLES)(run.run)
app.command("new", cls=options.Command, epilog=new.EXAMPLES)(new.new)
app.command("notebooks", cls=options.Command, epilog=suite.EXAMPLES)(suite.notebooks)
app.command("compare", cls=options.Command, epilog=compare.EXAMPLES)(compare.compare)
app.command("report", cls=options.Command, epilog=report.EXAMPLES)(report.report)
app.command("explore", cls=options.Command, epilog=explore.EXAMPLES)(explore.explore)
app.command("audit", cls=options.Command, epilog=audit.EXAMPLES)(audit.audit)
app.command("predictions", cls=options.Command, epilog=predictions.EXAMPLES)(predictions.predictions)
app.command("lm-eval", context_settings=lm_eval.CONTEXT)(lm_eval.lm_eval)
app.command("chat", cls=options.Command, epilog=chat.EXAMPLES)(chat.chat)
app.command("app", cls=options.Command, epilog=webapp.EXAMPLES)(webapp.app)
app.command("fetch", cls=options.Command, epilog=fetch.EXAMPLES)(fetch.fetch)
app.command("train", cls=options.Command, epilog=train.EXAMPLES)(train.train)
app.command("bench", cls=options.Command, epilog=bench.EXAMPLES)(bench.bench)
app.command("doctor", cls=options.Command, epilog=doctor.EXAMPLES)(doctor.doctor)
app.command("publish", cls=options.Command, epilog=share.PUBLISH)(share.publish)
app.command("gallery", cls=options.Command, epilog=share.GALLERY)(share.gallery)
app.command("import", cls=options.Command, epilog=share.IMPORT)(share.import_results)


def print_version(wanted: bool) -> None:
    """`fastdllm --version`."""
    if wanted:
        typer.echo(f"fastdllm {__version__}")
        raise typer.Exit


@app.callback()
def options_of_all(version: Annotated[bool, options.flag("--version", callback=print_version, is_eager=True,
                                                         help="Print the version.")] = False) -> None:
    """What may stand before a command."""


def main() -> None:
    """Entry point. What was asked for and could not be had is one sentence on stderr and exit status 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))      # so that a runner takes its workers with it
    try:
        app()
    except (ValueError, OSError, MemoryError, DecodingError) as error:
        print(f"fastdllm: {sentence(error)}", file=sys.stderr)
        raise SystemExit(1) from error
    except Interrupted as stopped:
        print(f"fastdllm: interrupted; {stopped}", file=sys.stderr)
        raise SystemExit(130) from None


def sentence(error: Exception) -> str:
    """What is told of an error: its own text, but for a name that no disk takes, of which the beginning will do."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        from fastdllm.model.files import brief
        return (f"{brief(str(error.filename))}: too long for a file's name; allowed: what the disk takes, mostly 255 "
                "bytes")
    return str(error)
