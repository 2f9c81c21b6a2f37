"""`python -m fastdllm.train`: make the embedded checkpoint, in as many calls as it takes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from fastdllm.train.loop import Call, train
from fastdllm.train.recipe import RECIPES


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        prog="python -m fastdllm.train", description=__doc__,
        epilog="Called again with the same --state, it goes on where it stopped.")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="tiny")
    parser.add_argument("--out", type=Path, required=True, help="directory for the checkpoint and its curve")
    parser.add_argument("--state", type=Path, required=True, help="directory for what resuming needs (about 70 MB)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=max(0, (os.cpu_count() or 1) - 2),
                        help="processes that make the data")
    parser.add_argument("--max-seconds", type=float, default=float("inf"), help="pause after so long")
    parser.add_argument("--max-steps", type=int, default=None, help="pause after so many steps")
    parser.add_argument("--measure-every", type=int, default=100, help="steps between progress lines")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    train(RECIPES[given.recipe], Call(
        out=given.out, state=given.state, device=device, workers=given.workers, compile_layers=device.type == "cuda",
        max_seconds=given.max_seconds, max_steps=given.max_steps, measure_every=given.measure_every,
        say=lambda line: print(line, flush=True)))


if __name__ == "__main__":
    main()
