#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# slurm_up.sh up|down|status FOLDER [NODES=4] [CPUS=4] [BASEPORT=6817]
# Slurm on one machine, of Debian's slurm-wlm and munge, run by root, without systemd and
# cgroups: a private munged, slurmctld, and NODES x slurmd (n1..nN), on loopback only.
# All files are in FOLDER; after `up`, `. FOLDER/env` sets SLURM_CONF.
# OWNER=PID: when that process has ended, however it did, everything is taken down.
# ACCOUNTING=1: MariaDB and slurmdbd too, for sacct (packages slurmdbd, mariadb-server and
# slurm-wlm-mysql-plugin).
# MEMORY=1: jobs that take more memory than they asked for are killed.
# GPUS=1: each node has two GPUs, 0 and 1 (which are no devices that anything can use).
# Ports: slurmctld BASEPORT, slurmdbd +2, MariaDB +3, slurmd nI +10+I.
set -eu
usage() { echo "usage: $0 up|down|status FOLDER [NODES] [CPUS] [BASEPORT]" >&2; exit 2; }
[ $# -ge 2 ] || usage
command=$1 folder=$2 nodes=${3:-4} cpus=${4:-4} port=${5:-6817}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
host=$(hostname -s)

# A zombie is dead: process 1 of a container may reap late.
live() { [ -n "${1:-}" ] && [ -e "/proc/$1/stat" ] && ! grep -q ') Z ' "/proc/$1/stat" 2>/dev/null; }
alive() { [ -s "$1" ] && live "$(cat "$1")"; }

stop() {
    local file pid pids=""
    for file in "$@"; do
        if alive "$file"; then
            pid=$(cat "$file")
            pids="$pids $pid"
            kill "$pid" 2>/dev/null || :
        fi
    done
    for pid in $pids; do
        for _ in $(seq 60); do live "$pid" || break; sleep .05; done
        if live "$pid"; then kill -9 "$pid" 2>/dev/null || :; fi
    done
    rm -f "$@"
}

# Daemons of steps whose controller is gone try for long to tell it of their end.
end_steps() {
    local dir name child
    for dir in /proc/[0-9]*; do
        read -r name 2>/dev/null <"$dir/comm" && [ "$name" = slurmstepd ] || continue
        case $(readlink "$dir/cwd") in "$folder"/*) ;; *) continue ;; esac
        for child in $(pgrep -P "${dir#/proc/}"); do kill -9 -- "-$child" 2>/dev/null || :; done
        kill -9 "${dir#/proc/}" 2>/dev/null || :
    done
}

down() {
    if [ -f "$folder/slurm.conf" ] && alive "$folder/run/slurmctld.pid"; then # no orphaned steps
        SLURM_CONF=$folder/slurm.conf timeout 10 scancel --user="$(id -un)" --quiet 2>/dev/null || :
        for _ in $(seq 50); do
            [ -z "$(SLURM_CONF=$folder/slurm.conf timeout 5 squeue -h 2>/dev/null)" ] && break
            sleep .1
        done
    fi
    stop "$folder"/run/slurmd-*.pid
    stop "$folder/run/slurmctld.pid"
    end_steps
    stop "$folder/run/slurmdbd.pid"
    stop "$folder/run/mariadb.pid"
    stop "$folder/run/munged.pid"
    [ -n "${WATCHING:-}" ] || stop "$folder/run/watch.pid"
}

configure() {
    local select=CR_CPU gres=""
    local accounting="AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none"
    # AccountingStoragePass: else the clients of slurmdbd look for the system's munged.
    [ -z "${ACCOUNTING:-}" ] || accounting="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 2))
AccountingStoragePass=$folder/run/munge.sock
JobAcctGatherType=jobacct_gather/linux"
    if [ -n "${MEMORY:-}" ]; then
        select="CR_CPU_Memory
DefMemPerCPU=256
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill"
        accounting=${accounting/jobacct_gather\/none/jobacct_gather/linux}
    fi
    if [ -n "${GPUS:-}" ]; then
        gres="Gres=gpu:2"
        select="$select
GresTypes=gpu"
        printf 'Name=gpu File=%s\n' /dev/zero /dev/full >"$folder/gres.conf"
    fi
    # cred_expire is also the wait before a requeued job may start again.
    # TmpFS: without it all nodes share the sockets of PMIx.
    # EnforcePartLimits: otherwise what can never run pends for ever.
    cat >"$folder/slurm.conf" <<CONF
ClusterName=ci
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.sock,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
EnforcePartLimits=ALL
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd-%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd-%n.log
TmpFS=$folder/tmp/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=pmi2
$accounting
SelectType=select/cons_tres
SelectTypeParameters=$select
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=10000,bf_interval=1,bf_continue,nohold_on_prolog_fail
SlurmdParameters=config_overrides
ReturnToService=2
InactiveLimit=0
KillWait=2
# Longer than a whole run of the tests, which look at some jobs at their end.
MinJobAge=${MIN_JOB_AGE:-7200}
SlurmdTimeout=${SLURMD_TIMEOUT:-10}
SlurmctldTimeout=10
MaxJobCount=20000
MaxArraySize=2001
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 11))-$((port + 10 + nodes))] CPUs=$cpus RealMemory=4096 $gres State=UNKNOWN
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 State=UP OverSubscribe=NO
PartitionName=debug Nodes=n1 Default=NO MaxTime=10 State=UP OverSubscribe=FORCE:4
CONF
    echo "CgroupAutomount=no" >"$folder/cgroup.conf"
    echo "export SLURM_CONF=$folder/slurm.conf" >"$folder/env"
}

accounting() {
    local sql="mariadb --no-defaults -S $folder/run/mariadb.sock"
    mkdir -p "$folder/dbd/tmp"
    mariadb-install-db --no-defaults --user=root --datadir="$folder/dbd/data" \
        --auth-root-authentication-method=socket --skip-test-db >"$folder/log/mariadb-install.log" 2>&1
    mariadbd --no-defaults --user=root --datadir="$folder/dbd/data" --tmpdir="$folder/dbd/tmp" \
        --bind-address=127.0.0.1 --port=$((port + 3)) --socket="$folder/run/mariadb.sock" \
        --pid-file="$folder/run/mariadb.pid" --skip-log-bin >"$folder/log/mariadb.log" 2>&1 </dev/null &
    for _ in $(seq 200); do $sql -e 'select 1' >/dev/null 2>&1 && break; sleep .1; done
    $sql -e "create user slurm@'%' identified by 'slurm'; grant all on slurm_acct_db.* to slurm@'%'"
    # Without NoInAddrAny slurmdbd would listen on all interfaces.
    cat >"$folder/slurmdbd.conf" <<CONF
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((port + 2))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.sock
CommunicationParameters=NoInAddrAny
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((port + 3))
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
PidFile=$folder/run/slurmdbd.pid
LogFile=$folder/log/slurmdbd.log
CONF
    chmod 600 "$folder/slurmdbd.conf"
    SLURM_CONF=$folder/slurmdbd.conf slurmdbd >>"$folder/log/start.log" 2>&1 </dev/null
    for _ in $(seq 50); do
        sacctmgr -n list cluster 2>/dev/null | grep -q ci && return
        sacctmgr -n -i add cluster ci >/dev/null 2>&1 && return
        sleep .2
    done
    echo "slurmdbd did not answer; see $folder/log" >&2
    return 1
}

watch() { # ends the cluster with its owner; a pipe of ours must not stay open in it
    WATCHING=1 setsid bash -c 'echo $$ >"$1"; tail --pid="$2" -s 0.3 -f /dev/null; bash "$3" down "$4"
            case $4 in */ssdag-cluster-*) rm -rf "$4" ;; esac' \
        watch "$folder/run/watch.pid" "$OWNER" "$(realpath "$0")" "$folder" >>"$folder/log/start.log" 2>&1 </dev/null &
}

