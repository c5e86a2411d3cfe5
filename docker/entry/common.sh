# shellcheck shell=bash disable=SC2034
# Shared by the entry points; sourced, not run.
#
# A secret is a file with one line. It is read when a service starts. The service gets it in a file of its own or in its
# environment, never on a command line, which every user of the machine can read.

# secret FILE WHAT: print the secret.
secret() {
    if [ ! -s "$1" ]; then
        echo "ssl-tune: $2 is missing: the file $1 does not exist or is empty. docker/make-secrets.sh makes it." >&2
        return 1
    fi
    tr -d '\r\n' <"$1"
}

# private_folder NAME: make a folder that only this user can read, in memory where possible, and print its path.
private_folder() {
    local base=/dev/shm
    [ -d "$base" ] && [ -w "$base" ] || base="${TMPDIR:-/tmp}"
    mktemp -d "$base/ssl-tune-$1.XXXXXX"
}

# note_role ROLE: tell health.sh which service to check.
note_role() {
    echo "$1" >"${SSL_TUNE_ROLE_FILE:-/tmp/ssl-tune-role}"
}

# ray_login: from here on Ray uses the token in RAY_TOKEN_FILE, which it asks of every caller.
ray_login() {
    RAY_TOKEN_FILE="${RAY_TOKEN_FILE:-/run/secrets/ray_token}"
    secret "$RAY_TOKEN_FILE" "Ray's token" >/dev/null
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$RAY_TOKEN_FILE"
    export RAY_USAGE_STATS_ENABLED=0
    # The dashboard is a dozen processes. A busy machine takes longer to start them than Ray waits by default.
    export RAY_DASHBOARD_STARTUP_TIMEOUT_S="${RAY_DASHBOARD_STARTUP_TIMEOUT_S:-300}"
    export RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT="${RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT:-120}"
}

# Ports of a Ray node, fixed so that a firewall can allow them. The head also has 6379 and 8265.
RAY_PORTS=(
    --node-manager-port 6380
    --object-manager-port 6381
    --runtime-env-agent-port 6382
    --dashboard-agent-grpc-port 6383
    --dashboard-agent-listen-port 6384
    --metrics-export-port 6385
    --min-worker-port 10002
    --max-worker-port 10999
)
