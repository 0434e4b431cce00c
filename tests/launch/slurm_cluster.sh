#!/usr/bin/env bash
# A real Slurm of two nodes, n0 and n1, on this machine, for trying launch/slurm.sbatch. As root on Debian with
#     apt-get install -y --no-install-recommends slurm-wlm munge
#
#   tests/launch/slurm_cluster.sh up DIR      starts it, with its state, logs and slurm.conf in the folder DIR
#   export SLURM_CONF=DIR/slurm.conf          then sinfo, sbatch, srun, ... use it
#   tests/launch/slurm_cluster.sh down DIR    ends the daemons that `up` started, and no others
#
# Both nodes are this host, so jobs meet at JAX_COORDINATOR_ADDRESS=127.0.0.1:PORT, which sbatch passes on.
set -euo pipefail

usage() { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2 && exit 2; }

start() { # what its number is kept for, and a command that stays in the foreground
  local name=$1
  shift
  setsid "$@" >"$dir/$name.out" 2>&1 </dev/null &
  echo $! >"$dir/$name.pid"
}

up() {
  [[ ! -e $dir/slurm.conf ]] || { echo "slurm_cluster.sh: $dir is in use: down first" >&2 && exit 2; }
  mkdir -p "$dir/state" "$dir/spool.n0" "$dir/spool.n1" "$dir/munge"
  # Munge of our own, with its own key and socket, apart from one that the machine may run.
  head -c 1024 /dev/urandom >"$dir/munge/key"
  chown -R munge:munge "$dir/munge"
  chmod 700 "$dir/munge" && chmod 600 "$dir/munge/key" && chmod 711 "$dir/munge"
  start munged setpriv --reuid=munge --regid=munge --clear-groups munged --foreground --force \
    --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" \
    --log-file="$dir/munge/log" --seed-file="$dir/munge/seed"
  cat >"$dir/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=17000
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldPidFile=$dir/slurmctld.run
SlurmdPidFile=$dir/slurmd.%n.run
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
MpiDefault=none
KillWait=${SLURM_CLUSTER_KILL_WAIT:-30}
$extra
NodeName=n[0-1] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[17001-17002] CPUs=1 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  export SLURM_CONF=$dir/slurm.conf
  for _ in {1..50}; do [[ ! -S $dir/munge/socket ]] || break && sleep 0.1; done
  start slurmctld slurmctld -D -f "$SLURM_CONF"
  start n0 slurmd -D -N n0 -f "$SLURM_CONF"
  start n1 slurmd -D -N n1 -f "$SLURM_CONF"
  for _ in {1..150}; do
    [[ $(sinfo --noheader --format='%D %t' 2>/dev/null) != "2 idle" ]] || { sinfo && return; }
    sleep 0.2
  done
  echo "slurm_cluster.sh: the nodes do not come up; see $dir/*.log" >&2
  exit 1
}

down() {
  local name pid
  # First the jobs: a daemon that ends leaves them running.
  if [[ -e $dir/slurmctld.pid ]]; then
    SLURM_CONF=$dir/slurm.conf timeout 10 scancel --user=root 2>/dev/null || true
    for _ in {1..50}; do
      [[ -n $(SLURM_CONF=$dir/slurm.conf timeout 5 squeue --noheader 2>/dev/null) ]] || break
      sleep 0.2
    done
  fi
  for name in n1 n0 slurmctld munged; do
    [[ -e $dir/$name.pid ]] || continue
    pid=$(<"$dir/$name.pid")
    # The number may be another's by now: only one whose command names our folder is ended.
    if tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$dir/"; then
      kill "$pid"
      for _ in {1..100}; do [[ -d /proc/$pid ]] || break && sleep 0.1; done
      [[ ! -d /proc/$pid ]] || kill -KILL "$pid"
    fi
    rm "$dir/$name.pid"
  done
  rm -f "$dir/slurm.conf"
}

(($# == 2)) || usage
extra=${SLURM_CLUSTER_EXTRA-} # lines for slurm.conf
mkdir -p "$2"
dir=$(cd "$2" && pwd)
case $1 in
  up | down) "$1" ;;
  *) usage ;;
esac
