#!/usr/bin/env bash
# Rents a TPU or GPU machine on Google Cloud, trains on it, and goes on after preemptions; --help explains.
#
# experiments/cloud/gcloud.sh has the machine's life and gcloud's errors, experiments/cloud/on_machine.sh what runs on the machine.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=experiments/cloud/gcloud.sh
source "$root/experiments/cloud/gcloud.sh"
# shellcheck source=experiments/cloud/on_machine.sh
source "$root/experiments/cloud/on_machine.sh"

usage() {
  cat <<'HELP'
Train on a rented TPU (one host or a pod) or GPU of Google Cloud.

usage: ./run_tpu.sh COMMAND [flags] [-- further arguments of socialtag train]

  create    make the machine, if there is none; one that was preempted or failed is deleted and made again
  install   copy the last commit (git archive of HEAD) to every worker and install it in an environment of its own
  launch    start the training on every worker; it does not need the connection afterwards
  logs      follow a worker's log until the training ends
  status    the machine's state, and each worker's training
  recover   create, install and launch, whichever of them is needed; the training goes on where --workdir was
  delete    delete the machine
  run       recover, show the log, recover again after each preemption, exit with the training's status

Flags, and the environment variables that they override:
  --project ID             SOCIALTAG_PROJECT
  --zone ZONE              SOCIALTAG_ZONE            as us-central2-b
  --name NAME              SOCIALTAG_MACHINE         default: socialtag
  --accelerator TYPE       SOCIALTAG_ACCELERATOR     a TPU as v4-8 or v5litepod-16; with --gpu as nvidia-l4 or nvidia-l4:2
  --runtime-version NAME   SOCIALTAG_RUNTIME         the TPU's software; default: by accelerator, as Google lists it for JAX
  --spot                   SOCIALTAG_SPOT=1          cheaper, and may be taken away at any time
  --queued                 SOCIALTAG_QUEUED=1        wait in the TPU queue (a queued resource)
  --gpu                    SOCIALTAG_GPU=1           a Compute Engine machine with GPUs
  --machine-type TYPE      SOCIALTAG_MACHINE_TYPE    of --gpu; default: g2-standard-8 for nvidia-l4, n1-standard-8 for
                                                     nvidia-tesla-t4
  --image-family NAME      SOCIALTAG_IMAGE_FAMILY    of --gpu, from deeplearning-platform-release
  --extras NAMES           SOCIALTAG_EXTRAS          default: tpu or cuda, weights, and gcs where pyproject.toml has it
  --experiment FILE        SOCIALTAG_EXPERIMENT      as experiments/corel5k.py, committed
  --dataset PATH           SOCIALTAG_DATASET         gs://..., or a path on the machine
  --workdir gs://...       SOCIALTAG_WORKDIR         the run folder; the machine's own disk goes with the machine
  --wait SECONDS           SOCIALTAG_WAIT            for the machine; default: 1800, with --queued 21600
  --recoveries N           SOCIALTAG_RECOVERIES      how often run makes a machine again; default: 10
  --worker N                                         of logs; default: 0
  --delete-on-exit         SOCIALTAG_DELETE_ON_EXIT=1  run deletes the machine however it ends, unless it
                                                     is another training's
  --dry-run                                          print the commands, run none of them
SOCIALTAG_POLL is the number of seconds between two looks at the machine (default 20).

Examples:
  export SOCIALTAG_PROJECT=my-project SOCIALTAG_ZONE=us-central2-b SOCIALTAG_ACCELERATOR=v4-8
  ./run_tpu.sh run --experiment experiments/corel5k.py --dataset gs://my-bucket/data/corel5k \
      --workdir gs://my-bucket/runs/corel5k --delete-on-exit
  ./run_tpu.sh run --accelerator v4-32 --queued --spot ... -- --optimizer.learning-rate 3e-4
  ./run_tpu.sh run --gpu --accelerator nvidia-l4 --zone us-central1-a --spot ...
  ./run_tpu.sh status; ./run_tpu.sh logs; ./run_tpu.sh delete

Exit status: 2 for a wrong call (nothing was created), 1 for a failure, that of the training for run.
HELP
}

# ---- The workers

