#!/usr/bin/env bash
# The part of a round that runs as the runner's own user:
#   runner.sh run CONFIG   a fresh copy of GitHub's runner takes one job, and ends
#   runner.sh wipe         nothing of that job stays, but what it put into the store
# register.py comes before, and gpu-runner.service puts the three together.
set -euo pipefail

fail() {
    echo "error: $1" >&2
    exit 1
}

: "${RUNNER_HOME:?where GitHub\'s runner lies; see gpu-runner.env}"
: "${RUNNER_WORK:?the folder for the work of a job; see gpu-runner.env}"

wipe() {
    [ -d "$RUNNER_WORK" ] || fail "$RUNNER_WORK is no folder. Create it, for the runner's user."
    chmod -R u+rwX "$RUNNER_WORK" # of folders that a job made read-only, too
    find "$RUNNER_WORK" -mindepth 1 -delete
}

run() {
    [ -x "$RUNNER_HOME/run.sh" ] || fail "$RUNNER_HOME/run.sh is not there. Unpack GitHub's runner into $RUNNER_HOME."
    wipe
    # By the environment, not as an argument: those of a process can be read by every user. The runner takes it out of its
    # environment before a job starts.
    ACTIONS_RUNNER_INPUT_JITCONFIG=$(<"$1")
    rm -f "$1"
    mkdir "$RUNNER_WORK/home" "$RUNNER_WORK/runner"
    cp -R --preserve=mode,timestamps,links --reflink=auto "$RUNNER_HOME/." "$RUNNER_WORK/runner"
    export HOME="$RUNNER_WORK/home" ACTIONS_RUNNER_INPUT_JITCONFIG
    cd "$RUNNER_WORK/runner"
    exec ./run.sh
}

case "${1-}" in
    run) run "${2:?the file that register.py wrote}" ;;
    wipe) wipe ;;
    *) fail "runner.sh run CONFIG, or runner.sh wipe." ;;
esac
