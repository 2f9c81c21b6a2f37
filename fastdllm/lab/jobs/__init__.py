"""What is missing, started here or on Slurm.

- what is missing: status, plan, marks
- can it run here: preflight, checks, machine
- started here: runner, worker, progress, logs
- started on Slurm: submission, script, slurm
- notebooks: notebooks, notebook_run, suite
"""
