"""Runs of code that is not ours: the user's generation file, and the checkpoint's own modelling code.

A note beside the record says what ran, with a copy of the file; it enters the run's identity by content, and so does
our code that the file runs on. Nothing is run from here, and no torch is imported, so that a look at results is quick.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fastdllm.lab import atomic
from fastdllm.lab.config.grid import Configuration
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.records.identity import code_hash
from fastdllm.lab.records.source_hash import with_helpers
from fastdllm.model.files import find
from fastdllm.settings import Settings

NOTE = "generation.json"
INSTRUMENT = ("lab/instrument",)      # our code that decides what such a run is and counts


class ExternalCode(Settings):
    """What ran in a directory: the generation file (the path that the user named) and the run's parameters."""

    file: str
    own_code: bool
    parameters: Parameters

    def policy(self, directory: Path | None = None) -> str:
        """What stands for the code in an identity; the copy in `directory` stands in for a file that is gone.

        Raises ValueError if the checkpoint has no modelling code, OSError if there is no file, and SyntaxError if
        it is not Python.
        """
        path = Path(self.file)
        if directory is not None and not path.is_file():
            path = directory / path.name
        own, *helpers = with_helpers(path)
        content = atomic.file_sha256(own)
        if helpers:
            content = atomic.sha256(content + contents(helpers, own.parent))
        parts = [f"generation file {content}", f"instrument {code_hash(rooms=INSTRUMENT)}"]
        if self.own_code:
            sources = modelling_code(find(self.parameters.model, self.parameters.model_revision))
            parts.append(f"modelling code {contents(sources, sources[0].parent)}")
        return ", ".join(parts)

    def keep(self, directory: Path) -> None:
        """Write the note and copy the file, with the modules beside it that it imports."""
        keep_source(Path(self.file), directory)
        atomic.write(directory / NOTE, self.model_dump_json(indent=1, exclude_unset=True) + "\n")


def keep_source(file: Path, directory: Path) -> None:
    """Copy a user's file (policy or generation file), with the modules beside it that it imports."""
    for path in with_helpers(file):
        atomic.write(directory / path.relative_to(file.parent), path.read_bytes())


def contents(files: Iterable[Path], directory: Path) -> str:
    """SHA-256 over files, by their paths below a directory and their content."""
    return atomic.sha256("".join(f"{path.relative_to(directory)} {atomic.file_sha256(path)}\n"
                                 for path in sorted(files)))


def read(directory: Path) -> ExternalCode | None:
    """The note of a directory; None where our own code ran."""
    note = directory / NOTE
    return ExternalCode.model_validate_json(note.read_text(encoding="utf-8")) if note.exists() else None


def modelling_code(checkpoint: Path) -> list[Path]:
    """The checkpoint's own Python files. Raises ValueError if it has none."""
    sources = sorted(checkpoint.glob("*.py"))
    if not sources:
        raise ValueError(f"--own-code: {checkpoint} has no modelling code; allowed: a checkpoint with its .py files "
                         "(of a hub id, fetch them first: hf download NAME --include '*.py')")
    return sources


def configurations(beside: Iterable[Configuration], names: Iterable[str] = ()) -> list[Configuration]:
    """The runs of external code that lie beside these configurations; with `names`, only those of these names."""
    starts = tuple(f"{name}_" for name in names)
    others = []
    for configuration in {configuration.directory.parent: configuration for configuration in beside}.values():
        for note in sorted(configuration.directory.parent.glob(f"*/{NOTE}")):
            ran, directory = read(note.parent), note.parent
            if ran is not None and directory.name.startswith(starts or ""):
                others.append(Configuration(configuration.experiment, directory.name, ran.parameters, directory))
    return others
