#!/usr/bin/env bash
# Trains with N processes on this machine. GPUs: N, one a process; without GPUs the processes compute on the CPUs.
#
#   launch/local.sh 4 --config configs/deeplab_769.py --workdir runs/x
#   launch/local.sh --dry_run 2 --config configs/demo.py --workdir runs/x    # prints what would be run, starts nothing
#
# One process that has all the GPUs (python -m cropjax.main, without this file) computes the same and needs less host
# memory. This is for trying out what runs on several hosts, and for machines where one process cannot feed all GPUs.
#
# Each line of output begins with the number of its process. TERM, USR1 and INT (Ctrl-C) are passed on to all; TERM and
# USR1 save. The exit status is the first that is not 0; where one process ends with such a status the others have
# CROPJAX_GRACE seconds, 60 unless set, to stop by themselves, and are killed after that.
#
# Exports to each process: JAX_COORDINATOR_ADDRESS (127.0.0.1 and a free port, or CROPJAX_PORT), JAX_NUM_PROCESSES,
# JAX_PROCESS_ID, and with GPUs JAX_LOCAL_DEVICE_IDS, one GPU; PYTHONUNBUFFERED so that lines come as they are written;
# with GPUs NCCL_DEBUG=WARN, because NCCL otherwise does not say why it failed, and XLA_FLAGS (below). What you export
# yourself is passed on and wins. Reads CROPJAX_PYTHON, CROPJAX_MODULE.
set -euo pipefail

module=${CROPJAX_MODULE:-cropjax.main}
grace=${CROPJAX_GRACE:-60}

say() { echo "local.sh: $*" >&2; }
mistake() { say "$*" && exit 2; }

dry_run=
if [[ ${1-} == --dry_run ]]; then
  dry_run=1
  shift
fi
count=${1-}
[[ $count =~ ^[1-9][0-9]*$ ]] || mistake "the first argument is the number of processes: launch/local.sh 2 --config ..."
shift

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
python=${CROPJAX_PYTHON:-$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python)}
free_port='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
port=${CROPJAX_PORT:-$("$python" -c "$free_port")}

gpus=0
if [[ ${JAX_PLATFORMS-} != cpu && ${CUDA_VISIBLE_DEVICES-unset} != "" ]]; then
  gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ') || gpus=0
  if ((gpus > 0)) && [[ -n ${CUDA_VISIBLE_DEVICES-} ]]; then
    visible=${CUDA_VISIBLE_DEVICES//[^,]/}
    gpus=$((${#visible} + 1))
  fi
fi
((gpus == 0 || gpus >= count)) ||
  mistake "$count processes want $count GPUs, and there are $gpus; JAX_PLATFORMS=cpu computes on the CPUs"

exports=(PYTHONUNBUFFERED=1 "JAX_COORDINATOR_ADDRESS=127.0.0.1:$port" "JAX_NUM_PROCESSES=$count")
if ((gpus > 0)); then
  exports+=("NCCL_DEBUG=${NCCL_DEBUG:-WARN}")
  # Lets XLA sum gradients while it computes others; off by default, recommended by JAX's and NVIDIA's pages on speed.
  ((count == 1)) || exports+=("XLA_FLAGS=${XLA_FLAGS:---xla_gpu_enable_latency_hiding_scheduler=true}")
fi

# The command of process $1, in the array `command`.
command_of() {
  command=(env "JAX_PROCESS_ID=$1")
  ((gpus == 0)) || command+=("JAX_LOCAL_DEVICE_IDS=$1")
  command+=("$python" -m "$module" "${arguments[@]}")
}
arguments=("$@")

if [[ -n $dry_run ]]; then
  printf 'cd %q\n' "$PWD"
  printf 'export %q\n' "${exports[@]}"
  for ((i = 0; i < count; i++)); do
    command_of "$i"
    printf '%q ' "${command[@]}"
    echo '&'
  done
  exit
fi
export "${exports[@]}"

folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
set -m # each process in a group of its own: a terminal's Ctrl-C reaches this shell alone, which passes it on once

pids=() readers=() waiting=()
# shellcheck disable=SC2329 # the traps call it
forward() {
  local i
  say "passes SIG$1 on"
  for i in "${waiting[@]}"; do
    kill -s "$1" "${pids[i]}" 2>/dev/null || true # to Python, and not to its workers, which it ends itself
  done
}
for name in TERM USR1 INT; do
  # shellcheck disable=SC2064 # the name of now
  trap "forward $name" "$name"
done

for ((i = 0; i < count; i++)); do
  mkfifo "$folder/$i"
  (
    trap '' TERM USR1 INT # what comes at the end is still wanted
    while IFS= read -r line || [[ -n $line ]]; do printf '[%s] %s\n' "$i" "$line"; done
  ) <"$folder/$i" &
  readers+=($!)
  command_of "$i"
  "${command[@]}" >"$folder/$i" 2>&1 </dev/null &
  pids+=($!)
  waiting+=("$i")
done

status=0 deadline=
while true; do
  running=" $(jobs -pr | tr '\n' ' ')"
  still=()
  for i in "${waiting[@]}"; do
    if [[ $running == *" ${pids[i]} "* ]]; then
      still+=("$i")
      continue
    fi
    one=0
    wait "${pids[i]}" 2>/dev/null || one=$?
    ((one != 0)) || continue
    say "process $i ended with status $one"
    ((status != 0)) || status=$one
    : "${deadline:=$((SECONDS + grace))}"
  done
  waiting=("${still[@]}")
  ((${#waiting[@]} > 0)) || break
  if [[ -n $deadline ]] && ((SECONDS >= deadline)); then
    say "kills process ${waiting[*]}, still there after $grace s"
    for i in "${waiting[@]}"; do
      kill -s KILL -- "-${pids[i]}" 2>/dev/null || true # with its workers
    done
    deadline=$((SECONDS + grace))
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
