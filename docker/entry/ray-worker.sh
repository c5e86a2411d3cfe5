#!/usr/bin/env bash
# A machine that runs trials.
#
# RAY_HEAD_ADDRESS   the head, HOST:PORT                                 [ray-head:6379]
# RAY_TOKEN_FILE     file with the cluster's token                       [/run/secrets/ray_token]
# RAY_NODE_IP        address by which the others reach this machine      [Ray's guess]
# RAY_WORKER_CPUS    processors for trials                               [all]
# RAY_WORKER_GPUS    GPUs for trials                                     [all]
# RAY_OBJECT_STORE   bytes of Ray's object store                         [200000000]
# SSL_TUNE_CACHE     folder for decoded images on this machine's own disk [the cache of the shared home]
set -euo pipefail
# shellcheck source=common.sh
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/common.sh"

ray_login
note_role ray-worker
exec ray start --block --disable-usage-stats --address "${RAY_HEAD_ADDRESS:-ray-head:6379}" \
    ${RAY_NODE_IP:+--node-ip-address "$RAY_NODE_IP"} \
    ${RAY_WORKER_CPUS:+--num-cpus "$RAY_WORKER_CPUS"} \
    ${RAY_WORKER_GPUS:+--num-gpus "$RAY_WORKER_GPUS"} \
    --object-store-memory "${RAY_OBJECT_STORE:-200000000}" \
    "${RAY_PORTS[@]}" "$@"
