"""The network, its caches, and how checkpoints become one."""
