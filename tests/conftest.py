"""Shared fixtures: the golden random checkpoint, the embedded one, and prompts."""

import json
from pathlib import Path

import pytest
import torch

import fastdllm

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """One thread: rounding does not depend on the machine's cores, and parallel test workers do not fight."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden():
    """A random checkpoint of the geometry in small, no tokenizer; mask 511, stop 510."""
    return fastdllm.load(GOLDEN, device="cpu")


@pytest.fixture(scope="session")
def tiny():
    """The embedded, trained checkpoint."""
    return fastdllm.load("tiny", device="cpu")


@pytest.fixture(scope="session")
def golden_prompts():
    """Token lists by length: p5, p31, p32, p33, p40, p44, p64, p70."""
    prompts = json.loads((GOLDEN / "golden.json").read_text())["prompts"]
    return {name: prompt["rows"][0] for name, prompt in prompts.items() if len(prompt["rows"]) == 1}


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A small project in which a grid and a notebook have run (tests/share_support.py)."""
    import share_support
    return share_support.project(tmp_path_factory.mktemp("project"))