on_workers() { # WORKERS FUNCTIONS ARGUMENTS...: runs the last of FUNCTIONS there; $scratch/N.log is what worker N said
  local script status=0
  # shellcheck disable=SC2086 # several names
  script="$(declare -f $2)"$'\n'"${2##* }$(quoted "${@:3}") 2>&1"
  if $gpu; then
    gcloud_call compute ssh "$name" "${where[@]}" "--command=$script" --quiet || status=1
    $dry_run || mv "$scratch/stdout" "$scratch/0.log"
  else
    $dry_run || rm -f "$scratch"/[0-9]*.log
    gcloud_call compute tpus tpu-vm ssh "$name" "${where[@]}" "--worker=$1" "--output-directory=$scratch" \
      "--command=$script" --quiet || status=1
  fi
  return "$status"
}

require_all() { # WHAT: fails with the names of the workers that did not come to the end
  if $dry_run; then return; fi
  local worker failed=""
  for ((worker = 0; worker < workers; worker++)); do
    if grep -q '^run_tpu: ' "$scratch/$worker.log" 2>/dev/null; then continue; fi
    failed+=" $worker"
    say "worker $worker: $(tail -n 15 "$scratch/$worker.log" 2>/dev/null || echo 'not reached')"
  done
  if [ -z "$failed" ]; then return; fi
  tail -n 15 "$scratch/stderr" >&2
  fail 1 "$machine" "$1 failed on worker$failed of $workers" "what it said is above; the same command again goes on"
}

install() {
  local archive=$scratch/socialtag-$revision.tar.gz
  if ! git -C "$root" diff --quiet HEAD; then say "changes that are not committed are not sent"; fi
  if $dry_run; then echo "git$(quoted -C "$root" archive --format=tar.gz "--output=$archive" "$revision")"
  else git -C "$root" archive --format=tar.gz "--output=$archive" "$revision"; fi
  say "installing revision ${revision:0:12} with [$extras] on $workers worker(s); this takes some minutes"
  # Where a worker does not get it, its own installation says so, and which it was.
  if $gpu; then gcloud_call compute scp "$archive" "$name:" "${where[@]}" --quiet || true
  else gcloud_call compute tpus tpu-vm scp "$archive" "$name:" "${where[@]}" --worker=all --quiet || true; fi
  on_workers all "machine_state machine_install" "$revision" "$extras" || true
  require_all "the installation"
}

launch() {
  local -a together=()
  if [ "$workers" -gt 1 ]; then together=(--distributed); fi
  on_workers all "machine_train machine_launch" "${training[@]}" ${together[@]+"${together[@]}"} || true
  if ! $dry_run; then
    if grep -qs '^another training runs here' "$scratch"/[0-9]*.log; then ours=false
    elif grep -qsE '^run_tpu: (started|running already)' "$scratch"/[0-9]*.log; then ours=true
    fi
  fi
  require_all "the launch"
  local worker
  for ((worker = 0; worker < workers; worker++)); do
    $dry_run || say "worker $worker: $(sed -n 's/^run_tpu: //p' "$scratch/$worker.log")"
  done
}

# Asks every worker: sets states (an array), and size and log of worker 0's log from an offset on.
report() { # OFFSET
  local worker line
  states=()
  on_workers all "machine_state machine_report" "$1" || true
  if $dry_run; then states=("not started"); return; fi
  for ((worker = 0; worker < workers; worker++)); do
    line=$(grep -m 1 '^run_tpu: ' "$scratch/$worker.log" 2>/dev/null || true)
    if [ -z "$line" ]; then states+=(unreachable); continue; fi
    read -r _ line <<<"$line"
    states+=("${line#* }")
    if [ "$worker" -eq 0 ]; then size=${line%% *}; fi
  done
}
has_state() { printf '%s\n' "${states[@]}" | grep -q "^$1"; }

recover() {
  ensure_machine
  local turn
  for ((turn = 0; turn < 10; turn++)); do
    attempts=1 report 0
    if ! has_state running && ! has_state unreachable; then install; launch; return; fi
    # The launch says that it runs already, or that another one does.
    if [[ "$(printf '%s\n' "${states[@]}" | sort -u)" == running ]]; then launch; return; fi
    pause # workers whose peer is gone end within a minute; a machine that has just started does not answer at once
  done
  fail 1 "$machine" "its workers do not agree: ${states[*]}" "./run_tpu.sh delete, then the same command again"
}

