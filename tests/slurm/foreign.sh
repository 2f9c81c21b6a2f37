#!/usr/bin/env bash
#SBATCH --job-name=somebody-elses
#SBATCH --time=10
exec sleep 600
