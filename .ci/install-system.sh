#!/usr/bin/env bash
# System packages of the Slurm and browser tests (Debian or Ubuntu, as root or with sudo). Without them those tests
# are skipped, each with a line that says so. Does nothing where everything is there already.
set -euo pipefail
missing=0
for name in slurmctld slurmd munged chromium chromedriver; do
    PATH="$PATH:/usr/sbin" command -v "$name" >/dev/null || { echo "missing: $name"; missing=1; }
done
[ "$missing" = 0 ] && exit 0
command -v apt-get >/dev/null || { echo "no apt-get here: install Slurm, munge and Chromium by other means"; exit 1; }
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo -n)
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -q
"${as_root[@]}" apt-get install -y -q --no-install-recommends \
    slurm-wlm slurmctld slurmd slurm-client munge chromium chromium-driver fonts-dejavu-core
