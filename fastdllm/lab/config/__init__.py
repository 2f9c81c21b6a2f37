"""What is to run: parameters, grids, YAML files, paths."""
