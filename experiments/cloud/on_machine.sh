# shellcheck shell=bash
# What run_tpu.sh runs on the rented machine: it sends these functions as text over ssh, so that nothing need be installed
# there first. gcloud repeats a command whose connection broke, so each may run twice. The last thing that each prints,
# where it succeeds, is a line that starts with "run_tpu: ".

# Prints: not installed, not started, running, finished, failed N, stopped (by SIGTERM), died (without a trace).
machine_state() {
  cd "$HOME/socialtag" 2>/dev/null && [ -e installed ] || { echo "not installed"; return; }
  # The trainer holds the lock for as long as it lives, so that neither a crash nor a reused process id can deceive.
  if ! flock --nonblock running.lock true; then echo "running"
  elif [ -e exit_status ]; then
    case $(cat exit_status) in 0) echo "finished" ;; stopped) echo "stopped" ;; *) echo "failed $(cat exit_status)" ;; esac
  elif [ -e pid ]; then echo "died"
  else echo "not started"
  fi
}

machine_install() { # REVISION EXTRAS
  set -euo pipefail
  local archive=$HOME/socialtag-$1.tar.gz
  mkdir -p "$HOME/socialtag"
  cd "$HOME/socialtag"
  # The first of two may go on although its connection broke; an installation takes some minutes.
  exec 8>install.lock
  flock --wait 1800 8 || { echo "another installation still runs here" >&2; return 1; }
  if [ "$(machine_state)" = running ]; then echo "a training runs here; an installation would change it" >&2; return 1; fi
  if [ "$(cat installed 2>/dev/null)" = "$1 $2" ]; then echo "run_tpu: installed already"; return; fi
  [ -e "$archive" ] || { echo "the source did not arrive: $archive" >&2; return 1; }
  rm -rf installed source.new
  mkdir source.new
  tar -xzf "$archive" -C source.new
  rm -rf source
  mv source.new source
  # The images' own Python is 3.10, too old; uv brings 3.12 where there is none. The variable is for Debian's pip.
  PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --user --quiet uv
  [ -x environment/bin/python ] || python3 -m uv venv --quiet --python 3.12 environment
  python3 -m uv pip install --quiet --python environment/bin/python --reinstall-package socialtag-jax "./source[$2]"
  echo "$1 $2" >installed
  rm -f "$HOME"/socialtag-*.tar.gz
  echo "run_tpu: installed"
}

machine_train() { # socialtag train's arguments
  local status=0 stopped=
  # A machine that shuts down sends SIGTERM to all, an administrator perhaps to the trainer alone: it saves and exits
  # with 0, but has not finished.
  trap 'stopped=yes' TERM
  cd "$HOME/socialtag/source"
  { printf '=== %s socialtag train' "$(date -u +%FT%TZ)"; printf ' %q' "$@"; echo; } >>../train.log
  ../environment/bin/socialtag train "$@" >>../train.log 2>&1 || status=$?
  case $(tail -n 1 ../train.log) in "socialtag: stopped by "*) stopped=yes ;; esac
  [ -z "$stopped" ] || status=stopped
  echo "$status" >../exit_status.new
  mv ../exit_status.new ../exit_status
}

machine_launch() { # socialtag train's arguments
  local words
  words=$(printf ' %q' "$@")
  cd "$HOME/socialtag" 2>/dev/null && [ -e installed ] || { echo "nothing is installed here" >&2; return 1; }
  exec 9>running.lock
  # The wait is for a machine_state that looks at the lock just now.
  if ! flock --wait 1 9; then
    if [ "$(cat launched)" = "$words" ]; then echo "run_tpu: running already"; return; fi
    echo "another training runs here: socialtag train$(cat launched)" >&2
    return 1
  fi
  rm -f exit_status
  echo "$words" >launched
  nohup setsid bash -c "$(declare -f machine_train); machine_train \"\$@\"" train "$@" </dev/null >/dev/null 2>&1 &
  echo "$!" >pid
  echo "run_tpu: started"
}

machine_report() { # OFFSET: the log's size and the state, then the log from OFFSET on, 100 kB at most
  local state size=0 from=$1
  state=$(machine_state)
  [ ! -e "$HOME/socialtag/train.log" ] || size=$(stat -c %s "$HOME/socialtag/train.log")
  [ "$from" -le "$size" ] || from=0
  [ $((size - from)) -le 100000 ] || from=$((size - 100000))
  echo "run_tpu: $size $state"
  [ "$size" -eq 0 ] || tail -c "+$((from + 1))" "$HOME/socialtag/train.log" | head -c $((size - from))
}

machine_logs() {
  cd "$HOME/socialtag" 2>/dev/null && [ -e train.log ] || { echo "no training was launched here" >&2; return 1; }
  tail -n 200 --follow=name --retry --sleep-interval=0.2 --pid="$(cat pid)" train.log
  echo "run_tpu: $(machine_state)"
}
