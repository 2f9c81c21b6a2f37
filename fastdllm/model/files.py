"""Where a checkpoint's files are, and their fingerprint. Imports no torch, so that a look at results is quick."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

EMBEDDED = Path(__file__).parent.parent / "checkpoints"
DELTA = "delta.safetensors"     # a shipped directory with this one instead of weights is made whole by `fastdllm fetch`
LARGE = 64 << 20     # bytes; the hash of a larger file is remembered under its path, size, time and inode
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
# Every file besides the weights that loading reads. A new name goes to the end: the order is part of a fingerprint.
READ = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "generation_config.json",
        "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json", INDEX)
READ_FOLDER = "additional_chat_templates/*.jinja"
# What is fetched from the hub: all of the above (docs/running_the_7b_on_slurm.md names the same patterns).
PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.txt")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def local(model: str | Path) -> Path | None:
    """The directory of a checkpoint on this machine: of an embedded one by its bare name, or the directory itself.

    A `Path`, and a text with a slash or a dot (`./tiny`, `tiny/`), is a directory and never an embedded checkpoint.
    """
    if not isinstance(model, (str, Path)):
        raise ValueError(f"model={model!r}; allowed: {embedded()}, a checkpoint directory, or a hub id")
    if isinstance(model, str) and model in embedded():
        return EMBEDDED / model
    path = os.path.expanduser(model)
    return Path(path) if path and os.path.isdir(path) else None      # False, too, for a text that can be no path


def embedded() -> list[str]:
    """Names of the embedded checkpoints."""
    return sorted(path.parent.name for path in EMBEDDED.glob("*/config.json"))


def find(model: str | Path, revision: str | None = None) -> Path:
    """The directory of a checkpoint; a hub id is looked up in the local cache and then on the hub.

    Raises ValueError for a name that is none of these, and for one that `fastdllm fetch` has still to make.
    """
    if isinstance(model, str) and model in embedded() and (EMBEDDED / model / DELTA).exists():
        if not fetched(model).is_dir():
            raise ValueError(f"model: {model!r} is not on this machine yet; allowed: 'fastdllm fetch {model}' first")
        return fetched(model)
    if (directory := local(model)) is not None:
        return directory
    name = str(model)
    if not isinstance(model, str) or not HUB_ID.fullmatch(name):
        raise ValueError(f"model: {brief(name)} is no directory; allowed: {embedded()}, a checkpoint directory, or a "
                         "hub id like 'Efficient-Large-Model/Fast_dLLM_v2_7B'")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(PATTERNS)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f"model: {name!r} is neither in the local cache nor to be had from the hub "
                         f"({type(error).__name__}); allowed: fetch it first on a node with network") from error


class KeyTwice(ValueError):
    """An object of JSON has one key with two values."""


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, as `json.loads` takes it for `object_pairs_hook`. Raises KeyTwice."""
    values = dict(pairs)
    for key, value in pairs:
        if values[key] is not value and values[key] != value:      # nan is not itself
            raise KeyTwice(f"{key}={brief(value)} and {brief(values[key])} in one object; allowed: each key once")
    return values


def brief(value: Any) -> str:
    """A value as an error's text shows it: at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint. Raises ValueError that names the file, also for a key that stands in
    one object twice, with two values.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=each_key_once)
    except OSError as error:
        raise ValueError(f"{path}: can't be read ({error.strerror})") from error
    except KeyTwice as error:
        raise ValueError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:                 # no JSON, no UTF-8, or brackets in brackets in ...
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: {type(values).__name__}; allowed: a JSON object")
    return values


def cache() -> Path:
    """The user's cache directory of this package."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastdllm"


def fetched(name: str) -> Path:
    """Where `fastdllm fetch` puts a checkpoint; named after its delta too, so that another delta is another one."""
    return cache() / "checkpoints" / f"{name}-{file_hash(EMBEDDED / name / DELTA)[:12]}"


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint directory, in order.

    Raises ValueError naming what is missing: a shard of the index, or any safetensors at all.
    """
    if (shards := sharding(directory)) is not None:
        return [directory / name for name in sorted(set(shards.values()))]
    if (directory / SINGLE).exists():
        return [directory / SINGLE]
    pickles = sorted(p.name for p in directory.glob("*.bin")) + sorted(p.name for p in directory.glob("*.pt"))
    if pickles:
        raise ValueError(f"{directory}: only pickle files ({', '.join(pickles)}), which can run code when loaded; "
                         f"allowed: {SINGLE} or {INDEX} with its shards")
    raise ValueError(f"{directory}: no weights; allowed: {SINGLE} or {INDEX} with its shards")


def sharding(directory: Path) -> dict[str, str] | None:
    """Tensor name -> name of the shard that it comes from, as the index has it; None without an index.

    Raises ValueError for an index that is none, names files elsewhere or missing ones, or contradicts a single file.
    """
    index = directory / INDEX
    if not index.exists():
        return None
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise ValueError(f"{index}: not a safetensors index; allowed: JSON with 'weight_map', tensor name to file name")
    files = sorted(set(shards.values()))
    bad = [name for name in files if Path(name).name != name or not name.endswith(".safetensors")]
    if bad:
        raise ValueError(f"{index}: shard {bad[0]!r}; allowed: names of .safetensors files in the same directory")
    missing = [name for name in files if not (directory / name).exists()]
    if missing:
        raise ValueError(f"{directory}: shard {', '.join(missing)} of {INDEX} is missing")
    if (directory / SINGLE).exists() and SINGLE not in files:
        raise ValueError(f"{directory}: holds both {SINGLE} and {INDEX} with {', '.join(files)}, and nothing says "
                         "which one counts; allowed: one of them")
    return shards


def fingerprint(path: Path) -> str:
    """SHA-256 over the content of every file that is read: what makes two checkpoints the same."""
    digest = hashlib.sha256()
    described = [path / name for name in READ if (path / name).exists()] + sorted(path.glob(READ_FOLDER))
    for file in described + weight_files(path):
        digest.update(json.dumps([file.name, file_hash(file)]).encode())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file; 15 GB are read once, not at every look."""
    stat = path.stat()
    if stat.st_size < LARGE:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    key = json.dumps([str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino])
    known = cache() / "fingerprints" / hashlib.sha256(key.encode()).hexdigest()
    if known.exists():
        return known.read_text(encoding="ascii")
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    known.parent.mkdir(parents=True, exist_ok=True)
    part = known.with_suffix(f".{os.getpid()}.part")
    part.write_text(digest, encoding="ascii")
    os.replace(part, known)
    return digest
