"""`fastdllm explore`: one problem of a record in the player, decoded again where no trace was kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = ("Examples: [bold]fastdllm explore demo/k2_middle --problem 17[/bold] · [bold]fastdllm explore "
            "demo/k1_first demo/k2_middle --problem 17[/bold] (both, beside each other)")


def explore(name: Annotated[str, typer.Argument(metavar="RECORD", help="A record's directory, or "
                                                                       "EXPERIMENT/TASK/CONFIGURATION.")],
            other: Annotated[str | None, typer.Argument(metavar="[OTHER]", help="A second one, beside it.")] = None,
            problem: Annotated[str, typer.Option(help="A problem's number from 0, or its id.")] = "0",
            data: Annotated[Path | None, typer.Option(help="The run's data, where they are not at the path that the "
                                                           "record names.")] = None,
            output: Annotated[Path | None, typer.Option(help="The page (default: below executed/explore/).")] = None
            ) -> None:
    """Write the player of one problem as a page that works by itself, and say whether the run is still today's."""
    from fastdllm.lab.config.paths import executed
    from fastdllm.report.comparison import sides, text
    from fastdllm.report.comparison.replay import replay
    from fastdllm.ui import standalone
    replays = [replay(sides.find(each), problem, typer.echo, data) for each in (name, other) if each is not None]
    first = replays[0]
    facts = [("problem", text.asked(first.problem)), ("right answer", first.problem.target[:300])]
    for one in replays:
        facts += [(one.side.shown, f"{one.verdict}; {'; '.join(one.notes)}")]
        typer.echo(f"{one.side.name}: {one.verdict}; {'; '.join(one.notes)}")
    names = " and ".join(dict.fromkeys(one.side.shown for one in replays))
    file = "_".join([*(one.side.shown for one in replays), first.problem.id]).replace("/", "-")
    page = output or executed() / "explore" / f"{file}.html"
    standalone.write(page, f"{first.problem.id}: {names}", facts, *(one.recording for one in replays))
    typer.echo(f"open {page}")
