#!/usr/bin/env bash
# PostgreSQL for MLflow: creates the databases if the folder is empty, then serves them. Runs in the official image and
# on a machine where PostgreSQL is installed. Started by root, it continues as the user postgres.
#
# POSTGRES_PASSWORD_FILE   password of the user ssl_tune    [/run/secrets/postgres_password]
# PGDATA                   folder of the databases          [/var/lib/postgresql/data]
# POSTGRES_PORT            port to listen on                [5432]
# POSTGRES_LISTEN          addresses to listen on           [*]
set -euo pipefail
# shellcheck source=common.sh
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/common.sh"

export PGDATA="${PGDATA:-/var/lib/postgresql/data}"
if ! command -v initdb >/dev/null; then # Debian has a folder of programs for each version
    for folder in /usr/lib/postgresql/*/bin; do PATH="$folder:$PATH"; done
fi
command -v initdb >/dev/null || { echo "ssl-tune: PostgreSQL is not installed here: initdb is missing." >&2; exit 1; }

if [ "$(id -u)" = 0 ]; then
    install --directory --owner=postgres --group=postgres --mode=0700 "$PGDATA"
    # Perhaps only root can read the file, so the password is passed on in a pipe.
    password="$(secret "${POSTGRES_PASSWORD_FILE:-/run/secrets/postgres_password}" "PostgreSQL's password")"
    exec setpriv --reuid=postgres --regid=postgres --init-groups \
        env POSTGRES_PASSWORD_PIPE=1 "$0" "$@" 9< <(printf %s "$password")
fi

sockets="$(private_folder postgres)" # no other user can enter it
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --username=postgres --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 >/dev/null
    cat >"$PGDATA/pg_hba.conf" <<'HBA'
local all         postgres     trust
host  mlflow      ssl_tune all scram-sha-256
host  mlflow_auth ssl_tune all scram-sha-256
host  optuna      ssl_tune all scram-sha-256
HBA
fi
if [ ! -e "$PGDATA/ssl-tune-ready" ]; then # also after a first start that was interrupted
    if [ -n "${POSTGRES_PASSWORD_PIPE:-}" ]; then
        password="$(cat <&9)"
    else
        password="$(secret "${POSTGRES_PASSWORD_FILE:-/run/secrets/postgres_password}" "PostgreSQL's password")"
    fi
    pg_ctl --silent --wait -o "-c listen_addresses='' -c unix_socket_directories='$sockets'" start >/dev/null
    psql --quiet --host "$sockets" --username postgres --set ON_ERROR_STOP=1 postgres <<SQL
DROP DATABASE IF EXISTS mlflow;
DROP DATABASE IF EXISTS mlflow_auth;
DROP DATABASE IF EXISTS optuna;
DROP ROLE IF EXISTS ssl_tune;
CREATE ROLE ssl_tune LOGIN PASSWORD '${password//\'/\'\'}';
CREATE DATABASE mlflow OWNER ssl_tune;
CREATE DATABASE mlflow_auth OWNER ssl_tune;
CREATE DATABASE optuna OWNER ssl_tune;
SQL
    pg_ctl --silent --wait --mode fast stop >/dev/null
    touch "$PGDATA/ssl-tune-ready"
fi
exec postgres -c listen_addresses="${POSTGRES_LISTEN:-*}" -c port="${POSTGRES_PORT:-5432}" \
    -c unix_socket_directories="$sockets" "$@"