# Shows the log until the training ends: 0 finished, 1 failed (training_status), 2 interrupted.
follow() {
  local offset=0 size=0 silent=0 ended=0 worker
  while :; do
    pause
    attempts=8 read_state # patient: this computer may be without a network for a while, and the training goes on
    case $state in
      READY) ;;
      NONE | DELETED) fail 1 "$machine" "was deleted by somebody else" "the same command again makes it anew and goes on" ;;
      *) say "$machine is $state"; return 2 ;;
    esac
    attempts=1 report "$offset"
    if ! has_state unreachable; then silent=0
    elif ((++silent >= 10)); then fail 1 "$machine" "is READY, but workers do not answer: ${states[*]}" "./run_tpu.sh status"
    fi
    if [ "${states[0]}" != unreachable ]; then
      awk 'shown; /^run_tpu: / { shown = 1 }' "$scratch/0.log"
      offset=$size
    fi
    if has_state unreachable || { has_state running && ! has_state failed; }; then continue; fi
    if [[ "$(printf '%s\n' "${states[@]}" | sort -u)" == finished ]]; then return 0; fi
    # A preemption looks at first like workers that fail: look twice more before believing it.
    if ((++ended < 3)); then continue; fi
    say "the training ended: ${states[*]}"
    if has_state stopped || has_state died || ! has_state failed; then return 2; fi
    training_status=$(printf '%s\n' "${states[@]}" | sed -n 's/^failed //p' | head -n 1)
    attempts=1 report 0
    for ((worker = 1; worker < workers; worker++)); do
      if [[ ${states[worker]} == failed* ]]; then say "worker $worker: $(tail -n 15 "$scratch/$worker.log")"; fi
    done
    return 1
  done
}

# ---- The commands

command_create() { ensure_machine; }
command_install() { require_ready; install; }
command_launch() { check_storage; require_ready; launch; }
command_recover() { check_storage; recover; }

command_status() {
  read_state
  if [ "$state" = NONE ]; then echo "$machine: NONE, it does not exist"; return; fi
  $dry_run || echo "$machine: $state"
  if [ "$state" != READY ]; then return; fi
  report 0
  if $dry_run; then return; fi
  local worker
  for ((worker = 0; worker < workers; worker++)); do
    echo "worker $worker: ${states[worker]/failed /failed with exit status }"
  done
  if has_state unreachable; then tail -n 15 "$scratch/stderr" >&2; return 1; fi
}

command_logs() {
  require_ready
  local script
  local -a connection=(compute tpus tpu-vm ssh "$name" "${where[@]}" "--worker=$worker")
  if $gpu; then connection=(compute ssh "$name" "${where[@]}"); fi
  script="$(declare -f machine_state machine_logs)"$'\n'machine_logs
  # Not in the background: Ctrl-C is for gcloud and its ssh as well.
  if $dry_run; then gcloud_call "${connection[@]}" "--command=$script" --quiet; return; fi
  gcloud "${connection[@]}" "--command=$script" --quiet ||
    fail 1 "$machine" "the connection to worker $worker ended" "a training there goes on; the same command again shows it"
}

command_delete() {
  read_state
  if [ "$state" = NONE ]; then say "$machine does not exist"; return; fi
  delete_machine || fail 1 "$machine" "is $state and could not be deleted" "the same command again, or the console"
  $dry_run || say "$machine is deleted"
}

command_run() {
  local recoveries status
  check_storage
  for ((recoveries = 0; recoveries <= max_recoveries; recoveries++)); do
    if [ "$recoveries" -gt 0 ]; then say "recovering, $recoveries of $max_recoveries at most"; fi
    recover
    if $dry_run; then read_state; report 0; return; fi
    status=0
    follow || status=$?
    case $status in
      0) say "the training is finished: $workdir"; return ;;
      1) fail "$training_status" "$machine" "the training failed with exit status $training_status" "its log is above" ;;
    esac
  done
  fail 1 "$machine" "was interrupted more than $max_recoveries times" "the same command again goes on from $workdir"
}

# ---- The call

