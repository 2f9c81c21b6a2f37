"""The lab: grids of runs, their identity, their records, and what executes them.

parameters  one run's parameters, criteria, Slurm settings     identity   what makes two runs the same
grid        an experiment and its cells                        records    summary.json and samples.jsonl
gridfile    params/*.yml read and validated                    evaluate   one run, from prompts to its record
status      what state every cell is in                        notebooks  papermill with care
runner      runs what is missing                               locks      one process per cell
"""
