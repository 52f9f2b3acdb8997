#!/bin/sh
# Make .venv with the locked dependencies, by whatever this machine has: `run` (the service), `documents` (with what reads
# PDF and Office files) or `dev` (with its tools).
# This file only chooses: uv, or else a CPython that the service supports. setup_environment.py does the rest.
set -eu
cd "$(dirname "$0")/.."
what="${1:-run}"

if uv --version >/dev/null 2>&1; then
    case "$what" in
        run) selection="--no-dev --inexact" ;; # --inexact: leave the tools that an earlier `make test` installed
        documents) selection="--no-dev --inexact --extra documents" ;;
        *) selection="" ;;
    esac
    echo "environment: uv sync ($what)"
    # shellcheck disable=SC2086  # the selection is several words on purpose
    if uv sync --frozen --quiet $selection; then
        exit 0
    fi
    echo "environment: uv failed (its reason stands above); trying Python's own means" >&2
fi

for candidate in python3.13 python3.12 python3.11 python3; do
    # Run it: a version switcher's shim exists on PATH and still has no interpreter behind it.
    if "$candidate" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info < (3, 14) and sys.implementation.name == "cpython"))' 2>/dev/null; then
        exec "$candidate" deploy/setup_environment.py "$what"
    fi
done

found="$(python3 --version 2>/dev/null || echo none)"
echo "rlm-service needs CPython 3.11, 3.12 or 3.13 on PATH and found: $found." >&2
echo "Install one (Debian 12, Ubuntu 24.04 or later: apt-get install python3-venv), or uv (https://docs.astral.sh/uv), which brings its own." >&2
exit 1
