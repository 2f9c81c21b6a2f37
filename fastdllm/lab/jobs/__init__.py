"""What is missing, started here or on Slurm: plan, runner, worker, status, notebooks, submission, doctor, logs."""
