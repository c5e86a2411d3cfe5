#!/usr/bin/env bash
# The image's entry point: entry.sh ROLE [ARGUMENTS], or the arguments of `ssl-tune`.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

case "${1:-}" in
mlflow | ray-head | ray-worker)
    role="$1"
    shift
    exec "$here/$role.sh" "$@"
    ;;
driver)
    shift
    ;;
esac
exec "$here/driver.sh" "$@"
