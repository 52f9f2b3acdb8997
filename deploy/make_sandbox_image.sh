#!/bin/sh
# Build the image that Docker sandboxes are started from, with a base from the registry or, where none answers, one made
# here. Idempotent; without changes it takes a second.
#
#     sh deploy/make_sandbox_image.sh [NAME:TAG] [minimal|full] [PACKAGE...]
#
# NAME:TAG is rlm-sandbox if left out, minimal the target. PACKAGEs are what you want beside those of `full`.
# A base from the registry is built from by its digest, and the label rlm.image.base says which one it was: give that as
# BASE_IMAGE to build from the same again. BASE_IMAGE names any other base as well; DOCKER_HOST another engine; CA_FILE certificates that pip has to trust.
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
BASE_OF_REGISTRY=python:3.12-slim-bookworm
BASE_MADE_HERE=rlm-sandbox-base:local

has_image() {
    docker image inspect "$1" >/dev/null 2>&1
}

base="${BASE_IMAGE:-}"
if [ -z "$base" ]; then
    if has_image "$BASE_MADE_HERE"; then
        base="$BASE_MADE_HERE"
    elif has_image "$BASE_OF_REGISTRY" || timeout 120 docker pull --quiet "$BASE_OF_REGISTRY" >/dev/null 2>&1; then
        base="$(docker image inspect --format '{{index .RepoDigests 0}}' "$BASE_OF_REGISTRY" 2>/dev/null)" || base="$BASE_OF_REGISTRY"
    else
        echo "make_sandbox_image: no registry answers; making a base image here" >&2
        sh deploy/make_base_image.sh "$BASE_MADE_HERE" ${CA_FILE:+--ca "$CA_FILE"} >&2
        base="$BASE_MADE_HERE"
    fi
fi
# What the service compares with its own sources (service/sandboxes/docker_image.py).
protocol="$(sed -n 's/^PROTOCOL_VERSION = //p' sandbox_image/protocol.py)"
sources="$(cd sandbox_image && LC_ALL=C sha256sum -- *.py | sha256sum | cut -d ' ' -f 1)"
network=none
[ "$target" = minimal ] || network=host # for pip
docker build --quiet --file Dockerfile.sandbox --target "$target" --network "$network" \
    --label "rlm.image.protocol=$protocol" --label "rlm.image.sources=$sources" --label "rlm.image.base=$base" \
    --build-arg "BASE_IMAGE=$base" --build-arg "PACKAGES=$*" --tag "$image" .
