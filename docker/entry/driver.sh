#!/usr/bin/env bash
# `ssl-tune` with the cluster's logins: driver.sh ARGUMENTS OF ssl-tune.
#
# RAY_TOKEN_FILE                  Ray's token, if there is one
# MLFLOW_TRACKING_PASSWORD_FILE   MLflow's password, read by ssl-tune itself
set -euo pipefail
# shellcheck source=common.sh
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/common.sh"

note_role driver
if [ -s "${RAY_TOKEN_FILE:-/run/secrets/ray_token}" ]; then
    ray_login
fi
exec ssl-tune "$@"
