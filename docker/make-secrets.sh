#!/usr/bin/env bash
# Create the missing secrets, each in a file that only you can read: make-secrets.sh [FOLDER]
set -euo pipefail
folder="${1:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/secrets}"
umask 077
mkdir -p "$folder"
for name in postgres_password mlflow_password mlflow_secret_key ray_token; do
    if [ ! -s "$folder/$name" ]; then
        head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$folder/$name"
        echo "made $folder/$name"
    fi
done
