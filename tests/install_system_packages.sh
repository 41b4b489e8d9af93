#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Installs the system programs that integration tests use: with apt-get where we are root,
# otherwise it says in one line each what will be skipped. Never fails: the tests decide.
set -u

# One line each: program | Debian package | what is skipped without it
needs='
redis-server|redis-server|tests on the Redis of the system (the packaged Valkey is still tested)
slurmctld|slurm-wlm munge|tests on a real Slurm
/usr/lib/gridengine/sge_qmaster|gridengine-master gridengine-exec gridengine-client iproute2|tests on a real Grid Engine
/usr/sbin/sshd|openssh-server openssh-client rsync|tests on a real OpenSSH server
mpirun.openmpi|openmpi-bin|tests on Open MPI (the mpiexec of MPICH is still tested)
'

missing() {
    printf '%s' "$needs" | while IFS='|' read -r program package skipped; do
        [ -n "$program" ] || continue
        command -v "$program" >/dev/null 2>&1 || printf '%s|%s|%s\n' "$program" "$package" "$skipped"
    done
}

absent=$(missing)
[ -n "$absent" ] || exit 0
why='not root'
if [ "$(id -u)" = 0 ]; then
    if command -v apt-get >/dev/null 2>&1; then
        packages=$(printf '%s\n' "$absent" | cut -d'|' -f2 | tr ' ' '\n' | sort -u | tr '\n' ' ')
        echo "apt-get install $packages"
        export DEBIAN_FRONTEND=noninteractive
        # Grid Engine's package would ask for the name of a cell.
        command -v debconf-set-selections >/dev/null 2>&1 &&
            echo 'gridengine-master shared/gridengineconfig boolean false' | debconf-set-selections
        # RUNLEVEL=1: a package must not start its service; the tests start their own.
        apt() { RUNLEVEL=1 apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=30 "$@" </dev/null >/dev/null 2>&1; }
        # One by one if not together: one that this system does not have must not stop others.
        if apt update && { apt install -y --no-install-recommends $packages ||
            for package in $packages; do apt install -y --no-install-recommends "$package"; done; :; }; then
            absent=$(missing)
            why='not in the package'
        else
            why='apt-get failed: no network?'
        fi
    else
        why='no apt-get here'
    fi
fi
[ -n "$absent" ] && printf '%s\n' "$absent" | while IFS='|' read -r program package skipped; do
    echo "no $program ($why; apt-get install $package): skipping $skipped"
done
exit 0
