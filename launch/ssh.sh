#!/usr/bin/env bash
# Trains on hosts that you reach by ssh without a password. GPUs: all of each host, in one process a host.
#
#   launch/ssh.sh "gpu1 gpu2" --config configs/deeplab_769.py --workdir runs/x
#   launch/ssh.sh --dry_run "gpu1 gpu2" --config ...    # prints what would be run, starts nothing
#
# The project, with its .venv, the data and the run folder are at the same path on all hosts: a shared file system. The
# first host's name (without `user@`) must lead to it from the others, and they must reach CROPJAX_PORT there.
#
# Each line of output begins with its host. TERM, USR1 and Ctrl-C here ask all processes to save and end, as SIGTERM. So
# does a host that loses this shell. Where one process ends with a fault the others are asked to end, and are killed
# after CROPJAX_GRACE seconds, 60 unless set; the exit status is that of the first. The same command goes on.
#
# Exports there: JAX_COORDINATOR_ADDRESS (the first host and CROPJAX_PORT, or one above those that Linux gives out),
# JAX_NUM_PROCESSES and JAX_PROCESS_ID; PYTHONUNBUFFERED so that lines come as they are written; NCCL_DEBUG=WARN because
# NCCL otherwise does not say why it failed; for several hosts XLA_FLAGS (below). ssh leaves the environment behind, so
# what you export as JAX_*, XLA_*, NCCL_*, CROPJAX_* or PYTHONPATH is given there too, and wins. Reads CROPJAX_PYTHON,
# CROPJAX_MODULE, and CROPJAX_SSH, the command: `ssh -o BatchMode=yes`.
set -euo pipefail

module=${CROPJAX_MODULE:-cropjax.main}
grace=${CROPJAX_GRACE:-60}
# Three missed signs of life, 45 s, and a host counts as lost.
read -ra ssh <<<"${CROPJAX_SSH:-ssh -o BatchMode=yes -o ServerAliveInterval=15}"

say() { echo "ssh.sh: $*" >&2; }
mistake() { say "$*" && exit 2; }

dry_run=
if [[ ${1-} == --dry_run ]]; then
  dry_run=1
  shift
