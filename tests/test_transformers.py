"""transformers 4.57 and 5.x: the same ids, texts and tokens. Both read the tokenizer and its chat template, no more."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import transformers_support
from packaging.requirements import Requirement
from packaging.version import Version
from transformers import AutoTokenizer

from fastdllm.model.files import EMBEDDED

ROOT = Path(__file__).parent.parent
OTHER = ROOT / ".venv" / "transformers-4.57"
LOCK = ROOT / "requirements-transformers-4.57.lock"


def as_qwen2(directory):
    """The embedded checkpoint with the 7B's tokenizer class and files (vocab.json and merges.txt)."""
    source = EMBEDDED / "tiny"
    for name in ("config.json", "model.safetensors"):
        (directory / name).symlink_to(source / name)
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    (directory / "vocab.json").write_text(json.dumps(tokenizer["model"]["vocab"]))
    (directory / "merges.txt").write_text("\n".join(" ".join(pair) for pair in tokenizer["model"]["merges"]) + "\n")
    config = json.loads((source / "tokenizer_config.json").read_text())
    added = {str(token.pop("id")): token for token in tokenizer["added_tokens"]}
    config |= {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return str(directory)


def saved_by_5(directory):
    """The embedded checkpoint with its tokenizer as transformers 5 saves it (tokenizer_class TokenizersBackend)."""
    for name in ("config.json", "model.safetensors"):
        (directory / name).symlink_to(EMBEDDED / "tiny" / name)
    AutoTokenizer.from_pretrained(str(EMBEDDED / "tiny")).save_pretrained(directory)
    written = json.loads((directory / "tokenizer_config.json").read_text())
    assert (written["tokenizer_class"], type(written["extra_special_tokens"])) == ("TokenizersBackend", list)
    return str(directory)


@pytest.mark.skipif(not OTHER.is_dir(), reason="no .venv/transformers-4.57 (make setup puts it there)")
def test_the_same_under_both(tmp_path):
    (tmp_path / "qwen2").mkdir()
    (tmp_path / "5").mkdir()
    names = ["tiny", as_qwen2(tmp_path / "qwen2"), saved_by_5(tmp_path / "5")]
    path = os.pathsep.join(map(str, (OTHER, ROOT)))
    done = subprocess.run([sys.executable, transformers_support.__file__, *names], cwd=ROOT, text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "0"})
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout)
    assert there["version"].startswith("4.57.") and importlib.metadata.version("transformers").startswith("5.")
    for name in names:
        here = transformers_support.look(name)
        assert there[name] == here
        assert (here["mask"], here["stop"]) == (511, [510])
        assert transformers_support.QUESTION in here["decoded"][1] and here["special"].startswith("<|im_start|>user\n")
        assert here["texts"][0] and here["tokens"][0][-1] == 510


def test_ranges_cover_both():
    written = re.findall(r'^    "(.+)",$', (ROOT / "pyproject.toml").read_text(), re.M)
    ranges = {wanted.name.replace("-", "_"): wanted.specifier for wanted in map(Requirement, written)}
    locked = dict(line.split("==") for line in LOCK.read_text().splitlines() if "==" in line)
    assert set(locked) == {"transformers", "tokenizers", "huggingface_hub"}
    assert locked["transformers"].startswith("4.57.")
    for name, version in locked.items():
        for installed in (version, importlib.metadata.version(name)):
            assert Version(installed) in ranges[name], f"{name} {installed} is outside {ranges[name]}"