wrong_call() { fail 2 "$1" "$2" "$3"; }
switch() { # NAME VALUE
  case $2 in 1 | true) echo true ;; "" | 0 | false) echo false ;; *) wrong_call "$1" "is $2" "0 or 1 is expected" ;; esac
}
matches() { # FLAG VALUE PATTERN HINT
  [ -n "$2" ] || wrong_call "$1" "is missing" "$4"
  [[ $2 =~ ^($3)$ ]] || wrong_call "$1" "$2 is not one" "$4"
}

project=${SOCIALTAG_PROJECT-} zone=${SOCIALTAG_ZONE-} name=${SOCIALTAG_MACHINE-socialtag}
accelerator=${SOCIALTAG_ACCELERATOR-} runtime=${SOCIALTAG_RUNTIME-} machine_type=${SOCIALTAG_MACHINE_TYPE-}
image_family=${SOCIALTAG_IMAGE_FAMILY-common-cu128-ubuntu-2204-nvidia-570} extras=${SOCIALTAG_EXTRAS-}
experiment=${SOCIALTAG_EXPERIMENT-} dataset=${SOCIALTAG_DATASET-} workdir=${SOCIALTAG_WORKDIR-}
wait_limit=${SOCIALTAG_WAIT-} max_recoveries=${SOCIALTAG_RECOVERIES-10} poll=${SOCIALTAG_POLL-20} worker=0
dry_run=false made_scratch="" assumed=READY attempts=5 arguments=() states=() training_status=""
spot=$(switch SOCIALTAG_SPOT "${SOCIALTAG_SPOT-}")
queued=$(switch SOCIALTAG_QUEUED "${SOCIALTAG_QUEUED-}")
gpu=$(switch SOCIALTAG_GPU "${SOCIALTAG_GPU-}")
delete_on_exit=$(switch SOCIALTAG_DELETE_ON_EXIT "${SOCIALTAG_DELETE_ON_EXIT-}")

read_call() {
  case ${1-} in
    -h | --help) usage; exit 0 ;;
    create | install | launch | logs | status | recover | delete | run) command=$1 ;;
    *) wrong_call "${1-COMMAND}" "is not a command" "./run_tpu.sh --help lists them" ;;
  esac
  shift
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) usage; exit 0 ;;
      --) shift; arguments=("$@"); return ;;
      --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}"; continue ;;
      --spot) spot=true; shift; continue ;;
      --queued) queued=true; shift; continue ;;
      --gpu) gpu=true; shift; continue ;;
      --delete-on-exit)
        if [ "$command" != run ]; then wrong_call --delete-on-exit "is for run" "./run_tpu.sh delete deletes"; fi
        delete_on_exit=true; shift; continue ;;
      --dry-run) dry_run=true; shift; continue ;;
    esac
    if [ $# -lt 2 ] || [[ $2 == --* ]]; then wrong_call "$1" "has no value, or is not a flag" "see ./run_tpu.sh --help"; fi
    case $1 in
      --project) project=$2 ;; --zone) zone=$2 ;; --name) name=$2 ;; --accelerator) accelerator=$2 ;;
      --runtime-version) runtime=$2 ;; --machine-type) machine_type=$2 ;; --image-family) image_family=$2 ;;
      --extras) extras=$2 ;; --experiment) experiment=$2 ;; --dataset) dataset=$2 ;; --workdir) workdir=$2 ;;
      --wait) wait_limit=$2 ;; --recoveries) max_recoveries=$2 ;; --worker) worker=$2 ;;
      *) wrong_call "$1" "is not a flag" "./run_tpu.sh --help lists them; socialtag train's own flags go behind --" ;;
    esac
    shift 2
  done
}

