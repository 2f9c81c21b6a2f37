#!/usr/bin/env bash
# Stop what up.sh started, by recorded process id: slurmd before slurmctld. usage: down.sh RUNDIR
run=$1
export SLURM_CONF="$run/slurm.conf"
scancel --user="$(id -un)" 2>/dev/null
for _ in $(seq 300); do [ -z "$(squeue -h 2>/dev/null)" ] && break; sleep 0.1; done
for daemon in slurmd.n1 slurmd.n2 slurmctld munged; do
    pid=$(cat "$run/$daemon.pid" 2>/dev/null) || continue
    kill "$pid" 2>/dev/null
    for _ in $(seq 600); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    if kill -0 "$pid" 2>/dev/null; then echo "$daemon ($pid) is still alive" >&2; failed=1; fi
done
exit "${failed:-0}"
