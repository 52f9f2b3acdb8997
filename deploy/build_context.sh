#!/bin/sh
# Print a new directory with what an image is built from: the named parts of the checkout without what Python left
# there, and as `wheels` those of WHEELS=DIR. Whoever asked removes it.
#
#     sh deploy/build_context.sh PART...
set -eu
cd "$(dirname "$0")/.."
if [ -n "${WHEELS:-}" ]; then
    for wheel in "$WHEELS"/*.whl; do
        [ -f "$wheel" ] || {
            echo "build_context: no wheels in WHEELS=$WHEELS: fetch them with deploy/fetch_wheels.py" >&2
            exit 1
        }
    done
fi
context="$(mktemp -d)"
cp -R "$@" .dockerignore "$context"
find "$context" -name __pycache__ -type d -prune -exec rm -rf {} +
if [ -n "${WHEELS:-}" ]; then
    mkdir "$context/wheels"
    # Linked where it can be: there may be a hundred megabytes.
    cp -l "$WHEELS"/*.whl "$context/wheels" 2>/dev/null || cp "$WHEELS"/*.whl "$context/wheels"
fi
echo "$context"
