# shellcheck shell=bash disable=SC2154 # what run_tpu.sh sets
# How run_tpu.sh calls gcloud (retries, errors, the reminder that a machine costs money), and the machine's life.

say() { echo "run_tpu.sh: $*" >&2; }
fail() { # STATUS WHERE WHAT HINT
  echo "run_tpu.sh: error: $2: $3 -- $4" >&2
  exit "$1"
}

quoted() { # the words as a shell reads them, readable
  local word escaped="'\\''"
  for word; do
    if [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then printf ' %s' "$word"; else printf " '%s'" "${word//\'/$escaped}"; fi
  done
}

child=
in_background() { # so that a signal is heard at once, and not when the command ends
  "$@" &
  child=$!
  local status=0
  wait "$child" || status=$?
  child=
  return "$status"
}
# In the background, a function is a process of its own, which exec makes gcloud: a kill reaches it.
pause() { in_background sleep "$poll"; }
gcloud_once() { exec gcloud "$@" >"$scratch/stdout" 2>"$scratch/stderr"; }
said() { grep -qiE "$1" "$scratch/stderr"; }
no_capacity='no more capacity|RESOURCE_POOL_EXHAUSTED|not have enough resources|insufficient.*capacity'
no_capacity+='|currently unavailable in|stockout'
transient='unavailable|internal error|deadline.?exceeded|timed out|timeout|connection (reset|refused|closed|aborted)'
transient+='|broken pipe|unreachable|resolve|(^|[^0-9x])(429|50[0234])([^0-9]|$)|rate limit|temporar|return code \[255\]'
missing='not_found|was not found'
# A limit "per minute" is of calls, and passes; a quota of machines does not, and neither does an empty zone for long.
will_pass() { said 'per minute' || { ! said "quota|$no_capacity" && said "$transient"; }; }

# Calls gcloud, again after errors that pass; leaves what it said in $scratch/stdout and $scratch/stderr, and how often it
# was called in attempt.
gcloud_call() {
  if $dry_run; then echo "gcloud$(quoted "$@")"; return; fi
  local turn
  for ((attempt = 1; ; attempt++)); do
    if in_background gcloud_once "$@"; then return; fi
    if [ "$attempt" -ge "$attempts" ] || ! will_pass; then return 1; fi
    say "gcloud $1 $2 ... failed, trying again ($attempt of $((attempts - 1))): $(tail -n 1 "$scratch/stderr")"
    for ((turn = 0; turn < 2 ** (attempt - 1); turn++)); do pause; done
  done
}

fail_with_gcloud() { # WHAT: after a gcloud_call that failed
  cat "$scratch/stderr" >&2
  local hint="gcloud's message is above"
  if said 'quota'; then
    hint="the quota does not allow it: take another --zone, --accelerator or --spot, or ask for quota in IAM & Admin"
  elif said "$no_capacity"; then
    hint="the zone has none left: take another --zone, or --spot, or wait in the queue with --queued (TPU)"
  elif said 'permission|forbidden|login|credential'; then
    hint="see gcloud auth login, and the account's roles in the project"
  fi
  fail 1 "$machine" "$1" "$hint"
}

delete_command() { # the exact command, also as the words of $deletion
  deletion=(compute tpus tpu-vm delete "$name")
  if $gpu; then deletion=(compute instances delete "$name"); fi
  if $in_queue; then deletion=(compute tpus queued-resources delete "$name" --force); fi
  deletion+=("${where[@]}" --quiet)
}

# ours: whether this call may delete it: it made the machine, or its training runs there; not where another one does.
may_exist=false in_queue=false creating=false ours=false
finish() {
  local status=$?
  trap - EXIT
  trap : INT TERM HUP # a second Ctrl-C ends what it waits for, not the reminder
  if [ -n "$child" ]; then kill "$child" 2>/dev/null && wait "$child" 2>/dev/null || true; fi
  child=
  if $may_exist; then
    delete_command
    if $delete_on_exit && ! $ours; then
      say "$machine is not deleted: this call did not make it, and another training may run there, which goes on"
      delete_on_exit=false
    fi
    if $delete_on_exit; then say "deleting $machine; should this be interrupted: gcloud$(quoted "${deletion[@]}")"; fi
    if ! $delete_on_exit || ! (delete_machine); then
      say "$machine may still be running, and costs money as long as it exists. To delete it:"
      echo "  gcloud$(quoted "${deletion[@]}")" >&2
      if $delete_on_exit && [ "$status" -eq 0 ]; then status=1; fi
    fi
  fi
  [ -z "$made_scratch" ] || rm -rf "$made_scratch"
  exit "$status"
}


describe() { # gcloud's arguments: sets state and workers; NONE: there is no such thing
  state=NONE workers=1
  if gcloud_call compute "$@"; then
    if $dry_run; then state=$assumed; else read -r state workers <"$scratch/stdout" || true; fi
  elif ! said "$missing"; then fail_with_gcloud "its state cannot be read"
  fi
  [ "${workers:-0}" -ge 1 ] || workers=1
}

# Sets state to READY, NONE, or another word of gcloud; a TPU may stand in the queue, whatever this call's flags say.
read_state() {
  if $gpu; then
    describe instances describe "$name" "${where[@]}" '--format=value(status)'
    case $state in RUNNING) state=READY ;; TERMINATED) state=STOPPED; ! $spot || state=PREEMPTED ;; esac
  else
    describe tpus queued-resources describe "$name" "${where[@]}" '--format=value(state.state)'
    if $dry_run; then in_queue=$queued; elif [ "$state" = NONE ]; then in_queue=false; else in_queue=true; fi
    if [[ $state == NONE || $state == ACTIVE || $state == READY ]]; then
      describe tpus tpu-vm describe "$name" "${where[@]}" '--format=value(state,networkEndpoints.len())'
      if $in_queue && [ "$state" = NONE ] && ! $dry_run; then state=DELETED; fi
    fi
  fi
  if ! $dry_run && [ "$state" != NONE ]; then may_exist=true; fi
}

