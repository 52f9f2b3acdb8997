#!/bin/sh
# Build the image that Docker sandboxes are started from, with a base from the registry or, where none answers, one made
# here. Idempotent; without changes it takes a second.
#
#     sh deploy/make_sandbox_image.sh [NAME:TAG] [minimal|full] [PACKAGE...]
#
# NAME:TAG is rlm-sandbox if left out, minimal the target. PACKAGEs are what you want beside those of `full`.
# A base from the registry is built from by its digest, and the label rlm.image.base says which one it was: give that as
# BASE_IMAGE to build from the same again. BASE_IMAGE names any other base as well; DOCKER_HOST another engine; CA_FILE
# certificates that pip has to trust. With WHEELS=DIR the packages come out of DIR, and the build uses no network:
#
#     python deploy/fetch_wheels.py --base BASE_IMAGE --list deploy/sandbox-packages.txt --out DIR [PACKAGE...]
set -eu
cd "$(dirname "$0")/.."
image="${1:-rlm-sandbox}"
target="${2:-minimal}"
[ $# -le 2 ] && set -- || shift 2
case "$target" in
    minimal | full) ;;
    *)
        echo "make_sandbox_image: expected minimal or full, found $target" >&2
        exit 1
        ;;
esac
base="$(sh deploy/base_image.sh)"
# What the service compares with its own sources (service/sandboxes/docker_image.py).
protocol="$(sed -n 's/^PROTOCOL_VERSION = //p' sandbox_image/protocol.py)"
sources="$(cd sandbox_image && LC_ALL=C sha256sum -- *.py | sha256sum | cut -d ' ' -f 1)"
network=none
[ "$target" = minimal ] || [ -n "${WHEELS:-}" ] || network=host # for pip
context="$(sh deploy/build_context.sh Dockerfile.sandbox deploy sandbox_image)"
trap 'rm -rf "$context"' EXIT
trap 'exit 130' INT TERM
docker build --quiet --file "$context/Dockerfile.sandbox" --target "$target" --network "$network" \
    --label "rlm.image.protocol=$protocol" --label "rlm.image.sources=$sources" --label "rlm.image.base=$base" \
    --build-arg "BASE_IMAGE=$base" --build-arg "PACKAGES=$*" --tag "$image" "$context"