check_machine_flags() {
  if $gpu; then
    matches --accelerator "$accelerator" 'nvidia-[a-z0-9-]+(:[1-9][0-9]?)?' "with --gpu as nvidia-l4, or nvidia-l4:2 for two"
    case $machine_type:$accelerator in
      :nvidia-l4 | :nvidia-l4:1) machine_type=g2-standard-8 ;;
      :nvidia-tesla-t4*) machine_type=n1-standard-8 ;;
    esac
    matches --machine-type "$machine_type" '[a-z][a-z0-9-]+' "the kind of machine that carries $accelerator, as a2-highgpu-1g"
    matches --image-family "$image_family" '[a-z][a-z0-9-]+' "an image family of deeplearning-platform-release"
    return
  fi
  matches --accelerator "$accelerator" 'v[0-9]+[a-z]*-[0-9]+' "a TPU as v4-8 or v5litepod-16; a GPU needs --gpu"
  if [ -z "$runtime" ]; then
    case $accelerator in
      v6e-*) runtime="v2-alpha-tpuv6e" ;;
      v5p-*) runtime="v2-alpha-tpuv5" ;;
      v5litepod-*) runtime="v2-alpha-tpuv5-lite" ;;
      *) runtime="tpu-ubuntu2204-base" ;;
    esac
  fi
  matches --runtime-version "$runtime" '[A-Za-z0-9][A-Za-z0-9._-]*' "as tpu-ubuntu2204-base"
}

check_training_flags() {
  local committed="a committed file, as experiments/corel5k.py" argument
  matches --experiment "$experiment" '.+' "$committed"
  git -C "$root" cat-file -e "HEAD:$experiment" 2>/dev/null ||
    wrong_call --experiment "$experiment is not in HEAD" "$committed"
  matches --dataset "$dataset" '(gs:/)?/.+' "gs://BUCKET/..., or a full path on the machine"
  matches --workdir "$workdir" 'gs://[a-z0-9][a-z0-9._-]+/.+' "gs://BUCKET/...; the machine's own disk goes with the machine"
  for argument in ${arguments[@]+"${arguments[@]}"}; do
    case $argument in
      --workdir* | --dataset*) wrong_call -- "has $argument" "give it before the --, so that it can be checked" ;;
    esac
  done
  training=("$experiment" --dataset "$dataset" --workdir "$workdir" ${arguments[@]+"${arguments[@]}"})
}

check_extras() { # pip and uv only warn of an extra that does not exist
  local project_file extra
  revision=$(git -C "$root" rev-parse HEAD)
  project_file=$(git -C "$root" show HEAD:pyproject.toml)
  if [ -z "$extras" ]; then
    extras=tpu,weights
    if $gpu; then extras=cuda,weights; fi
    if grep -q '^gcs = ' <<<"$project_file"; then extras+=,gcs; fi
  fi
  for extra in ${extras//,/ }; do
    grep -q "^$extra = \\[" <<<"$project_file" || wrong_call --extras "$extra is not an extra" "see pyproject.toml"
  done
}

check_call() {
  matches --project "$project" '([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]' \
    "the project's id, as my-project; gcloud projects list"
  matches --zone "$zone" '[a-z]+-[a-z]+[0-9]+-[a-z]' "a zone, as us-central2-b; a region, as us-central2, is not enough"
  matches --name "$name" '[a-z]([a-z0-9-]{0,61}[a-z0-9])?' "lower-case letters, digits and hyphens, a letter first"
  matches SOCIALTAG_POLL "$poll" '[0-9]+([.][0-9]+)?' "seconds"
  matches --recoveries "$max_recoveries" '[0-9]+' "a number"
  matches --worker "$worker" '[0-9]+' "a worker's number, from 0"
  if [ -z "$wait_limit" ]; then wait_limit=1800; if $queued; then wait_limit=21600; fi; fi
  matches --wait "$wait_limit" '[0-9]+' "seconds"
  if $gpu && $queued; then wrong_call --queued "is for TPUs" "leave it out with --gpu"; fi
  if [ "$command" != run ]; then delete_on_exit=false; fi
  case $command in create | recover | run) check_machine_flags ;; esac
  case $command in launch | recover | run) check_training_flags ;; *) [ ${#arguments[@]} -eq 0 ] ||
    wrong_call -- "is for launch, recover and run" "leave it out" ;; esac
  case $command in install | recover | run) check_extras ;; esac
}

read_call "$@"
check_call
where=("--project=$project" "--zone=$zone")
machine="TPU $name in $zone"
if $gpu; then machine="GPU machine $name in $zone"; fi
scratch=${TMPDIR:-/tmp}
if ! $dry_run; then
  command -v gcloud >/dev/null || fail 1 gcloud "is not installed" "https://cloud.google.com/sdk/docs/install"
  made_scratch=$(mktemp -d)
  scratch=$made_scratch
fi
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
"command_$command"
