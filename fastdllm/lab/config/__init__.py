"""What is to run: parameters, grids, YAML files, paths.

- one run: parameters, single, shard
- a grid: grid, grid_file, computation
- files and checkpoints: yaml_file, paths, geometry
"""
