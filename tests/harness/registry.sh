# An OCI registry on 127.0.0.1 for the time of a script: sourced after paths.sh, with REGISTRY_BIN made by `tools packaging`.
# shellcheck shell=bash

# start_registry FOLDER: keeps everything in FOLDER, sets REGISTRY_ADDRESS and REGISTRY_PID. Its port is a free one.
start_registry() {
    local folder=$1 tries
    mkdir -p "$folder/storage"
    cat > "$folder/config.yml" << YAML
version: 0.1
log: {level: info}
storage:
  filesystem: {rootdirectory: $folder/storage}
http: {addr: "127.0.0.1:0"}
YAML
    OTEL_TRACES_EXPORTER=none "$REGISTRY_BIN/registry" serve "$folder/config.yml" > "$folder/log" 2>&1 7>&- 8>&- 9>&- < /dev/null &
    REGISTRY_PID=$!
    for ((tries = 0; tries < 100; tries++)); do
        REGISTRY_ADDRESS=$(sed -n 's/.*listening on \(127\.0\.0\.1:[0-9]*\).*/\1/p' "$folder/log" | head -n 1)
        [ -z "$REGISTRY_ADDRESS" ] || return 0
        kill -0 "$REGISTRY_PID" 2> /dev/null || break
        sleep 0.1
    done
    fail "the registry does not start" "$folder/log"
}

stop_registry() { [ -z "${REGISTRY_PID:-}" ] || kill "$REGISTRY_PID" 2> /dev/null || true; }
