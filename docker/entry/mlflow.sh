#!/usr/bin/env bash
# The MLflow server: runs are kept in PostgreSQL, artifacts go through the server, every request needs a login.
#
# MLFLOW_ADMIN_PASSWORD_FILE   the first login's password        [/run/secrets/mlflow_password]
# MLFLOW_ADMIN                 the first login's name            [ssl-tune]
# MLFLOW_SECRET_KEY_FILE       key that signs its forms          [/run/secrets/mlflow_secret_key]
# MLFLOW_ARTIFACTS             folder (or s3://...) of artifacts  [/artifacts]
# MLFLOW_PORT                  port to listen on                 [5000]
# MLFLOW_LISTEN                address to listen on              [0.0.0.0]
# MLFLOW_ALLOWED_HOSTS         host names that it answers to, besides private addresses and localhost
# MLFLOW_WORKERS               processes                         [2]
# POSTGRES_HOST, POSTGRES_PORT the database                      [postgres, 5432]
# POSTGRES_PASSWORD_FILE       its password                      [/run/secrets/postgres_password]
set -euo pipefail
# shellcheck source=common.sh
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/common.sh"

admin_password="$(secret "${MLFLOW_ADMIN_PASSWORD_FILE:-/run/secrets/mlflow_password}" "MLflow's password")"
secret_key="$(secret "${MLFLOW_SECRET_KEY_FILE:-/run/secrets/mlflow_secret_key}" "MLflow's secret key")"
database_password="$(secret "${POSTGRES_PASSWORD_FILE:-/run/secrets/postgres_password}" "PostgreSQL's password")"

umask 077
private="$(private_folder mlflow)"
server="${POSTGRES_HOST:-postgres}:${POSTGRES_PORT:-5432}"
# libpq takes the password from this file, so that no URI (which MLflow logs and shows) holds it.
echo "*:*:*:*:$database_password" >"$private/pgpass"
cat >"$private/auth.ini" <<INI
[mlflow]
default_permission = READ
database_uri = postgresql://ssl_tune@$server/mlflow_auth
admin_username = ${MLFLOW_ADMIN:-ssl-tune}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
INI
umask 027
export PGPASSFILE="$private/pgpass" MLFLOW_AUTH_CONFIG_PATH="$private/auth.ini"
export MLFLOW_BACKEND_STORE_URI="postgresql://ssl_tune@$server/mlflow"
export MLFLOW_AUTH_ADMIN_PASSWORD="$admin_password" MLFLOW_FLASK_SERVER_SECRET_KEY="$secret_key"
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false

note_role mlflow
exec mlflow server --app-name basic-auth --host "${MLFLOW_LISTEN:-0.0.0.0}" --port "${MLFLOW_PORT:-5000}" \
    --serve-artifacts --artifacts-destination "${MLFLOW_ARTIFACTS:-/artifacts}" --workers "${MLFLOW_WORKERS:-2}" \
    ${MLFLOW_ALLOWED_HOSTS:+--allowed-hosts "$MLFLOW_ALLOWED_HOSTS"} "$@"
