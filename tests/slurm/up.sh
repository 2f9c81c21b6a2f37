#!/usr/bin/env bash
# Start munged, slurmctld and two slurmd on this host (as root, no systemd). usage: up.sh RUNDIR PORT
# Everything lives in RUNDIR; PORT, PORT+1 and PORT+2 are used. Then: export SLURM_CONF=RUNDIR/slurm.conf
set -euo pipefail
run=$1 port=$2 here=$(cd "$(dirname "$0")" && pwd)
export SLURM_CONF="$run/slurm.conf" PATH="$PATH:/usr/sbin"
mkdir -p "$run/ctld" "$run/d.n1" "$run/d.n2"
sed -e "s|@RUN@|$run|g; s|@HOST@|$(hostname -s)|g" \
    -e "s|@PORT0@|$port|g; s|@PORT1@|$((port + 1))|g; s|@PORT2@|$((port + 2))|g" "$here/slurm.conf.in" >"$SLURM_CONF"
head -c 128 /dev/urandom >"$run/munge.key"; chmod 400 "$run/munge.key"
munged --force --key-file="$run/munge.key" --socket="$run/munge.sock" --pid-file="$run/munged.pid" \
    --log-file="$run/munged.log" --seed-file="$run/munged.seed" 2>>"$run/start.log"
for _ in $(seq 600); do munge -S "$run/munge.sock" -n >/dev/null 2>&1 && break; sleep 0.1; done
slurmctld -i 2>>"$run/start.log"
for node in n1 n2; do slurmd -N "$node" 2>>"$run/start.log"; done
for _ in $(seq 600); do
    [ "$(sinfo -h -N -p main -o %t 2>/dev/null | grep -c '^idle$')" = 2 ] && exit 0
    sleep 0.1
done
echo "Slurm did not come up" >&2
tail -n 20 "$run"/*.log >&2
exit 1
