#!/usr/bin/env bash
# Fills in job.yaml, or jobset.yaml, and gives it to `kubectl apply`. GPUs: --hosts times --gpus, 2 x 1 unless you say.
#
#   launch/kubernetes/submit.sh --name x --image I --hosts 4 --gpus 8 --pvc shared -- --config ... --workdir runs/x
#   launch/kubernetes/submit.sh --dry_run --name x --image I --pvc shared -- --config ...    # prints the manifest
#
# --name    of the Job and its Service, 50 letters, digits and hyphens at most; also kubectl delete job,service NAME
# --image   built from launch/Dockerfile, where the cluster can pull it
# --pvc     a ReadWriteMany volume claim with runs/, data/ and weights/
# --jobset  a JobSet in place of a Job
# after --  cropjax's arguments; paths are the container's, where runs/, data/ and weights/ are the claim's
#
# Exports nothing; the manifest says what the pods get and why. The cluster and the namespace are kubectl's current
# ones.
set -euo pipefail

mistake() { echo "submit.sh: $*" >&2 && exit 2; }

dry_run=
if [[ ${1-} == --dry_run ]]; then
  dry_run=1
  shift
fi
manifest=job name='' image='' hosts=2 gpus=1 pvc=''
while (($# > 0)); do
  case $1 in
    --) break ;;
    --dry_run) dry_run=1 && shift && continue ;;
    --jobset) manifest=jobset && shift && continue ;;
    --name | --image | --hosts | --gpus | --pvc) ;;
    *) mistake "unknown option $1; cropjax's arguments come after --" ;;
  esac
  (($# > 1)) || mistake "$1 wants a value"
  printf -v "${1#--}" %s "$2"
  shift 2
done
[[ ${1-} == -- ]] || mistake "cropjax's arguments are missing: ... -- --config configs/deeplab_769.py --workdir runs/x"
shift

# Names become parts of host names, at most 63 letters with what is added to them.
label='^[a-z]([-a-z0-9]*[a-z0-9])?$'
[[ $name =~ $label && ${#name} -le 50 ]] ||
  mistake "--name '$name' must be small letters, digits and hyphens, at most 50"
[[ $pvc =~ ^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$ ]] || mistake "--pvc '$pvc' must be the name of a volume claim"
[[ $image =~ ^[A-Za-z0-9][-A-Za-z0-9._:/@]*$ ]] || mistake "--image '$image' must be the name of an image"
[[ $hosts =~ ^[1-9][0-9]{0,4}$ ]] || mistake "--hosts '$hosts' must be a number"
[[ $gpus =~ ^[1-9][0-9]{0,2}$ ]] || mistake "--gpus '$gpus' must be a number"

# Words as a YAML (and JSON) list.
list() {
  local word words=()
  for word in "$@"; do
    [[ $word != *[[:cntrl:]]* ]] || mistake "an argument has a line break or another control character"
    word=${word//\\/\\\\}
    words+=("\"${word//\"/\\\"}\"")
  done
  local IFS=,
  echo "[${words[*]}]"
}
arguments=$(list "$@")

# A line that ends with an option's name gets its value, before the comment.
fill() {
  local line value
  while IFS= read -r line; do
    case $line in
      \#*) continue ;; # the page's head
      *"-0.cropjax:61440 # --name")
        value=${line#*: }
        value=${value% # --name}
        value="\"${value//cropjax/$name}\""
        ;;
      *" # --name") value="\"$name\"" ;;
      *" # --image") value="\"$image\"" ;;
      *" # --pvc") value="\"$pvc\"" ;;
      *'value: "'*" # --hosts") value="\"$hosts\"" ;;
      *" # --hosts") value=$hosts ;;
      *" # 3 x --hosts") value=$((3 * hosts)) ;;
      *" # --gpus") value=$gpus ;;
      *" # 4 x --gpus") value="\"$((4 * gpus))\"" ;;
      *" # 16 x --gpus") value="$((16 * gpus))Gi" ;;
      *" # after --") value=$arguments ;;
      *)
        printf '%s\n' "$line"
        continue
        ;;
    esac
    printf '%s: %s\n' "${line%%: *}" "$value"
  done <"$(dirname -- "${BASH_SOURCE[0]}")/$manifest.yaml"
}

if [[ -n $dry_run ]]; then
  fill
else
  fill | kubectl apply -f -
fi
