"""The denoising loop and what decides in it; nothing is imported here.

- a request: generate, prompts, rules, output, userfile
- the loop, and its baseline without one: loop, plain, row, step, sampling, autoregressive
- reuse: policies, layer_reuse, store, revisions, trace
- verify: verify, drafts, packs, pack_executor
- executors, the reference first: executor, fast, ticks, parallel, threads
"""
