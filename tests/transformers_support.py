"""What fastdllm reads and generates with the transformers at hand. As a script: the same as JSON on stdout, for the
checkpoints named on the command line (tests/test_transformers.py)."""

import importlib.metadata
import json
import sys

import torch

import fastdllm

QUESTION = "Ann has 12 red and 7 blue pens — how many pens?"
TALK = [{"role": "user", "content": "2 + 3 = ?"}, {"role": "assistant", "content": "#### 5"},
        {"role": "user", "content": QUESTION}]


def look(model):
    """Ids, texts and tokens of a question and a conversation."""
    lm = fastdllm.load(model, device="cpu")
    ids = [lm.encode(QUESTION), lm.encode(TALK)]
    out = fastdllm.generate(lm, [QUESTION, TALK], decoding=fastdllm.Decoding(max_new_tokens=32))
    return {"mask": lm.mask_id, "stop": list(lm.stop_ids), "ids": ids, "decoded": [lm.decode(row) for row in ids],
            "special": lm.tokenizer.decode(ids[1]), "tokens": out.tokens, "texts": out.texts, "nfe": out.nfe}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({"version": importlib.metadata.version("transformers"), **{name: look(name)
                                                                                for name in sys.argv[1:]}}))
