"""The commands. One module each; they import at their top nothing but typer and the standard library,
so that `--help` is quick, and everything else inside the command.
"""

from __future__ import annotations

import signal
import sys

import typer

from fastdllm.cli import audit, bench, chat, doctor, fetch, grid, lm_eval, options, run, share, suite, train, webapp
from fastdllm.model.errors import DecodingError

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False,
    help="Layer reuse in block-diffusion language models: decode, instrument, investigate.",
    epilog="First steps: [bold]fastdllm grid run demo[/bold], then [bold]fastdllm grid report demo[/bold].")
app.add_typer(grid.app, name="grid")
app.command("run", cls=options.RunCommand, epilog=run.EXAMPLES)(run.run)
app.command("notebooks", epilog=suite.EXAMPLES)(suite.notebooks)
app.command("audit", epilog=audit.EXAMPLES)(audit.audit)
app.command("lm-eval", context_settings=lm_eval.CONTEXT)(lm_eval.lm_eval)
app.command("chat", epilog=chat.EXAMPLES)(chat.chat)
app.command("app", epilog=webapp.EXAMPLES)(webapp.app)
app.command("fetch", epilog=fetch.EXAMPLES)(fetch.fetch)
app.command("train", epilog=train.EXAMPLES)(train.train)
app.command("bench", epilog=bench.EXAMPLES)(bench.bench)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
app.command("publish", epilog=share.PUBLISH)(share.publish)
app.command("gallery", epilog=share.GALLERY)(share.gallery)
app.command("import", epilog=share.IMPORT)(share.import_results)


def main() -> None:
    """Entry point. What was asked for and could not be had is one sentence on stderr and exit status 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))      # so that a runner takes its workers with it
    try:
        app()
    except (ValueError, OSError, MemoryError, DecodingError) as error:
        print(f"fastdllm: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        print("fastdllm: interrupted; finished samples are kept, the same command goes on from there", file=sys.stderr)
        raise SystemExit(130) from None
