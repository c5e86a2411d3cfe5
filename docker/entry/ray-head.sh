#!/usr/bin/env bash
# The head of a Ray cluster, with job server and dashboard. Drivers of studies run here; trials run on the workers.
#
# RAY_TOKEN_FILE       file with the token that every caller must know  [/run/secrets/ray_token]
# RAY_NODE_IP          address by which the others reach this machine   [Ray's guess]
# RAY_HEAD_CPUS        processors that the head gives to trials         [0]
# RAY_DASHBOARD_HOST   address that dashboard and job server listen on  [0.0.0.0]
# RAY_OBJECT_STORE     bytes of Ray's object store; images do not go through it  [200000000]
set -euo pipefail
# shellcheck source=common.sh
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/common.sh"

ray_login
note_role ray-head
# A machine that does not answer three times is given up after about 40 s, and its trials go on elsewhere (Ray's default
# is 65 s). With a much shorter time, machines whose processors are busy would be given up as well.
export RAY_health_check_period_ms=3000 RAY_health_check_timeout_ms=10000 RAY_health_check_failure_threshold=3
exec ray start --head --block --disable-usage-stats \
    ${RAY_NODE_IP:+--node-ip-address "$RAY_NODE_IP"} \
    --port 6379 --dashboard-port 8265 --dashboard-host "${RAY_DASHBOARD_HOST:-0.0.0.0}" --include-dashboard true \
    --num-cpus "${RAY_HEAD_CPUS:-0}" --object-store-memory "${RAY_OBJECT_STORE:-200000000}" \
    "${RAY_PORTS[@]}" "$@"
