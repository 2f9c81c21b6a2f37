"""`python -m fastdllm`: the same as the `fastdllm` command."""

from fastdllm.cli import main

main()
