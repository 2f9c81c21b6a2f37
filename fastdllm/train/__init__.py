"""The recipe that makes the embedded checkpoint: data, tokenizer, noise, loop."""
