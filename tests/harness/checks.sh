# Counts checks and tells each: sourced by scripts that end with "N passed, N failed". `work` is a folder of theirs.
# shellcheck shell=bash disable=SC2154

passed=0
failed=0

# check WHAT COMMAND...: WHAT is true when the command succeeds; its output is shown when it does not.
check() {
    local what=$1
    shift
    if "$@" > "$work/output" 2>&1; then
        passed=$((passed + 1))
        printf 'ok    %s\n' "$what"
    else
        failed=$((failed + 1))
        printf 'FAIL  %s\n' "$what"
        sed 's/^/      /' "$work/output"
    fi
}
