"""Half precision in the order of operations of transformers' own Qwen2 modules, as the published evaluation ran it.

    python -m benchmarks.half_precision_modules FILE.csv [problems] [device]

Output reuse can't depend on the layers that are reused; rounding can. `half_precision.py` finds no difference on our
path. Here the published loop (benchmarks/reference.py: lockstep batches) runs on transformers' modules with weights in
half precision, with and without autocast, and counts the answers of `middle` and `last` that differ from those of
`first`. One row per dtype, autocast, revision and k; the table for fastdllm/data.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file

import fastdllm
from benchmarks.modules_network import ModulesNetwork
from benchmarks.reference import SUBSETS, Loop
from fastdllm import tasks

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
BATCH = 32


def answers(network: ModulesNetwork, prompts: list[list[int]], variant: str, k: int, subset: str, mask: int,
            stop: int, around: AbstractContextManager[object]) -> list[list[int]]:
    """Generated tokens by prompt, cut behind the first stop token."""
    generated = []
    with around:
        for start in range(0, len(prompts), BATCH):
            loop = Loop(network, prompts[start:start + BATCH], variant=variant, k=k, subset=subset,
                        max_new_tokens=128, mask_id=mask, stop_token=stop, pad_id=stop)
            generated += loop.run().generated
    return [row[:row.index(stop) + 1] if stop in row else row for row in generated]


def main(path: Path, n: int = 100, device: str = "cuda") -> None:
    """Write the table; every finished row is printed at once."""
    task = tasks.get("arithmetic")
    plain = fastdllm.load("tiny", device=device)
    assert plain.mask_id is not None
    mask, stop = plain.mask_id, min(plain.stop_ids)
    prompts = [plain.encode(problem.prompt) for problem in task.problems(n, None)]
    card = torch.cuda.get_device_name() if device == "cuda" else device
    rows = []
    for name, dtype in DTYPES.items():
        network = ModulesNetwork(plain.network.config, {key: weight.to(device, dtype) for key, weight in
                                                        load_file(plain.path / "model.safetensors").items()})
        for autocast in (False, True) if dtype != torch.float32 else (False,):
            for variant, revision in (("old", "8e18baac"), ("run2", "26d6179")):
                for k in (2, 3):
                    outputs = [answers(network, prompts, variant, k, subset, mask, stop, torch.autocast(device, dtype)
                                       if autocast else nullcontext()) for subset in SUBSETS]
                    totals = {f"tokens {subset}": sum(map(len, output))
                              for subset, output in zip(SUBSETS, outputs, strict=True)}
                    rows.append({"dtype": name, "autocast": autocast, "revision": revision, "k": k, "n": n, **totals,
                                 **{f"outputs differing, {subset}":
                                    sum(a != b for a, b in zip(outputs[0], outputs[index], strict=True))
                                    for index, subset in ((1, "middle"), (2, "last"))}})
                    print(rows[-1], flush=True)
                    pd.DataFrame(rows).assign(
                        gpu=card, torch=torch.__version__, date=datetime.now(UTC).date().isoformat(),
                        checkpoint=f"{plain.name} {plain.fingerprint[:16]}").to_csv(path, index=False)


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    main(Path(given[1]), int(given.get(2, 100)), given.get(3, "cuda"))
