"""Where a checkpoint's files are, and their fingerprint. Imports no torch, so that a look at results is quick."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

EMBEDDED = Path(__file__).parent.parent / "checkpoints"
LARGE = 64 << 20     # bytes; the hash of a larger file is remembered under its path, size, time and inode


def find(name: str, revision: str | None = None) -> Path:
    """The directory of a checkpoint; a hub id is looked up in the local cache and then on the hub."""
    if (EMBEDDED / name / "config.json").exists():
        return EMBEDDED / name
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.count("/") != 1 or name.startswith("."):
        known = sorted(p.parent.name for p in EMBEDDED.glob("*/config.json"))
        raise ValueError(f"model: {name!r} is no directory; allowed: {known}, a checkpoint directory, or a hub id "
                         "like 'Efficient-Large-Model/Fast_dLLM_v2_7B'")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    patterns = ["*.safetensors", "*.json", "*.jinja", "merges.txt", "vocab.json"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f"model: {name!r} is neither in the local cache nor to be had from the hub "
                         f"({type(error).__name__}); allowed: fetch it first on a node with network") from error


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint directory, in order.

    Raises ValueError naming what is missing: a shard of the index, or any safetensors at all.
    """
    index, single = directory / "model.safetensors.index.json", directory / "model.safetensors"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (json.JSONDecodeError, KeyError, AttributeError) as error:
            raise ValueError(f"{index}: not a safetensors index ({error}); allowed: JSON with 'weight_map'") from error
        bad = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
        if bad:
            raise ValueError(f"{index}: shard {bad[0]!r}; allowed: names of .safetensors files in the same directory")
        missing = [name for name in names if not (directory / name).exists()]
        if missing:
            raise ValueError(f"{directory}: shard {', '.join(missing)} of model.safetensors.index.json is missing")
        return [directory / name for name in names]
    if single.exists():
        return [single]
    pickles = sorted(p.name for p in directory.glob("*.bin")) + sorted(p.name for p in directory.glob("*.pt"))
    if pickles:
        raise ValueError(f"{directory}: only pickle files ({', '.join(pickles)}), which can run code when loaded; "
                         "allowed: model.safetensors or model.safetensors.index.json with its shards")
    raise ValueError(f"{directory}: no weights; allowed: model.safetensors or model.safetensors.index.json")


def fingerprint(path: Path) -> str:
    """SHA-256 over the content of config, weights and tokenizer: what makes two checkpoints the same."""
    digest = hashlib.sha256()
    names = ["config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"]
    for file in [path / name for name in names if (path / name).exists()] + weight_files(path):
        digest.update(json.dumps([file.name, file_hash(file)]).encode())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file; 15 GB are read once, not at every look."""
    stat = path.stat()
    if stat.st_size < LARGE:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    key = json.dumps([str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastdllm" / "fingerprints"
    known = cache / hashlib.sha256(key.encode()).hexdigest()
    if known.exists():
        return known.read_text(encoding="ascii")
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    cache.mkdir(parents=True, exist_ok=True)
    part = known.with_suffix(f".{os.getpid()}.part")
    part.write_text(found, encoding="ascii")
    os.replace(part, known)
    return found