check_offer() { # FLAG WHAT COMMAND...: exit 2 where gcloud does not know it
  if gcloud_call "${@:3}"; then return; fi
  if will_pass; then fail_with_gcloud "gcloud cannot be asked for $2"; fi
  cat "$scratch/stderr" >&2
  fail 2 "$1" "$2 does not exist, or not for this account" "gcloud's message is above; nothing was created"
}

check_cloud() { # before anything is created
  check_offer --project "$project" projects describe "$project" '--format=value(projectId)'
  if $gpu; then
    local kind=${accelerator%%:*}
    check_offer --accelerator "$kind in $zone" compute accelerator-types describe "$kind" "${where[@]}"
    check_offer --machine-type "$machine_type in $zone" compute machine-types describe "$machine_type" "${where[@]}"
    check_offer --image-family "$image_family" compute images describe-from-family "$image_family" \
      --project=deeplearning-platform-release
  else
    local tpu=(compute tpus tpu-vm)
    check_offer --accelerator "$accelerator in $zone" "${tpu[@]}" accelerator-types describe "$accelerator" "${where[@]}"
    check_offer --runtime-version "$runtime in $zone" "${tpu[@]}" versions describe "$runtime" "${where[@]}"
  fi
}

check_storage() { # before a machine is paid for
  local bucket=${workdir#gs://}
  check_offer --workdir "the bucket of $workdir" storage ls "gs://${bucket%%/*}"
  if [[ $dataset == gs://* ]]; then check_offer --dataset "$dataset" storage ls "$dataset"; fi
}

create_machine() {
  local -a creation spot_flags=()
  if $gpu; then
    if $spot; then spot_flags=(--provisioning-model=SPOT --instance-termination-action=STOP); fi
    local count=1
    [[ $accelerator != *:* ]] || count=${accelerator##*:}
    creation=(compute instances create "$name" "${where[@]}" "--machine-type=$machine_type"
      "--accelerator=type=${accelerator%%:*},count=$count" --maintenance-policy=TERMINATE "--image-family=$image_family"
      --image-project=deeplearning-platform-release --boot-disk-size=200GB --metadata=install-nvidia-driver=True
      --scopes=cloud-platform)
  else
    if $spot; then spot_flags=(--spot); fi
    creation=(compute tpus tpu-vm create "$name" "${where[@]}" "--accelerator-type=$accelerator" "--version=$runtime")
    if $queued; then
      creation=(compute tpus queued-resources create "$name" "${where[@]}" "--node-id=$name"
        "--accelerator-type=$accelerator" "--runtime-version=$runtime" "--valid-until-duration=${wait_limit}s")
    fi
  fi
  say "creating $machine"
  if ! $dry_run; then may_exist=true creating=true ours=true in_queue=$queued; fi
  if ! gcloud_call "${creation[@]}" ${spot_flags[@]+"${spot_flags[@]}"} --quiet; then
    if said 'already.?exists'; then
      # An earlier attempt got through although its answer was lost; at the first one, somebody else was faster.
      [ "$attempt" -gt 1 ] || ours=false
    else
      cp "$scratch/stderr" "$scratch/reason"
      may_exist=false creating=false
      read_state
      cp "$scratch/reason" "$scratch/stderr"
      fail_with_gcloud "it was not created"
    fi
  fi
  creating=false
}

delete_machine() { # 0 when nothing is left of it
  local seen=false turn
  for turn in 1 2 3 4 5; do
    read_state
    if [ "$state" != NONE ]; then
      seen=true
      delete_command
      if gcloud_call "${deletion[@]}"; then
        if $dry_run; then return; fi
        continue
      fi
      said "$missing" || cat "$scratch/stderr" >&2
    # One that is still being created may show only now.
    elif $seen || ! $creating; then may_exist=false; return 0
    fi
    [ "$turn" -eq 5 ] || pause
  done
  return 1
}

ensure_machine() { # until it is READY
  check_cloud
  if $dry_run; then assumed=NONE; fi
  read_state
  local deadline=$((SECONDS + wait_limit)) before="" created=false
  while :; do
    case $state in
      READY) say "$machine is READY"; return ;;
      NONE)
        if $created; then
          may_exist=false
          fail 1 "$machine" "vanished while it was created" "see who else works in the project"
        fi
        create_machine
        created=true assumed=READY ;;
      PREEMPTED | FAILED | SUSPENDED | TERMINATED | UNKNOWN | DELETED)
        if $created && [ "$state" = FAILED ]; then
          fail 1 "$machine" "the queue refused it, or could not give it within $wait_limit s" \
            "gcloud compute tpus queued-resources describe $name ${where[*]} says why; take another --zone, or a longer --wait"
        fi
        say "$machine is $state: deleting it, to make it again"
        delete_machine || fail 1 "$machine" "is $state and could not be deleted" "delete it, then run the same command again"
        created=false ours=false
        continue ;;
      STOPPED | HIDDEN)
        fail 1 "$machine" "is $state, and its disk still costs money" "start it in the console, or ./run_tpu.sh delete" ;;
      "$before") ;;
      *) say "$machine is $state; waiting, $((deadline - SECONDS)) s more at most" ;;
    esac
    before=$state
    if [ "$SECONDS" -ge "$deadline" ]; then
      fail 1 "$machine" "is still $state after $wait_limit s" "run the same command again to go on waiting, or delete it"
    fi
    $dry_run || pause
    read_state
  done
}

require_ready() {
  read_state
  if [ "$state" = NONE ]; then fail 1 "$machine" "does not exist" "./run_tpu.sh create makes it"; fi
  if [ "$state" != READY ]; then fail 1 "$machine" "is $state" "./run_tpu.sh recover makes it again and goes on"; fi
}
