#!/usr/bin/env bash
# Check whether the service of this container answers.
#
# MLFLOW_PORT   as for mlflow.sh
set -euo pipefail
# shellcheck source=common.sh
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/common.sh"

address="${RAY_NODE_IP:-$(hostname -i | cut -d' ' -f1)}"
case "$(cat "${SSL_TUNE_ROLE_FILE:-/tmp/ssl-tune-role}" 2>/dev/null || echo driver)" in
ray-head)
    ray_login
    exec ray health-check --address "$address:6379"
    ;;
ray-worker)
    exec bash -c "</dev/tcp/$address/6380"
    ;;
mlflow)
    url="http://127.0.0.1:${MLFLOW_PORT:-5000}/health"
    exec python -c "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)" "$url"
    ;;
esac
