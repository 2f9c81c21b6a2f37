"""The network, its caches, and how checkpoints become one.

- a checkpoint's files: files, config, checkpoint, delta, gguf_file, tokenizer
- the network: lm, network, cache, hooks, errors
- layers on a CPU: cpu
- forwards that can be captured: static, positions, graphs, pack_graphs
- Triton kernels: kernels, products, attention, attention_parts, pack_attention, shared_attention
"""