up() {
    local program
    for program in slurmctld slurmd munged; do
        command -v "$program" >/dev/null || { echo "no $program: apt-get install slurm-wlm munge" >&2; return 1; }
    done
    down
    rm -rf "$folder"/{state,spool,run,log,munge,dbd,tmp}
    mkdir -p "$folder"/{run,log,state,spool,munge}
    for i in $(seq "$nodes"); do mkdir -p "$folder/tmp/n$i"; done
    chmod 755 "$folder" "$folder/run"
    chmod 700 "$folder/munge"
    (umask 077; head -c 128 /dev/urandom >"$folder/munge/munge.key")
    configure
    export SLURM_CONF=$folder/slurm.conf
    [ -z "${OWNER:-}" ] || watch
    munged --key-file="$folder/munge/munge.key" --socket="$folder/run/munge.sock" \
        --pid-file="$folder/run/munged.pid" --log-file="$folder/munge/munged.log" \
        --seed-file="$folder/munge/munged.seed" --num-threads=4 >>"$folder/log/start.log" 2>&1 </dev/null
    [ -z "${ACCOUNTING:-}" ] || accounting
    slurmctld -i -f "$SLURM_CONF" >>"$folder/log/start.log" 2>&1 </dev/null
    for i in $(seq "$nodes"); do
        # Without its cache malloc survives more of what slurmd 22.05 does, rarely, when
        # several steps begin at once.
        GLIBC_TUNABLES=glibc.malloc.tcache_count=0 slurmd -N "n$i" -f "$SLURM_CONF" >>"$folder/log/start.log" 2>&1 </dev/null
    done
    for _ in $(seq 300); do
        [ "$(sinfo -h -N -p batch -t idle -o %N 2>/dev/null | wc -l)" -eq "$nodes" ] && return
        sleep .05
    done
    echo "Slurm did not come up; see $folder/log" >&2
    tail -n 5 "$folder"/log/*.log >&2 || :
    return 1
}

case $command in
    up) up && echo "up: $nodes nodes; . $folder/env" ;;
    down) down ;;
    status) SLURM_CONF=$folder/slurm.conf sinfo -N -l ;;
    *) usage ;;
esac
