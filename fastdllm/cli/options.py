"""How options are shown; for those that a command doesn't have, where else the value can be given; --csv, written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from fastdllm.model.files import embedded
from fastdllm.settings import POLICIES

if TYPE_CHECKING:
    import pandas as pd

LONGEST = 60        # characters of a value that an error repeats
MODEL = f"{', '.join(embedded())}, a directory, or a hub id."
POLICY = f"{', '.join(POLICIES)}, or a .py."


def flag(*names: str, **settings: Any) -> Any:
    """A switch: shown by its names alone, without a type; `settings` are typer's."""
    return typer.Option(*names, metavar="", **settings)


def save_table(table: pd.DataFrame, path: Path, parquet: bool = False) -> None:
    """Write a table to the file that an option named, as CSV or as Parquet, and say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if parquet:
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    from fastdllm.stats import number_of
    typer.echo(f"wrote {path}: {number_of(len(table), 'row')}, {number_of(len(table.columns), 'column')}")


class Command(TyperCommand):
    """A command whose --help is shown as the switch that it is."""

    def get_help_option(self, ctx: Any) -> Any:
        return plain(super().get_help_option(ctx))


class Group(TyperGroup):
    """The same for a group of commands."""

    def get_help_option(self, ctx: Any) -> Any:
        return plain(super().get_help_option(ctx))


def plain(option: Any) -> Any:
    """A switch without the type that typer would show behind it."""
    if option is not None:
        option.metavar = ""
    return option


class RunCommand(Command):
    """`fastdllm run`: what has no option of its own goes through --set."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises ValueError for an option that is a parameter of a run, under its usual name."""
        known = {option for parameter in self.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for index, word in enumerate(args):
            option, equals, value = word.partition("=")
            if option.startswith("--") and option not in known:
                following = args[index + 1] if index + 1 < len(args) and not args[index + 1].startswith("-") else "..."
                given = value if equals else following
                self.refuse(option, option.removeprefix("--").replace("-", "_"),
                            given if len(given) <= LONGEST else "...")
        return super().parse_args(ctx, args)

    def refuse(self, option: str, name: str, value: str) -> None:
        """Say where a run's parameter can be given; for any other word the usual message follows."""
        from fastdllm.lab.config.parameters import SECTION, Parameters
        if name in SECTION or name in Parameters.model_fields:
            raise ValueError(f"{option} {value}: no such option; allowed: --set {name}={value}")


class GridCommand(RunCommand):
    """`fastdllm grid ...`: a grid holds lists of values, so an option for one is ambiguous."""

    def refuse(self, option: str, name: str, value: str) -> None:
        """Point to the grid's axes and sections, or to one run by itself."""
        from fastdllm.lab.config.grid import AXES
        from fastdllm.lab.config.parameters import SECTION, Parameters
        own = {"k", "layers", "policy", "revision", "threshold"}      # options of fastdllm run
        single = f"fastdllm run --{name} {value}" if name in own else f"fastdllm run --set {name}={value}"
        if name in AXES:
            raise ValueError(
                f"{option} {value}: no such option of a grid; allowed: --set axes.{name}=[{value}] (the "
                f"grid's configurations with it), --config NAME (those that the grid has), or one configuration "
                f"by itself: {single}"
            )
        if name in SECTION or name in Parameters.model_fields:
            key = f"{SECTION[name]}.{name}" if name in SECTION else name
            raise ValueError(f"{option} {value}: no such option of a grid; allowed: --set {key}={value}")
