"""Runs of code that is not ours: the user's generation file, and the checkpoint's own modelling code.

A note beside the record says what ran, with a copy of the file; both enter the run's identity by content. Nothing
is run from here, and no torch is imported, so that a look at results is quick.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from fastdllm.lab import atomic
from fastdllm.lab.config.grid import Configuration
from fastdllm.lab.config.parameters import Parameters
from fastdllm.model.files import find
from fastdllm.settings import Settings

NOTE = "generation.json"


class ExternalCode(Settings):
    """What ran in a directory: the generation file (the path that the user named) and the run's parameters."""

    file: str
    own_code: bool
    parameters: Parameters

    def policy(self, directory: Path | None = None) -> str:
        """What stands for the code in an identity; the copy in `directory` stands in for a file that is gone.

        Raises ValueError if the checkpoint has no modelling code, and OSError if there is no file.
        """
        path = Path(self.file)
        if directory is not None and not path.is_file():
            path = directory / path.name
        said = f"generation file {atomic.sha256(path.read_bytes())}"
        if not self.own_code:
            return said
        digest = hashlib.sha256()
        for source in modelling_code(find(self.parameters.model, self.parameters.model_revision)):
            digest.update(f"{source.name} {atomic.sha256(source.read_bytes())}\n".encode())
        return f"{said}, modelling code {digest.hexdigest()}"

    def keep(self, directory: Path) -> None:
        """Write the note and copy the file."""
        atomic.write(directory / Path(self.file).name, Path(self.file).read_bytes())
        atomic.write(directory / NOTE, self.model_dump_json(indent=1, exclude_unset=True) + "\n")


def read(directory: Path) -> ExternalCode | None:
    """The note of a directory; None where our own code ran."""
    note = directory / NOTE
    return ExternalCode.model_validate_json(note.read_text(encoding="utf-8")) if note.exists() else None


def modelling_code(checkpoint: Path) -> list[Path]:
    """The checkpoint's own Python files. Raises ValueError if it has none."""
    found = sorted(checkpoint.glob("*.py"))
    if not found:
        raise ValueError(f"--own-code: {checkpoint} has no modelling code; allowed: a checkpoint with its .py files "
                         "(of a hub id, fetch them first: hf download NAME --include '*.py')")
    return found


def configurations(beside: Iterable[Configuration], names: Iterable[str] = ()) -> list[Configuration]:
    """The runs of external code that lie beside these configurations; with `names`, only those of these names."""
    starts = tuple(f"{name}_" for name in names)
    found = []
    for configuration in {configuration.directory.parent: configuration for configuration in beside}.values():
        for note in sorted(configuration.directory.parent.glob(f"*/{NOTE}")):
            ran, directory = read(note.parent), note.parent
            if ran is not None and directory.name.startswith(starts or ""):
                found.append(Configuration(configuration.experiment, directory.name, ran.parameters, directory))
    return found
