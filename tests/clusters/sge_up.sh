#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# sge_up.sh up|down FOLDER [HOSTS=2] [SLOTS=4]   and   sge_up.sh run FOLDER COMMAND...
# Grid Engine on one machine, of Debian's gridengine-{master,exec,client}, run by root,
# without systemd: a network and host-name namespace for each host (sge1 with the master,
# sge2, ...), so that nothing listens outside of them. `run` runs a command on sge1.
# `sge_up.sh execd FOLDER I` starts the daemon of host I again.
# OWNER=PID: when that process has ended, however it did, everything is taken down.
set -eu
usage() { echo "usage: $0 up|down FOLDER [HOSTS] [SLOTS] | run FOLDER COMMAND..." >&2; exit 2; }
[ $# -ge 2 ] || usage
command=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
programs=/usr/lib/gridengine
shared=/usr/share/gridengine
# Names of namespaces are the machine's: one word for each folder.
tag=sd$(printf '%s' "$folder" | cksum | cut -d' ' -f1)
echo "$tag" >"$folder/tag"

on() { # on HOST COMMAND...
    local name=sge$1
    shift
    ip netns exec "$tag-$name" unshare -u bash -c 'hostname "$0"; exec "$@"' "$name" "$@"
}
if [ "$command" = run ]; then
    shift 2
    . "$folder/env"
    on 1 "$@"
    exit
fi
if [ "$command" = execd ]; then
    . "$folder/env"
    on "$3" $programs/sge_execd </dev/null >>"$folder/log/up.log" 2>&1
    exit
fi
hosts=${3:-2} slots=${4:-4} port=6891

live() { [ -n "${1:-}" ] && [ -e "/proc/$1/stat" ] && ! grep -q ') Z ' "/proc/$1/stat" 2>/dev/null; }

down() {
    local name pid
    for name in $(ip netns list 2>/dev/null | awk '{print $1}' | grep "^$tag-" || :); do
        for pid in $(ip netns pids "$name"); do kill "$pid" 2>/dev/null || :; done
    done
    for name in $(ip netns list 2>/dev/null | awk '{print $1}' | grep "^$tag-" || :); do
        for _ in $(seq 20); do
            for pid in $(ip netns pids "$name"); do live "$pid" && { sleep .1; continue 2; }; done
            break
        done
        for pid in $(ip netns pids "$name"); do live "$pid" && kill -9 "$pid" 2>/dev/null || :; done
        ip netns del "$name" || :
        rm -rf "/etc/netns/$name"
    done
    if [ -z "${WATCHING:-}" ] && [ -s "$folder/watch.pid" ]; then
        kill "$(cat "$folder/watch.pid")" 2>/dev/null || :
        rm -f "$folder/watch.pid"
    fi
}

network() {
    local i j
    for i in $(seq "$hosts"); do
        ip netns add "$tag-sge$i"
        ip -n "$tag-sge$i" link set lo up
        mkdir -p "/etc/netns/$tag-sge$i"
        { echo 127.0.0.1 localhost; for j in $(seq "$hosts"); do echo "10.98.0.$j sge$j"; done; } \
            >"/etc/netns/$tag-sge$i/hosts"
    done
    ip -n "$tag-sge1" link add br0 type bridge
    ip -n "$tag-sge1" addr add 10.98.0.1/24 dev br0
    ip -n "$tag-sge1" link set br0 up
    for i in $(seq 2 "$hosts"); do
        ip -n "$tag-sge1" link add "v$i" type veth peer name eth0 netns "$tag-sge$i"
        ip -n "$tag-sge1" link set "v$i" master br0 up
        ip -n "$tag-sge$i" addr add "10.98.0.$i/24" dev eth0
        ip -n "$tag-sge$i" link set eth0 up
    done
}

configure() { # root: what SGE_ROOT holds
    local root=$folder/root name
    mkdir -p "$root"/default/common "$root"/default/spool/{qmaster/job_scripts,db,execd}
    ln -s $shared/util "$root/util"
    for name in bin lib utilbin; do ln -s /var/lib/gridengine/$name "$root/$name"; done
    sed -e "s#/var/spool/gridengine/spooldb#$root/default/spool/db#" \
        -e "s#/var/spool/gridengine#$root/default/spool#" \
        -e "s#^admin_user.*#admin_user none#; s#^ignore_fqdn.*#ignore_fqdn true#" \
        $shared/default-bootstrap >"$root/default/common/bootstrap"
    # min_uid: root may run jobs. flush_time: else qacct knows a job 15 s after its end.
    sed -e "s#/var/spool/gridengine#$root/default/spool#; s#^min_uid.*#min_uid 0#; s#^min_gid.*#min_gid 0#" \
        -e "s#flush_time=00:00:15#flush_time=00:00:01#; s#^load_report_time.*#load_report_time 00:00:05#" \
        -e "s#^max_unheard.*#max_unheard 00:00:10#; s#^administrator_mail.*#administrator_mail none#" \
        -e "s#^shell_start_mode.*#shell_start_mode unix_behavior#" \
        -e "s#^reschedule_unknown.*#reschedule_unknown 00:00:05#" \
        $shared/default-configuration >"$root/conf"
    echo sge1 >"$root/default/common/act_qmaster"
    printf '%s\n' 'pe_name mpi' 'slots 9999' 'user_lists NONE' 'xuser_lists NONE' \
        'start_proc_args NONE' 'stop_proc_args NONE' 'allocation_rule $round_robin' \
        'control_slaves TRUE' 'job_is_first_task FALSE' 'urgency_slots min' \
        'accounting_summary FALSE' 'qsort_args NONE' >"$root/pe"
    { echo 'group_name @allhosts'; echo "hostlist $(for i in $(seq "$hosts"); do printf 'sge%s ' "$i"; done)"; } >"$root/hg"
}

up() {
    command -v qsub >/dev/null && [ -x $programs/sge_qmaster ] && [ -x $programs/sge_execd ] ||
        { echo "no sge_qmaster: apt-get install gridengine-master gridengine-exec gridengine-client" >&2; return 1; }
    down
    rm -rf "$folder/root" "$folder/log"
    mkdir -p "$folder/log"
    cat >"$folder/env" <<ENV
export SGE_ROOT=$folder/root SGE_CELL=default SGE_QMASTER_PORT=$port SGE_EXECD_PORT=$((port + 1)) SGE_ARCH=lx-amd64
ENV
    . "$folder/env"
    if [ -n "${OWNER:-}" ]; then
        WATCHING=1 setsid bash -c 'echo $$ >"$1"; tail --pid="$2" -s 0.3 -f /dev/null; bash "$3" down "$4"
            case $4 in */ssdag-cluster-*) rm -rf "$4" ;; esac' \
            watch "$folder/watch.pid" "$OWNER" "$(realpath "$0")" "$folder" >>"$folder/log/up.log" 2>&1 </dev/null &
    fi
    network
    configure
    on 1 bash -euc '
        root=$SGE_ROOT programs=$0 shared=$1 slots=$2 hosts=$3
        $programs/spoolinit berkeleydb libspoolb $root/default/spool/db init
        $programs/spooldefaults configuration $root/conf
        $programs/spooldefaults complexes $shared/util/resources/centry
        $programs/spooldefaults usersets $shared/util/resources/usersets
        $programs/spooldefaults managers root
        $programs/sge_qmaster </dev/null
        for i in $(seq 100); do qconf -sh >/dev/null 2>&1 && break; sleep .1; done
        for i in $(seq $hosts); do qconf -ah sge$i || :; qconf -as sge$i; done
        qconf -ssconf | sed "s/^schedule_interval.*/schedule_interval 0:0:1/; s/^flush_submit_sec.*/flush_submit_sec 1/; s/^flush_finish_sec.*/flush_finish_sec 1/" >$root/sc
        qconf -Msconf $root/sc
        qconf -Ahgrp $root/hg
        qconf -Ap $root/pe
        qconf -sq | sed "s/^qname.*/qname all.q/; s/^hostlist.*/hostlist @allhosts/; s/^slots.*/slots $slots/; s/^pe_list.*/pe_list mpi/; s/^shell_start_mode.*/shell_start_mode unix_behavior/; s#^shell .*#shell /bin/bash#; s/^load_thresholds.*/load_thresholds NONE/" >$root/q
        qconf -Aq $root/q
    ' $programs $shared "$slots" "$hosts" >>"$folder/log/up.log" 2>&1
    for i in $(seq "$hosts"); do on "$i" $programs/sge_execd </dev/null >>"$folder/log/up.log" 2>&1; done
    for _ in $(seq 300); do
        [ "$(on 1 qhost 2>/dev/null | grep -cE '^sge[0-9]+ +lx-amd64.*[0-9][MG]')" -eq "$hosts" ] && return
        sleep .1
    done
    echo "Grid Engine did not come up; see $folder/log" >&2
    tail -n 5 "$folder/log/up.log" >&2
    return 1
}

case $command in
    up) up && echo "up: $hosts hosts; $0 run $folder qstat -f" ;;
    down) down ;;
    *) usage ;;
esac
