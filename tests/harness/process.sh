# Background processes that a later run can find, and can only find if they are the very ones that it started.
# Each has STATE/NAME.pid ("pid start-time boot", so that a reused pid is nobody of ours) and STATE/NAME.log.
# STATE is set by the script that sources this.
# shellcheck shell=bash

process_identity() { # PID: when it started, and in which boot
    local stat
    stat=$(cat "/proc/$1/stat" 2> /dev/null) || return 1
    # The program's name, in parentheses, may hold blanks: count the fields after it. A zombie is no process.
    stat=${stat##*) }
    [ "${stat%% *}" != Z ] || return 1
    # shellcheck disable=SC2086
    set -- $stat
    printf '%s %s' "${20}" "$(cat /proc/sys/kernel/random/boot_id)"
}

process_pid() { # NAME: its pid, if it lives
    local pid identity
    read -r pid identity 2> /dev/null < "$STATE/$1.pid" || return 1
    [ "$(process_identity "$pid")" = "$identity" ] || return 1
    printf '%s' "$pid"
}

process_start() { # NAME COMMAND...
    local name=$1
    shift
    # It keeps none of the files that whoever called has open: a lock that this script or its caller holds would else be
    # held for as long as the process lives.
    (
        for descriptor in "/proc/$BASHPID/fd/"*; do
            descriptor=${descriptor##*/}
            [ "$descriptor" -le 2 ] || exec {descriptor}>&-
        done
        exec setsid "$@"
    ) >> "$STATE/$name.log" 2>&1 < /dev/null &
    printf '%s %s\n' "$!" "$(process_identity $!)" > "$STATE/$name.pid"
    disown "$!"
}

process_stop() { # NAME [SIGNAL]: asks, insists after 10 s, and returns when it is gone
    local pid
    if pid=$(process_pid "$1"); then
        kill "-${2:-TERM}" "$pid"
        kill -CONT "$pid" 2> /dev/null || true
        if ! poll 10 process_gone "$1"; then
            kill -KILL "$pid"
            poll 10 process_gone "$1" || fail "$1 (pid $pid) survives SIGKILL; look for a stuck disk or mount"
        fi
    fi
    rm -f "$STATE/$1.pid"
}

process_gone() { ! process_pid "$1" > /dev/null; }

poll() { # SECONDS CONDITION...: until the condition holds; false when it did not in time
    local until=$((SECONDS + $1))
    shift
    until "$@" > /dev/null 2>&1; do
        [ "$SECONDS" -lt "$until" ] || return 1
        sleep 0.1
    done
}

# wait_for NAME SECONDS CONDITION...: as poll, but the process NAME must live, and what went wrong is shown.
wait_for() {
    local name=$1 limit=$2 until=$((SECONDS + $2))
    shift 2
    until "$@" > /dev/null 2>&1; do
        process_gone "$name" && fail "$name stopped right after its start; its log says why, and 'down' then 'up' tries again" "$STATE/$name.log"
        [ "$SECONDS" -lt "$until" ] || fail "$name was not ready after $limit s (asked: $*)" "$STATE/$name.log"
        sleep 0.1
    done
}

# What runs was started by these very scripts with these very versions; otherwise 'up' starts it anew.
recipe() { cat "$HARNESS/${0##*/}" "$HARNESS/paths.sh" | cksum; }
recipe_is_current() { [ "$(cat "$STATE/recipe" 2> /dev/null)" = "$(recipe)" ]; }

# One run at a time: two that bring the same thing up or down would undo each other.
lock() {
    mkdir -p "$CACHE/state"
    exec 9> "$STATE.lock"
    flock -n 9 || { say "waiting for another run of this script"; flock -w 300 9; } ||
        fail "another run holds $STATE.lock for 5 minutes; find it with 'fuser $STATE.lock'"
}