fi
read -ra hosts <<<"${1-}"
[[ ${#hosts[@]} -gt 0 && ${1-} != -* ]] ||
  mistake 'the first argument names the hosts: launch/ssh.sh "gpu1 gpu2" --config ...'
for host in "${hosts[@]}"; do
  [[ $host != -* ]] || mistake "'$host' is no host"
done
shift
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
python=${CROPJAX_PYTHON:-$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python)}
# Linux gives ports up to 60999 to programs that ask for any.
address=${JAX_COORDINATOR_ADDRESS:-${hosts[0]#*@}:${CROPJAX_PORT:-$((61440 + RANDOM % 4096))}}

exports=(PYTHONUNBUFFERED=1 "NCCL_DEBUG=${NCCL_DEBUG:-WARN}")
if ((${#hosts[@]} > 1)); then
  # Lets XLA sum gradients while it computes others; off by default, recommended by JAX's and NVIDIA's pages on speed.
  exports+=("XLA_FLAGS=${XLA_FLAGS:---xla_gpu_enable_latency_hiding_scheduler=true}")
fi
exports+=("JAX_COORDINATOR_ADDRESS=$address" "JAX_NUM_PROCESSES=${#hosts[@]}")
for name in $(compgen -e); do
  case $name in
    JAX_COORDINATOR_ADDRESS | JAX_NUM_PROCESSES | JAX_PROCESS_ID | NCCL_DEBUG | XLA_FLAGS | CROPJAX_SSH) ;;
    JAX_* | XLA_* | NCCL_* | CROPJAX_* | PYTHONPATH) exports+=("$name=${!name}") ;;
  esac
done

# Runs there: $1 seconds of grace, $2 the folder, then the command. Names of signals come on its standard input, because
# ssh passes none on; its end means that this shell, or the way to it, is lost.
# shellcheck disable=SC2016 # expanded there
there='grace=$1; cd -- "$2" || exit 2; shift 2; set -m
exec 3<&0 4>&2 2>/dev/null # bash tells of every process that ends
"$@" </dev/null 2>&4 3<&- 4>&- & pid=$!
{
  while read -r name <&3; do
    if [ "$name" = KILL ]; then kill -s KILL -- "-$pid"; else kill -s "$name" "$pid"; fi
  done
  kill -s TERM "$pid"; sleep "$grace"; kill -s KILL -- "-$pid"
} >/dev/null 4>&- & listener=$!
wait "$pid"; status=$?
kill -- "-$listener"
exit "$status"'

# Quotes for any POSIX shell, which the login shell there may be: bash alone would understand printf %q.
quote() {
  local word
  for word in "$@"; do
    printf "'%s' " "${word//\'/\'\\\'\'}"
  done
}

# The command line that ssh gives to the login shell of host $1, in `remote`.
remote_of() {
  local command=(env "${exports[@]}" "JAX_PROCESS_ID=$1" "$python" -m "$module" "${arguments[@]}")
  remote="exec $(quote bash -c "$there" cropjax "$grace" "$PWD" "${command[@]}")"
}
arguments=("$@")

if [[ -n $dry_run ]]; then
  for i in "${!hosts[@]}"; do
    printf '%s %s: cd %q && env ' "${ssh[*]}" "${hosts[i]}" "$PWD"
    printf '%q ' "${exports[@]}" "JAX_PROCESS_ID=$i" "$python" -m "$module" "${arguments[@]}"
    echo
  done
  exit
fi

folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
set -m # each ssh in a group of its own: a terminal's Ctrl-C reaches this shell alone

pids=() readers=() inputs=() waiting=()
end_all() {
  local i
  for i in "${waiting[@]}"; do
    { echo TERM >&"${inputs[i]}"; } 2>/dev/null || true
  done
}
trap 'say "asks all to save and end"; end_all' TERM USR1 INT
trap '' PIPE # a host that has just ended

for i in "${!hosts[@]}"; do
  mkfifo "$folder/out$i" "$folder/in$i"
  (
    trap '' TERM USR1 INT # what comes at the end is still wanted
    while IFS= read -r line || [[ -n $line ]]; do printf '[%s] %s\n' "${hosts[i]}" "$line"; done
  ) <"$folder/out$i" &
  readers+=($!)
  remote_of "$i"
  (
    for input in "${inputs[@]}"; do exec {input}>&-; done # or the end of this shell would not be the end of theirs
    exec "${ssh[@]}" "${hosts[i]}" "$remote" <"$folder/in$i" >"$folder/out$i" 2>&1
  ) &
  pids+=($!)
  waiting+=("$i")
  exec {input}>"$folder/in$i"
  inputs+=("$input")
done

status=0 deadline='' killed=''
while true; do
  running=" $(jobs -pr | tr '\n' ' ')"
  still=() failed=
  for i in "${waiting[@]}"; do
    if [[ $running == *" ${pids[i]} "* ]]; then
      still+=("$i")
      continue
    fi
    one=0
    wait "${pids[i]}" 2>/dev/null || one=$?
    ((one != 0)) || continue
    say "${hosts[i]} ended with status $one"
    ((status != 0)) || status=$one
    failed=1
  done
  waiting=("${still[@]}")
  ((${#waiting[@]} > 0)) || break
  if [[ -n $failed && -z $deadline ]]; then
    # They may know by themselves; one that does not cannot save either, but ends.
    deadline=$((SECONDS + grace))
    end_all
  fi
  if [[ -n $deadline ]] && ((SECONDS >= deadline)); then
    if [[ -z $killed ]]; then
      for i in "${waiting[@]}"; do
        say "kills ${hosts[i]}'s process, still there after $grace s"
        { echo KILL >&"${inputs[i]}"; } 2>/dev/null || true
      done
      killed=1
      deadline=$((SECONDS + 10))
    else # the host does not answer
      for i in "${waiting[@]}"; do kill -s KILL "${pids[i]}" 2>/dev/null || true; done
    fi
  fi
  sleep 0.2 &
  wait $! || true # ends at once when a signal comes
done

# The readers end with their last line, unless a worker that was left behind keeps the pipe open.
for ((i = 0; i < 25; i++)); do
  running=" $(jobs -pr | tr '\n' ' ')"
  left=
  for reader in "${readers[@]}"; do [[ $running != *" $reader "* ]] || left=1; done
  [[ -n $left ]] || break
  sleep 0.2
done
[[ -z $left ]] || kill -s KILL "${readers[@]}" 2>/dev/null || true
exit "$status"
